"""Energy networks: what a pattern's energy is, which of the weights are written, how writes and reads step."""

from avalanche_memplugins.networks.energy.base import EnergyNetwork
from avalanche_memplugins.networks.energy.convolutional import ConvolutionalEnergy
from avalanche_memplugins.networks.energy.fully_connected import FullyConnectedEnergy
from avalanche_memplugins.networks.energy.gated import GatedEnergy
from avalanche_memplugins.networks.energy.whitening import Whitening

__all__ = ["ConvolutionalEnergy", "EnergyNetwork", "FullyConnectedEnergy", "GatedEnergy", "Whitening"]
