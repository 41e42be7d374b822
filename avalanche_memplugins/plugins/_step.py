"""One iteration of replay: the rows, and the batch and outputs that they are part of for a while."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins._batch import Keys, joined_column, rows_of_batch, some_rows
from avalanche_memplugins._structure import rows_in
from avalanche_memplugins.memories import Recall
from avalanche_memplugins.plugins._materialise.loader import Given
from avalanche_memplugins.plugins._outputs import parted, rows_of


@dataclass
class Step:
    """What lives for one iteration.

    Outside of ``strategy.forward()`` and ``strategy.criterion()`` the strategy's batch and outputs are the stream's.

    :param source: the strategy's batch when the iteration began.
    :param repeats: the same batch was trained on before, in a loop that takes it several times.
    :param given: what is known of the stream's batch, if it is the loader's own.
    :param wanted: rows asked of the memory.
    :param recall: what is replayed, as the model gets it; None: nothing is.
    :param label: the memory's own labels of these rows.
    :param begun: the forward pass has begun.
    :param judged: ``strategy.criterion()`` was called.
    :param judging: it runs now.
    :param again: a further forward pass has run whose loss nobody has asked for yet.
    :param done: the update is over: forward passes from now on are none of the iteration's.
    :param stream: the stream's batch ``[x, y]`` or ``[x, y, t]``.
    :param keys: where the strategy's batch, a dict, has y and t; None: it is such a list.
    :param rows: of the batch that replayed rows follow: the stream's, and other plugins' replayed ones.
    :param replayed: rows replayed.
    :param output: of the replayed rows.
    :param loss: what the strategy was given as the loss of all rows, without gradient.
    :param stream_loss: the part of it that is the stream's, if known.
    :param last: the loss of all rows, with its graph, and the stream's part of it, of the latest pass.
    """

    source: object = None
    repeats: bool = False
    given: Given | None = None
    wanted: int = 0
    recall: Recall | None = None
    label: Tensor | None = None
    begun: bool = False
    judged: bool = False
    judging: bool = False
    again: bool = False
    done: bool = False
    stream: list[Any] = field(default_factory=list)
    keys: Keys | None = None
    rows: int = 0
    replayed: int = 0
    output: Any = None
    loss: Tensor | None = None
    stream_loss: Tensor | None = None
    last: tuple[Tensor, Tensor | None] | None = None
    _room_taken: bool = False
    _found: Any = None  # the strategy's batch before anything was done to it
    _cut: Any = None  # the batch without the rows that replayed ones take the place of
    _joint: Any = None  # the batch of all rows
    _all: Any = None  # the output of all rows
    _y: object = None  # the stream's labels in the batch of all rows
    _given: object = None  # the stream's part of it
    _version: int = 0  # changes of that part in place
    _kept: dict[str, tuple[Any, Any, Any]] = field(default_factory=dict)  # what the model keeps of the batch

    def begin(self, strategy: Any, recall: Recall | None, *, replace: bool) -> None:
        """Take up ``recall``; with ``replace`` its rows take the place of the stream's last ones."""
        self.recall, self._found = recall, strategy.mbatch
        if recall is not None:
            self.replayed = recall.t.shape[0]
            if replace:
                kept = slice(rows_of_batch(strategy.mbatch) - self.replayed)
                self._cut = strategy.mbatch = some_rows(strategy.mbatch, kept)
        self.rows = rows_of_batch(strategy.mbatch)

    def followed(self, strategy: Any) -> Step:
        """The next iteration; if it is on the same batch, on all rows of it."""
        if self._cut is not None and strategy.mbatch is self._cut:
            strategy.mbatch = self._found
        return Step(strategy.mbatch, repeats=self.begun and strategy.mbatch is self.source)

    def begin_again(self, strategy: Any) -> None:
        """Another forward pass of the same iteration, on the same replayed rows."""
        self.again = True
        self.rows = rows_of_batch(strategy.mbatch)
        self._kept = {}

    def is_given(self, output: object) -> bool:
        """Whether an output is that of the latest forward pass, or one entry of it."""
        return output is self._given or self._place(output) is not None

    def joint_batch(self, batch: Any, memory: object, x: Any = None) -> Any:
        """The stream's batch with the replayed rows' labels behind it, and their inputs ``x`` if they are any."""
        recall = self.recall
        if recall is None:
            return batch
        stream = batch if self.keys is None else self.keys.columns(batch)
        first = stream[0] if x is None else self._joined(stream[0], x, memory)
        joint = [first, joined_column("y", [stream[1], recall.y], memory)]
        if len(stream) > 2:
            joint.append(torch.cat([stream[2], recall.t]))
        self._y = stream[1]
        self._joint = joint if self.keys is None else self.keys.batch(joint)
        return self._joint

    def take_room(self) -> Tensor | None:
        """Where x of the replayed rows may come to lie, to be behind the stream's without a copy; given once."""
        given, self._room_taken = None if self._room_taken else self.given, True
        if given is None or given.whole is None:
            return None
        rows = self.stream[0].shape[0]
        if rows + self.wanted > given.whole.shape[0]:
            return None
        # Whoever has put x through a model must not find it changed when gradients are worked out.
        return given.whole.data[rows : rows + self.wanted]

    def _joined(self, first: Any, x: Any, memory: object) -> Any:
        whole = None if self.given is None or not self.given.is_x(first) else self.given.whole
        if whole is not None:
            total = first.shape[0] + x.shape[0]
            if total <= whole.shape[0] and x.data_ptr() == whole.data_ptr() + first.nbytes:
                return whole if total == whole.shape[0] else whole[:total]
        return joined_column("x", [first, x], memory)

    def part(self, strategy: Any, output: Any) -> Any:
        """The stream's part of the output of all rows; keeps the rest, also of what the model keeps as attributes.

        :raises ValueError: if the output has not one row for each row of the batch.
        """
        self._all = output
        if self.replayed:
            self._given, self.output = parted(output, self.rows, self.replayed)
            total = self.rows + self.replayed
            for name, value in vars(strategy.model).items():
                if isinstance(value, Tensor) and value.ndim and value.shape[0] == total:
                    self._kept[name] = (value, *parted(value, self.rows, self.replayed))
                    setattr(strategy.model, name, self._kept[name][1])
        else:
            self._given, self.output = output, None
            if self.wanted:
                parted(output, self.rows, 0)  # told before the first step, not when the memory has rows
        self._version = getattr(self._given, "_version", 0)
        return self._given

    def restore(self, strategy: Any) -> None:
        """Give the strategy back the batch that it had, after an exception."""
        if self._found is not None:
            strategy.mbatch = self._found
        self._found = None

    def check_outputs(self, strategy: Any) -> None:
        """See that the outputs are those that the model gave.

        :raises ValueError: if not, since replayed rows cannot be given the same change.
        """
        output = strategy.mb_output
        same = output is self._given or self._place(output) is not None
        if not same or getattr(self._given, "_version", 0) != self._version:
            raise ValueError(
                "mb_output: expected the outputs that strategy.forward() gave, but they were changed before "
                "strategy.criterion(), and replayed rows would not be changed alike; change them in the model or in "
                "forward() instead"
            )

    def whole(self, strategy: Any) -> tuple[Tensor, Tensor] | None:
        """Outputs ``(rows, classes)`` and classes ``(rows,)`` of all rows, the stream's first.

        None if they are of another form, or the stream's are not those of the forward pass any more.
        """
        if self.keys is not None or strategy.mb_output is not self._given or strategy.mbatch[1] is not self._y:
            return None
        output, y = self._all, self._joint[1]
        if not isinstance(output, Tensor) or not isinstance(y, Tensor) or output.ndim != 2 or y.ndim != 1:
            return None
        return output, y

    def loss_of(self, strategy: Any, criterion: Callable[[], Tensor], replayed: slice | Tensor | None = None) -> Tensor:
        """The criterion's loss of all rows, or of the replayed ones with an index.

        :param criterion: looks at the strategy's batch and outputs, which are those rows' meanwhile.
        :param replayed: index of replayed rows; None: all rows, the stream's too.
        """
        found = strategy.mbatch, strategy.mb_output
        if replayed is None:
            batch, output = self._joint, self._all
        elif self.recall is not None:
            columns = [rows_in(each, replayed) for each in (self.recall.x, self.recall.y, self.recall.t)]
            batch = columns[: len(strategy.mbatch)] if self.keys is None else self.keys.batch(columns)
            output = rows_of(self.output, replayed)
        else:
            raise RuntimeError("a loss of replayed rows without rows")
        if found[1] is not self._given:
            place = self._place(found[1])
            output = output if place is None else output[place]
        strategy.mbatch, strategy.mb_output = batch, output
        for name, (all_rows, _, others) in self._kept.items():
            setattr(strategy.model, name, all_rows if replayed is None else others[replayed])
        try:
            return criterion()
        finally:
            strategy.mbatch, strategy.mb_output = found
            for name, (_, stream, _) in self._kept.items():
                setattr(strategy.model, name, stream)

    def _place(self, output: object) -> int | None:
        """Which entry of the output of :meth:`part` another is, if that is a tuple."""
        if isinstance(self._given, tuple):
            return next((i for i, entry in enumerate(self._given) if entry is output), None)
        return None
