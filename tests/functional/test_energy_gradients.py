"""Step sizes, loss, and gradients through writes and reads against finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from _energies import SIZE, draw, uniform, with_out
from torch import Tensor

from avalanche_memplugins.functional.energy import decreasing_steps, energy_read, energy_write, reconstruction_loss


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
    with pytest.raises(ValueError, match=f"steps: expected {wanted}.*, got {steps}"):
        decreasing_steps(torch.tensor(0.0), torch.zeros(ratios), steps)


@pytest.mark.parametrize("last", [1.0, 5.0, 0.0])
def test_the_loss_is_the_squared_error_of_every_read_step_but_not_the_cue(last: float) -> None:
    x, iterates = uniform(0, 2, 3, 2, 4), [uniform(k, 2, 3, 2, 4) for k in range(1, 5)]
    errors = [((step.numpy() - x.numpy()) ** 2).reshape(6, 8).sum(1).mean() for step in iterates]
    want = errors[1] + errors[2] + last * errors[3]
    assert float(reconstruction_loss(iterates, x, last=last)) == pytest.approx(want, rel=1e-13)
    assert float(reconstruction_loss(iterates[:2], x, last=last)) == pytest.approx(last * errors[1], rel=1e-13)


# ---------------------------------------------------------------- through writes and reads


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
