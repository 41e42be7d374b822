"""Ready-made strategies: an Avalanche template, a plugin and good defaults."""

from avalanche_memplugins.strategies.dark_experience_replay import DarkExperienceReplay
from avalanche_memplugins.strategies.energy_rehearsal import EnergyRehearsal
from avalanche_memplugins.strategies.experience_replay import ExperienceReplay
from avalanche_memplugins.strategies.generative_replay import VAEReplay
from avalanche_memplugins.strategies.mbpa import MbPA
from avalanche_memplugins.strategies.probabilistic_retrieval import ProbabilisticRetrieval
from avalanche_memplugins.strategies.random_memory_adaptation import RMA

__all__ = [
    "RMA",
    "DarkExperienceReplay",
    "EnergyRehearsal",
    "ExperienceReplay",
    "MbPA",
    "ProbabilisticRetrieval",
    "VAEReplay",
]
