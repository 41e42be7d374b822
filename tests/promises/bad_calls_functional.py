"""Calls of ``functional``."""

from __future__ import annotations

from typing import Any

import torch
from _call_record import record
from bad_values import Array, Integer, Labels, Number, Values
from torch import Tensor, nn

from avalanche_memplugins import functional as F

ROWS = 5


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def pack(x: Tensor) -> Tensor:
    return F.pack_triangle(x.mT @ x)


def signs(*shape: int) -> Tensor:
    return normal(*shape).sign()


def square(x: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    return (x.flatten(2) - weights[0]).square().sum(-1)


FREE = Array(last=False)
LINEAR = nn.Linear(3, 4)
BITS = Values((9, 0, True, "4", 1.5, None))


def local(**more: Any) -> dict[str, Any]:
    labels = torch.tensor([[0, 1], [2, 3]])
    return {"features": normal(2, 2, 3), "labels": labels, "weights": normal(2, 2).abs(), "query": normal(2, 3), **more}


LOCAL: dict[str, Any] = {
    "features": Array(),
    "labels": Labels(),
    "weights": Array(),
    "query": Array(),
    "steps": Integer(least=0),
    "lr": Number(above=0),
    "beta": Number(least=0, most=1),
    "active": Values((3, "x", torch.ones(4), torch.ones(3, dtype=torch.bool))),
}

record(
    "functional.KeyTable",
    F.KeyTable,
    lambda: {"keys": normal(6, 3), "backend": "torch"},
    keys=Array(last=False, finite=True, empty=True),
)
record(
    "functional.KeyTable.search",
    lambda **a: F.KeyTable(normal(6, 3)).search(**a),
    lambda: {"queries": normal(2, 3), "k": 2, "max_bytes": 1 << 20},
    queries=Array(finite=True),
    max_bytes=Integer(huge=False),
)
record(
    "functional.nearest",
    F.nearest,
    lambda: {"queries": normal(2, 3), "keys": normal(6, 3), "k": 2, "max_bytes": 1 << 20, "backend": "torch"},
    queries=Array(finite=True),
    keys=Array(last=False, finite=True, empty=True),
    max_bytes=Integer(huge=False),
)
record(
    "functional.adapt_linear",
    F.adapt_linear,
    lambda: local(weight=normal(4, 3), bias=normal(4), steps=1, lr=0.1, beta=0.0, active=None),
    bias=Array(none=True),
    **LOCAL,
)
record(
    "functional.adapt_chain",
    F.adapt_chain,
    lambda: local(layers=[LINEAR], steps=1, lr=0.1, beta=0.0, active=None),
    layers=Values((None, [], 3, [nn.ReLU()], ["x"], LINEAR.weight)),
    **LOCAL,
)
record(
    "functional.adapt_parameters",
    F.adapt_parameters,
    lambda: {
        "forward": lambda p, x: torch.func.functional_call(LINEAR, p, x),
        "parameters": dict(LINEAR.named_parameters()),
        "neighbours": normal(2, 2, 3),
        **{k: v for k, v in local(steps=1, lr=0.1, beta=0.0, active=None).items() if k != "features"},
    },
    forward=Values((None, 3, "x")),
    parameters=Values((None, 3, "x", {}, {"a": 3}, [LINEAR.weight])),
    neighbours=Array(last=False, floats=False),
    query=Array(floats=False),
    **{k: v for k, v in LOCAL.items() if k not in ("features", "query", "active")},
)
record(
    "functional.address_second_moment",
    F.address_second_moment,
    lambda: {"row_cov": 0.5 * torch.eye(3), "prior_row_cov": torch.eye(3), "noise_var": 0.1},
)
record(
    "functional.auroc",
    F.auroc,
    lambda: {"scores": normal(4), "positive": torch.tensor([True, False, True, False])},
    scores=Array(floats=False),
    positive=Array(floats=False),
)
record("functional.bernoulli_nll", F.bernoulli_nll, lambda: {"logits": normal(2, 4), "x": normal(2, 4).sigmoid()})
record(
    "functional.gaussian_nll",
    F.gaussian_nll,
    lambda: {"mean": normal(2, 4), "log_variance": normal(2, 4), "x": normal(2, 4)},
    log_variance=Array(flat=False),
)
record(
    "functional.kl_standard_normal",
    F.kl_standard_normal,
    lambda: {"mean": normal(2, 4), "log_variance": normal(2, 4)},
    mean=Array(flat=False),
    log_variance=Array(flat=False),
)
record(
    "functional.kl_diagonal_normals",
    F.kl_diagonal_normals,
    lambda: {name: normal(2, 4) for name in ("mean", "log_variance", "prior_mean", "prior_log_variance")},
    mean=Array(flat=False),
    log_variance=Array(flat=False),
    prior_mean=Array(flat=False),
    prior_log_variance=Array(flat=False),
)
record(
    "functional.decreasing_steps",
    F.decreasing_steps,
    lambda: {"first": torch.tensor(0.5), "ratios": normal(2), "steps": 3},
    first=Values((0.5, None, "x", torch.ones(2), torch.tensor(1))),
    ratios=FREE,
)
record(
    "functional.distinct_integers",
    F.distinct_integers,
    lambda: {"bound": 9, "count": 2, "generator": None},
    bound=Integer(least=0),
    count=Integer(least=0),
)
record(
    "functional.reservoir_slots",
    F.reservoir_slots,
    lambda: {"seen": 3, "batch": 2, "capacity": 4, "generator": None},
    seen=Integer(least=0),
    batch=Integer(least=0),
)
record(
    "functional.last_write_wins",
    F.last_write_wins,
    lambda: {"slots": torch.tensor([1, 2, 1])},
    slots=Array(floats=False, last=False, integers=True),
)
record(
    "functional.draw_low_rank",
    F.draw_low_rank,
    lambda: {
        "mean": normal(2, 4),
        "factors": normal(2, 3, 4),
        "residual": normal(2, 4).abs(),
        "noise": normal(2, 5, 3),
        "diagonal_noise": normal(2, 5, 4),
    },
    residual=Array(none=True),
)
record(
    "functional.merge_low_rank",
    F.merge_low_rank,
    lambda: {"factors": normal(2, 3, 4), "residual": normal(2, 4).abs(), "growth": normal(2, 5, 4)},
)
record(
    "functional.merge_moments",
    F.merge_moments,
    lambda: {"count": torch.tensor([0, 2]), "mean": normal(2, 4), "x": normal(2, 3, 4), "rows": torch.tensor([1, 3])},
    count=Array(floats=False),
    rows=Array(floats=False),
)
record("functional.pack_triangle", F.pack_triangle, lambda: {"matrix": normal(2, 3, 3)}, matrix=Array(floats=False))
record(
    "functional.unpack_triangle",
    F.unpack_triangle,
    lambda: {"packed": normal(2, 6), "width": 3},
    packed=Array(floats=False),
)
record("functional.symmetric_factors", F.symmetric_factors, lambda: {"scatter": torch.eye(3)})
record(
    "functional.energy_read",
    F.energy_read,
    lambda: {
        "energy": square,
        "cue": normal(1, 2, 3),
        "weights": (normal(1, 1, 3),),
        "step_sizes": torch.full((2,), 0.1),
        "momenta": torch.zeros(2),
        "precondition": None,
        "known": None,
        "temperature": 0.0,
        "generator": None,
        "low": 0.0,
        "high": 1.0,
        "checkpoint": False,
    },
    energy=Values((None, 3, "x")),
    cue=Array(last=False),
    weights=Values((None, 3, "x", (3,), [None])),
    precondition=Values((3, "x")),
    known=Values((3, "x", torch.ones(1, 2, 3), torch.ones(1, 2, 4, dtype=torch.bool))),
    temperature=Number(least=0),
    low=Values(("x", None, float("nan"), True)),
    high=Values(("x", None, float("nan"), 0.0, True)),
)
record(
    "functional.energy_write",
    F.energy_write,
    lambda: {
        "energy": square,
        "x": normal(1, 2, 3),
        "initial": (normal(1, 1, 3),),
        "rates": torch.full((2, 1, 1), 0.1),
        "first_order": False,
        "checkpoint": False,
    },
    energy=Values((None, 3, "x")),
    x=Array(last=False),
    initial=Values((None, 3, "x", (3,), [None])),
    rates=Array(last=False),
)
record(
    "functional.reconstruction_loss",
    F.reconstruction_loss,
    lambda: {"iterates": [normal(1, 2, 3), normal(1, 2, 3)], "x": normal(1, 2, 3), "last": 1.0},
    iterates=Values((None, 3, [], [normal(1, 2, 3)], [3, 4], "x")),
    last=Number(least=0),
)
record("functional.scaled_int8", F.scaled_int8, lambda: {"values": normal(2, 3)}, values=Array(last=False))
record(
    "functional.from_scaled_int8",
    F.from_scaled_int8,
    lambda: {"codes": torch.ones(2, 3, dtype=torch.int8), "step": torch.ones(2)},
    codes=Array(floats=False, last=False),
)
record(
    "functional.round_to_int8",
    F.round_to_int8,
    lambda: {"values": normal(2, 3), "step": 0.1},
    values=Array(last=False, flat=False),
)
record(
    "functional.pack_bits",
    F.pack_bits,
    lambda: {"values": torch.ones(2, 3, dtype=torch.uint8), "bits": 4},
    values=Array(floats=True, last=False),
    bits=BITS,
)
record(
    "functional.unpack_bits",
    F.unpack_bits,
    lambda: {"code": torch.ones(2, 2, dtype=torch.uint8), "bits": 4, "count": 3},
    bits=BITS,
    count=Integer(least=0),
)
for rule in ("hebb_rule", "storkey_rule", "pseudo_inverse_rule"):
    record(
        f"functional.{rule}",
        getattr(F, rule),
        lambda rule=rule: {
            "weights": torch.zeros(4, 4),
            "patterns": signs(2, 4),
            **({"whole_field": False} if rule == "storkey_rule" else {}),
        },
    )
record(
    "functional.hopfield_recall",
    F.hopfield_recall,
    lambda: {
        "weights": torch.ones(4, 4),
        "cue": signs(2, 4),
        "known": None,
        "update": "synchronous",
        "keep_diagonal": False,
        "sweeps": 2,
        "generator": None,
    },
    known=Values((3, "x", signs(2, 4), torch.ones(2, 3, dtype=torch.bool))),
)
record(
    "functional.modern_hopfield_read",
    F.modern_hopfield_read,
    lambda: {
        "patterns": normal(3, 4),
        "cue": normal(2, 4),
        "beta": 1.0,
        "similarity": "dot",
        "known": None,
        "steps": 1,
        "threshold": None,
    },
    patterns=Array(empty=True),
    known=Values((3, "x", signs(2, 4), torch.ones(2, 3, dtype=torch.bool))),
    threshold=Number(least=0, none=True),
)
record(
    "functional.inverse_distance",
    F.inverse_distance,
    lambda: {"squared": normal(2, 3).square(), "eps": 1e-3},
    squared=Array(last=False),
)
record(
    "functional.nearest_relative",
    F.nearest_relative,
    lambda: {"squared": normal(2, 3).square(), "width": 0.1, "eps": 1e-3},
    squared=Array(last=False),
)
KANERVA: dict[str, Any] = {"mean": Array(), "row_cov": Array(), "address": Array(), "code": Array()}
for name in ("kanerva_posterior", "kanerva_unwrite"):
    record(
        f"functional.{name}",
        getattr(F, name),
        lambda name=name: {
            "mean": normal(3, 4),
            "row_cov": torch.eye(3),
            "address": 0.1 * normal(2, 3),
            "code": normal(2, 4),
            "noise_var": 0.5,
            **({"sequential": False} if name == "kanerva_posterior" else {}),
        },
    )
record(
    "functional.kanerva_address",
    F.kanerva_address,
    lambda: {"mean": normal(3, 4), "code": normal(2, 4), "ridge": 1.0, "released": False},
)
record(
    "functional.kanerva_dynamic_write",
    F.kanerva_dynamic_write,
    lambda: {"mean": normal(3, 4), "row_cov": torch.eye(3), "code": normal(2, 4), "noise_var": 0.1, "ridge": 1.0},
)
record(
    "functional.matrix_normal_kl",
    F.matrix_normal_kl,
    lambda: {"mean": normal(3, 4), "row_cov": torch.eye(3), "prior_mean": normal(3, 4), "prior_row_cov": torch.eye(3)},
)
record(
    "functional.sample_latents",
    F.sample_latents,
    lambda: {"mu": normal(2, 3), "log_variance": normal(2, 3), "n": 2, "alpha_std": 0.5, "generator": None},
    alpha_std=Number(least=0),
)


def gaussians(**more: Any) -> dict[str, Any]:
    return {"x": normal(2, 3), "mean": normal(4, 3), **more}


def packed_parts() -> F.PackedCovariance:
    return F.pack_covariance(torch.eye(3).repeat(2, 1, 1), 4)


DEFINITE = torch.eye(3) + 0.1
PACKED = Values((None, 3, "x", (), (torch.ones(2),) * 4, F.PackedCovariance(*[torch.ones(2, 3)] * 4)))
FEW = Values((3, 0, True, "4", 1.5, None))
record(
    "functional.gaussian_log_density",
    F.gaussian_log_density,
    lambda: gaussians(covariance=DEFINITE.clone()),
    covariance=Array(finite=True),
)
record("functional.whitened_log_density", F.whitened_log_density, lambda: gaussians(whitening=torch.eye(3)))
record(
    "functional.cholesky_factors",
    F.cholesky_factors,
    lambda: {"covariance": DEFINITE.clone()},
    covariance=Array(finite=True),
)
record("functional.inverse_factors", F.inverse_factors, lambda: {"factor": torch.eye(3)})
record(
    "functional.low_rank_log_density",
    F.low_rank_log_density,
    lambda: gaussians(factors=normal(4, 2, 3), diagonal=torch.ones(4, 3)),
    diagonal=Array(rows=True),
)
record("functional.extend_covariance", F.extend_covariance, lambda: {"leading": torch.eye(2), "shared": torch.eye(3)})
record(
    "functional.shrink_covariance",
    F.shrink_covariance,
    lambda: {"covariance": torch.eye(3), "tied": torch.eye(3), "shrinkage": 0.5, "ridge": 0.1},
    shrinkage=Number(least=0, most=1),
    ridge=Number(least=0),
)
record(
    "functional.random_features",
    F.random_features,
    lambda: {"x": normal(2, 3), "projection": normal(4, 3)},
    projection=Array(last=False),
)
record("functional.add_gram", F.add_gram, lambda: {"packed": normal(6), "x": normal(2, 3)})
record(
    "functional.ridge_solution",
    F.ridge_solution,
    lambda: {"gram": pack(normal(9, 3)), "cross": normal(2, 3), "ridge": 0.1},
    cross=Array(last=False),
    ridge=Number(least=0),
)
record(
    "functional.best_ridge",
    F.best_ridge,
    lambda: {
        "gram": pack(normal(9, 3)),
        "cross": normal(2, 3),
        "x": normal(9, 3)[:4],
        "y": normal(4, 2),
        "ridges": [1.0],
    },
    cross=Array(last=False),
    y=Array(),
    ridges=Values((None, 3, "x", [], [-1.0], ["x"])),
)
record(
    "functional.merge_scatters",
    F.merge_scatters,
    lambda: {
        "first": (torch.tensor([1, 2]), normal(2, 3), normal(2, 3, 3)),
        "second": (torch.tensor([1, 2]), normal(2, 3), normal(2, 3, 3)),
    },
    first=Values((None, 3, "x", (), (torch.ones(2),) * 3)),
    second=Values((None, 3, "x", (), (torch.ones(2),) * 3)),
)
record(
    "functional.class_log_posterior",
    F.class_log_posterior,
    lambda: {"log_density": normal(2, 3), "labels": torch.tensor([0, 1, 1]), "log_prior": normal(3), "classes": 2},
    labels=Labels(),
    classes=Integer(huge=False),
)
record(
    "functional.pack_covariance",
    F.pack_covariance,
    lambda: {"covariance": DEFINITE.repeat(2, 1, 1), "bits": 4},
    covariance=Array(finite=True),
    bits=FEW,
)
record(
    "functional.unpack_covariance",
    F.unpack_covariance,
    lambda: {"packed": packed_parts(), "bits": 4},
    packed=PACKED,
    bits=FEW,
)
record(
    "functional.pack_factors",
    F.pack_factors,
    lambda: {"factors": normal(2, 2, 3), "diagonal": torch.ones(2, 3), "bits": 4},
    factors=Array(finite=True),
    diagonal=Array(finite=True, rows=True),
    bits=FEW,
)
record(
    "functional.unpack_factors",
    F.unpack_factors,
    lambda: {"packed": F.pack_factors(normal(2, 2, 3), torch.ones(2, 3), 4), "bits": 4},
    packed=PACKED,
    bits=FEW,
)
record(
    "functional.pack_deviations",
    F.pack_deviations,
    lambda: {"deviation": torch.full((2, 3), 0.5).half()},
    deviation=Array(finite=True, floats=False, empty=False, last=False),
)
record(
    "functional.unpack_deviations",
    F.unpack_deviations,
    lambda: {"codes": torch.zeros(2, 2, dtype=torch.uint8), "least": torch.ones(2).half(), "width": 3},
    codes=Values((None, 3, "x", torch.zeros(2, 5, dtype=torch.uint8), torch.zeros(2))),
    least=Values((None, 3, "x", torch.zeros(2, 2))),
)
record(
    "functional.packed_covariance_size",
    F.packed_covariance_size,
    lambda: {"width": 3, "bits": 4, "rank": 2},
    bits=FEW,
    rank=Integer(least=0, none=True),
)
record(
    "functional.product_of_experts",
    F.product_of_experts,
    lambda: {"log_probabilities": normal(2, 3, 4), "weights": torch.ones(2)},
    log_probabilities=Array(last=False),
    weights=Array(rows=True),
)
record(
    "functional.fit_experts",
    F.fit_experts,
    lambda: {"log_probabilities": normal(2, 3, 4), "y": torch.tensor([0, 1, 3]), "steps": 2},
    log_probabilities=Array(finite=True, last=False),
)

PLANES = Values((3, 0, True, "4", 1.5, None))
PIECES: dict[str, Any] = {
    "buffer": Array(floats=True, last=False),
    "starts": Values((None, 3, "x", torch.tensor([0.5]), torch.tensor([-1]), torch.tensor([99]), torch.tensor(0))),
    "lengths": Values((None, 3, "x", torch.tensor([0.5]), torch.tensor([-1]), torch.tensor([99]), torch.tensor(0))),
}
BETWEEN_PIECES = {"starts": ("starts", "lengths")}
SHARES = Values((None, 3, "x", torch.ones(1, 8), torch.zeros(1, 8, dtype=torch.int64), torch.full((1, 8), 65536)))
TABLE = Values((None, 3, "x", torch.ones(1024), torch.zeros(1024, dtype=torch.int64), torch.ones(5, dtype=torch.int64)))
LEVELS = Values((None, 3, "x", torch.ones(1, 1, 4, 4), torch.full((1, 1, 4, 4), 2, dtype=torch.uint8), torch.ones(4)))
COUNTS = Values((None, 3, "x", torch.ones(4), torch.ones(4, 3)))


def levels() -> Tensor:
    return torch.ones(1, 1, 4, 4, dtype=torch.uint8)


def pieces(size: int) -> dict[str, Any]:
    code = torch.ones(size, dtype=torch.uint8)
    return {"buffer": code, "starts": torch.tensor([0]), "lengths": torch.tensor([size])}


def table() -> Tensor:
    return torch.full((1024,), 9, dtype=torch.int64)


record(
    "functional.encode_bits",
    F.encode_bits,
    lambda: {"bits": torch.ones(1, 8, dtype=torch.uint8), "ones": torch.full((1, 8), 9)},
    bits=Values((None, 3, "x", torch.ones(1, 8), torch.full((1, 8), 2, dtype=torch.uint8), torch.ones(8))),
    ones=SHARES,
)
record(
    "functional.decode_bits",
    F.decode_bits,
    lambda: {**pieces(2), "ones": torch.full((1, 8), 9)},
    BETWEEN_PIECES,
    ones=SHARES,
    **PIECES,
)
for name in ("pixel_contexts", "count_contexts"):
    record(f"functional.{name}", getattr(F, name), lambda: {"levels": levels(), "bits": 1}, levels=LEVELS, bits=PLANES)
record("functional.context_count", F.context_count, lambda: {"bits": 1}, bits=PLANES)
record(
    "functional.encode_images",
    F.encode_images,
    lambda: {"levels": levels(), "bits": 1, "ones": table()},
    levels=LEVELS,
    bits=PLANES,
    ones=TABLE,
)
record(
    "functional.decode_images",
    F.decode_images,
    lambda: {**pieces(2), "bits": 1, "shape": (1, 4, 4), "ones": table()},
    BETWEEN_PIECES,
    bits=PLANES,
    shape=Values((None, 3, "x", (1, 4), (0, 4, 4), (1.5, 4, 4))),
    ones=TABLE,
    **PIECES,
)
record(
    "functional.fit_probabilities",
    F.fit_probabilities,
    lambda: {"counts": torch.ones(4, 2), "prior": torch.full((4,), 9), "strength": 4.0},
    counts=COUNTS,
    prior=Values((3, "x", torch.ones(3))),
)
record(
    "functional.code_length",
    F.code_length,
    lambda: {"counts": torch.ones(4, 2), "ones": torch.full((4,), 9)},
    counts=COUNTS,
    ones=Values((None, 3, "x", torch.ones(3))),
)
record("functional.gaussian_levels", F.gaussian_levels, lambda: {"bits": 2}, bits=BITS)
record(
    "functional.nearest_levels",
    F.nearest_levels,
    lambda: {"values": normal(3, 4), "levels": torch.tensor([-1.0, 1.0])},
    values=Array(last=False, flat=False),
    levels=Values((None, 3, "x", torch.ones(0), torch.ones(257), torch.ones(2, 2))),
)
record(
    "functional.k_means",
    F.k_means,
    lambda: {"rows": normal(6, 3), "count": 2, "steps": 2, "generator": None},
    rows=Array(last=False),
    steps=Integer(huge=False),
)
