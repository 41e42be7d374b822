"""Reads in shuffled passes over the memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins.memories.policies.write import Grouping


class Cycle:
    """Every row once a pass, passes in random order: what a shuffling data loader over the memory does.

    Each single draw is uniform, as with :class:`~avalanche_memplugins.memories.policies.Uniform`, but no row waits
    long and none comes again soon. A pass covers the rows that were there when it began; rows too few for another
    batch are left out of it. Shuffling costs as much as the pass is long, so a draw's cost does not depend on how
    many rows there are, on average.

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> memory = RandomMemory(6, read_policy="cycle")
    >>> memory.write(torch.arange(6.0)[:, None], torch.zeros(6, dtype=torch.int64))
    >>> sorted(torch.cat([memory.sample(3).x, memory.sample(3).x]).flatten().tolist())
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """

    grouping: Grouping | None = None

    def __init__(self) -> None:
        self.start(0)

    def start(self, capacity: int) -> None:
        """Reset to an empty memory of ``capacity`` slots."""
        self.capacity = capacity
        self._ahead = torch.zeros(0, dtype=torch.int32)

    @property
    def nbytes(self) -> int:
        """Bytes of a pass over all slots."""
        return 4 * self.capacity

    def assign(self, slots: list[int], groups: list[int]) -> None:
        """Groups do not matter here."""

    def choose(self, count: int, filled: int, generator: torch.Generator) -> Tensor:
        """The next rows of the pass, no more than there are."""
        count = min(count, filled)
        if len(self._ahead) < count:
            self._ahead = torch.randperm(filled, generator=generator, dtype=torch.int32)
        slots, self._ahead = self._ahead[:count], self._ahead[count:]
        return slots.long()

    def state_dict(self) -> dict[str, Any]:
        """The rest of the pass."""
        return {"ahead": self._ahead.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self._ahead = state["ahead"].to("cpu", torch.int32)

    def __repr__(self) -> str:
        return "Cycle()"
