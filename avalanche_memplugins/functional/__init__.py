"""Pure tensor maths: no state, no Avalanche."""

from avalanche_memplugins.functional.kernels import inverse_distance, nearest_relative
from avalanche_memplugins.functional.latent_sampling import sample_latents
from avalanche_memplugins.functional.local_adaptation import adapt_chain, adapt_linear, adapt_parameters
from avalanche_memplugins.functional.neighbours import KeyTable, Neighbours, nearest
from avalanche_memplugins.functional.quantise import pack_bits, unpack_bits
from avalanche_memplugins.functional.reservoir import (
    distinct_integers,
    last_write_wins,
    reservoir_slots,
)

__all__ = [
    "KeyTable",
    "Neighbours",
    "adapt_chain",
    "adapt_linear",
    "adapt_parameters",
    "distinct_integers",
    "inverse_distance",
    "last_write_wins",
    "nearest",
    "nearest_relative",
    "pack_bits",
    "reservoir_slots",
    "sample_latents",
    "unpack_bits",
]
