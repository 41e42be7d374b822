"""The old name of :mod:`avalanche_memplugins.memories.comparators`, for one version."""

import warnings

from avalanche_memplugins.memories.comparators import HopfieldMemory, ModernHopfieldMemory, SlotMemory

__all__ = ["HopfieldMemory", "ModernHopfieldMemory", "SlotMemory"]

warnings.warn(
    "avalanche_memplugins.memories.baselines is called avalanche_memplugins.memories.comparators now",
    DeprecationWarning,
    stacklevel=2,
)
