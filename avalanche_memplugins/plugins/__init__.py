"""How a memory joins a strategy."""

from avalanche_memplugins.plugins.memory_replay import MemoryReplayPlugin, Replayed
from avalanche_memplugins.plugins.random_memory import RandomMemoryPlugin

__all__ = ["MemoryReplayPlugin", "RandomMemoryPlugin", "Replayed"]
