"""Every comparator there is, small: who adds one to ``comparators.__all__`` has it tried with the others."""

from __future__ import annotations

from typing import Any

import torch

from avalanche_memplugins.memories import comparators
from avalanche_memplugins.networks import DNC, MANN, MemoryNetwork

NAMES = comparators.__all__
NEEDED: dict[str, dict[str, Any]] = {"ModernHopfieldMemory": {"beta": 5.0}}
"""Arguments without a default, beside the size."""
SMALL: dict[str, dict[str, Any]] = {"RestrictedBoltzmannMemory": {"hidden": 4, "write_steps": 5}}
"""Arguments that make it fast."""


def slot_network(size: int) -> MemoryNetwork:
    """A memory network with weights of its own seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MemoryNetwork(size, 8, hidden=4)


def controller(size: int, kind: type[MANN | DNC] = MANN) -> MANN | DNC:
    """A MANN or DNC of 16 slots, likewise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(size, slots=16, width=size, controller=4, hidden=4)


def made(name: str, size: int, **options: Any) -> Any:
    """An empty comparator for patterns of ``size`` bits."""
    if name == "SlotMemory":
        return comparators.SlotMemory(slot_network(size), **options)
    if name == "ControllerMemory":
        return comparators.ControllerMemory(controller(size), **options)
    return getattr(comparators, name)(size, **{**NEEDED.get(name, {}), **SMALL.get(name, {}), **options})
