"""The bank of an energy memory: written weights of many slots, their cues and labels, in bytes."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._fingerprint import fingerprint
from avalanche_memplugins.functional.energy import Weights
from avalanche_memplugins.functional.quantise import from_scaled_int8, scaled_int8
from avalanche_memplugins.memories._energy_eviction import spare_classes
from avalanche_memplugins.memories._generative import GenerativeMemory, check_count
from avalanche_memplugins.memories.summary import Summary
from avalanche_memplugins.networks.energy import EnergyNetwork

Precision = Literal["float32", "float16", "int8"]
_TYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
_LARGEST = torch.finfo(torch.float16).max
EMPTY = 255  # place of a slot that holds no pattern; also the limit of classes


class SlotBank(GenerativeMemory):
    r"""Slots of written weights, each stored as its difference from the weights before any write.

    A slot takes ``writable_floats`` numbers of 4, 2 or 1 bytes (int8: and 4 bytes a tensor for the scale
    :math:`\max |\Delta| / 127`), the codes of its patterns' cues, a byte a pattern for the class, and 16 bytes for task
    label and origin, which all patterns of a slot share.

    :param network: the energy; taken over, frozen.
    :param slots: most slots held, >= 1.
    :param slot_size: most patterns of a slot, >= 1.
    :param cue_shape: of a stored cue's code; None: none are stored.
    :param cue_dtype: its type.
    :param precision: of the differences.
    :param codec: see :class:`GenerativeMemory`.
    :param seed: of the memory's generator. None: drawn from torch's global generator.
    """

    _fixed = ("codec.", "network.", "cue.")
    cues: Tensor
    labels: Tensor
    origins: Tensor

    def __init__(
        self, network: EnergyNetwork, *, slots: int, slot_size: int, precision: Precision, codec: Any, seed: int | None
    ) -> None:
        super().__init__(codec=codec, seed=seed)
        if not isinstance(network, EnergyNetwork):
            raise TypeError(f"network: expected an EnergyNetwork, got {check.show(network)}")
        self.network = network.eval().requires_grad_(False)
        self.slots = check.positive_integer("slots", slots)
        self.slot_size = check.positive_integer("slot_size", slot_size)
        self.precision = check.choice("precision", precision, tuple(_TYPES))
        self.offered = 0  # slots, since the memory was made
        for i, weight in enumerate(network.initial):
            self.register_buffer(f"delta{i}", torch.zeros(0, *weight.shape[1:], dtype=_TYPES[precision]))
            if precision == "int8":
                self.register_buffer(f"scale{i}", torch.zeros(0))
        self.register_buffer("cues", torch.zeros(0, self.slot_size, 0, dtype=torch.uint8))
        self.register_buffer("labels", torch.zeros(0, self.slot_size, dtype=torch.uint8))
        self.register_buffer("origins", torch.zeros(0, 2, dtype=torch.int64))
        self._network_name = fingerprint(self.network.state_dict())

    # ---------------------------------------------------------------- what it holds

    def __len__(self) -> int:
        """Patterns held."""
        return int(self.labels.ne(EMPTY).sum())

    @property
    def filled(self) -> int:
        """Slots in use."""
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where reads come out."""
        return self.labels.device

    @property
    def nbytes_fixed(self) -> int:
        """Bytes needed besides, whatever the stream: network and codec."""
        parts = (*self.network.parameters(), *self.network.buffers())
        return super().nbytes_fixed + sum(part.nbytes for part in parts)

    @property
    def classes_held(self) -> Tensor:
        """Classes of the patterns held, ``(len(self),)`` int64 on the CPU, slot by slot."""
        held = self.labels[self.labels.ne(EMPTY)].cpu().long()
        return self._table[held, 0]

    def summary(self) -> Summary:
        """Patterns held by class, task and experience."""
        rows = self.labels.ne(EMPTY).sum(1).cpu()
        labels, counts = torch.unique(self.classes_held, return_counts=True)
        return Summary(
            description=repr(self),
            capacity=self.slots * self.slot_size,
            filled=len(self),
            seen=int(self._table[:, 1].sum()),
            nbytes=self.nbytes,
            nbytes_fixed=self.nbytes_fixed,
            per_class=dict(zip(labels.tolist(), counts.tolist(), strict=True)),
            per_task=_by(self.origins[:, 0].cpu(), rows),
            per_experience=_by(self.origins[:, 1].cpu(), rows),
        )

    def weights(self, slots: Tensor) -> Weights:
        """Written weights of slots ``(E,)``, each ``(E, *shape)`` float32."""
        check.row_slots(slots, self.filled)
        found = []
        for i, initial in enumerate(self.network.initial):
            delta = self.get_buffer(f"delta{i}")[slots]
            if self.precision == "int8":
                delta = from_scaled_int8(delta, self.get_buffer(f"scale{i}")[slots])
            found.append(initial + delta.to(initial.dtype))
        return tuple(found)

    # ---------------------------------------------------------------- storing

    def _put(self, slot: int | None, weights: Weights, cues: Tensor, labels: Tensor, t: int, origin: int) -> None:
        """Store a slot, in place of one or (None) behind the last.

        :param weights: each ``(1, *shape)``.
        :param cues: ``(N, *code)``.
        :param labels: ``(N,)`` places in the table of classes.
        """
        places = torch.full((1, self.slot_size), EMPTY, dtype=torch.uint8, device=self.device)
        places[0, : len(labels)] = labels.to(places)
        codes = cues.new_zeros(1, self.slot_size, *cues.shape[1:])
        codes[0, : len(cues)] = cues
        new = {"labels": places, "cues": codes, "origins": torch.tensor([[t, origin]], device=self.device)}
        for i, (weight, initial) in enumerate(zip(weights, self.network.initial, strict=True)):
            delta = weight - initial
            if self.precision == "int8":
                delta, new[f"scale{i}"] = scaled_int8(delta)
            elif self.precision == "float16":
                # Beyond float16 there is infinity, which spoils a whole read.
                delta = delta.clamp(-_LARGEST, _LARGEST)
            new[f"delta{i}"] = delta.to(_TYPES[self.precision])
        if not self.filled and self.cues.shape[2:] != cues.shape[1:]:
            self.register_buffer("cues", codes[:0].clone())
        for name, value in new.items():
            held = self.get_buffer(name)
            if slot is None:
                # Autocast on the CPU knows no float16, not even to put it side by side.
                with torch.autocast(self.device.type, enabled=False):
                    self.register_buffer(name, torch.cat([held, value.to(held)]))
            else:
                held[slot] = value[0].to(held)

    def _keep(self, slots: Tensor) -> None:
        """Let go of all slots but these."""
        for name in self._slot_buffers():
            self.register_buffer(name, self.get_buffer(name)[slots.to(self.device)])

    def _slot_buffers(self) -> list[str]:
        weights = range(len(self.network.initial))
        scales = [f"scale{i}" for i in weights] if self.precision == "int8" else []
        return [*(f"delta{i}" for i in weights), *scales, "cues", "labels", "origins"]

    def _place(self, label: int | None) -> int | None:
        """Slot that the next one offered takes: None is a new one; -1: none (a reservoir over slots).

        :param label: place in the table of the one class that the slot offered is of, like all others: then no class is
            lost that can be kept. None: slots are of any classes.
        """
        self.offered += 1
        if self.filled < self.slots:
            return None
        drawn = int(torch.randint(self.offered, (), generator=self._generator))
        place = drawn if drawn < self.slots else -1
        if label is None:
            return place
        place = spare_classes(place, [*self.labels[:, 0].tolist(), label], self._generator)
        return place if place < self.slots else -1

    # ---------------------------------------------------------------- state

    def _parts(self) -> list[str]:
        return [repr(self), f"a network with the fingerprint {self._network_name}"]

    def get_extra_state(self) -> dict[str, Any]:
        """All that is not a parameter or buffer: classes, shape of a row, the generator, slots offered."""
        return {**super().get_extra_state(), "offered": self.offered}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of a memory made with other arguments or another network.
        """
        super().set_extra_state(state)
        self.offered = state["offered"]

    def _check_sound(self) -> None:
        super()._check_sound()
        filled, classes = self.filled, len(self._table)
        if filled > self.slots or filled > check_count("offered", self.offered) or (filled and not classes):
            raise ValueError(f"state: expected at most {self.slots} slots, got {filled} of {self.offered} offered")
        for i, initial in enumerate(self.network.initial):
            self._check_buffer(f"delta{i}", (filled, *initial.shape[1:]), _TYPES[self.precision])
            if self.precision == "int8":
                self._check_buffer(f"scale{i}", (filled,))
        self._check_buffer("labels", (filled, self.slot_size), torch.uint8)
        self._check_buffer("origins", (filled, 2), torch.int64)
        places = self.labels[self.labels != EMPTY]
        if places.numel() and int(places.max()) >= classes:
            raise ValueError(f"state: expected patterns of {classes} classes, got one of place {int(places.max())}")
        check.label_range("state: origins", self.origins)
        if fingerprint(self.network.state_dict()) != self._network_name:
            raise ValueError("state: expected the weights of this memory's network, got others")


def _by(labels: Tensor, rows: Tensor) -> dict[int, int]:
    return {int(label): int(rows[labels == label].sum()) for label in torch.unique(labels)}
