"""Rehearsal from a memory in any training loop; the replay plugins of Avalanche stand on it, too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from avalanche_memplugins import _checks as check
from avalanche_memplugins._augment import Augment, augmented, check_augment
from avalanche_memplugins._batch import TASKS, Keys, joined_column, some_rows
from avalanche_memplugins._pickling import PicklesGenerator
from avalanche_memplugins._structure import first_leaf
from avalanche_memplugins.memories.memory import LearningMemory, WritableMemory
from avalanche_memplugins.memories.recall import Recall

__all__ = ["Mixed", "Rehearsal"]

Amount: TypeAlias = int | Literal["growing"] | Callable[[int, int], int] | None
Batches: TypeAlias = Iterable[Any]


class Mixed(NamedTuple):
    """A batch of the stream with replayed rows behind it.

    ``x`` ``(B + R, *shape)``, ``y`` ``(B + R,)`` and ``t`` ``(B + R,)``, or structures of such; the first ``rows`` are
    the stream's, B, and ``recall`` is what follows, None if nothing does.

    >>> from avalanche_memplugins import RandomMemory
    >>> rehearsal = Rehearsal(RandomMemory(100, seed=0), replay_size=2)
    >>> _ = rehearsal.step(torch.rand(4, 3), torch.arange(4))
    >>> mixed = rehearsal.step(torch.rand(4, 3), torch.arange(4))
    >>> mixed.rows, len(mixed.x)
    (4, 6)
    """

    x: Any
    y: Any
    t: Tensor
    rows: int
    recall: Recall | None


class Rehearsal(PicklesGenerator):
    """Draws rows from a memory to train on beside each batch, and writes the batch to it.

    For loops that are not Avalanche's: plain torch, Lightning, trainers that own their loop. Rows are drawn before
    those of the batch are written, so that no batch meets itself. What is drawn and written is what
    :class:`~avalanche_memplugins.MemoryReplayPlugin` draws and writes, which stands on this class. Avalanche itself is
    not imported.

    A memory that needs the model's outputs or losses (``memory.needs``) is written by :meth:`write` when the model has
    run. One that learns from whole experiences (``consolidate``) is only drawn from; call its ``consolidate`` at the
    end of each.

    :param memory: follows the device of the batches.
    :param replay_size: rows to replay beside a batch: a number; None: as many as its rows; ``"growing"``: as many for
        each experience before; or a function of the number of the experience and of the batch in it, both from 0, that
        gives the rows, >= 0.
    :param batch_policy: ``"append"`` the replayed rows; or let them ``"replace"`` the last rows of the batch, which
        keeps its size (with ``replay_size=None`` half of it). They are written, too, unless the memory needs outputs.
    :param write_every: write one whole batch of so many, >= 1.
    :param augment: random augmentation of the replayed rows, on a batch. Torch's random numbers in it come from a
        generator of its own.
    :param y: key of the targets in batches that are dicts, for :meth:`mix`; None: ``"labels"``, ``"y"``, ``"targets"``
        and the like.
    :param prefetch: fetch the next batch's rows while this one computes, if the memory can.
    :param seed: of that generator. None: drawn from torch's global one.
    :raises ValueError: for arguments out of range, naming the argument.
    :raises TypeError: for what is no memory.

    >>> from avalanche_memplugins import RandomMemory
    >>> model, memory = torch.nn.Linear(3, 2), RandomMemory(100, seed=0)
    >>> rehearsal, optimizer = Rehearsal(memory), torch.optim.SGD(model.parameters(), lr=0.1)
    >>> for x, y in [(torch.rand(8, 3), torch.zeros(8).long()), (torch.rand(8, 3), torch.ones(8).long())]:
    ...     mixed = rehearsal.step(x, y)
    ...     loss = torch.nn.functional.cross_entropy(model(mixed.x), mixed.y)
    ...     optimizer.zero_grad(), loss.backward(), optimizer.step()  # doctest: +ELLIPSIS
    (None, None, None)
    (None, None, None)
    >>> len(memory), mixed.y.tolist()
    (16, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0])

    Source: rows beside each batch as in Chaudhry et al., "On tiny episodic memories in continual learning", 2019.
    """

    def __init__(
        self,
        memory: WritableMemory | LearningMemory,
        *,
        replay_size: Amount = None,
        batch_policy: Literal["append", "replace"] = "append",
        write_every: int = 1,
        augment: Augment | None = None,
        y: str | None = None,
        prefetch: bool = False,
        seed: int | None = None,
    ) -> None:
        check.made("memory", memory)
        if not hasattr(memory, "sample") or not (hasattr(memory, "write") or hasattr(memory, "consolidate")):
            raise TypeError(
                f"memory: expected a memory with sample and write or consolidate, got {type(memory).__name__}"
            )
        self.memory = memory
        self.replay_size = _check_amount(replay_size)
        self.batch_policy = check.choice("batch_policy", batch_policy, ("append", "replace"))
        self.write_every = check.positive_integer("write_every", write_every)
        self.augment = check_augment(augment)
        if y is not None:
            check.text("y", y)
        self.y = y
        self.prefetch = check.flag("prefetch", prefetch)
        self.writes = not callable(getattr(memory, "consolidate", None))
        self.iterations = 0  # batches that were up for writing
        self._experience = self._batches = 0
        self._waiting: tuple[list[Any], int] | None = None  # written when the model has run, and its origin
        self._generator = torch.Generator().manual_seed(check.seed(seed))

    @property
    def experience(self) -> int:
        """Number of the running experience: the origin of what is written. Set it when another one begins."""
        return self._experience

    @experience.setter
    def experience(self, number: int) -> None:
        self._experience, self._batches = check.integer("experience", number, least=0), 0

    # ---------------------------------------------------------------- a batch

    def step(self, x: Any, y: Any, t: Tensor | int = 0) -> Mixed:
        """A batch of the stream with replayed rows behind it; the batch is written.

        Nothing is written if an error is raised.

        :param x: rows ``(B, *shape)``, or a dict or tuple of such.
        :param y: classes ``(B,)``, or targets of another kind.
        :param t: task labels ``(B,)``, or one for all.
        :raises ValueError: what the memory has against the rows; or if the batch before still waits for :meth:`write`.
        """
        if self._waiting is not None:
            raise ValueError(
                f"write: expected a call after each step, since {type(self.memory).__name__} needs "
                f"{sorted(self._needs)}, got none"
            )
        here = first_leaf(x).device
        if self.memory.device != here:
            self.memory.to(here)
        rows = len(first_leaf(x))
        wanted = self.rows_to_replay(rows, self._experience, self._batches)
        recall = self.draw(wanted)
        if not isinstance(t, Tensor):
            t = torch.full((rows,), check.integer("t", t, least=0), device=here)
        stream = [x, y, t]
        due = self.writes and self._due()
        if due and not self._needs:
            cast("WritableMemory", self.memory).write(*stream, origin=self._experience)
        if self.writes:
            self.iterations += 1
        self._batches += 1
        if self.prefetch:
            self.fetch_ahead(wanted)
        if recall is not None and self.batch_policy == "replace":
            rows -= len(recall.t)
            stream = some_rows(stream, slice(rows))
        if due and self._needs:  # rows that were replaced do not pass the model
            self._waiting = (stream, self._experience)
        if recall is None:
            x, y, tasks = stream
            return Mixed(x, y, tasks, rows, None)
        replayed = (recall.x, recall.y, recall.t)
        x, y, tasks = (
            joined_column(name, [a, b], self.memory) for name, a, b in zip("xyt", stream, replayed, strict=True)
        )
        return Mixed(x, y, tasks, rows, recall)

    def write(self, *, logits: Tensor | None = None, loss: Tensor | None = None) -> None:
        """Write the batch of the last step to a memory that needs what the model made of it.

        :param logits: outputs of the model; those of the mixed batch, or of the stream's rows alone.
        :param loss: of each row ``(B,)``; likewise.
        :raises ValueError: if the memory needs one that is not given; nothing is written then.
        """
        if self._waiting is None:
            return
        stream, origin = self._waiting
        rows, extras = len(stream[2]), {"logits": logits, "loss": loss}
        given = {name: value.detach()[:rows].float() for name, value in extras.items() if value is not None}
        if missing := sorted(self._needs - given.keys()):
            raise ValueError(f"{missing[0]}: expected that of every row, which the memory needs, got None")
        needed = {name: given[name] for name in self._needs}
        cast("WritableMemory", self.memory).write(*stream, origin=origin, **needed)
        self._waiting = None

    @property
    def _needs(self) -> frozenset[str]:
        return frozenset(getattr(self.memory, "needs", ())) & {"logits", "loss"}

    def mix(self, batch: Any) -> Any:
        """:meth:`step` for a batch as a data loader gives it; what comes back is put together alike.

        :param batch: ``[x, y]``, ``[x, y, t]`` or a tuple of such, of which t are task labels; or a dict with the
            targets under :attr:`y`, whose other entries are x.
        :raises ValueError: for another batch.
        """
        if isinstance(batch, Mapping):
            keys = _keys(batch, self.y)
            return keys.batch(list(self.step(*keys.columns(batch)))[:3])
        if not isinstance(batch, list | tuple) or len(batch) not in (2, 3):
            raise ValueError(f"batch: expected [x, y], [x, y, t] or a dict, got {check.show(batch)}")
        mixed = list(self.step(*batch))[: len(batch)]
        if hasattr(batch, "_fields"):
            return type(batch)(*mixed)
        return mixed if isinstance(batch, list) else tuple(mixed)

    def collate(self, collate_fn: Callable[[list[Any]], Any] = default_collate) -> Callable[[list[Any]], Any]:
        """A ``collate_fn`` for a ``DataLoader`` whose batches come mixed.

        It draws and writes in the process of the loader: ``num_workers`` must be 0. (With :meth:`over` the loader may
        have workers.)

        :param collate_fn: puts the rows of the stream together; what it gives is what :meth:`mix` takes.
        """
        check.function("collate_fn", collate_fn)
        return _Collate(self, collate_fn)

    def over(self, batches: Batches) -> IterableDataset[Any]:
        """The batches of a loader, mixed: a data set to iterate over, or for ``DataLoader(..., batch_size=None)``.

        :param batches: a ``DataLoader``, with workers if it likes, or anything that gives batches.
        """
        if not isinstance(batches, Iterable):
            raise TypeError(f"batches: expected batches to iterate over, got {check.show(batches)}")
        return _Over(self, batches)

    # ---------------------------------------------------------------- the parts of a step, also for plugins

    def rows_to_replay(self, rows: int, number: int, iteration: int) -> int:
        """Rows to replay beside a batch; what takes the place of the stream's leaves one of them at least.

        :param rows: of the batch.
        :param number: of the experience.
        :param iteration: in it.
        :raises ValueError: if a function of the user's own gives no such number.
        """
        amount, replace = self.replay_size, self.batch_policy == "replace"
        size = rows // 2 if replace else rows
        if isinstance(amount, int):
            size = amount
        elif amount is not None:
            size = number * rows if isinstance(amount, str) else amount(number, iteration)
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                raise ValueError(
                    f"replay_size: expected a function that gives an integer >= 0, got {size!r} for experience {number}"
                )
        return min(size, rows - 1) if replace else size

    def draw(self, wanted: int, sample: Callable[[int], Recall] | None = None) -> Recall | None:
        """Rows to replay, augmented; None if there are none.

        :param wanted: how many.
        :param sample: draws them; None: the memory does.
        """
        if wanted < 1 or not len(self.memory):
            return None
        recall = (sample or self.memory.sample)(wanted)
        if not len(recall.t):  # a read policy of the user's own may give none
            return None
        if self.augment is None:
            return recall
        return recall._replace(x=augmented(self.augment, recall.x, self._generator))

    def fetch_ahead(self, wanted: int) -> None:
        """Begin to fetch the rows that the next draw will give, if the memory can."""
        fetch: Callable[[int], None] | None = getattr(self.memory, "prefetch", None)
        if fetch is not None and wanted:
            fetch(wanted)

    def is_due(self) -> bool:
        """Whether this batch is written; each call counts as a batch."""
        due = self._due()
        self.iterations += 1
        return due

    def _due(self) -> bool:
        return self.iterations % self.write_every == 0

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """All that a loop needs to go on exactly: the memory, the counts, the generator."""
        return {
            "memory": dict(self.memory.state_dict()),
            "iterations": self.iterations,
            "experience": self._experience,
            "batches": self._batches,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of another kind of memory.
        """
        self.memory.load_state_dict(state["memory"])
        self.iterations, self._experience, self._batches = (
            state[name] for name in ("iterations", "experience", "batches")
        )
        self._waiting = None
        self._generator.set_state(state["generator"].cpu())


