"""Every comparator there is, small: who adds one to ``comparators.__all__`` has it tried with the others."""

from __future__ import annotations

from typing import Any

import torch

from avalanche_memplugins.memories import comparators
from avalanche_memplugins.networks import MemoryNetwork

NAMES = comparators.__all__
NEEDED: dict[str, dict[str, Any]] = {"ModernHopfieldMemory": {"beta": 5.0}}
"""Arguments without a default, beside the size."""


def made(name: str, size: int, **options: Any) -> Any:
    """An empty comparator for patterns of ``size`` bits."""
    if name == "SlotMemory":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return comparators.SlotMemory(MemoryNetwork(size, 8, hidden=4), **options)
    return getattr(comparators, name)(size, **NEEDED.get(name, {}), **options)
