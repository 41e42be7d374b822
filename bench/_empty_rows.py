"""RMA as its author's code has it: rows are drawn from all slots, written or not. For ``presets/rma-controls.yaml``.

    memplugins reproduce bench/presets/rma-controls.yaml --rows "linear, RMA, empty rows sampled too" --data-root DIR

From the root of the repository; 40 tasks of 10,000 steps, half an hour a seed on a core.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory, Recall
from avalanche_memplugins.lab.strategies import Built, Setup

EMPTY = -1  # class of a row that was never written


class MemoryWithEmptyRows(RandomMemory):
    """Samples from all slots; an empty one is a black image."""

    def sample(self, n: int) -> Recall:
        """Rows ``(n, *shape)``, those of empty slots with the class -1."""
        slots = self.read_policy.choose(n, self.capacity, self._generator)
        recall = self.rows(slots)
        recall.y[slots >= len(self)] = EMPTY
        return recall


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over all rows of TensorFlow's softmax cross-entropy, empty labels included.

    TensorFlow's gradient is softmax - label whatever the label sums to: for a zero label that of logsumexp.
    """
    picked = logits.gather(1, y.clamp(min=0)[:, None])[:, 0]
    return (logits.logsumexp(1) - torch.where(y == EMPTY, torch.zeros_like(picked), picked)).mean()


def rma(setup: Setup, *, write_every: int = 1_000) -> Any:
    """The lab's ``rma`` with such a memory."""
    from avalanche.training import Naive

    memory = MemoryWithEmptyRows(setup.rows(), write_policy="ring", seed=setup.spec.seed)
    replay = MemoryReplayPlugin(memory, write_every=write_every, write_epochs="all", seed=setup.spec.seed)
    strategy = Naive(**{**setup.extended(replay), "criterion": cross_entropy})
    return Built(strategy, lambda: int(memory.nbytes))