class _Collate:
    """See :meth:`Rehearsal.collate`; an object, so that it can be pickled."""

    def __init__(self, rehearsal: Rehearsal, collate_fn: Callable[[list[Any]], Any]) -> None:
        self.rehearsal, self.collate_fn = rehearsal, collate_fn

    def __call__(self, rows: list[Any]) -> Any:
        _in_main_process()
        return self.rehearsal.mix(self.collate_fn(rows))


class _Over(IterableDataset[Any]):
    """See :meth:`Rehearsal.over`."""

    def __init__(self, rehearsal: Rehearsal, batches: Batches) -> None:
        self.rehearsal, self.batches = rehearsal, batches

    def __iter__(self) -> Iterator[Any]:
        _in_main_process()
        return map(self.rehearsal.mix, self.batches)

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]


def _in_main_process() -> None:
    if get_worker_info() is not None:
        raise RuntimeError(
            "num_workers: expected 0, since a worker process has a copy of the memory, and what it writes is lost; "
            "mix in the main process instead: for batch in rehearsal.over(loader)"
        )


def _keys(batch: Mapping[str, Any], y: str | None) -> Keys:
    names = ("labels", "label", "y", "targets", "target") if y is None else (y,)
    found = next((name for name in names if name in batch), None)
    if found is None or len(batch) < 2:
        raise ValueError(f"y: expected the key of the targets in a batch with the keys {list(batch)}, got {y!r}")
    return Keys(found, TASKS if TASKS in batch else None)


def _check_amount(amount: Amount) -> Amount:
    if amount is None or callable(amount) or (isinstance(amount, str) and amount == "growing"):
        return amount
    return check.positive_integer("replay_size", amount)
