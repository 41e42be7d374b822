"""The bank of an energy memory: written weights of many slots, their cues and labels, in bytes."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.energy import Weights
from avalanche_memplugins.functional.quantise import from_scaled_int8, scaled_int8
from avalanche_memplugins.memories._generative import Held
from avalanche_memplugins.networks.energy import EnergyNetwork

Precision = Literal["float32", "float16", "int8"]
TYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
_LARGEST = torch.finfo(torch.float16).max
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
