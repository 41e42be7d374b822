"""The slots of a memory network."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories.comparators._associative import AssociativeMemory
from avalanche_memplugins.networks.memory_network import MemoryNetwork


class SlotMemory(AssociativeMemory):
    """One slot a pattern, which holds its code; what a trained :class:`~avalanche_memplugins.networks.MemoryNetwork`
    writes and reads.

    :param network: copied: yours stays as it is, and what becomes of it changes no memory. The bytes of the copy are
        fixed, patterns x code size floats are not.
    :raises TypeError: for another network.

    Source: Sukhbaatar et al., "End-to-end memory networks", 2015, as EBMM's comparator (Bartunov et al. 2020).

    >>> memory = SlotMemory(MemoryNetwork(16, code_size=4, hidden=8))
    >>> memory.write(torch.rand(1, 5, 16))
    >>> memory.read(torch.rand(1, 2, 16)).shape
    torch.Size([1, 2, 16])
    >>> memory.nbytes  # five codes of four floats
    80
    """

    def __init__(self, network: MemoryNetwork) -> None:
        check.instance("network", network, MemoryNetwork, "a MemoryNetwork")
        super().__init__(network.size)
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @property
    def nbytes_fixed(self) -> int:
        """The network's."""
        return sum(p.nbytes for p in self.network.parameters())

    def __len__(self) -> int:
        """Patterns held an episode."""
        return self.held.shape[1] if self.held.ndim > 1 else 0

    @torch.no_grad()
    def write(self, patterns: Tensor) -> None:
        """Add patterns, a slot each.

        :param patterns: ``(E, N, n)`` in [0, 1].
        :raises ValueError: for another shape.
        """
        x = self._patterns("patterns", patterns, writing=True).to(self.device, torch.float32)
        code = self.network.write(x)
        self.held = torch.cat([self.held, code], 1) if len(self) else code

    @torch.no_grad()
    def read(self, cue: Tensor, known: Tensor | None = None, *, steps: int | None = None) -> Tensor:
        """Complete cues.

        :param cue: ``(E, N, n)`` in [0, 1].
        :param known: bool like ``cue``: entries given back as they are in the cue. A linear network finds the slot by
            them alone; another does not see them.
        :param steps: reads, each from what the one before gave, >= 1; None: one.
        :returns: like ``cue``, in [0, 1].
        :raises ValueError: for other shapes, or if nothing has been written.
        """
        x = self._patterns("cue", cue, known).to(self.device, torch.float32)
        if known is not None:
            known = known.to(self.device)
        read = x
        for _ in range(self._steps(steps, 1)):
            read = self.network.read(self.held, read, known).clamp(0, 1)
            read = read if known is None else torch.where(known, x, read)
        return read
