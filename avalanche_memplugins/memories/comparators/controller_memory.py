"""What a trained MANN or DNC has written."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories.comparators._associative import AssociativeMemory
from avalanche_memplugins.networks.dnc import DNC, DNCState
from avalanche_memplugins.networks.mann import MANN, MANNState


class ControllerMemory(AssociativeMemory):
    """A memory that a controller writes to: all that a trained :class:`~avalanche_memplugins.networks.MANN` or
    :class:`~avalanche_memplugins.networks.DNC` carries from pattern to pattern.

    Slots, usage, links, read weights and the LSTM's state are all counted in ``nbytes``, however many patterns were
    written. A second write goes on where the first ended; with more patterns than slots MANN loses the oldest.

    :param network: copied: yours stays as it is, and what becomes of it changes no memory. The bytes of the copy are
        fixed.
    :raises TypeError: for another network.

    Source: Santoro et al. 2016; Graves et al. 2016.

    >>> memory = ControllerMemory(MANN(16, slots=5, width=16, controller=4, hidden=8))
    >>> memory.write(torch.rand(1, 5, 16).round())
    >>> memory.read(torch.rand(1, 2, 16).round()).shape
    torch.Size([1, 2, 16])
    >>> memory.nbytes == 4 * (5 * (16 + 2) + 2 * 4)
    True
    """

    def __init__(self, network: MANN | DNC) -> None:
        check.instance("network", network, (MANN, DNC), "a MANN or a DNC")
        super().__init__(network.size)
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._shapes = [part.shape[1:] for part in self.network.blank(1)]

    @property
    def nbytes_fixed(self) -> int:
        """The network's."""
        return sum(p.nbytes for p in self.network.parameters())

    @torch.no_grad()
    def write(self, patterns: Tensor) -> None:
        """Write patterns one after the other.

        :param patterns: ``(E, N, n)`` in [0, 1].
        :raises ValueError: for another shape.
        """
        x = self._patterns("patterns", patterns, writing=True).to(self.device, torch.float32)
        state = self.network.write(x, self._state() if self.held.numel() else None)  # type: ignore[arg-type]
        self.held = torch.cat([part.flatten(1) for part in state], 1)

    @torch.no_grad()
    def read(self, cue: Tensor, known: Tensor | None = None, *, steps: int | None = None) -> Tensor:
        """Complete cues.

        :param cue: ``(E, N, n)`` in [0, 1]; 0.5 is an erased bit.
        :param known: bool like ``cue``: entries given back as they are in the cue. The network does not see it.
        :param steps: reads, each from what the one before gave, >= 1; None: one.
        :returns: like ``cue``, in [0, 1].
        :raises ValueError: for other shapes, or if nothing has been written.
        """
        x = self._patterns("cue", cue, known).to(self.device, torch.float32)
        state, read = self._state(), x
        for _ in range(self._steps(steps, 1)):
            read = self.network.read(state, read).clamp(0, 1)  # type: ignore[arg-type]
            read = read if known is None else torch.where(known.to(self.device), x, read)
        return read

    def slots_used(self) -> Tensor:
        """How many slots hold something, ``(E,)``: S slots of equal norm count S, one alone 1.

        :raises ValueError: if nothing has been written.
        """
        if not self.held.numel():
            raise ValueError("slots_used: expected a memory that was written, got one that holds nothing")
        return self.network.slots_used(self._state())  # type: ignore[arg-type]

    def _state(self) -> MANNState | DNCState:
        parts = torch.split(self.held, [shape.numel() for shape in self._shapes], 1)
        kind = MANNState if isinstance(self.network, MANN) else DNCState
        return kind(*(part.view(-1, *shape) for part, shape in zip(parts, self._shapes, strict=True)))
