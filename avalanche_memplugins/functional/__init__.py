"""Pure tensor maths: no state, no Avalanche."""

from avalanche_memplugins.functional.clustering import k_means
from avalanche_memplugins.functional.context_model import (
    code_length,
    context_count,
    count_contexts,
    decode_images,
    encode_images,
    fit_probabilities,
    pixel_contexts,
)
from avalanche_memplugins.functional.discriminant import (
    cholesky_factors,
    class_log_posterior,
    extend_covariance,
    gaussian_log_density,
    inverse_factors,
    low_rank_log_density,
    merge_scatters,
    shrink_covariance,
    whitened_log_density,
)
from avalanche_memplugins.functional.divergences import (
    bernoulli_nll,
    gaussian_nll,
    kl_diagonal_normals,
    kl_standard_normal,
)
from avalanche_memplugins.functional.energy import decreasing_steps, energy_read, energy_write, reconstruction_loss
from avalanche_memplugins.functional.experts import fit_experts, product_of_experts
from avalanche_memplugins.functional.gaussian import (
    draw_low_rank,
    merge_low_rank,
    merge_moments,
    pack_triangle,
    symmetric_factors,
    unpack_triangle,
)
from avalanche_memplugins.functional.hopfield import hebb_rule, hopfield_recall, pseudo_inverse_rule, storkey_rule
from avalanche_memplugins.functional.kanerva import (
    address_second_moment,
    kanerva_address,
    kanerva_dynamic_write,
    kanerva_posterior,
    kanerva_unwrite,
    matrix_normal_kl,
)
from avalanche_memplugins.functional.kernels import inverse_distance, nearest_relative
from avalanche_memplugins.functional.latent_sampling import sample_latents
from avalanche_memplugins.functional.local_adaptation import adapt_chain, adapt_linear, adapt_parameters
from avalanche_memplugins.functional.modern_hopfield import modern_hopfield_read
from avalanche_memplugins.functional.neighbours import KeyTable, Neighbours, nearest
from avalanche_memplugins.functional.packed_covariance import (
    PackedCovariance,
    pack_covariance,
    pack_deviations,
    pack_factors,
    packed_covariance_size,
    unpack_covariance,
    unpack_deviations,
    unpack_factors,
)
from avalanche_memplugins.functional.quantise import (
    from_scaled_int8,
    gaussian_levels,
    nearest_levels,
    pack_bits,
    round_to_int8,
    scaled_int8,
    unpack_bits,
)
from avalanche_memplugins.functional.range_coder import decode_bits, encode_bits
from avalanche_memplugins.functional.ranking import auroc
from avalanche_memplugins.functional.reservoir import (
    distinct_integers,
    last_write_wins,
    reservoir_slots,
)
from avalanche_memplugins.functional.ridge import add_gram, best_ridge, random_features, ridge_solution

__all__ = [
    "KeyTable",
    "Neighbours",
    "PackedCovariance",
    "adapt_chain",
    "adapt_linear",
    "adapt_parameters",
    "add_gram",
    "address_second_moment",
    "auroc",
    "bernoulli_nll",
    "best_ridge",
    "cholesky_factors",
    "class_log_posterior",
    "code_length",
    "context_count",
    "count_contexts",
    "decode_bits",
    "decode_images",
    "decreasing_steps",
    "distinct_integers",
    "draw_low_rank",
    "encode_bits",
    "encode_images",
    "energy_read",
    "energy_write",
    "extend_covariance",
    "fit_experts",
    "fit_probabilities",
    "from_scaled_int8",
    "gaussian_levels",
    "gaussian_log_density",
    "gaussian_nll",
    "hebb_rule",
    "hopfield_recall",
    "inverse_distance",
    "inverse_factors",
    "k_means",
    "kanerva_address",
    "kanerva_dynamic_write",
    "kanerva_posterior",
    "kanerva_unwrite",
    "kl_diagonal_normals",
    "kl_standard_normal",
    "last_write_wins",
    "low_rank_log_density",
    "matrix_normal_kl",
    "merge_low_rank",
    "merge_moments",
    "merge_scatters",
    "modern_hopfield_read",
    "nearest",
    "nearest_levels",
    "nearest_relative",
    "pack_bits",
    "pack_covariance",
    "pack_deviations",
    "pack_factors",
    "pack_triangle",
    "packed_covariance_size",
    "pixel_contexts",
    "product_of_experts",
    "pseudo_inverse_rule",
    "random_features",
    "reconstruction_loss",
    "reservoir_slots",
    "ridge_solution",
    "round_to_int8",
    "sample_latents",
    "scaled_int8",
    "shrink_covariance",
    "storkey_rule",
    "symmetric_factors",
    "unpack_bits",
    "unpack_covariance",
    "unpack_deviations",
    "unpack_factors",
    "unpack_triangle",
    "whitened_log_density",
]
