"""Discriminants against scikit-learn and NumPy, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestCentroid
from torch import Tensor

from avalanche_memplugins.functional import (
    class_log_posterior,
    extend_covariance,
    gaussian_log_density,
    low_rank_log_density,
    merge_scatters,
    shrink_covariance,
)

K, C = 4, 7
Floats = NDArray[np.float64]


def rows(n: int, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    rng = np.random.default_rng(3)
    centres, turns = 30 + 2 * rng.normal(size=(K, C)), rng.normal(size=(K, C, C))
    rng = np.random.default_rng(seed)
    y = rng.choice(K, size=n, p=[0.4, 0.3, 0.2, 0.1])
    return centres[y] + np.einsum("bc,bcd->bd", rng.normal(size=(n, C)), turns[y]), y


def moments(x: Floats, y: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    mean = np.stack([x[y == k].mean(0) for k in range(K)])
    covariance = np.stack([np.cov(x[y == k].T, bias=True) for k in range(K)])
    return *(torch.from_numpy(part) for part in (mean, covariance)), torch.from_numpy(np.bincount(y) / len(y))


def posterior(density: Tensor, prior: Tensor) -> Floats:
    return class_log_posterior(density, torch.arange(K), prior.log(), K).numpy()


def test_a_covariance_a_class_is_the_quadratic_discriminant() -> None:
    (x, y), (queries, _) = rows(400, 0), rows(50, 1)
    mean, _, prior = moments(x, y)
    model = QuadraticDiscriminantAnalysis(store_covariance=True).fit(x, y)
    # Its versions divide by n or by n - 1.
    covariance = torch.from_numpy(np.stack(model.covariance_))
    got = posterior(gaussian_log_density(torch.from_numpy(queries), mean, covariance), prior)
    expected = model.predict_log_proba(queries)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_a_shared_covariance_is_the_linear_discriminant() -> None:
    (x, y), (queries, _) = rows(400, 0), rows(50, 1)
    mean, covariance, prior = moments(x, y)
    tied = (prior[:, None, None] * covariance).sum(0)
    got = posterior(gaussian_log_density(torch.from_numpy(queries), mean, tied), prior)
    expected = LinearDiscriminantAnalysis(solver="lsqr").fit(x, y).predict_log_proba(queries)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_shrinkage_towards_the_mean_variance_is_that_of_scikit_learn() -> None:
    (x, y), (queries, _) = rows(60, 0), rows(50, 1)
    mean, covariance, prior = moments(x, y)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3).fit(x, y)
    shrunk = torch.zeros(C, C, dtype=torch.float64)
    for k in range(K):
        target = covariance[k].diagonal().mean() * torch.eye(C, dtype=torch.float64)
        shrunk += prior[k] * shrink_covariance(covariance[k], target, shrinkage=0.3, ridge=0.0)
    got = posterior(gaussian_log_density(torch.from_numpy(queries), mean, shrunk), prior)
    np.testing.assert_allclose(got, model.predict_log_proba(queries), rtol=1e-6, atol=1e-6)


def test_a_leading_covariance_extended_is_its_density_times_that_of_the_rest_given_it() -> None:
    """By the conditional normal of a textbook, which SciPy evaluates."""
    random = np.random.default_rng(0)
    k, width = 2, 5
    a, t = (m @ m.T + np.eye(len(m)) for m in (random.normal(size=(k, k)), random.normal(size=(width, width))))
    x = random.normal(size=width)
    got = multivariate_normal(np.zeros(width), extend_covariance(torch.from_numpy(a), torch.from_numpy(t)).numpy())
    follows = t[k:, :k] @ np.linalg.inv(t[:k, :k])
    left = t[k:, k:] - follows @ t[:k, k:]
    given = multivariate_normal(follows @ x[:k], left).logpdf(x[k:])
    np.testing.assert_allclose(got.logpdf(x), multivariate_normal(np.zeros(k), a).logpdf(x[:k]) + given, rtol=1e-10)
    torch.testing.assert_close(extend_covariance(torch.from_numpy(t[:k, :k]), torch.from_numpy(t)), torch.from_numpy(t))
    with pytest.raises(ValueError, match="leading: expected at most the 2 numbers"):
        extend_covariance(torch.eye(3), torch.eye(2))


def test_the_ridge_is_a_share_of_the_mean_variance() -> None:
    tied = torch.diag(torch.tensor([1.0, 3.0]))
    got = shrink_covariance(torch.zeros(2, 2), tied, shrinkage=0.0, ridge=0.5)
    torch.testing.assert_close(got, torch.eye(2))


def test_no_factors_are_naive_bayes_and_ones_the_nearest_mean() -> None:
    (x, y), (queries, _) = rows(400, 0), rows(80, 1)
    mean, covariance, prior = moments(x, y)
    none, variance = torch.zeros(K, 0, C, dtype=torch.float64), covariance.diagonal(dim1=1, dim2=2)
    got = posterior(low_rank_log_density(torch.from_numpy(queries), mean, none, variance), prior)
    expected = GaussianNB(var_smoothing=0).fit(x, y).predict_log_proba(queries)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    nearest = low_rank_log_density(torch.from_numpy(queries), mean, none, torch.ones_like(mean)).argmax(1)
    assert np.array_equal(nearest.numpy(), NearestCentroid().fit(x, y).predict(queries))


@pytest.mark.parametrize("rank", [1, 3, 9])  # more factors than dimensions, too
def test_low_rank_densities_are_those_of_the_matrix_they_stand_for(rank: int) -> None:
    g = torch.Generator().manual_seed(0)
    factors = torch.randn(K, rank, C, generator=g, dtype=torch.float64)
    diagonal = torch.rand(K, C, generator=g, dtype=torch.float64) + 0.1
    mean = 50 + torch.randn(K, C, generator=g, dtype=torch.float64)
    x = 50 + torch.randn(9, C, generator=g, dtype=torch.float64)
    got = low_rank_log_density(x, mean, factors, diagonal).numpy()
    for k in range(K):
        covariance = (factors[k].T @ factors[k] + diagonal[k].diag()).numpy()
        gap = x.numpy() - mean[k].numpy()
        distance = np.einsum("bi,ij,bj->b", gap, np.linalg.inv(covariance), gap)
        expected = -0.5 * (distance + np.linalg.slogdet(2 * np.pi * covariance)[1])
        np.testing.assert_allclose(got[:, k], expected, rtol=1e-9)


def test_sums_made_apart_and_in_any_order_are_those_of_all_rows() -> None:
    x, y = rows(300, 0)
    order = np.random.default_rng(0).permutation(300)

    def sums(index: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        count, mean, scatter = np.zeros(K, dtype=np.int64), np.zeros((K, C)), np.zeros((K, C, C))
        for k in range(K):
            mine = x[index][y[index] == k]
            count[k] = len(mine)
            if len(mine):
                mean[k], scatter[k] = mine.mean(0), len(mine) * np.cov(mine.T, bias=True)
        return torch.from_numpy(count), torch.from_numpy(mean), torch.from_numpy(scatter)

    parts = [sums(part) for part in np.split(order, [3, 20, 21, 150])]  # some without a row of some class
    for sequence in (parts, parts[::-1]):
        total = sequence[0]
        for part in sequence[1:]:
            total = merge_scatters(total, part)
        for got, expected in zip(total, sums(np.arange(300)), strict=True):
            np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-10, atol=1e-9)


def test_several_gaussians_a_class_are_a_mixture() -> None:
    rng = np.random.default_rng(0)
    density = -200 * rng.random((6, 5))
    density[0] -= 2_000  # where no exponential is a number
    labels, prior = np.array([0, 2, 2, 0, 3]), rng.random(5)
    got = class_log_posterior(torch.from_numpy(density), torch.from_numpy(labels), torch.from_numpy(np.log(prior)), 5)
    top = density.max(1, keepdims=True)
    joint = prior * np.exp(density - top)
    expected = np.stack([joint[:, labels == c].sum(1) for c in range(5)], 1) / joint.sum(1, keepdims=True)
    np.testing.assert_allclose(got.exp().numpy(), expected, rtol=1e-9, atol=1e-15)
    assert bool((got[:, [1, 4]] == -torch.inf).all())
    assert not bool(got.isnan().any())


def test_a_matrix_that_is_no_covariance_is_told() -> None:
    with pytest.raises(ValueError, match="covariance: expected positive definite matrices, got one that is not"):
        gaussian_log_density(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
