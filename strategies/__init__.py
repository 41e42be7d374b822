"""Ready-made strategies: an Avalanche template, a plugin and good defaults."""

from avalanche_memplugins.strategies.dark_experience_replay import DarkExperienceReplay
from avalanche_memplugins.strategies.energy_rehearsal import EnergyRehearsal
from avalanche_memplugins.strategies.experience_replay import ExperienceReplay
from avalanche_memplugins.strategies.gaussian_replay import GaussianReplay
from avalanche_memplugins.strategies.generative_replay import VAEReplay
from avalanche_memplugins.strategies.kanerva_replay import KanervaReplay
from avalanche_memplugins.strategies.mbpa import MbPA
from avalanche_memplugins.strategies.mixed_replay import MixedReplay
from avalanche_memplugins.strategies.nearest_mean import NearestMean
from avalanche_memplugins.strategies.probabilistic_retrieval import ProbabilisticRetrieval
from avalanche_memplugins.strategies.random_memory_adaptation import RMA
from avalanche_memplugins.strategies.ranpac import RanPAC
from avalanche_memplugins.strategies.streaming_lda import StreamingLDA
from avalanche_memplugins.strategies.streaming_qda import StreamingQDA

__all__ = [
    "RMA",
    "DarkExperienceReplay",
    "EnergyRehearsal",
    "ExperienceReplay",
    "GaussianReplay",
    "KanervaReplay",
    "MbPA",
    "MixedReplay",
    "NearestMean",
    "ProbabilisticRetrieval",
    "RanPAC",
    "StreamingLDA",
    "StreamingQDA",
    "VAEReplay",
]
