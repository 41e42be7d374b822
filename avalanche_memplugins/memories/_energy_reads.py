"""Reads of flat patterns in the slots of an energy memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from avalanche_memplugins.functional.energy import Weights
from avalanche_memplugins.memories._energy_slots import SlotBank
from avalanche_memplugins.memories._generative import slots as places_within

_ENERGIES = 4_096  # patterns times slots whose energies are worked out at once


class SlotReads:
    """What becomes of flat patterns ``(B, D)`` in the slots of a bank.

    :param bank: of slots, with its network.
    :param label_bits: entries of the network's patterns behind those D, which hold the class; 0: none.
    :param read_steps: other than the network learned.
    """

    def __init__(self, bank: SlotBank, *, label_bits: int, read_steps: int | None) -> None:
        self.bank, self.network = bank, bank.network
        self.label_bits, self.read_steps = label_bits, read_steps

    def read(
        self,
        slots: Tensor,
        start: Tensor,
        *,
        known: Tensor | None,
        steps: int | None,
        temperature: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor | None]:
        """Patterns read from ``start`` in their slots ``(B,)``, and their classes if those are read, too."""
        used, places = torch.unique(slots, return_inverse=True)
        counts = torch.bincount(places)
        column = places_within(places, counts)
        cue = start.new_zeros(len(used), int(counts.max()), self.network.size)
        cue[places, column] = self._padded(start)
        mask = None
        if known is not None:
            mask = torch.zeros_like(cue, dtype=torch.bool)
            mask[places, column] = self._padded_mask(known)
            mask = mask.view(*mask.shape[:2], *self.network.shape)
        with torch.autocast(start.device.type, enabled=False):
            last = self.network.read(
                cue.view(*cue.shape[:2], *self.network.shape),
                self.bank.weights(used),
                steps=steps or self.read_steps,
                known=mask,
                temperature=temperature,
                generator=generator,
            )[-1].flatten(2)
        read = last[places, column]
        if not self.label_bits:
            return read, None
        return read[:, : -self.label_bits], read[:, -self.label_bits :].argmax(1)

    def matching(self, patterns: Tensor, known: Tensor | None, steps: int | None) -> Tensor:
        """Slot ``(B,)`` in which a free read from each pattern moves its known entries least."""
        found = []
        cue = self._padded(patterns).unsqueeze(0)
        for weights in self._slot_by_slot():
            with torch.autocast(cue.device.type, enabled=False):
                last = self.network.read(cue, weights, steps=steps or self.read_steps)[-1]
            moved = (last[0, :, : patterns.shape[1]] - patterns).square()
            found.append((moved if known is None else moved * known).sum(1))
        return torch.stack(found).argmin(0)

    def lowest(self, patterns: Tensor, known: Tensor | None, steps: int | None) -> Tensor:
        """Slot ``(B,)`` in which a read from each pattern ends at the lowest energy."""
        found = []
        cue = self._padded(patterns).unsqueeze(0)
        mask = None if known is None else self._padded_mask(known).unsqueeze(0)
        for weights in self._slot_by_slot():
            with torch.autocast(cue.device.type, enabled=False):
                last = self.network.read(cue, weights, known=mask, steps=steps or self.read_steps)[-1]
                found.append(self.network.energy(last, weights)[0] - self.unwritten(last[0]))
        return torch.stack(found).argmin(0)

    def novelty(self, patterns: Tensor, *, by_slope: bool) -> Tensor:
        """Over slots the least squared slope, or energy above that before any write, at each pattern, ``(B,)``."""
        patterns = self._padded(patterns)
        before = patterns.new_zeros(len(patterns)) if by_slope else self.unwritten(patterns)
        best = before.new_full(before.shape, float("inf"))
        chunk = max(1, _ENERGIES // max(1, len(patterns)))
        for slots in torch.split(torch.arange(len(self.bank), device=patterns.device), chunk):
            shaped = patterns.view(1, -1, *self.network.shape).expand(len(slots), -1, *self.network.shape)
            with torch.autocast(shaped.device.type, enabled=False):
                weights = self.bank.weights(slots)
                scores = self._slopes(shaped, weights) if by_slope else self.network.energy(shaped, weights)
            best = torch.minimum(best, (scores - before).amin(0))
        return best

    def unwritten(self, patterns: Tensor) -> Tensor:
        """Energies ``(B,)`` before any write, of the network's patterns."""
        with torch.autocast(patterns.device.type, enabled=False):
            energies: Tensor = self.network.energy(patterns.view(1, -1, *self.network.shape), self.network.initial)
        return energies[0]

    def _slot_by_slot(self) -> Iterator[Weights]:
        for slot in range(len(self.bank)):
            yield self.bank.weights(torch.full((1,), slot, device=self.bank.labels.device))

    def _slopes(self, patterns: Tensor, weights: Weights) -> Tensor:
        """Squared slopes ``(E, N)`` of the energy at patterns ``(E, N, *shape)``, as reads see them."""
        with torch.enable_grad():
            at = patterns.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.network.energy(at, weights).sum(), at)
        return (slope * self.network.precondition(slope)).flatten(2).sum(-1)

    def _padded(self, patterns: Tensor) -> Tensor:
        """With entries that say nothing in the place of the class."""
        if not self.label_bits:
            return patterns
        return torch.cat([patterns, patterns.new_full((len(patterns), self.label_bits), 0.5)], 1)

    def _padded_mask(self, known: Tensor) -> Tensor:
        return known if not self.label_bits else torch.cat([known, known.new_zeros(len(known), self.label_bits)], 1)
