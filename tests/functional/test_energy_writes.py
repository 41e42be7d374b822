"""Energy-based writes against NumPy loops in float64, whose gradients are worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from _energies import EPISODES, PATTERNS, ROWS, SIZE, Array, draw, quadratic, uniform
from torch import Tensor

from avalanche_memplugins.functional.energy import Weights, energy_read, energy_write


def written_by_loops(x: Array, start: list[Array], rates: Array) -> list[Array]:
    """The write of one episode under ``quadratic``, its gradients worked out by hand, a pattern at a time."""
    weight, bias = (part.copy() for part in start)
    for rate in rates:
        grads = np.zeros((3, *weight.shape)), np.zeros((3, *bias.shape))
        for pattern in x:
            r = weight @ pattern - bias
            slope = weight.T @ r
            grads[0][0] += np.outer(r, pattern) / len(x)
            grads[1][0] += -r / len(x)
            grads[0][1] += 2 * (np.outer(r, slope) + np.outer(weight @ slope, pattern)) / len(x)
            grads[1][1] += -2 * (weight @ slope) / len(x)
        grads[0][2], grads[1][2] = 2 * (weight - start[0]), 2 * (bias - start[1])
        for term in range(rates.shape[-1]):
            weight = weight - rate[0, term] * grads[0][term]
            bias = bias - rate[1, term] * grads[1][term]
    return [weight, bias]


def write_case(terms: int, seed: int = 0) -> tuple[Tensor, Weights, Tensor]:
    x = uniform(seed, EPISODES, PATTERNS, SIZE)
    initial = draw(seed + 1, 1, ROWS, SIZE), draw(seed + 2, 1, ROWS)
    # Every step, weight and term has a rate of its own, so that none can stand in for another.
    return x, initial, 0.02 + 0.1 * uniform(seed + 3, 3, 2, terms)


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_a_write_is_gradient_descent_episode_by_episode(terms: int) -> None:
    x, initial, rates = write_case(terms)
    got = energy_write(quadratic, x, initial, rates)
    assert [tuple(weight.shape) for weight in got] == [(EPISODES, ROWS, SIZE), (EPISODES, ROWS)]
    for episode in range(EPISODES):
        want = written_by_loops(x[episode].numpy(), [weight[0].numpy() for weight in initial], rates.numpy())
        for mine, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(mine[episode].detach().numpy(), theirs, rtol=1e-12, atol=1e-13)


def test_every_episode_may_start_from_weights_of_its_own() -> None:
    x, _, rates = write_case(3)
    initial = draw(7, EPISODES, ROWS, SIZE), draw(8, EPISODES, ROWS)
    got = energy_write(quadratic, x, initial, rates)
    for episode in range(EPISODES):
        want = written_by_loops(x[episode].numpy(), [weight[episode].numpy() for weight in initial], rates.numpy())
        for mine, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(mine[episode].detach().numpy(), theirs, rtol=1e-12, atol=1e-13)


def test_patterns_that_are_written_twice_are_not_written_harder() -> None:
    x, initial, rates = write_case(3)
    once, twice = (energy_write(quadratic, rows, initial, rates) for rows in (x, torch.cat([x, x], 1)))
    for mine, theirs in zip(once, twice, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)


def test_no_steps_leave_the_weights_as_they_were() -> None:
    x, initial, _ = write_case(1)
    got = energy_write(quadratic, x, initial, torch.zeros(0, 2, 1))
    assert all(torch.equal(a, b.expand_as(a)) for a, b in zip(got, initial, strict=True))


def test_a_weight_that_the_slope_does_not_depend_on_is_written_by_the_energy_alone() -> None:
    def shifted(x: Tensor, weights: Weights) -> Tensor:
        weight, shift = weights
        return 0.5 * (x @ weight.mT).square().sum(-1) + shift.square()

    x = uniform(0, EPISODES, PATTERNS, SIZE)
    initial = draw(1, 1, ROWS, SIZE), draw(2, 1, 1)
    rates = torch.full((1, 2, 2), 0.1, dtype=torch.float64)
    _, shift = energy_write(shifted, x, initial, rates)
    torch.testing.assert_close(shift, (0.8 * initial[1]).expand(EPISODES, 1))


@pytest.mark.parametrize("shape", [(3, 2), (3, 1, 1), (3, 2, 4), (3, 2, 0)])
def test_rates_that_do_not_fit_are_named(shape: tuple[int, ...]) -> None:
    x, initial, _ = write_case(1)
    with pytest.raises(ValueError, match=r"rates: expected shape \(T, 2, 1 to 3\), got "):
        energy_write(quadratic, x, initial, torch.zeros(shape))


def test_first_order_gradients_of_a_write_take_the_steps_as_constants() -> None:
    """theta_T = theta_0 - sum_t a_t g_t with constant g_t: d theta_T / d theta_0 = 1, d theta_T / d a_t = -g_t."""
    x, initial, rates = write_case(1)
    initial = tuple(weight.clone().requires_grad_() for weight in initial)
    rates.requires_grad_()
    wanted = draw(40, EPISODES, ROWS, SIZE), draw(41, EPISODES, ROWS)
    got = energy_write(quadratic, x, initial, rates, first_order=True)
    loss = sum((w * g).sum() for w, g in zip(wanted, got, strict=True))
    grads = torch.autograd.grad(loss, [*initial, rates])  # type: ignore[arg-type]
    for mine, outer in zip(grads, wanted, strict=False):
        torch.testing.assert_close(mine, outer.sum(0, keepdim=True))
    want = np.zeros(rates.shape)
    for e in range(EPISODES):
        starts = [weight[0].detach().numpy() for weight in initial]
        now = starts
        for t, rate in enumerate(rates.detach().numpy()):
            after = written_by_loops(x[e].numpy(), now, rate[None])
            for p in range(2):
                step = (now[p] - after[p]) / rate[p, 0]
                want[t, p, 0] -= (wanted[p][e].numpy() * step).sum()
            now = after
    np.testing.assert_allclose(grads[2].numpy(), want, rtol=1e-10)


def test_a_write_lowers_the_energy_and_a_read_finds_what_was_written() -> None:
    """One pattern is always learnable under a quadratic: after many steps its read from anywhere ends in the
    solutions of W x = b."""
    x = uniform(0, 2, 1, SIZE)
    initial = draw(1, 1, ROWS, SIZE, scale=0.5), draw(2, 1, ROWS)
    trace: list[float] = []

    def traced(patterns: Tensor, weights: Weights) -> Tensor:
        energies = quadratic(patterns, weights)
        trace.append(float(energies.sum()))
        return energies

    written = energy_write(traced, x, initial, torch.full((200, 2, 1), 0.2, dtype=torch.float64))
    assert all(later <= earlier for earlier, later in pairwise(trace))
    assert float(quadratic(x, written).max()) < 1e-10
    cue = x + draw(3, *x.shape, scale=0.1)
    read = energy_read(
        quadratic, cue, written, torch.full((300,), 0.3).double(), torch.full((300,), 0.5).double(), low=-9, high=9
    )
    assert float(quadratic(read[-1], written).max()) < 1e-8 < float(quadratic(cue, written).max())
