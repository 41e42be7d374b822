"""How much the loss of replayed rows weighs beside the stream's."""

from __future__ import annotations

import logging
from typing import Any

import torch
from avalanche.models.utils import is_multi_task_module
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from avalanche_memplugins import _checks as check
from avalanche_memplugins._defaults import Weight
from avalanche_memplugins.memories import RandomMemory
from avalanche_memplugins.plugins._experience import classes_of, parts_of

_LOG = logging.getLogger(__name__)
_NOTES = {
    True: "new classes only: the experience's rows get its share of the classes met, and replayed ones the rest",
    False: "all rows weigh the same, as the experience does not only bring new classes, or its classes are not known",
}


class Weighing:
    r"""The weight of replayed rows, as ``replay_weight`` of :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin`.

    ``"auto"`` is for rows that a memory keeps, under the strategy's own loss. It decides from each experience. Of one
    that brings only classes not met before, with :math:`n` of them and :math:`m` met before, replayed rows get
    :math:`m / (m + n)`. That is :math:`1 - 1/t` for the t-th of equal experiences. In all others there is no weight.

    :param memory: whose rows are replayed.
    :param weight: as it is asked for.
    :param may_decide: whether ``"auto"`` has something to decide; if not, there is no weight.
    :raises ValueError: for any other weight.
    """

    def __init__(self, memory: object, weight: Weight, *, may_decide: bool) -> None:
        asked = _checked(weight)
        self.memory = memory
        self.asked: Weight = None if asked == "auto" and not may_decide else asked
        self.now: Weight = self.asked  # in the running experience; "auto" until the first
        self._met: set[int] = set()
        self._running: set[int] = set()  # classes of the running experience
        self._noted: set[bool] = set()
        self._of_rows: dict[tuple[Any, ...], Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_of_rows": {}}

    def __repr__(self) -> str:
        return repr(self.now) if self.now == self.asked else f"{self.now!r} (auto)"

    # ---------------------------------------------------------------- an experience

    def begin(self, strategy: Any, *, waits: bool, alone: bool) -> None:
        """Take up an experience.

        :param waits: its rows are written when it has ended.
        :param alone: nothing else replays on the strategy.
        """
        self._of_rows = {}
        if self.asked != "auto":
            return
        self.now, self._running = None, classes_of(strategy)
        if not waits:
            return
        met = self._met | self._held()
        if not met:
            return
        # Under joint training and the like, rows of earlier experiences are part of the stream.
        rows = sum(len(dataset) for _, dataset in parts_of(strategy))
        grows = (
            (alone and bool(self._running) and not self._running & met)
            and len(strategy.adapted_dataset) == rows
            and not is_multi_task_module(strategy.model)
        )
        if grows:
            self.now = 1 - len(self._running) / len(self._running | met)
        if grows not in self._noted:
            self._noted.add(grows)
            _LOG.info("MemoryReplayPlugin(replay_weight='auto'): %s", _NOTES[grows])

    def end(self) -> None:
        """Note the classes of the experience that has ended."""
        self._met |= self._running

    def _held(self) -> set[int]:
        """Classes in the memory, which tells of the pieces of an online stream, and of what it held before."""
        if not isinstance(self.memory, RandomMemory) or not len(self.memory):
            return set()
        classes = self.memory.classes_of(self.memory.slots())
        return set() if classes is None else set(torch.unique(classes).tolist())

    def in_training(self, strategy: Any) -> float | None:
        """The weight in this iteration; None: all rows weigh the same."""
        if self.now == "growing":
            return 1 - 1 / (int(strategy.clock.train_exp_counter) + 1)
        return None if isinstance(self.now, str) else self.now

    # ---------------------------------------------------------------- an iteration

    def loss(
        self, criterion: nn.CrossEntropyLoss, output: Tensor, y: Tensor, rows: int, weight: float
    ) -> tuple[Tensor, Tensor]:
        """The loss of all rows in one pass, and the losses of the stream's ``(rows,)`` without gradient.

        :param criterion: the mean of rows, without weights of classes.
        :param output: of the stream's rows, then of the replayed ones ``(rows + R, classes)``.
        :param y: their classes.
        :param rows: of the stream, > 0.
        :param weight: of the replayed rows.
        """
        losses = cross_entropy(output, y, reduction="none", label_smoothing=criterion.label_smoothing)
        key = len(y), rows, weight, losses.dtype, losses.device
        of_rows = self._of_rows.get(key)
        if of_rows is None:
            of_rows = self._of_rows[key] = losses.new_full((len(y),), (1 - weight) / rows)
            of_rows[rows:] = weight / (len(y) - rows)
        return torch.dot(losses, of_rows), losses.detach()[:rows]

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """What was asked for, what is decided, and the classes met."""
        return {"asked": self.asked, "now": self.now, "met": sorted(self._met)}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on as a saved plugin; a weight that this one was given stays.

        :param state: None: of a version that knew no ``"auto"``, where rows weighed the same.
        """
        if self.asked != "auto":
            return
        state = {"asked": None, "now": None, "met": []} if state is None else state
        self.asked, self.now, self._met = _checked(state["asked"]), state["now"], set(state["met"])


def _checked(value: Weight) -> Weight:
    if value is None or (isinstance(value, str) and value in ("auto", "growing")):
        return value
    try:
        return check.number("replay_weight", value, above=0, below=1)
    except ValueError:
        raise ValueError(
            f"replay_weight: expected 0 < w < 1, 'growing', 'auto' or None, got {check.show(value)}"
        ) from None
