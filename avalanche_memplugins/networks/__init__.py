"""Networks of the memories: no Avalanche."""

from avalanche_memplugins.networks._kanerva_network import EpisodeBound
from avalanche_memplugins.networks.conditional_vae import ConditionalVAE
from avalanche_memplugins.networks.dnc import DNC, DNCState
from avalanche_memplugins.networks.dynamic_kanerva import DynamicKanervaMachine
from avalanche_memplugins.networks.episode_training import train_on_episodes
from avalanche_memplugins.networks.frozen_encoder import FrozenEncoder
from avalanche_memplugins.networks.kanerva import KanervaMachine
from avalanche_memplugins.networks.mann import MANN, MANNState
from avalanche_memplugins.networks.memory_network import MemoryNetwork, train_memory_network
from avalanche_memplugins.networks.mlp_vae import MLPVAE, train_vae
from avalanche_memplugins.networks.neighbour_retrieval import RetrievalClassifier
from avalanche_memplugins.networks.probabilistic_retrieval import ProbabilisticRetrievalClassifier, retrieval_mlp
from avalanche_memplugins.networks.random_projection import RandomProjection
from avalanche_memplugins.networks.scattering import Scattering
from avalanche_memplugins.networks.vae import VAE, VAEBound

__all__ = [
    "DNC",
    "MANN",
    "MLPVAE",
    "VAE",
    "ConditionalVAE",
    "DNCState",
    "DynamicKanervaMachine",
    "EpisodeBound",
    "FrozenEncoder",
    "KanervaMachine",
    "MANNState",
    "MemoryNetwork",
    "ProbabilisticRetrievalClassifier",
    "RandomProjection",
    "RetrievalClassifier",
    "Scattering",
    "VAEBound",
    "retrieval_mlp",
    "train_memory_network",
    "train_on_episodes",
    "train_vae",
]
