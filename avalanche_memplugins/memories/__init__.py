"""What is remembered."""

from avalanche_memplugins.memories.random_memory import RandomMemory
from avalanche_memplugins.memories.recall import Recall
from avalanche_memplugins.memories.summary import Summary

__all__ = ["RandomMemory", "Recall", "Summary"]
