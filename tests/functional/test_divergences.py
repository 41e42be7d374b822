"""Divergences against torch.distributions, which computes them in other ways, and against Monte Carlo."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from avalanche_memplugins.functional import bernoulli_nll, gaussian_nll, kl_diagonal_normals, kl_standard_normal


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal(mean: Tensor, log_variance: Tensor) -> Independent:
    return Independent(Normal(mean, (0.5 * log_variance).exp()), 1)


def test_kl_of_gaussians_is_that_of_torch() -> None:
    m, lv, pm, plv = (randn(7, 5, seed=s) for s in range(4))
    zero = torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(kl_standard_normal(m, lv), kl_divergence(normal(m, lv), normal(zero, zero)))
    torch.testing.assert_close(kl_diagonal_normals(m, lv, pm, plv), kl_divergence(normal(m, lv), normal(pm, plv)))
    torch.testing.assert_close(kl_diagonal_normals(m, lv, zero, zero), kl_standard_normal(m, lv))


def test_kl_by_monte_carlo() -> None:
    """Against the definition, E_q log q - log p, from 400,000 draws: within 5 standard errors."""
    m, lv, pm, plv = (0.5 * randn(3, seed=s) for s in range(4))
    q, p = normal(m, lv), normal(pm, plv)
    z = m + (0.5 * lv).exp() * randn(400_000, 3, seed=9)
    values = q.log_prob(z) - p.log_prob(z)
    error = 5 * float(values.std()) / len(values) ** 0.5
    assert abs(float(values.mean() - kl_diagonal_normals(m, lv, pm, plv))) < error


def test_kl_next_to_its_zero_keeps_its_digits() -> None:
    """log-variance e gives e^2 / 4; subtracting 1 from exp in float32 would leave noise."""
    tiny = torch.full((1, 1), 1e-3)
    torch.testing.assert_close(kl_standard_normal(torch.zeros(1, 1), tiny), torch.tensor([2.5e-7]), rtol=2e-3, atol=0)


def test_bernoulli_of_bits_and_of_grey_pixels() -> None:
    logits = 3 * randn(4, 1, 5, 5)
    bits = (randn(4, 1, 5, 5, seed=1) > 0).double()
    expected = -Bernoulli(logits=logits).log_prob(bits).sum((1, 2, 3))
    torch.testing.assert_close(bernoulli_nll(logits, bits), expected)
    grey = torch.sigmoid(randn(4, 1, 5, 5, seed=2))
    draws = torch.bernoulli(grey.expand(4_000, -1, -1, -1, -1), generator=torch.Generator().manual_seed(3))
    values = -Bernoulli(logits=logits).log_prob(draws).sum((2, 3, 4))
    error = 5 * values.std(0) / 4_000**0.5
    assert bool(((bernoulli_nll(logits, grey) - values.mean(0)).abs() < error).all())


def test_gaussian_likelihood_and_a_variance_for_all_rows() -> None:
    mean, x, lv = randn(4, 2, 3), randn(4, 2, 3, seed=1), randn(2, 3, seed=2)
    expected = -Normal(mean, (0.5 * lv).exp()).log_prob(x).sum((1, 2))
    torch.testing.assert_close(gaussian_nll(mean, lv, x), expected)
