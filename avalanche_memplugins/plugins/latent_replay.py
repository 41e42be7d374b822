"""Latent replay as one line."""

from __future__ import annotations

import warnings
from typing import Any

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories.memory import LearningMemory, WritableMemory
from avalanche_memplugins.plugins.memory_replay import MemoryReplayPlugin


class LatentReplayPlugin(MemoryReplayPlugin):
    """Replay in front of the layers that learn: outputs of a module are remembered instead of images.

    A :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin` with ``at``, meant for a frozen body below and a
    classifier above. Codes are far smaller than images, and replayed ones skip the body. It freezes nothing itself:
    call ``model.features.requires_grad_(False)``, and ``eval()`` on what has batch norm or dropout in it.

    :param memory: as for :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin`: a memory of rows, a
        generative one whose rows are codes (``codec=None``), or one that learns.
    :param at: name of the module, as in ``model.named_modules()``, with or without the names that wrappers add. It runs
        once in a forward pass and gives one tensor with one row an item; the first forward pass looks at this, and a
        ``ValueError`` names modules that suit. Inside a compiled model see ``docs/replay.md``.
    :param freeze_below: warn, once, if a gradient reaches the module's output: what lies below then goes on learning,
        and stored codes grow stale. False: it is meant to.
    :param kwargs: the other arguments of :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin`.

    >>> import torch
    >>> from avalanche.training import Naive
    >>> from avalanche_memplugins import RandomMemory
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16)).requires_grad_(False)
    >>> model = torch.nn.Sequential(body, torch.nn.ReLU(), torch.nn.Linear(16, 10))
    >>> replay = LatentReplayPlugin(RandomMemory(100), at="0")
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model[2].parameters(), lr=0.1),
    ...                  plugins=[replay], train_mb_size=32, evaluator=None)
    >>> _ = strategy.train(SplitDigits(5).train_stream[0])
    >>> replay.memory.shape
    torch.Size([16])

    Source: Pellegrini et al., "Latent replay for real-time continual learning", 2020, section III.
    """

    def __init__(
        self, memory: WritableMemory | LearningMemory, *, at: str, freeze_below: bool = True, **kwargs: Any
    ) -> None:
        check.text("at", at)
        check.flag("freeze_below", freeze_below)
        super().__init__(memory, at=at, **kwargs)
        self.freeze_below = freeze_below
        self._warned = False

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Look whether the codes will last."""
        super().after_forward(strategy, **kwargs)
        if self.freeze_below and not self._warned and self._tap is not None and self._tap.has_gradient:
            self._warned = True
            warnings.warn(
                f"parameters below {self.at!r} are trained, so that stored codes grow stale: freeze them with "
                "requires_grad_(False), or pass freeze_below=False if that is meant",
                stacklevel=2,
            )
