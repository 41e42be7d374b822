"""One iteration of replay: the rows, and the batch and outputs that they are part of for a while."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from avalanche.training.templates.problem_type.supervised_problem import SupervisedProblem
from torch import Tensor, nn

from avalanche_memplugins.memories import Recall
from avalanche_memplugins.plugins._around import Around
from avalanche_memplugins.plugins._outputs import parted, rows_of


@dataclass
class Step:
    """What lives for one iteration.

    Outside of ``strategy.forward()`` and ``strategy.criterion()`` the strategy's batch and outputs are the stream's.

    :param wanted: rows asked of the memory.
    :param recall: what is replayed, as the model gets it; None: nothing is.
    :param label: the memory's own labels of these rows.
    :param begun: the forward pass has begun.
    :param judged: ``strategy.criterion()`` was called.
    :param judging: it runs now.
    :param again: a further forward pass has run whose loss nobody has asked for yet.
    :param source: the strategy's batch when the iteration began.
    :param repeats: the same batch was trained on before, in a loop that takes it several times.
    :param done: the update is over: forward passes from now on are none of the iteration's.
    :param stream: the stream's batch ``[x, y]`` or ``[x, y, t]``.
    :param rows: of the batch that replayed rows follow: the stream's, and other plugins' replayed ones.
    :param replayed: rows replayed.
    :param output: of the replayed rows.
    :param loss: what the strategy was given as the loss of all rows, without gradient.
    :param stream_loss: the part of it that is the stream's, if known.
    :param last: the loss of all rows, with its graph, and the stream's part of it, of the latest pass.
    """

    wanted: int = 0
    recall: Recall | None = None
    label: Tensor | None = None
    begun: bool = False
    judged: bool = False
    judging: bool = False
    again: bool = False
    source: Any = None
    repeats: bool = False
    done: bool = False
    stream: list[Tensor] = field(default_factory=list)
    rows: int = 0
    replayed: int = 0
    output: Any = None
    loss: Tensor | None = None
    stream_loss: Tensor | None = None
    last: tuple[Tensor, Tensor | None] | None = None
    _found: list[Tensor] | None = None  # the strategy's batch before anything was done to it
    _cut: list[Tensor] | None = None  # the batch without the rows that replayed ones take the place of
    _joint: list[Tensor] = field(default_factory=list)  # the batch of all rows
    _all: Any = None  # the output of all rows
    _given: Any = None  # the stream's part of it
    _version: int = 0  # changes of that part in place
    _kept: dict[str, tuple[Any, Any, Any]] = field(default_factory=dict)  # what the model keeps of the batch

    def begin(self, strategy: Any, recall: Recall | None, *, replace: bool) -> None:
        """Take up ``recall``; with ``replace`` its rows take the place of the stream's last ones."""
        self.recall, self._found = recall, strategy.mbatch
        self.replayed = 0 if recall is None else recall.y.shape[0]
        if replace and recall is not None:
            self._cut = strategy.mbatch = [column[: len(column) - self.replayed] for column in strategy.mbatch]
        self.rows = strategy.mbatch[0].shape[0]

    def followed(self, strategy: Any) -> Step:
        """The next iteration; if it is on the same batch, on all rows of it."""
        if self._cut is not None and strategy.mbatch is self._cut:
            strategy.mbatch = self._found
        return Step(source=strategy.mbatch, repeats=self.begun and strategy.mbatch is self.source)

    def begin_again(self, strategy: Any) -> None:
        """Another forward pass of the same iteration, on the same replayed rows."""
        self.again = True
        self.rows = len(strategy.mbatch[0])
        self._kept = {}

    def is_given(self, output: Any) -> bool:
        """Whether an output is that of the latest forward pass, or one entry of it."""
        return self._place(output) is not None

    def joint_batch(self, batch: list[Tensor], x: Tensor | None = None) -> list[Tensor]:
        """The stream's batch with the replayed rows' labels behind it, and their inputs ``x`` if they are any."""
        recall = self.recall
        if recall is None:
            return batch
        columns = (x, recall.y, recall.t)[: len(batch)]
        self._joint = [a if b is None else torch.cat([a, b]) for a, b in zip(batch, columns, strict=True)]
        return self._joint

    def part(self, strategy: Any, output: Any) -> Any:
        """The stream's part of the output of all rows; keeps the rest, also of what the model keeps as attributes.

        :raises ValueError: if the output has not one row for each row of the batch.
        """
        self._all = output
        self._given, self.output = parted(output, self.rows, self.replayed) if self.replayed else (output, None)
        self._version = _version(self._given)
        if self.wanted and not self.replayed:
            parted(output, self.rows, 0)  # told before the first step, not when the memory has rows
        total = self.rows + self.replayed
        if self.replayed:
            for name, value in vars(strategy.model).items():
                if isinstance(value, Tensor) and value.ndim and len(value) == total:
                    self._kept[name] = (value, *parted(value, self.rows, self.replayed))
                    setattr(strategy.model, name, self._kept[name][1])
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
        if self._place(strategy.mb_output) is None or _version(self._given) != self._version:
            raise ValueError(
                "mb_output: expected the outputs that strategy.forward() gave, but they were changed before "
                "strategy.criterion(), and replayed rows would not be changed alike; change them in the model or in "
                "forward() instead"
            )

    def of_all(self, strategy: Any, criterion: Callable[[], Tensor]) -> Tensor:
        """The criterion's loss of all rows."""
        return self._with(strategy, criterion, self._joint, self._all, 0)

    def of_replayed(self, strategy: Any, criterion: Callable[[], Tensor], index: slice | Tensor) -> Tensor:
        """The criterion's loss of the replayed rows with an index."""
        recall = self.recall
        if recall is None:
            raise RuntimeError("a loss of replayed rows without rows")
        batch = [column[index] for column in (recall.x, recall.y, recall.t)[: len(strategy.mbatch)]]
        return self._with(strategy, criterion, batch, rows_of(self.output, index), 2, index)

    def _with(
        self,
        strategy: Any,
        criterion: Callable[[], Tensor],
        batch: list[Tensor],
        output: Any,
        part: int,
        index: slice | Tensor = slice(None),
    ) -> Tensor:
        found = strategy.mbatch, strategy.mb_output
        place = self._place(strategy.mb_output)
        strategy.mbatch, strategy.mb_output = batch, output if not place else output[place[0]]
        for name, values in self._kept.items():
            setattr(strategy.model, name, values[part][index])
        try:
            return criterion()
        finally:
            strategy.mbatch, strategy.mb_output = found
            for name, values in self._kept.items():
                setattr(strategy.model, name, values[1])

    def _place(self, output: Any) -> tuple[int, ...] | None:
        """Where in the output of :meth:`part` another is: nowhere (None), all of it, or one entry of a tuple."""
        if output is self._given:
            return ()
        if isinstance(self._given, tuple):
            return next(((i,) for i, entry in enumerate(self._given) if entry is output), None)
        return None


