"""Networks that come with the library: weights as safetensors, and a card that says what they were trained on.

A file ``<name>.safetensors`` holds the weights, ``code_mean`` and ``code_std`` as tensors, and in its header the
architecture, the arguments of its constructor and a manifest as JSON; ``<name>.md`` beside it is the card.
"""

from avalanche_memplugins.pretrained.energy_files import PretrainedEnergy, energy_names, load_energy, save_energy
from avalanche_memplugins.pretrained.files import Pretrained, load, names, register_architecture, save

__all__ = [
    "Pretrained",
    "PretrainedEnergy",
    "energy_names",
    "load",
    "load_energy",
    "names",
    "register_architecture",
    "save",
    "save_energy",
]
