"""Random features, Gram matrices and ridge solutions: against NumPy in float64 and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from avalanche_memplugins.functional import add_gram, best_ridge, random_features, ridge_solution, unpack_triangle


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    gram = torch.zeros(x.shape[1] * (x.shape[1] + 1) // 2)
    for part in x.split(7):
        add_gram(gram, part)
    return gram, y.mT @ x


@pytest.mark.parametrize("width", [1, 5, 256, 300])
def test_the_gram_matrix_is_numpys(width: int) -> None:
    x = normal(40, width)
    gram = unpack_triangle(sums(x, x[:, :1])[0], width)
    np.testing.assert_allclose(gram.numpy(), x.double().numpy().T @ x.double().numpy(), rtol=1e-4, atol=1e-4)


def test_features_are_the_positive_part() -> None:
    x, projection = normal(9, 4), normal(6, 4, seed=1)
    got = random_features(x, projection)
    np.testing.assert_allclose(got.numpy(), np.maximum(x.numpy() @ projection.numpy().T, 0), rtol=1e-5, atol=1e-6)
    assert bool((got == 0).any())


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 100.0])
def test_the_solution_is_scikit_learns(ridge: float) -> None:
    x, y = normal(60, 8), normal(60, 3, seed=1)
    expected = Ridge(alpha=ridge, fit_intercept=False, solver="cholesky").fit(x.double().numpy(), y.double().numpy())
    np.testing.assert_allclose(ridge_solution(*sums(x, y), ridge).numpy(), expected.coef_, rtol=1e-4, atol=1e-5)


def test_without_a_ridge_too_few_rows_have_no_solution() -> None:
    with pytest.raises(ValueError, match="ridge: expected one that makes the Gram matrix positive definite"):
        ridge_solution(*sums(torch.ones(2, 3), torch.ones(2, 1)), 0.0)


@pytest.mark.parametrize("noise", [0.0, 3.0, 300.0])
def test_the_best_ridge_is_that_of_fits_without_the_rows_held_back(noise: float) -> None:
    x = normal(40, 12)
    y = x @ normal(12, 2, seed=1) + noise * normal(40, 2, seed=2)
    ridges = [0.01, 1.0, 100.0, 10_000.0]
    fits = [Ridge(alpha=r, fit_intercept=False).fit(x[10:].double(), y[10:].double()) for r in ridges]
    errors = [float(((fit.predict(x[:10].double()) - y[:10].double().numpy()) ** 2).sum()) for fit in fits]
    assert best_ridge(*sums(x, y), x[:10], y[:10], ridges) == ridges[int(np.argmin(errors))]


def test_ridges_that_solve_nothing_are_passed_over() -> None:
    x, y = torch.ones(4, 3), torch.ones(4, 1)
    assert best_ridge(*sums(x, y), x[:1], y[:1], [0.0, 1.0]) == 1.0
    with pytest.raises(ValueError, match="ridges: expected one that makes the Gram matrix positive definite"):
        best_ridge(*sums(x, y), x[:1], y[:1], [0.0])