def _version(output: Any) -> int:
    return output._version if isinstance(output, Tensor) else 0


_STATELESS = frozenset(
    {
        *(nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss, nn.MultiLabelSoftMarginLoss, nn.BCELoss),
        *(nn.BCEWithLogitsLoss, nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss, nn.KLDivLoss),
    }
)


def sums_rows(strategy: Any) -> bool:
    """Whether the strategy's loss is known to be a sum over rows in the place of a mean."""
    return _is_avalanches(strategy.criterion) and getattr(strategy._criterion, "reduction", None) == "sum"


def _is_avalanches(criterion: Any) -> bool:
    """Whether a strategy's ``criterion`` is Avalanche's own: not overridden, and not set on the instance."""
    method = criterion.innermost if isinstance(criterion, Around) else criterion
    return getattr(method, "__func__", None) is SupervisedProblem.criterion


def is_plain_cross_entropy(strategy: Any) -> bool:
    """Whether the strategy's loss is the mean cross-entropy of rows, without weights, smoothing or ignored classes."""
    criterion = strategy._criterion
    return (
        _is_avalanches(strategy.criterion)
        and type(criterion) is nn.CrossEntropyLoss
        and criterion.weight is None
        and criterion.reduction == "mean"
        and criterion.label_smoothing == 0
        and criterion.ignore_index < 0
    )


def stream_loss(strategy: Any, joint: Tensor) -> Tensor:
    """The loss of the stream's rows, which the strategy's batch and outputs are.

    One of torch's losses keeps no state, so it is worked out once more. Others are not asked a second time, since that
    could change what they do next.

    :param joint: the loss of all rows, taken for them.
    """
    criterion: Callable[[Tensor, Tensor], Tensor] = strategy._criterion
    overridden = not _is_avalanches(strategy.criterion)
    if overridden or type(criterion) not in _STATELESS or not isinstance(strategy.mb_output, Tensor):
        return joint.detach()
    with torch.no_grad():
        return criterion(strategy.mb_output, strategy.mb_y)
