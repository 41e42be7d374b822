"""Dark experience replay."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._augment import Augment
from avalanche_memplugins._batch import joined_column
from avalanche_memplugins._structure import rows_in
from avalanche_memplugins.memories import RandomMemory, Recall
from avalanche_memplugins.plugins._outputs import main_output
from avalanche_memplugins.plugins._step import Step
from avalanche_memplugins.plugins._writing import When
from avalanche_memplugins.plugins.memory_replay import MemoryReplayPlugin
from avalanche_memplugins.rehearsal import Amount


class DarkReplayPlugin(MemoryReplayPlugin):
    r"""Dark experience replay, DER and DER++: rows come back with the outputs that the model gave for them.

    With the stream's rows :math:`B`, replayed rows :math:`R_1` and their stored outputs :math:`o'`, and, for
    :math:`\beta > 0`, rows :math:`R_2` of a draw of their own, the loss is

    .. math::
        L = \frac{1}{|B|} \sum_B \ell
          + \frac{\alpha}{|R_1| C} \sum_{R_1} \lVert o - o' \rVert^2 + \frac{\beta}{|R_2|} \sum_{R_2} \ell.

    Outputs are stored as the stream passes, before the step that learns from their rows, as in the paper. Avalanche's
    ``DER`` stores them when an experience has ended, and takes both terms over the same rows.

    :param memory: made with ``store_logits=True``; the paper's is a reservoir.
    :param alpha: weight of the outputs' mean square over rows and the C outputs, >= 0.
    :param beta: weight of the stored classes' loss, >= 0: 0 is DER, more is DER++.
    :param replay_size: rows of each draw, see :class:`MemoryReplayPlugin`. DER++ makes two.
    :param augment: of the replayed rows, as in :class:`MemoryReplayPlugin`.
    :param at: name of a module whose outputs are stored and replayed instead of inputs.
    :param seed: of the augmentation. None: drawn from torch's global generator.
    :param write_at: as published, ``"iteration"``; see :class:`MemoryReplayPlugin`.
    :param kwargs: ``write_every``, ``write_epochs``, ``origin`` and ``fast`` of :class:`MemoryReplayPlugin`.
    :raises ValueError: for weights out of range or both 0, and for a memory that keeps no outputs.
    :raises TypeError: for another kind of memory.

    >>> import torch
    >>> from avalanche.training import Naive
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> replay = DarkReplayPlugin(RandomMemory(100, store_logits=True), alpha=0.3)
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...                  plugins=[replay], train_mb_size=32, evaluator=None)
    >>> _ = strategy.train(SplitDigits(5).train_stream[0])
    >>> replay.last_replay is None, replay.memory.sample(3).logits.shape
    (True, torch.Size([3, 10]))

    Source: Buzzega et al., "Dark experience for general continual learning", 2020, section 3 and algorithms 1 and 2.
    """

    def __init__(
        self,
        memory: RandomMemory,
        *,
        alpha: float = 0.1,
        beta: float = 0.5,
        replay_size: Amount = None,
        augment: Augment | None = None,
        at: str | None = None,
        write_at: When = "iteration",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(check.made("memory", memory), RandomMemory):
            raise TypeError(f"memory: expected a RandomMemory with store_logits=True, got {type(memory).__name__}")
        if not memory.store_logits:
            raise ValueError("memory: expected one that keeps outputs; make it with store_logits=True")
        for name, value in (("alpha", alpha), ("beta", beta)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name}: expected a number >= 0, got {value!r}")
        if alpha == beta == 0:
            raise ValueError("alpha: nothing is replayed with alpha=0 and beta=0; expected one of them above 0")
        for name in ("labels", "replay_weight", "batch_policy", "prefetch"):
            if name in kwargs:
                raise ValueError(f"{name}: dark replay sets its own, got {kwargs[name]!r}")
        self.alpha, self.beta = float(alpha), float(beta)
        self._dark = 0  # rows of the first draw, which come first
        settings: dict[str, Any] = {"augment": augment, "at": at, "write_at": write_at, "seed": seed, **kwargs}
        super().__init__(memory, replay_size=replay_size, labels="logits", **settings)

    def _draw(self, strategy: Any, step: Step) -> Recall:
        draws = [super(DarkReplayPlugin, self)._draw(strategy, step) for weight in (self.alpha, self.beta) if weight]
        self._dark = len(draws[0].t) if self.alpha else 0
        return draws[0] if len(draws) == 1 else _both(self.memory, *draws)

    def _joined_loss(
        self, strategy: Any, stream: Tensor, step: Step, criterion: Callable[[slice | Tensor], Tensor]
    ) -> Tensor:
        loss, recall, n = stream, step.recall, self._dark
        if recall is None:
            return loss
        if self.alpha:
            parts: list[Any] = [None if column is None else rows_in(column, slice(n)) for column in recall]
            dark = Recall(*parts)
            loss = loss + self.alpha * self.targets.loss(main_output(step.output)[:n], dark, criterion, strategy)
        if self.beta:
            loss = loss + self.beta * criterion(slice(n, None))
        return loss


def _both(memory: object, first: Recall, second: Recall) -> Recall:
    pairs = zip(Recall._fields, first, second, strict=True)
    joint: list[Any] = [None if a is None or b is None else joined_column(name, [a, b], memory) for name, a, b in pairs]
    return Recall(*joint)
