"""Latents against the closed form of their moments."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from avalanche_memplugins.functional import sample_latents

MU = torch.tensor([[0.0, 1.5], [-2.0, 0.3]])
LOG_VARIANCE = torch.tensor([[0.0, -1.0], [-3.0, 0.7]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("alpha_std", [0.0, 0.5, 1.3])
def test_moments_are_those_of_the_formula(alpha_std: float) -> None:
    n = 200_000
    z = sample_latents(MU, LOG_VARIANCE, n, alpha_std=alpha_std, generator=seeded()).double()
    variance = alpha_std**2 * MU.double() ** 2 + LOG_VARIANCE.double().exp()
    # Six standard errors of the mean, and of the variance of a Gaussian.
    assert ((z.mean(1) - MU).abs() < 6 * (variance / n).sqrt()).all()
    assert ((z.var(1) - variance).abs() < 6 * variance * (2 / n) ** 0.5).all()


def test_every_row_latent_and_dimension_has_draws_of_its_own() -> None:
    z = sample_latents(MU.repeat(1, 2), LOG_VARIANCE.repeat(1, 2), 60_000, generator=seeded()).view(2, 30_000, 2, 4)
    columns = z.permute(0, 2, 3, 1).reshape(16, -1)[:, :].double()
    correlation = torch.corrcoef(columns)
    assert (correlation - torch.eye(16)).abs().max() < 6 / 30_000**0.5


def test_alpha_spreads_a_dimension_by_its_mean_only() -> None:
    still = torch.full_like(MU, -torch.inf)
    z = sample_latents(MU, still, 50, alpha_std=0.5, generator=seeded())
    assert (z[0, :, 0] == 0).all()
    assert z[0, :, 1].std() > 0.4
    assert torch.equal(sample_latents(MU, still, 3, alpha_std=0.0), MU[:, None].expand(-1, 3, -1))


def test_shape_type_gradient_and_generators() -> None:
    mu, log_variance = MU.double().requires_grad_(), LOG_VARIANCE.double().requires_grad_()
    before = torch.get_rng_state()
    z = sample_latents(mu, log_variance, 4, generator=seeded(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert z.shape == (2, 4, 2)
    assert z.dtype == torch.float64
    assert torch.equal(z, sample_latents(mu, log_variance, 4, generator=seeded(3)))
    assert not torch.equal(z, sample_latents(mu, log_variance, 4, generator=seeded(4)))
    # dz/d log sigma^2 is half the noise term, z - mu alpha; so with alpha = 1 it is known.
    z = sample_latents(mu, log_variance, 4, alpha_std=0.0, generator=seeded(3))
    gradients = torch.autograd.grad(z.sum(), (mu, log_variance))
    assert torch.equal(gradients[0], torch.full_like(mu, 4))
    torch.testing.assert_close(gradients[1], 0.5 * (z - mu[:, None]).sum(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mu": MU[0]}, "mu: expected (B, C), got"),
        ({"log_variance": LOG_VARIANCE[:1]}, "log_variance: expected (2, 2), got"),
        ({"n": 0}, "n: expected an integer >= 1, got 0"),
        ({"n": 2.0}, "n: expected an integer >= 1, got 2.0"),
        ({"alpha_std": -0.1}, "alpha_std: expected a number >= 0, got -0.1"),
        ({"alpha_std": float("nan")}, "alpha_std: expected a number >= 0, got nan"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        sample_latents(**{"mu": MU, "log_variance": LOG_VARIANCE, "n": 2, **arguments})
