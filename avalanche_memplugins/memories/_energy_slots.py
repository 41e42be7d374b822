"""The bank of an energy memory (written weights of many slots, their cues and labels, in bytes) and reads in it."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.energy import Weights
from avalanche_memplugins.functional.quantise import from_scaled_int8, scaled_int8
from avalanche_memplugins.memories._generative import Held
from avalanche_memplugins.memories._generative import slots as places_within
from avalanche_memplugins.networks.energy import EnergyNetwork

Precision = Literal["float32", "float16", "int8"]
TYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
_LARGEST = torch.finfo(torch.float16).max
_ENERGIES = 4_096  # patterns times slots whose energies are worked out at once
EMPTY = 255  # place of a slot that holds no pattern; also the limit of classes


class SlotBank:
    r"""Slots of written weights, each stored as its difference from the weights before any write.

    A slot takes ``writable_floats`` numbers of 4, 2 or 1 bytes (int8: and 4 bytes a tensor for the scale
    :math:`\max |\Delta| / 127`), the codes of its patterns' cues, a byte a pattern for the class, and 16 bytes for task
    label and origin, which all patterns of a slot share.

    :param buffers: of the memory whose part this is.
    :param network: whose weights are written.
    :param slot_size: most patterns of a slot, >= 1.
    :param precision: of the differences.
    """

    cues = Held()  # (slots, slot_size, *code); no numbers in a code where none are stored
    labels = Held()  # (slots, slot_size) uint8: places in the table of classes, or EMPTY
    origins = Held()  # (slots, 2): task label and origin

    def __init__(
        self, buffers: dict[str, Tensor | None], network: EnergyNetwork, *, slot_size: int, precision: Precision
    ) -> None:
        self.buffers, self.network, self.slot_size = cast("dict[str, Tensor]", buffers), network, slot_size
        self.precision: Precision = precision
        for i, weight in enumerate(network.initial):
            buffers[f"delta{i}"] = torch.zeros(0, *weight.shape[1:], dtype=TYPES[precision])
            if precision == "int8":
                buffers[f"scale{i}"] = torch.zeros(0)
        self.cues = torch.zeros(0, slot_size, 0, dtype=torch.uint8)
        self.labels = torch.zeros(0, slot_size, dtype=torch.uint8)
        self.origins = torch.zeros(0, 2, dtype=torch.int64)

    def __len__(self) -> int:
        """Slots in use."""
        return len(self.labels)

    def held(self) -> Tensor:
        """Slot and place in it of each pattern held, ``(patterns, 2)``."""
        return self.labels.ne(EMPTY).nonzero()

    def bytes_of_a_slot(self, cue_bytes: int) -> int:
        """Bytes that a slot takes.

        :param cue_bytes: of one pattern's cue.
        """
        scales = 4 * len(self.network.initial) if self.precision == "int8" else 0
        weights = self.network.writable_floats * TYPES[self.precision].itemsize
        return weights + scales + self.slot_size * (cue_bytes + 1) + 16

    def weights(self, slots: Tensor) -> Weights:
        """Written weights of slots ``(E,)``, each ``(E, *shape)`` float32."""
        check.row_slots(slots, len(self))
        found = []
        for i, initial in enumerate(self.network.initial):
            delta = self.buffers[f"delta{i}"][slots]
            if self.precision == "int8":
                delta = from_scaled_int8(delta, self.buffers[f"scale{i}"][slots])
            found.append(initial + delta.to(initial.dtype))
        return tuple(found)

    def put(self, slot: int | None, weights: Weights, cues: Tensor, labels: Tensor, t: int, origin: int) -> None:
        """Store a slot, in place of one or (None) behind the last.

        :param weights: each ``(1, *shape)``.
        :param cues: ``(N, *code)``.
        :param labels: ``(N,)`` places in the table of classes.
        """
        device = self.labels.device
        places = torch.full((1, self.slot_size), EMPTY, dtype=torch.uint8, device=device)
        places[0, : len(labels)] = labels.to(places)
        codes = cues.new_zeros(1, self.slot_size, *cues.shape[1:])
        codes[0, : len(cues)] = cues
        new = {"labels": places, "cues": codes, "origins": torch.tensor([[t, origin]], device=device)}
        for i, (weight, initial) in enumerate(zip(weights, self.network.initial, strict=True)):
            delta = weight - initial
            if self.precision == "int8":
                delta, new[f"scale{i}"] = scaled_int8(delta)
            elif self.precision == "float16":
                # Beyond float16 there is infinity, which spoils a whole read.
                delta = delta.clamp(-_LARGEST, _LARGEST)
            new[f"delta{i}"] = delta.to(TYPES[self.precision])
        if not len(self) and self.cues.shape[2:] != cues.shape[1:]:
            self.cues = codes[:0].clone()
        for name, value in new.items():
            held = self.buffers[name]
            if slot is None:
                # Autocast on the CPU knows no float16, not even to put it side by side.
                with torch.autocast(device.type, enabled=False):
                    self.buffers[name] = torch.cat([held, value.to(held)])
            else:
                held[slot] = value[0].to(held)

    def keep(self, slots: Tensor) -> None:
        """Let go of all slots but these."""
        weights = range(len(self.network.initial))
        scales = [f"scale{i}" for i in weights] if self.precision == "int8" else []
        for name in (*(f"delta{i}" for i in weights), *scales, "cues", "labels", "origins"):
            self.buffers[name] = self.buffers[name][slots.to(self.buffers[name].device)]


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
        generator: torch.Generator,
        *,
        known: Tensor | None = None,
        steps: int | None = None,
        temperature: float = 0.0,
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

    def find(self, patterns: Tensor, known: Tensor | None, steps: int | None, *, by_energy: bool) -> Tensor:
        """Slot ``(B,)`` in which a free read from each pattern moves its known entries least, or by energy.

        :param by_energy: the slot in which a read that keeps the known entries ends at the lowest energy.
        """
        scores = []
        cue = self._padded(patterns).unsqueeze(0)
        mask = None if known is None or not by_energy else self._padded_mask(known).unsqueeze(0)
        for slot in range(len(self.bank)):
            weights = self.bank.weights(torch.full((1,), slot, device=self.bank.labels.device))
            with torch.autocast(cue.device.type, enabled=False):
                last = self.network.read(cue, weights, known=mask, steps=steps or self.read_steps)[-1]
                if by_energy:
                    scores.append(self.network.energy(last, weights)[0] - self.unwritten(last[0]))
                else:
                    moved = (last[0, :, : patterns.shape[1]] - patterns).square()
                    scores.append((moved if known is None else moved * known).sum(1))
        return torch.stack(scores).argmin(0)

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

    def _slopes(self, patterns: Tensor, weights: Weights) -> Tensor:
        """Squared slopes ``(E, N)`` of the energy at patterns ``(E, N, *shape)``, as reads see them."""
        with torch.enable_grad():
            at = patterns.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.network.energy(at, weights).sum(), at)
        return (slope * self.network.precondition(slope)).flatten(2).sum(-1)

    def _padded(self, patterns: Tensor) -> Tensor:
        """With entries that say nothing instead of the class."""
        if not self.label_bits:
            return patterns
        return torch.cat([patterns, patterns.new_full((len(patterns), self.label_bits), 0.5)], 1)

    def _padded_mask(self, known: Tensor) -> Tensor:
        return known if not self.label_bits else torch.cat([known, known.new_zeros(len(known), self.label_bits)], 1)
