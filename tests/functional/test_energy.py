"""Energy-based writes and reads against NumPy loops in float64, finite differences and closed forms."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from avalanche_memplugins.functional.energy import (
    Energy,
    Weights,
    decreasing_steps,
    energy_read,
    energy_write,
    reconstruction_loss,
)

Array = NDArray[np.float64]
EPISODES, PATTERNS, SIZE, ROWS = 3, 4, 5, 2


def draw(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quadratic(x: Tensor, weights: Weights) -> Tensor:
    """E(x; W, b) = |W x - b|^2 / 2 of x ``(E, N, D)`` under W ``(E, M, D)`` and b ``(E, M)``."""
    weight, bias = weights
    return 0.5 * (x @ weight.mT - bias.unsqueeze(1)).square().sum(-1)


def smooth(x: Tensor, weights: Weights, out: Tensor) -> Tensor:
    """An energy with derivatives of every order: two layers of tanh, the first of them written."""
    weight, bias = weights
    h = (x.flatten(2) @ weight + bias.unsqueeze(1)).tanh()
    return (h @ out).tanh().sum(-1)


# ---------------------------------------------------------------- write


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
    with pytest.raises(ValueError, match=r"rates: wants shape \(T, 2, 1 to 3\), got "):
        energy_write(quadratic, x, initial, torch.zeros(shape))


# ---------------------------------------------------------------- read


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
        with pytest.raises(ValueError, match=r"step_sizes, momenta: want the same shape \(K,\), got "):
            energy_read(quadratic, cue, weights, torch.ones(sizes), torch.ones(momenta))
    with pytest.raises(ValueError, match="step_sizes, momenta"):
        energy_read(quadratic, cue, weights, torch.ones(2, 1), torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"temperature: wants a number >= 0, got -0\.1"):
        energy_read(quadratic, cue, weights, torch.ones(2), torch.zeros(2), temperature=-0.1)


# ---------------------------------------------------------------- step sizes, loss


def test_steps_shrink_by_sigmoids_and_the_last_ratio_goes_on() -> None:
    first, ratios = torch.tensor(0.7, dtype=torch.float64), torch.tensor([3.0, -0.5], dtype=torch.float64)
    shrink = 1 / (1 + np.exp(-np.array([3.0, -0.5, -0.5, -0.5])))
    want = np.log1p(np.exp(0.7)) * np.concatenate([[1.0], np.cumprod(shrink)])
    for steps in (1, 2, 5):
        np.testing.assert_allclose(decreasing_steps(first, ratios, steps).numpy(), want[:steps], rtol=1e-14)
    for seed in range(20):
        sizes = decreasing_steps(draw(seed, 1)[0], draw(seed, 6, scale=10.0), 9)
        assert float(sizes.min()) >= 0
        assert bool((sizes.diff() <= 0).all())
    assert decreasing_steps(first, torch.zeros(0), 1).tolist() == pytest.approx([np.log1p(np.exp(0.7))])


@pytest.mark.parametrize(("ratios", "steps", "wanted"), [(2, 0, "1 to any number"), (0, 2, "1 to 1"), (3, -1, "1 to")])
def test_numbers_of_steps_out_of_range_are_named(ratios: int, steps: int, wanted: str) -> None:
    with pytest.raises(ValueError, match=f"steps: wants {wanted}.*, got {steps}"):
        decreasing_steps(torch.tensor(0.0), torch.zeros(ratios), steps)


@pytest.mark.parametrize("last", [1.0, 5.0, 0.0])
def test_the_loss_is_the_squared_error_of_every_read_step_but_not_the_cue(last: float) -> None:
    x, iterates = uniform(0, 2, 3, 2, 4), [uniform(k, 2, 3, 2, 4) for k in range(1, 5)]
    errors = [((step.numpy() - x.numpy()) ** 2).reshape(6, 8).sum(1).mean() for step in iterates]
    want = errors[1] + errors[2] + last * errors[3]
    assert float(reconstruction_loss(iterates, x, last=last)) == pytest.approx(want, rel=1e-13)
    assert float(reconstruction_loss(iterates[:2], x, last=last)) == pytest.approx(last * errors[1], rel=1e-13)


# ---------------------------------------------------------------- through writes and reads


def with_out(out: Tensor) -> Energy:
    return lambda x, weights: smooth(x, weights, out)


MASK = uniform(21, 2, 3, SIZE) < 0.3
PULL = torch.eye(SIZE, dtype=torch.float64) * 0.7 + 0.06


def meta_loss(
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    rates: Tensor,
    first: Tensor,
    ratios: Tensor,
    momenta: Tensor,
    *,
    first_order: bool = False,
    checkpoint: bool = False,
) -> Tensor:
    """Write, read, compare: all that meta-training differentiates through, in one function."""
    x, noise = 0.3 + 0.4 * uniform(20, 2, 3, SIZE), 0.05 * draw(22, 2, 3, SIZE)
    energy = with_out(out)
    written = energy_write(energy, x, (weight, bias), rates, first_order=first_order, checkpoint=checkpoint)
    iterates = energy_read(
        energy,
        x + noise,
        written,
        decreasing_steps(first, ratios, 3),
        momenta.sigmoid(),
        known=MASK,
        precondition=lambda slope: slope @ PULL,
        checkpoint=checkpoint,
    )
    # Away from the ends of the interval there is no kink for finite differences to fall over.
    assert 0.02 < float(torch.stack(iterates).min()) < float(torch.stack(iterates).max()) < 0.98
    return reconstruction_loss(iterates, x, last=2.0)


NAMES = ("weight", "bias", "out", "rates", "first", "ratios", "momenta")


def meta_inputs(terms: int) -> list[Tensor]:
    inputs = [
        draw(1, 1, SIZE, 3, scale=0.7),
        draw(2, 1, 3, scale=0.3),
        draw(3, 3, 2),
        0.2 + 0.2 * uniform(4, 2, 2, terms),
        torch.tensor(-1.5).double(),
        torch.tensor([0.8, 0.1]).double(),
        torch.tensor([-0.5, 0.2, 0.6]).double(),
    ]
    return [value.requires_grad_() for value in inputs]


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_gradients_of_the_meta_objective_are_those_of_finite_differences(terms: int) -> None:
    """Third derivatives of the energy included: nothing on the way may be cut from the graph."""
    torch.autograd.gradcheck(meta_loss, meta_inputs(terms), eps=1e-6, atol=1e-8, rtol=1e-5)


def test_second_derivatives_of_the_meta_objective_are_exact_too() -> None:
    """Along random directions, by central differences of the gradient: for whoever learns how to meta-learn."""
    inputs = meta_inputs(1)
    gradients = torch.autograd.grad(meta_loss(*inputs), inputs, create_graph=True)
    directions = [draw(30 + i, *value.shape) for i, value in enumerate(inputs)]
    along = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    got = torch.autograd.grad(along, inputs)  # type: ignore[arg-type]
    eps = 1e-5
    ends = []
    for sign in (1, -1):
        moved = [
            (value + sign * eps * d).detach().requires_grad_() for value, d in zip(inputs, directions, strict=True)
        ]
        ends.append(torch.autograd.grad(meta_loss(*moved), moved))
    for name, mine, up, down in zip(NAMES, got, *ends, strict=True):
        assert torch.allclose(mine, (up - down) / (2 * eps), rtol=1e-5, atol=1e-7), name


def evaluated(**options: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    inputs = meta_inputs(2)
    loss = meta_loss(*inputs, **options)
    return loss.detach(), torch.autograd.grad(loss, inputs)


def test_checkpointing_changes_no_value_and_no_gradient() -> None:
    (plain, gradients), (again, recomputed) = evaluated(), evaluated(checkpoint=True)
    assert torch.equal(plain, again)
    for name, mine, theirs in zip(NAMES, recomputed, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14, msg=name)


def held_bytes(read: bool, **options: Any) -> int:
    """What the graph of many steps keeps for the backward pass, each storage once."""
    held: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        held[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    weight, bias, out, rates, *_ = meta_inputs(1)
    x, energy = uniform(0, 2, 200, SIZE), with_out(out)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        if read:
            steps = torch.full((8,), 0.1, requires_grad=True)
            kept: Any = energy_read(energy, x, (weight, bias), steps, steps, **options)
        else:
            kept = energy_write(energy, x, (weight, bias), rates.expand(2, 2, 1).repeat(8, 1, 1), **options)
    assert kept[-1].requires_grad
    return sum(held.values())


@pytest.mark.parametrize("read", [False, True])
def test_checkpointing_keeps_less_for_the_backward_pass(read: bool) -> None:
    assert held_bytes(read, checkpoint=True) < held_bytes(read) / 2


def test_the_first_order_option_changes_gradients_and_no_value() -> None:
    (exact, gradients), (short, approximate) = evaluated(), evaluated(first_order=True)
    assert torch.equal(exact, short)
    differ = {
        name: not torch.allclose(mine, theirs, rtol=1e-3)
        for name, mine, theirs in zip(NAMES, approximate, gradients, strict=True)
    }
    # Steps of reading are exact in either.
    assert differ == {name: name in ("weight", "bias", "out", "rates") for name in NAMES}


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


def test_gradients_reach_rates_and_step_sizes_of_a_frozen_energy() -> None:
    """Rates can be tuned on a network that is not trained: the exact gradient is that of finite differences."""
    _, _, _, rates, first, ratios, momenta = meta_inputs(2)
    weight, bias, out = (value.detach() for value in meta_inputs(2)[:3])

    def tuned(*inputs: Tensor) -> Tensor:
        return meta_loss(weight, bias, out, *inputs)

    torch.autograd.gradcheck(tuned, [rates, first, ratios, momenta], eps=1e-6, atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize("terms", [1, 2])
def test_gradients_reach_patterns_that_are_learned_themselves(terms: int) -> None:
    weight, bias, out, rates, *_ = (value.detach() for value in meta_inputs(terms))
    outer = draw(50, 2, 3, SIZE)

    def recalled(x: Tensor) -> Tensor:
        energy = with_out(out)
        written = energy_write(energy, x, (weight, bias), rates)
        steps = torch.full((2,), 0.1, dtype=torch.float64)
        return (outer * energy_read(energy, 0.9 * x, written, steps, 5 * steps)[-1]).sum()

    torch.autograd.gradcheck(recalled, (0.3 + 0.4 * uniform(20, 2, 3, SIZE)).requires_grad_(), eps=1e-6, rtol=1e-5)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("terms", [1, 2])
def test_use_without_gradients_leaves_no_graph(terms: int, checkpoint: bool) -> None:
    inputs = meta_inputs(terms)
    x, energy = uniform(20, 2, 3, SIZE), with_out(inputs[2])
    steps = decreasing_steps(inputs[4], inputs[5], 3), inputs[6].sigmoid()

    def both(**options: Any) -> list[Tensor]:
        written = energy_write(energy, x, (inputs[0], inputs[1]), inputs[3], **options)
        return [*written, *energy_read(energy, x, written, *steps, **options)]

    with torch.no_grad():
        got = both(checkpoint=checkpoint)
    assert not any(value.requires_grad for value in got)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(got, both(), strict=True))
    assert all(value.grad is None for value in inputs)
    assert torch.is_grad_enabled()


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
