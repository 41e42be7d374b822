"""Energy-based reads against NumPy loops in float64, and Langevin reads against closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from _energies import EPISODES, PATTERNS, ROWS, SIZE, Array, draw, quadratic, uniform, with_out
from torch import Tensor

from avalanche_memplugins.functional.energy import Weights, energy_read


def read_by_loops(
    cue: Array, weight: Array, bias: Array, gammas: Array, psis: Array, pull: Array, known: Array | None, ends: Array
) -> list[Array]:
    """Reads of one pattern under ``quadratic``, step by step as the docstring's equations say."""

    def project(x: Array) -> Array:
        x = np.minimum(np.maximum(x, ends[0]), ends[1])
        return x if known is None else np.where(known, cue, x)

    x, v = project(cue), np.zeros_like(cue)
    out = [x]
    for gamma, psi in zip(gammas, psis, strict=True):
        ahead = project(x + psi * v)
        v = psi * v - gamma * pull @ (weight.T @ (weight @ ahead - bias))
        x = project(x + v)
        out.append(x)
    return out


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (-0.4, 0.7)])
def test_a_read_is_projected_nesterov_pattern_by_pattern(
    preconditioned: bool, masked: bool, ends: tuple[float, float]
) -> None:
    cue = 1.4 * uniform(0, EPISODES, PATTERNS, SIZE) - 0.2
    weights = draw(1, EPISODES, ROWS, SIZE), draw(2, EPISODES, ROWS)
    gammas, psis = torch.tensor([0.3, 0.2, 0.15, 0.05]).double(), torch.tensor([0.9, 0.8, 0.6, 0.3]).double()
    root = draw(3, SIZE, SIZE, scale=0.6)
    pull = root @ root.T if preconditioned else torch.eye(SIZE, dtype=torch.float64)
    known = draw(4, *cue.shape) > 0 if masked else None
    options: dict[str, Any] = {"low": ends[0], "high": ends[1]}
    if preconditioned:
        options["precondition"] = lambda slope: slope @ pull
    iterates = energy_read(quadratic, cue, weights, gammas, psis, known=known, **options)
    assert len(iterates) == 5
    clipped = 0
    for e in range(EPISODES):
        for n in range(PATTERNS):
            want = read_by_loops(
                cue[e, n].numpy(),
                *(weight[e].numpy() for weight in weights),
                gammas.numpy(),
                psis.numpy(),
                pull.numpy(),
                None if known is None else known[e, n].numpy(),
                np.array(ends),
            )
            for mine, theirs in zip(iterates, want, strict=True):
                np.testing.assert_allclose(mine[e, n].detach().numpy(), theirs, rtol=1e-12, atol=1e-13)
            clipped += int(np.isin(want[-1], ends).sum())
    assert 0 < clipped < cue.numel()  # the interval matters, and is not all there is
    if known is not None:
        assert all(torch.equal(x[known], cue[known]) for x in iterates)


def test_patterns_of_any_shape_are_read() -> None:
    """With the same numbers in another shape, the same comes out."""
    cue, out = uniform(0, 2, 3, 2, 4), draw(5, 3, 2)
    weights = draw(1, 2, 8, 3), draw(2, 2, 3)
    steps = torch.tensor([0.3, 0.2]).double(), torch.tensor([0.5, 0.5]).double()
    energy = with_out(out)
    flat, shaped = (energy_read(energy, rows, weights, *steps)[-1] for rows in (cue.flatten(2), cue))
    assert shaped.shape == cue.shape
    torch.testing.assert_close(shaped.flatten(2), flat, rtol=1e-12, atol=1e-13)


def test_langevin_reads_are_spread_as_the_temperature_says() -> None:
    """The stationary variance of x <- x - g c x + sqrt(2 tau g) n is tau / (c (1 - g c / 2)), exactly."""
    curvature, gamma, tau, chains = 2.0, 0.25, 0.3, 20_000

    def bowl(x: Tensor, weights: Weights) -> Tensor:
        return 0.5 * curvature * x.square().sum(-1)

    steps = 60
    got = energy_read(
        bowl,
        torch.zeros(1, chains, 1),
        (),
        torch.full((steps,), gamma),
        torch.zeros(steps),
        temperature=tau,
        generator=torch.Generator().manual_seed(0),
        low=-100.0,
        high=100.0,
    )[-1].detach()
    want = tau / (curvature * (1 - gamma * curvature / 2))
    assert float(got.mean()) == pytest.approx(0, abs=5 * (want / chains) ** 0.5)
    assert float(got.var()) == pytest.approx(want, rel=5 * (2 / chains) ** 0.5)
    excess = float((got.pow(4).mean() / got.var() ** 2) - 3)
    assert excess == pytest.approx(0, abs=5 * (24 / chains) ** 0.5)  # Gaussian


def flat(x: Tensor, weights: Weights) -> Tensor:
    return 0 * x.sum(-1)


def test_the_noise_of_a_step_goes_with_its_size_and_stays_where_the_preconditioner_leaves_it() -> None:
    gammas, tau = torch.tensor([0.5, 0.125]), 0.02
    onto = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    known = torch.tensor([False, False, False]).expand(1, 20_000, 3)

    def steps(seed: int, **options: Any) -> list[Tensor]:
        return energy_read(
            flat,
            torch.full((1, 20_000, 3), 0.5),
            (),
            gammas,
            torch.zeros(2),
            temperature=tau,
            generator=torch.Generator().manual_seed(seed),
            low=-9.0,
            high=9.0,
            **options,
        )

    plain = steps(0)
    for k, gamma in enumerate(gammas.tolist()):
        moved = (plain[k + 1] - plain[k])[0]
        torch.testing.assert_close(moved.T.cov(), 2 * tau * gamma * torch.eye(3), atol=0.002, rtol=0.05)
    moved = (steps(0, precondition=lambda noise: noise @ onto)[1] - plain[0])[0]
    torch.testing.assert_close(moved.T.cov(), 2 * tau * 0.5 * onto, atol=0.002, rtol=0.05)

    assert all(torch.equal(a, b) for a, b in zip(plain, steps(0), strict=True))
    assert not torch.equal(plain[-1], steps(1)[-1])
    known = torch.arange(3).expand(1, 20_000, 3) == 1
    assert all(torch.equal(x[known], plain[0][known]) for x in steps(0, known=known))


def test_noise_is_clipped_like_everything_else() -> None:
    got = energy_read(
        flat,
        torch.full((1, 500, 2), 0.5),
        (),
        torch.ones(3),
        torch.zeros(3),
        temperature=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    for x in got[1:]:
        assert (float(x.min()), float(x.max())) == (0, 1)


def test_reads_that_do_not_fit_are_named() -> None:
    weights = draw(1, 1, ROWS, SIZE), draw(2, 1, ROWS)
    cue = uniform(0, 1, 2, SIZE)
    for sizes, momenta in ((3, 2), (0, 1)):
        with pytest.raises(ValueError, match=rf"momenta: expected \({sizes},\), got \({momenta},\)"):
            energy_read(quadratic, cue, weights, torch.ones(sizes), torch.ones(momenta))
    with pytest.raises(ValueError, match=r"step_sizes: expected \(K,\), got \(2, 1\)"):
        energy_read(quadratic, cue, weights, torch.ones(2, 1), torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"temperature: expected a number >= 0, got -0\.1"):
        energy_read(quadratic, cue, weights, torch.ones(2), torch.zeros(2), temperature=-0.1)
