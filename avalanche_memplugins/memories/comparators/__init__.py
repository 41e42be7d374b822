"""Associative memories that others are compared with: whole episodes are written, then read from damaged cues."""

from avalanche_memplugins.memories.comparators.controller_memory import ControllerMemory
from avalanche_memplugins.memories.comparators.hopfield_memory import HopfieldMemory
from avalanche_memplugins.memories.comparators.modern_hopfield_memory import ModernHopfieldMemory
from avalanche_memplugins.memories.comparators.random_projection_slots import RandomProjectionSlots
from avalanche_memplugins.memories.comparators.restricted_boltzmann_memory import RestrictedBoltzmannMemory
from avalanche_memplugins.memories.comparators.slot_memory import SlotMemory
from avalanche_memplugins.memories.comparators.sparse_distributed_memory import SparseDistributedMemory

__all__ = [
    "ControllerMemory",
    "HopfieldMemory",
    "ModernHopfieldMemory",
    "RandomProjectionSlots",
    "RestrictedBoltzmannMemory",
    "SlotMemory",
    "SparseDistributedMemory",
]
