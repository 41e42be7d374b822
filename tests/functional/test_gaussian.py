"""Streaming Gaussians against NumPy on the whole stream at once, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from avalanche_memplugins.functional import (
    draw_low_rank,
    merge_low_rank,
    merge_moments,
    pack_triangle,
    symmetric_factors,
    unpack_triangle,
)


def streams(classes: int, batches: int, width: int, rank: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Batches (K, 6, C) of a low-rank stream far from 0, with 1 to 6 rows a class; the others are NaN-free junk."""
    rng = np.random.default_rng(seed)
    basis, mean = rng.normal(size=(classes, rank, width)), 100 * rng.normal(size=(classes, 1, width))
    out = []
    for _ in range(batches):
        x = mean + rng.normal(size=(classes, 6, rank)) @ basis
        out.append((torch.from_numpy(x), torch.from_numpy(rng.integers(1, 7, classes))))
    return out


def whole(stream: list[tuple[Tensor, Tensor]], k: int) -> np.ndarray:
    return np.concatenate([x[k, : int(rows[k])].numpy() for x, rows in stream])


def fit(stream: list[tuple[Tensor, Tensor]], rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    classes, _, width = stream[0][0].shape
    count, mean = torch.zeros(classes, dtype=torch.int64), torch.zeros(classes, width, dtype=torch.float64)
    factors, residual = mean.new_zeros(classes, rank, width), torch.zeros_like(mean)
    scatter = mean.new_zeros(classes, width, width)
    for x, rows in stream:
        count, mean, growth = merge_moments(count, mean, x, rows)
        scatter = scatter + growth.mT @ growth
        factors, residual = merge_low_rank(factors, residual, growth)
    return count, mean, scatter, factors, residual


@pytest.mark.parametrize("width", [4, 40])  # fewer and more dimensions than stacked rows
def test_moments_are_those_of_the_whole_stream(width: int) -> None:
    stream = streams(3, 20, width, rank=3)
    count, mean, scatter, factors, residual = fit(stream, rank=3)
    for k in range(3):
        rows = whole(stream, k)
        assert int(count[k]) == len(rows)
        np.testing.assert_allclose(mean[k], rows.mean(0), rtol=1e-12)
        expected = np.cov(rows.T, bias=True) * len(rows)
        np.testing.assert_allclose(scatter[k], expected, rtol=0, atol=1e-9 * np.abs(expected).max())
        # The stream has rank 3, so three factors hold all of it and the residual nothing.
        np.testing.assert_allclose(factors[k].T @ factors[k], expected, rtol=0, atol=1e-8 * np.abs(expected).max())
        assert float(residual[k].max()) < 1e-8 * np.abs(expected).max()


@pytest.mark.parametrize("rank", [0, 1, 4])
def test_the_diagonal_is_exact_at_any_rank(rank: int) -> None:
    stream = streams(2, 15, 10, rank=8)
    _, _, scatter, factors, residual = fit(stream, rank)
    got = factors.square().sum(1) + residual
    torch.testing.assert_close(got, scatter.diagonal(dim1=1, dim2=2), rtol=1e-10, atol=0)
    assert bool((residual >= 0).all())


def test_few_factors_hold_nearly_what_the_best_ones_hold() -> None:
    """Truncated batch by batch, against the best rank-2 part of the whole (Eckart & Young)."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, 12)) * np.array([9.0, 6.0, *[1.0] * 10])
    stream = [(torch.from_numpy(rows[None, i : i + 6]), torch.tensor([6])) for i in range(0, 600, 6)]
    *_, factors, _ = fit(stream, rank=2)
    best = np.linalg.eigvalsh(np.cov(rows.T, bias=True) * 600)[-2:].sum()
    assert 0.98 * best < float(factors.square().sum()) <= best * (1 + 1e-9)


def test_more_factors_than_dimensions() -> None:
    stream = streams(2, 5, 3, rank=3)
    *_, scatter, factors, residual = fit(stream, rank=5)
    torch.testing.assert_close(factors.mT @ factors, scatter, rtol=0, atol=1e-8 * float(scatter.max()))
    assert float(residual.max()) < 1e-8 * float(scatter.max())


def test_a_single_row_has_no_spread() -> None:
    count, mean, growth = merge_moments(
        torch.zeros(1, dtype=torch.int64), torch.zeros(1, 3), torch.tensor([[[5.0, 6.0, 7.0]]]), torch.tensor([1])
    )
    assert (count.tolist(), mean.tolist()) == ([1], [[5.0, 6.0, 7.0]])
    assert not growth.any()


def test_triangles_come_back() -> None:
    matrix = torch.randn(2, 5, 5, dtype=torch.float64)
    matrix = matrix + matrix.mT
    packed = pack_triangle(matrix)
    assert packed.shape == (2, 15)
    assert torch.equal(unpack_triangle(packed, 5), matrix)
    with pytest.raises(ValueError, match="packed: expected 15 numbers for width 5, got 10"):
        unpack_triangle(packed[:, :10], 5)


def test_factors_of_a_singular_scatter() -> None:
    rows = torch.randn(3, 6, dtype=torch.float64)
    scatter = rows.T @ rows
    factors = symmetric_factors(scatter)
    torch.testing.assert_close(factors.mT @ factors, scatter)


def test_draws_have_the_mean_and_covariance() -> None:
    g = torch.Generator().manual_seed(0)
    mean, factors = torch.randn(2, 4, generator=g), torch.randn(2, 2, 4, generator=g)
    residual = torch.rand(2, 4, generator=g)
    n = 200_000
    z = draw_low_rank(mean, factors, residual, torch.randn(2, n, 2, generator=g), torch.randn(2, n, 4, generator=g))
    for k in range(2):
        covariance = factors[k].T @ factors[k] + residual[k].diag()
        torch.testing.assert_close(z[k].mean(0), mean[k], rtol=0, atol=0.02)
        torch.testing.assert_close(z[k].T.cov(), covariance, rtol=0, atol=0.05)
