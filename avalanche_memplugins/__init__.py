"""Memory for continual learning, as plugins and strategies for Avalanche."""

from avalanche_memplugins.memories import RandomMemory, Recall
from avalanche_memplugins.plugins import MemoryReplayPlugin, RandomMemoryPlugin

__version__ = "0.1.0"
__all__ = ["MemoryReplayPlugin", "RandomMemory", "RandomMemoryPlugin", "Recall", "__version__"]
