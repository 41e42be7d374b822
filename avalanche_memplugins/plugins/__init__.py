"""How a memory joins a strategy."""

from avalanche_memplugins.plugins.dark_replay import DarkReplayPlugin
from avalanche_memplugins.plugins.energy_replay import EnergyReplayPlugin
from avalanche_memplugins.plugins.gradient_averaging import GradientAveragingPlugin
from avalanche_memplugins.plugins.latent_replay import LatentReplayPlugin
from avalanche_memplugins.plugins.lean import LeanStepPlugin
from avalanche_memplugins.plugins.local_adaptation import LocalAdaptationPlugin
from avalanche_memplugins.plugins.memory_prediction import MemoryPredictionPlugin
from avalanche_memplugins.plugins.memory_replay import MemoryReplayPlugin, Replayed
from avalanche_memplugins.plugins.nearest_neighbour import NearestNeighbourPlugin
from avalanche_memplugins.plugins.random_memory import RandomMemoryPlugin
from avalanche_memplugins.plugins.tensor_loader import TensorLoaderPlugin

__all__ = [
    "DarkReplayPlugin",
    "EnergyReplayPlugin",
    "GradientAveragingPlugin",
    "LatentReplayPlugin",
    "LeanStepPlugin",
    "LocalAdaptationPlugin",
    "MemoryPredictionPlugin",
    "MemoryReplayPlugin",
    "NearestNeighbourPlugin",
    "RandomMemoryPlugin",
    "Replayed",
    "TensorLoaderPlugin",
]
