"""The Boltzmann machine's means and contrastive divergence, against sums over all states in NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from avalanche_memplugins.functional.boltzmann import contrastive_divergence, mean_field_read

N, M = 5, 3


def machine() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return (
        0.5 * torch.randn(N, M, generator=g, dtype=torch.float64),
        torch.randn(N, generator=g, dtype=torch.float64),
        torch.randn(M, generator=g, dtype=torch.float64),
    )


def signs(*shape: int) -> Tensor:
    return torch.randint(2, shape, generator=torch.Generator().manual_seed(1)).double() * 2 - 1


def mean_by_sum(field_of, units: int) -> np.ndarray:
    """Mean of the units under exp(field . state), by a sum over all their states."""
    states = np.array(list(itertools.product((-1.0, 1.0), repeat=units)))
    weights = np.exp(states @ field_of)
    return weights @ states / weights.sum()


def test_a_read_is_the_mean_of_one_layer_given_the_other() -> None:
    weight, b, c = machine()
    v = signs(2, N)
    read = mean_field_read(weight, b, c, v)
    for row, got in zip(v.numpy(), read.numpy(), strict=True):
        hidden = mean_by_sum(row @ weight.numpy() + c.numpy(), M)
        np.testing.assert_allclose(got, mean_by_sum(weight.numpy() @ hidden + b.numpy(), N))


def test_known_entries_stay_and_steps_go_on() -> None:
    weight, b, c = machine()
    cue, known = signs(4, N), torch.arange(N).expand(4, N) < 2
    once = mean_field_read(weight, b, c, cue, known=known)
    assert torch.equal(once[known], cue[known])
    torch.testing.assert_close(
        mean_field_read(weight, b, c, once, known=known), mean_field_read(weight, b, c, cue, known=known, steps=2)
    )


@pytest.mark.parametrize("conditional", [False, True])
def test_contrastive_divergence_by_hand(conditional: bool) -> None:
    weight, b, c = machine()
    v = signs(3, N)
    known = torch.arange(N).expand(3, N) < 3 if conditional else None
    got = contrastive_divergence(weight, b, c, v, known=known, rounds=2)
    w, b_, c_, plus = (part.numpy() for part in (weight, b, c, v))
    minus = plus.copy()
    if conditional:
        minus[:, 3:] = 0
    for _ in range(2):
        minus = np.tanh(np.tanh(minus @ w + c_) @ w.T + b_)
        if conditional:
            minus[:, :3] = plus[:, :3]
    up, down = np.tanh(plus @ w + c_), np.tanh(minus @ w + c_)
    wanted = (plus.T @ up - minus.T @ down) / 3, (plus - minus).mean(0), (up - down).mean(0)
    for mine, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs)


def test_drawn_hidden_units_have_their_means() -> None:
    weight, b, c = machine()
    v = signs(1, N).expand(20_000, N)
    uniform = torch.rand(20_000, M, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    got = contrastive_divergence(weight, b, c, v, uniform=uniform)[1].numpy()
    # A sum over all states of the hidden units, each with its probability.
    states = np.array(list(itertools.product((-1.0, 1.0), repeat=M)))
    chance = np.exp(states @ (v[0].numpy() @ weight.numpy() + c.numpy()))
    after = (chance / chance.sum()) @ np.tanh(states @ weight.numpy().T + b.numpy())
    np.testing.assert_allclose(got, v[0].numpy() - after, atol=0.02)


def test_the_positive_phase_is_the_slope_of_the_free_energy() -> None:
    parts = [part.requires_grad_(True) for part in machine()]
    weight, b, c = parts
    v = signs(3, N)
    # Free energy of +-1 hidden units: -b v - sum log 2 cosh(c + v W).
    free = -(v @ b) - (2 * torch.cosh(v @ weight + c)).log().sum(-1)
    slopes = torch.autograd.grad(-free.mean(), parts)
    with torch.no_grad():
        got = contrastive_divergence(weight, b, c, v)
        negative = mean_field_read(weight, b, c, v)
        down = (negative @ weight + c).tanh()
        for mine, slope, minus in zip(
            got, slopes, (negative.mT @ down / 3, negative.mean(0), down.mean(0)), strict=True
        ):
            torch.testing.assert_close(mine + minus, slope)


def test_episodes_side_by_side() -> None:
    weight, b, c = (torch.stack([part, -part]) for part in machine())
    v = signs(2, 4, N)
    both = contrastive_divergence(weight, b, c, v, rounds=2)
    for e in range(2):
        alone = contrastive_divergence(weight[e], b[e], c[e], v[e], rounds=2)
        for whole, part in zip(both, alone, strict=True):
            torch.testing.assert_close(whole[e], part)


def test_wrong_shapes_are_named() -> None:
    weight, b, c = machine()
    with pytest.raises(ValueError, match="hidden_bias"):
        mean_field_read(weight, b, b, signs(2, N))
    with pytest.raises(ValueError, match="patterns"):
        contrastive_divergence(weight, b, c, signs(2, N + 1))
    with pytest.raises(ValueError, match="known"):
        mean_field_read(weight, b, c, signs(2, N), known=torch.ones(2, N))
