"""Which rows a memory gives back."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional import distinct_integers
from avalanche_memplugins.memories.policies.write import Grouping


class ReadPolicy(Protocol):
    """Chooses slots on the host; its cost depends on how many are wanted, not on how many there are.

    By ``repr(policy)`` a memory knows whether a saved state belongs to it: it must name all arguments, and nothing that
    changes.

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> class Newest(Uniform):
    ...     def choose(self, count, filled, generator):
    ...         return torch.arange(filled)[-count:]
    >>> memory = RandomMemory(6, read_policy=Newest())
    >>> memory.write(torch.rand(6, 3), torch.arange(6))
    >>> memory.sample(2).y
    tensor([4, 5])
    """

    grouping: Grouping | None

    def start(self, capacity: int) -> None:
        """Reset to an empty memory of ``capacity`` slots."""

    def assign(self, slots: list[int], groups: list[int]) -> None:
        """Learn that ``slots`` now hold rows of ``groups``; called only if ``grouping`` is set."""

    def choose(self, count: int, filled: int, generator: torch.Generator) -> Tensor:
        """Slots of ``count`` rows out of ``filled``, int64 ``(n,)`` on the CPU.

        May bind attributes of the policy anew, but not change their values in place: a draw made ahead works
        on a shallow copy.
        """

    @property
    def nbytes(self) -> int:
        """Bytes of state that grow with the capacity."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers from which :meth:`load_state_dict` goes on exactly."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""


class Uniform:
    """Every row equally likely.

    :param replacement: draw rows independently; otherwise each at most once, and no more than there are.

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> memory = RandomMemory(6, read_policy=Uniform(replacement=True))
    >>> memory.write(torch.rand(6, 3), torch.arange(6))
    >>> len(memory.sample(20).y)
    20
    """

    grouping: Grouping | None = None
    nbytes = 0

    def __init__(self, *, replacement: bool = False) -> None:
        self.replacement = check.flag("replacement", replacement)

    def start(self, capacity: int) -> None:
        """There is nothing to prepare."""

    def assign(self, slots: list[int], groups: list[int]) -> None:
        """Groups do not matter here."""

    def choose(self, count: int, filled: int, generator: torch.Generator) -> Tensor:
        """Uniform draws."""
        if self.replacement:
            check.room("n", count, 8)
            return torch.randint(filled, (count,), generator=generator)
        return distinct_integers(filled, min(count, filled), generator=generator)

    def state_dict(self) -> dict[str, Any]:
        """There is nothing to save."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is nothing to restore."""

    def __repr__(self) -> str:
        return f"Uniform(replacement={self.replacement})"
