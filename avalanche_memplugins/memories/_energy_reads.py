"""Reading from the slots of an energy memory."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Size, Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.codecs._normalisation import Normalisation
from avalanche_memplugins.codecs.codec import Codec
from avalanche_memplugins.functional.energy import Weights
from avalanche_memplugins.memories._energy_slots import EMPTY, SlotBank

CODE_SPAN = 3.0
"""Standard deviations of a code, on either side of 0, that the interval [0, 1] of a pattern stands for."""
_ENERGIES = 4_096  # patterns times slots whose energies are worked out at once


class EnergyReads(SlotBank):
    """Reads and energies of patterns in slots; rows of the stream to patterns and back."""

    cue: Codec | None
    label_bits: int
    read_steps: int | None
    normalisation: Normalisation

    @torch.no_grad()
    def read(
        self,
        cue: Tensor,
        *,
        slots: Tensor | None = None,
        route: Literal["match", "energy", "cue"] = "match",
        known: Tensor | None = None,
        steps: int | None = None,
        temperature: float = 0.0,
    ) -> Tensor:
        """Restore distorted rows.

        :param cue: ``(B, *shape)``.
        :param slots: ``(B,)`` slots to read in; None: found by ``route``.
        :param route: ``"match"``: the slot whose read leaves the cue as it is, in entries that are known if ``known``
            says which; ``"energy"``: the slot whose energy is lowest after the read; both take a read in each slot.
            ``"cue"``: the slot of the stored cue that is nearest. Energies of different slots hardly compare: of eight
            slots of MNIST images the lowest is the right one in 44 %, the best match in 85 %, both with ``known``.
        :param known: ``(B, *shape)`` bool, entries that are not distorted and are to stay.
        :param steps: other than the network learned.
        :param temperature: of Langevin reads.
        :returns: ``(B, *shape)``.
        :raises ValueError: if nothing has been written, or an argument does not fit.
        """
        if not self.filled:
            raise ValueError("cue: nothing has been written to this memory yet, so there is nothing to read")
        self._fits("cue", cue)
        if steps is not None:
            check.positive_integer("steps", steps)
        start = self._encode(cue.to(self.device), with_cues=False)[0]
        check.number("temperature", temperature, least=0)
        kept = None if known is None else self._mask(known, len(cue))
        if not len(cue):
            return self._rows(start)
        if slots is None:
            if check.choice("route", route, ("match", "energy", "cue")) == "cue":
                slots = self.nearest(start)
            else:
                find = self.matching if route == "match" else self.lowest
                slots = find(start, known=kept, steps=steps)
        elif (
            check.tensor("slots", slots).dtype not in (torch.int32, torch.int64)
            or slots.shape != (len(cue),)
            or not 0 <= int(slots.min()) <= int(slots.max()) < self.filled
        ):
            raise ValueError(
                f"slots: expected ({len(cue)},) integers from 0 to {self.filled - 1}, got {slots.tolist()[:8]}"
            )
        patterns, _ = self._read_in(slots.to(self.device), start, known=kept, steps=steps, temperature=temperature)
        return self._rows(patterns)

    @torch.no_grad()
    def matching(self, patterns: Tensor, *, known: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Slot ``(B,)`` in which a free read from each flat pattern ``(B, D)`` moves its known entries least."""
        self._check_flat(patterns, known, steps)
        found = []
        for slot in range(self.filled):
            cue = self._padded(patterns).unsqueeze(0)
            weights = self.weights(torch.full((1,), slot, device=self.device))
            with torch.autocast(cue.device.type, enabled=False):
                last = self.network.read(cue, weights, steps=steps or self.read_steps)[-1]
            moved = (last[0, :, : patterns.shape[1]] - patterns).square()
            found.append((moved if known is None else moved * known).sum(1))
        return torch.stack(found).argmin(0)

    @torch.no_grad()
    def lowest(self, patterns: Tensor, *, known: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Slot ``(B,)`` in which a read from each flat pattern ``(B, D)`` ends at the lowest energy."""
        self._check_flat(patterns, known, steps)
        found = []
        for slot in range(self.filled):
            at = torch.full((1,), slot, device=self.device)
            weights = self.weights(at)
            cue = self._padded(patterns).unsqueeze(0)
            mask = None if known is None else self._padded_mask(known).unsqueeze(0)
            with torch.autocast(cue.device.type, enabled=False):
                last = self.network.read(cue, weights, known=mask, steps=steps or self.read_steps)[-1]
                found.append(self.network.energy(last, weights)[0] - self._unwritten(last[0]))
        return torch.stack(found).argmin(0)

    @torch.no_grad()
    def nearest(self, patterns: Tensor) -> Tensor:
        """Slot ``(B,)`` of the stored cue nearest to flat patterns ``(B, D)``.

        :raises ValueError: if the memory stores none.
        """
        self._check_flat(patterns, None, None)
        if self.cue is None:
            raise ValueError("route: expected a memory that stores cues for 'cue', got one made with cue=None")
        slots, places = self.labels.ne(EMPTY).nonzero().unbind(1)
        stored = self._stored_cues(slots, places)
        return slots[torch.cdist(patterns, stored).argmin(1)]

    @torch.no_grad()
    def novelty(self, x: Tensor, *, score: Literal["slope", "energy"] = "slope") -> Tensor:
        r"""How little the memory knows rows, ``(B,)``; over slots s the least of

        .. math::
            g_s^\top A g_s, \quad g_s = \nabla_x E(x; \theta_s) \quad\text{(slope)}, \qquad
            E(x; \theta_s) - E(x; \bar\theta) \quad\text{(energy)}

        What was written lies in a minimum, where there is no slope; :math:`A` is the preconditioner of reads, so that
        the slope is that which a read follows. Energies themselves tell less: nothing in the training of a network
        says that those of its minima are equal, or lower than all others (bench/RESULTS.md).

        :param x: ``(B, *shape)``.
        :param score: ``"slope"`` or ``"energy"``.
        :raises ValueError: if nothing has been written, or an argument does not fit.
        """
        by_slope = check.choice("score", score, ("slope", "energy")) == "slope"
        if not self.filled:
            raise ValueError("x: nothing has been written to this memory yet, so everything is new to it")
        self._fits("x", x)
        patterns = self._padded(self._encode(x.to(self.device), with_cues=False)[0])
        before = patterns.new_zeros(len(patterns)) if by_slope else self._unwritten(patterns)
        best = before.new_full(before.shape, float("inf"))
        chunk = max(1, _ENERGIES // max(1, len(patterns)))
        for slots in torch.split(torch.arange(self.filled, device=self.device), chunk):
            shaped = patterns.view(1, -1, *self.network.shape).expand(len(slots), -1, *self.network.shape)
            with torch.autocast(shaped.device.type, enabled=False):
                weights = self.weights(slots)
                scores = self._slopes(shaped, weights) if by_slope else self.network.energy(shaped, weights)
            best = torch.minimum(best, (scores - before).amin(0))
        return best

    def _slopes(self, patterns: Tensor, weights: Weights) -> Tensor:
        """Squared slopes ``(E, N)`` of the energy at patterns ``(E, N, *shape)``, as reads see them."""
        with torch.enable_grad():
            at = patterns.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.network.energy(at, weights).sum(), at)
        return (slope * self.network.precondition(slope)).flatten(2).sum(-1)

    def _unwritten(self, patterns: Tensor) -> Tensor:
        """Energies ``(B,)`` before any write."""
        with torch.autocast(patterns.device.type, enabled=False):
            energies: Tensor = self.network.energy(patterns.view(1, -1, *self.network.shape), self.network.initial)
        return energies[0]

    def _read_in(
        self,
        slots: Tensor,
        start: Tensor,
        *,
        known: Tensor | None = None,
        steps: int | None = None,
        temperature: float = 0.0,
    ) -> tuple[Tensor, Tensor | None]:
        """Patterns read from ``start`` ``(B, D)`` in their slots, and their classes if those are read, too."""
        used, places = torch.unique(slots, return_inverse=True)
        column = torch.zeros_like(places)
        counts = torch.bincount(places)
        column[places.argsort(stable=True)] = torch.arange(len(places), device=places.device) - (
            counts.cumsum(0) - counts
        ).repeat_interleave(counts)
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
                self.weights(used),
                steps=steps or self.read_steps,
                known=mask,
                temperature=temperature,
                generator=self._generator,
            )[-1].flatten(2)
        read = last[places, column]
        if not self.label_bits:
            return read, None
        return read[:, : -self.label_bits], read[:, -self.label_bits :].argmax(1)

    # ---------------------------------------------------------------- rows and patterns

    def _encode(self, x: Tensor, *, with_cues: bool = True) -> tuple[Tensor, Tensor]:
        """Flat patterns in [0, 1] and the codes of their cues."""
        x = x.to(self.device)
        patterns = self._patterns(x)
        if with_cues and self.cue is not None:
            return patterns, self.cue.encode(x if self.codec is None else patterns)
        return patterns, torch.zeros(len(x), 0, dtype=torch.uint8, device=self.device)

    def _stored_cues(self, slots: Tensor, places: Tensor) -> Tensor:
        """Flat patterns that the stored cues of patterns ``(B,)`` stand for."""
        if self.cue is None:
            raise ValueError("cue: none are stored by a memory made with cue=None")
        code = self.cues[slots, places]
        if self.codec is not None:
            return self.cue.decode(code, Size((self.network.size - self.label_bits,)), torch.float32)
        return self._patterns(self.cue.decode(code, self.shape, self.dtype))

    def _patterns(self, x: Tensor) -> Tensor:
        if self.codec is not None:
            return (self._to_codes(x) / (2 * CODE_SPAN) + 0.5).clamp(0, 1)
        return self.normalisation.undo(x).flatten(1).clamp(0, 1)

    def _rows(self, patterns: Tensor) -> Tensor:
        if self.codec is not None:
            return self._from_codes((patterns - 0.5) * (2 * CODE_SPAN))
        return self.normalisation.redo(patterns.view(-1, *self.shape), self.dtype)

    def _padded(self, patterns: Tensor) -> Tensor:
        """With entries that say nothing in the place of the class."""
        if not self.label_bits:
            return patterns
        return torch.cat([patterns, patterns.new_full((len(patterns), self.label_bits), 0.5)], 1)

    def _padded_mask(self, known: Tensor) -> Tensor:
        return known if not self.label_bits else torch.cat([known, known.new_zeros(len(known), self.label_bits)], 1)

    def _check_flat(self, patterns: Tensor, known: Tensor | None, steps: int | None) -> None:
        check.rows("patterns", patterns, (self.network.size - self.label_bits,))
        if known is not None and (check.tensor("known", known).dtype != torch.bool or known.shape != patterns.shape):
            raise ValueError(f"known: expected bool {tuple(patterns.shape)}, got {known.dtype} {tuple(known.shape)}")
        if steps is not None:
            check.positive_integer("steps", steps)

    def _fits(self, name: str, rows: Tensor) -> None:
        if check.tensor(name, rows).shape[1:] != self.shape or rows.ndim < 2:
            raise ValueError(
                f"{name}: expected rows of shape {tuple(self.shape)}, as first written, got {tuple(rows.shape)}"
            )
        if rows.dtype != self.dtype:
            raise ValueError(f"{name}: expected {self.dtype}, as first written, got {rows.dtype}")
        check.finite(name, rows)

    def _mask(self, known: Tensor, rows: int) -> Tensor:
        if self.codec is not None:
            raise ValueError(
                "known: expected None with a codec, as entries of a row are not entries of its code, got a mask"
            )
        if check.tensor("known", known).dtype != torch.bool or known.shape != (rows, *self.shape):
            raise ValueError(f"known: expected bool {(rows, *self.shape)}, got {known.dtype} {tuple(known.shape)}")
        return known.to(self.device).flatten(1)
