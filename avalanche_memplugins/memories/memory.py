"""What a memory is, for whoever uses one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from avalanche_memplugins.memories.recall import Recall
from avalanche_memplugins.memories.summary import Summary


class Memory(Protocol):
    """Gives rows back; how it comes by them say :class:`WritableMemory` and :class:`LearningMemory`.

    Memories are ``nn.Module`` s: their state follows ``.to(device)`` and is all in ``state_dict()``.

    They may have ``check_rows(x, y=None, t=0)``. It raises what taking rows ``(B, *shape)`` in would, for the rows and,
    if they are given, their labels; it changes nothing. So what does not fit is told before an experience is trained,
    not after.
    """

    @property
    def device(self) -> torch.device:
        """Where samples come out."""

    @property
    def nbytes(self) -> int:
        """Bytes that grow with the stream or hold it."""

    @property
    def nbytes_fixed(self) -> int:
        """Bytes needed besides, whatever the stream."""

    def __len__(self) -> int:
        """Rows that :meth:`sample` may draw on, or have been written; 0 if there is nothing to sample."""

    def sample(self, n: int) -> Recall:
        """``n`` rows, drawn by the memory's own generator; fewer if it does not hold as many."""

    def to(self, device: torch.device) -> Any:
        """Move to a device."""

    def state_dict(self) -> Any:
        """All that a run needs to go on exactly."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Go on from a state."""


class WritableMemory(Memory, Protocol):
    """Takes rows as they come; with an attribute ``store_logits`` that is true, their outputs as ``logits``, too."""

    def write(self, x: Tensor, y: Tensor, t: Tensor | int = 0, *, origin: Tensor | int | None = None) -> None:
        """Offer rows ``x`` ``(B, *shape)`` with classes, task labels and numbers of their experiences ``(B,)``.

        What keeps rows as they are may take targets of other kinds for ``y``: any tensor with one row a row of x.
        """


class LearningMemory(Memory, Protocol):
    """Learns from a whole experience at once."""

    def consolidate(self, batches: Iterable[tuple[Tensor, Tensor, Tensor]], *, origin: int) -> None:
        """Learn from batches ``(x, y, t)`` that can be iterated again and again, each time a fresh pass."""


class AnsweringMemory(WritableMemory, Protocol):
    """Classifies rows by itself.

    It may have ``settle()``, which a plugin calls at the end of each experience: what waits for that, such as packing
    what was written, is done then.
    """

    def predict(self, x: Tensor, *, classes: int | None = None, task: int | None = None) -> Tensor:
        """Log posteriors ``(B, classes)`` of rows ``(B, *shape)``; minus infinity for a class that was not seen.

        :param classes: columns; None: as many as the largest class held, and one.
        :param task: only classes, or rows, of this task label; None: all.
        """

    def summary(self) -> Summary:
        """What it holds, by class and by task."""
