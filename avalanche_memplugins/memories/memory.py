"""What a memory is, for whoever uses one.

Every memory is a :class:`Memory`, and is filled as a :class:`WritableMemory` or as a :class:`LearningMemory`. What else
it can do is told by what it has: see :class:`SupportsPredict` and :class:`SupportsForget`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from avalanche_memplugins.memories.recall import Recall, Summary


class Memory(Protocol):
    """Gives rows back; how it comes by them say :class:`WritableMemory` and :class:`LearningMemory`.

    Memories are ``nn.Module`` s: their state follows ``.to(device)`` and is all in ``state_dict()``.

    A memory may have ``check_rows(x, y=None, t=0)``. It raises the error that writing rows ``(B, *shape)`` (and labels,
    if given) would raise, and changes nothing. Plugins test one row with it before an experience is trained, so that
    wrong shapes fail early.

    >>> from avalanche_memplugins import RandomMemory
    >>> memory: Memory = RandomMemory(10)
    >>> len(memory), memory.nbytes_fixed
    (0, 0)
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
    """Takes rows as they come.

    It may have ``needs``, a frozenset that says what :meth:`write` must be given besides labels: ``"logits"``, outputs
    ``(B, classes)``, and ``"loss"``, ``(B,)``, under these names. A memory without ``needs`` needs nothing.

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> memory: WritableMemory = RandomMemory(10, write_policy="hardest")
    >>> memory.needs
    frozenset({'loss'})
    >>> memory.write(torch.rand(4, 3), torch.arange(4), loss=torch.rand(4), origin=0)
    >>> len(memory)
    4
    """

    def write(self, x: Tensor, y: Tensor, t: Tensor | int = 0, *, origin: Tensor | int | None = None) -> None:
        """Offer rows ``x`` ``(B, *shape)`` with classes, task labels and numbers of their experiences ``(B,)``.

        What keeps rows as they are may take targets of other kinds for ``y``: any tensor with one row a row of x.
        """


class LearningMemory(Memory, Protocol):
    """Learns from a whole experience at once.

    >>> import torch
    >>> from avalanche_memplugins import VAEMemory
    >>> from avalanche_memplugins.networks import ConditionalVAE
    >>> memory: LearningMemory = VAEMemory(ConditionalVAE((1, 8, 8), code_size=2, hidden=(8,)), steps=1, seed=0)
    >>> memory.consolidate([(torch.rand(16, 1, 8, 8), torch.arange(16) % 2, torch.zeros(16).long())], origin=0)
    >>> memory.sample(3).x.shape
    torch.Size([3, 1, 8, 8])
    """

    def consolidate(self, batches: Iterable[tuple[Tensor, Tensor, Tensor]], *, origin: int) -> None:
        """Learn from batches ``(x, y, t)`` that can be iterated again and again, each time a fresh pass."""


@runtime_checkable
class SupportsPredict(Protocol):
    """Can answer by itself, without a network: by the Gaussians of its classes, or its rows' nearest neighbours.

    >>> from avalanche_memplugins import RandomMemory
    >>> isinstance(RandomMemory(10), SupportsPredict)
    False
    """

    def predict(self, x: Tensor, *, classes: int | None = None, task: int | None = None) -> Tensor:
        """Log posteriors ``(B, classes)`` of rows ``(B, *shape)``; minus infinity for a class that was never seen.

        :param classes: columns; None: as many as the largest class held, and one.
        :param task: only classes, or rows, of this task label; None: all.
        """


@runtime_checkable
class SupportsForget(Protocol):
    """Can let rows go, as if they had never been written.

    >>> from avalanche_memplugins import RandomMemory
    >>> isinstance(RandomMemory(10), SupportsForget)
    True
    """

    def forget(
        self,
        *,
        classes: Collection[int] | None = None,
        origins: Collection[int] | None = None,
        labels: Collection[int] | None = None,
        where: Tensor | Callable[[Recall], Tensor] | None = None,
    ) -> int:
        """Let go of rows of these classes, from these experiences, of these task labels, and where that is true.

        What is told narrows the choice; gives how many they were.
        """


class AnsweringMemory(WritableMemory, SupportsPredict, Protocol):
    """Takes rows as they come, and classifies others by itself.

    It may have ``settle()``, which a plugin calls at the end of each experience: what waits for that, such as packing
    what was written, is done then.
    """

    def summary(self) -> Summary:
        """What it holds, by class and by task."""
