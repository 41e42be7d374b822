"""Energy networks: episodes keep apart, derivatives, whitening by NumPy, sizes as the paper counts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, softplus

from avalanche_memplugins.functional.energy import energy_read, energy_write
from avalanche_memplugins.networks.energy import (
    ConvolutionalEnergy,
    EnergyNetwork,
    FullyConnectedEnergy,
    GatedEnergy,
    Whitening,
)
from avalanche_memplugins.networks.energy.convolutional import _own_convolution


def pixels(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gated(**options: Any) -> EnergyNetwork:
    return GatedEnergy((1, 8, 8), writable=5, width=12, hops=2, **options)


def whitened(**options: Any) -> EnergyNetwork:
    return GatedEnergy(
        (1, 8, 8), writable=5, width=12, whitening=Whitening.of(pixels(9, 90, 1, 8, 8), rank=20), **options
    )


def connected(**options: Any) -> EnergyNetwork:
    return FullyConnectedEnergy(
        (1, 8, 8), writable=3, code=6, width=10, hops=2, channels=(2, 3, 4), hidden=7, **options
    )


def convolutional(**options: Any) -> EnergyNetwork:
    return ConvolutionalEnergy(
        (1, 8, 8), writable=2, channels=(2, 3), width=6, bottleneck=3, hops=2, hidden=7, **options
    )


MAKERS: dict[str, Callable[..., EnergyNetwork]] = {
    "gated": gated,
    "whitened": whitened,
    "fully connected": connected,
    "convolutional": convolutional,
}


def made(name: str, **options: Any) -> EnergyNetwork:
    torch.manual_seed(0)
    defaults = {"write_steps": 2, "read_steps": 3, "write_rate": 0.5, "read_rate": 0.1}
    return MAKERS[name](**{**defaults, **options}).double()


def reads(network: EnergyNetwork, x: Tensor, cue: Tensor) -> Tensor:
    with torch.no_grad():
        return network.read(cue, network.write(x))[-1]


# ---------------------------------------------------------------- energies


@pytest.mark.parametrize("name", MAKERS)
def test_episodes_do_not_mix(name: str) -> None:
    """Written alone or beside others, whatever the others are, an episode is read the same."""
    network, x, cue = made(name), pixels(0, 3, 4, 1, 8, 8), pixels(1, 3, 4, 1, 8, 8)
    together = reads(network, x, cue)
    for e in range(3):
        torch.testing.assert_close(reads(network, x[e : e + 1], cue[e : e + 1])[0], together[e], rtol=1e-9, atol=1e-11)
    other = torch.cat([x[:1], pixels(2, 2, 4, 1, 8, 8)])
    torch.testing.assert_close(reads(network, other, cue)[0], together[0], rtol=1e-9, atol=1e-11)
    assert not torch.allclose(reads(network, other, cue)[1], together[1])


@pytest.mark.parametrize("name", MAKERS)
def test_patterns_of_an_episode_meet_in_the_weights_only(name: str) -> None:
    network, x = made(name), pixels(0, 2, 4, 1, 8, 8)
    with torch.no_grad():
        weights = network.write(x)
        energies = network.energy(x, weights)
        assert energies.shape == (2, 4)
        for n in range(4):
            torch.testing.assert_close(network.energy(x[:, n : n + 1], weights)[:, 0], energies[:, n])
        flat = network.energy(x.flatten(2), weights)
    torch.testing.assert_close(flat, energies, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", MAKERS)
def test_writing_a_step_lowers_the_energy(name: str) -> None:
    network, x = made(name, write_rate=0.01), pixels(0, 3, 4, 1, 8, 8)
    with torch.no_grad():
        means = [float(network.energy(x, network.write(x, steps=steps)).mean()) for steps in range(4)]
    assert means == sorted(means, reverse=True)
    assert len(set(means)) == 4


@pytest.mark.parametrize("name", MAKERS)
def test_derivatives_are_those_of_central_differences(name: str) -> None:
    network, x = made(name), pixels(0, 1, 2, 64)
    weights = tuple(w.detach().clone().requires_grad_() for w in network.initial)
    torch.autograd.gradcheck(
        lambda x, *weights: network.energy(x, weights), (x.requires_grad_(), *weights), fast_mode=True
    )
    torch.autograd.gradgradcheck(
        lambda x, *weights: network.energy(x, weights), (x, *weights), fast_mode=True, atol=1e-6
    )


@pytest.mark.parametrize("name", MAKERS)
def test_every_weight_is_meta_learned(name: str) -> None:
    """What the objective does not reach through write and read would stay as it was drawn."""
    network, x = made(name, slope_rate=0.1, deviation_rate=0.1), pixels(0, 2, 3, 1, 8, 8)
    iterates = network.read(0.5 * x + 0.25 * pixels(1, *x.shape), network.write(x))
    (iterates[-1] - x).square().sum().backward()
    # A constant shift of the energy has no slope.
    reached = {
        key for key, value in network.named_parameters() if value.grad is not None and value.grad.abs().max() > 0
    }
    assert reached == {key for key, _ in network.named_parameters()}


@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_convolution_is_a_loop_over_episodes(stride: int) -> None:
    x, weight, bias = pixels(0, 3 * 4, 5, 7, 6), pixels(1, 3, 2, 5, 3, 3), pixels(2, 3, 2)
    got = _own_convolution(x, weight, bias, 3, stride=stride)
    want = [conv2d(x[4 * e : 4 * e + 4], weight[e], bias[e], stride=stride, padding=1) for e in range(3)]
    torch.testing.assert_close(got, torch.cat(want), rtol=1e-12, atol=1e-12)


def test_the_gated_energy_by_hand() -> None:
    """Its equations in NumPy, hop by hop."""
    torch.manual_seed(0)
    network = GatedEnergy(6, writable=2, width=5, hops=3).double()
    with torch.no_grad():
        for value in network.parameters():
            value += 0.1 * torch.randn_like(value)
    part = {key: value.detach().numpy() for key, value in network.named_parameters()}
    x = pixels(0, 6).numpy()

    def norm(h: np.ndarray, scale: str, shift: str) -> np.ndarray:
        return (h - h.mean()) / np.sqrt(h.var() + 1e-5) * part[scale] + part[shift]

    u = 2 * x - 1
    h = np.concatenate(
        [u @ part["memory_weight"][0] + part["memory_bias"][0, 0], part["static.weight"] @ u + part["static.bias"]]
    )
    e = state = np.tanh(norm(h, "norm_scale", "norm_shift"))
    for hop in range(3):
        both = part["hops.into.weight"] @ e + part["hops.into.bias"]
        if hop:
            both = both + part["hops.again"] @ state
        gate = 1 / (1 + np.exp(-both[:5]))
        state = (1 - gate) * state + gate * np.tanh(norm(both[5:], "hops.scale", "hops.shift"))
    want = np.exp(part["log_scale"]) * (state @ part["out"])
    got = network.energy(torch.from_numpy(x).view(1, 1, 6), network.initial)
    assert float(got.detach()) == pytest.approx(float(want), rel=1e-12)


# ---------------------------------------------------------------- sizes and steps


def test_slots_have_as_many_floats_as_the_paper_counts() -> None:
    assert GatedEnergy(128, writable=64).writable_floats == 64 * (128 + 1) == 8256
    for d in (2, 8):
        assert ConvolutionalEnergy((1, 32, 32), writable=d).writable_floats == 1154 * d
        assert FullyConnectedEnergy((1, 32, 32), writable=d).writable_floats == 257 * d
    assert whitened().writable_floats == 5 * (20 + 1)
    assert gated().size == 64


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 13, 9)])
@pytest.mark.parametrize("kind", [ConvolutionalEnergy, FullyConnectedEnergy])
def test_images_of_sides_that_do_not_halve_evenly(kind: Any, shape: tuple[int, ...]) -> None:
    options: dict[str, Any] = {"channels": (2, 2) if kind is ConvolutionalEnergy else (2, 2, 2), "hidden": 4}
    network = kind(shape, writable=2, width=6, **options)
    assert network.energy(
        torch.rand(2, 3, *shape), tuple(w.expand(2, *w.shape[1:]) for w in network.initial)
    ).shape == (
        2,
        3,
    )


@pytest.mark.parametrize("terms", [1, 2, 3])
@pytest.mark.parametrize("name", MAKERS)
def test_architecture_makes_the_network_that_the_weights_fit(name: str, terms: int) -> None:
    rates = {"slope_rate": 0.2 if terms > 1 else None, "deviation_rate": 0.3 if terms > 2 else None}
    network = made(name, **rates)
    with torch.no_grad():
        for value in network.parameters():
            value += 0.01 * torch.randn_like(value)
    again = type(network)(**network.architecture()).double()
    again.load_state_dict(network.state_dict())
    x = pixels(0, 2, 3, 1, 8, 8)
    assert torch.equal(reads(again, x, 0.5 * x), reads(network, x, 0.5 * x))
    assert again.architecture() == network.architecture()


def test_rates_start_where_they_were_told_to() -> None:
    network = made("gated", write_rate=40.0, slope_rate=0.01, deviation_rate=2.0, read_rate=0.3)
    rates = softplus(network.write_rates)
    assert rates.shape == (2, 2, 3)
    torch.testing.assert_close(rates, torch.tensor([40.0, 0.01, 2.0]).double().expand(2, 2, 3), rtol=1e-5, atol=0)
    torch.testing.assert_close(softplus(network.read_first), torch.tensor(0.3).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", MAKERS)
def test_a_network_without_write_steps_fills_in_and_cannot_write(name: str) -> None:
    network, x, cue = made(name, write_steps=0), pixels(0, 2, 3, 1, 8, 8), pixels(1, 2, 3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(network.read(cue)[-1], reads(network, x, cue))
        assert torch.equal(network.read(cue, network.write(x, steps=0))[-1], reads(network, x, cue))
    with pytest.raises(ValueError, match="steps: expected 0: this network cannot write, got 1"):
        network.write(x, steps=1)


def test_every_step_has_the_rate_step_size_and_momentum_learned_for_it() -> None:
    network, x, cue = made("gated", slope_rate=0.1), pixels(0, 2, 3, 1, 8, 8), pixels(1, 2, 3, 1, 8, 8)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in (network.write_rates, network.read_ratios, network.read_momenta):
            value += torch.randn(value.shape, generator=generator, dtype=torch.float64)
        weights = network.write(x)
        rates = torch.log1p(network.write_rates.exp())
        for mine, theirs in zip(weights, energy_write(network.energy, x, network.initial, rates), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
        first = torch.log1p(network.read_first.exp())
        a, b = (1 / (1 + (-ratio).exp()) for ratio in network.read_ratios)
        sizes, momenta = torch.stack([first, first * a, first * a * b]), 1 / (1 + (-network.read_momenta).exp())
        wanted = energy_read(network.energy, cue, weights, sizes, momenta)
        for mine, theirs in zip(network.read(cue, weights), wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_other_numbers_of_steps_than_learned() -> None:
    """Fewer are the first of them; more repeat the last rate, momentum and ratio."""
    network, x, cue = made("gated"), pixels(0, 2, 3, 1, 8, 8), pixels(1, 2, 3, 1, 8, 8)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in (network.write_rates, network.read_ratios, network.read_momenta):
            value += torch.randn(value.shape, generator=generator, dtype=torch.float64)
        longer = made("gated", write_steps=5, read_steps=6)
        state = dict(network.state_dict())
        state["write_rates"] = torch.cat([state["write_rates"], state["write_rates"][-1:].repeat(3, 1, 1)])
        state["read_ratios"] = torch.cat([state["read_ratios"], state["read_ratios"][-1:].repeat(3)])
        state["read_momenta"] = torch.cat([state["read_momenta"], state["read_momenta"][-1:].repeat(3)])
        longer.load_state_dict(state)
        assert all(torch.equal(a, b) for a, b in zip(network.write(x, steps=5), longer.write(x), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(network.write(x), longer.write(x, steps=2), strict=True))
        weights = network.write(x)
        for mine, theirs in zip(network.read(cue, weights, steps=6), longer.read(cue, weights), strict=True):
            assert torch.equal(mine, theirs)
        for mine, theirs in zip(network.read(cue, weights), longer.read(cue, weights), strict=False):
            assert torch.equal(mine, theirs)
        assert len(network.read(cue, weights, steps=1)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"write_steps": -1}, "write_steps: expected an integer >= 0, got -1"),
        ({"read_steps": 0}, "read_steps: expected an integer >= 1, got 0"),
        ({"write_rate": 0.0}, "write_rate: expected a number > 0 and <= 10000"),
        ({"slope_rate": -1.0}, "slope_rate: expected"),
        ({"slope_rate": 1.0, "deviation_rate": 2e4}, "deviation_rate: expected"),
        ({"deviation_rate": 1.0}, "deviation_rate: expected None, as slope_rate is None"),
        ({"read_rate": float("nan")}, "read_rate: expected"),
        ({"writable": 12}, "writable: expected 1 to width - 1 = 11, got 12"),
        ({"writable": 0}, "writable: expected"),
        ({"hops": 0}, "hops: expected an integer >= 1, got 0"),
        ({"rank": 3, "whitening": Whitening.empty(4, 3)}, "rank: expected None beside whitening"),
    ],
)
def test_arguments_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GatedEnergy(4, **{"width": 12, "writable": 3, **options})


@pytest.mark.parametrize("kind", [ConvolutionalEnergy, FullyConnectedEnergy])
def test_arguments_of_image_networks_are_named(kind: Any) -> None:
    for options, message in (
        ({"shape": (8, 8)}, r"shape: expected \(C, H, W\), got \(8, 8\)"),
        ({"writable": 6, "width": 6}, "writable: expected 1 to width - 1 = 5, got 6"),
        ({"hops": 0}, "hops: expected an integer >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(**options)


# ---------------------------------------------------------------- whitening


def mixed(rows: int, seed: int) -> Tensor:
    """Correlated numbers with a strong mean, of full rank."""
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(6, 6, generator=g, dtype=torch.float64) + torch.diag(torch.arange(1.0, 7.0))
    return torch.randn(rows, 6, generator=g, dtype=torch.float64) @ root + 3


def test_whitening_makes_the_covariance_the_identity_and_the_preconditioner_undoes_it() -> None:
    x = mixed(500, 0)
    whitening = Whitening.of(x.view(500, 1, 2, 3), eps=0.0)
    covariance = np.cov(x.numpy().T)
    with torch.no_grad():
        u = whitening(x.float()).double().numpy()
        turned = whitening.precondition(torch.eye(6)).numpy()
    np.testing.assert_allclose(u.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(u.T), np.eye(6), atol=1e-4)
    np.testing.assert_allclose(turned, covariance, rtol=1e-4, atol=1e-4 * covariance.max())


def test_whitening_keeps_the_strongest_directions_and_holds_back_the_weak_ones() -> None:
    x = mixed(500, 1)
    whitening = Whitening.of(x, rank=2, eps=0.05)
    values, vectors = np.linalg.eigh(np.cov(x.numpy().T))
    values, vectors = values[::-1], vectors[:, ::-1]
    with torch.no_grad():
        u = whitening(x.float()).double().numpy()
        turned = whitening.precondition(torch.eye(6)).numpy()
    assert u.shape == (500, 2)
    # With a floor of eps times the mean variance, variances are just below 1.
    np.testing.assert_allclose(np.cov(u.T), np.diag(values[:2] / (values[:2] + 0.05 * values.mean())), atol=1e-4)
    np.testing.assert_allclose(turned, (vectors[:, :2] * values[:2]) @ vectors[:, :2].T, atol=1e-3)


def test_a_read_moves_along_the_preconditioned_slope() -> None:
    network, x = made("whitened", read_steps=1), pixels(0, 1, 1, 1, 8, 8) * 0.2 + 0.4
    with torch.no_grad():
        network.read_first.fill_(-8.0)  # small enough to clip nothing
        read = network.read(x)[-1]
    x.requires_grad_()
    (slope,) = torch.autograd.grad(network.energy(x, network.initial).sum(), x)
    out = network.get_parameter("whitening.out").detach().numpy()
    want = -np.log1p(np.exp(-8.0)) * (out @ out.T @ slope.numpy().ravel())
    np.testing.assert_allclose((read - x).detach().numpy().ravel(), want, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (1, {}, "x: expected at least two"),
        (9, {"rank": 7}, "rank: expected 1 to 6, got 7"),
        (9, {"rank": 0}, "rank: expected"),
    ],
)
def test_what_cannot_be_whitened_is_named(rows: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Whitening.of(mixed(rows, 0), **options)


def test_parts_of_a_whitening_must_fit() -> None:
    with pytest.raises(ValueError, match="into, out: expected the same shape"):
        Whitening(torch.zeros(4), torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="mean"):
        Whitening(torch.zeros(3), torch.zeros(4, 2), torch.zeros(4, 2))
