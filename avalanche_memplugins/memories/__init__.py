"""What is remembered."""

from avalanche_memplugins.memories.coded_memory import CodedMemory
from avalanche_memplugins.memories.differentiable_neural_dictionary import DifferentiableNeuralDictionary
from avalanche_memplugins.memories.dynamic_kanerva_memory import DynamicKanervaMemory
from avalanche_memplugins.memories.energy_memory import EnergyMemory
from avalanche_memplugins.memories.episodic_memory import EpisodicMemory, Nearest
from avalanche_memplugins.memories.gaussian_memory import GaussianMemory
from avalanche_memplugins.memories.kanerva_memory import KanervaMemory
from avalanche_memplugins.memories.latent_memory import LatentMemory
from avalanche_memplugins.memories.memory import (
    LearningMemory,
    Memory,
    SupportsForget,
    SupportsPredict,
    WritableMemory,
)
from avalanche_memplugins.memories.mixed_memory import MixedMemory
from avalanche_memplugins.memories.random_memory import RandomMemory
from avalanche_memplugins.memories.random_projection_memory import RandomProjectionMemory
from avalanche_memplugins.memories.recall import Recall, Summary
from avalanche_memplugins.memories.vae_memory import VAEMemory

__all__ = [
    "CodedMemory",
    "DifferentiableNeuralDictionary",
    "DynamicKanervaMemory",
    "EnergyMemory",
    "EpisodicMemory",
    "GaussianMemory",
    "KanervaMemory",
    "LatentMemory",
    "LearningMemory",
    "Memory",
    "MixedMemory",
    "Nearest",
    "RandomMemory",
    "RandomProjectionMemory",
    "Recall",
    "Summary",
    "SupportsForget",
    "SupportsPredict",
    "VAEMemory",
    "WritableMemory",
]
