"""Associative memories that others are compared with: whole episodes are written, then read from damaged cues."""

from avalanche_memplugins.memories.baselines.hopfield_memory import HopfieldMemory
from avalanche_memplugins.memories.baselines.modern_hopfield_memory import ModernHopfieldMemory
from avalanche_memplugins.memories.baselines.slot_memory import SlotMemory

__all__ = ["HopfieldMemory", "ModernHopfieldMemory", "SlotMemory"]
