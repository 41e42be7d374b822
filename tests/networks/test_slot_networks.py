"""MANN and DNC: what is written where, and what training changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from avalanche_memplugins.networks import DNC, MANN, MemoryNetwork, train_on_episodes
from avalanche_memplugins.networks.energy import GatedEnergy

KINDS = (MANN, DNC)


def made(kind: type[MANN | DNC], **options) -> MANN | DNC:
    torch.manual_seed(0)
    return kind(32, **{"slots": 20, "width": 30, "controller": 8, "hidden": 16, **options})


def episode(generator: torch.Generator, patterns: int, episodes: int = 8) -> tuple[Tensor, Tensor]:
    x = torch.randint(2, (episodes, patterns, 32), generator=generator).float()
    known = torch.rand(x.shape, generator=generator).argsort(-1) < 16
    return x, torch.where(known, x, 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_writing_in_two_parts_is_writing_at_once(kind) -> None:
    network = made(kind)
    x, cue = episode(torch.Generator().manual_seed(0), 6)
    whole, parts = network.write(x), network.write(x[:, 2:], network.write(x[:, :2]))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)
    assert sum(part[0].numel() for part in whole) == network.floats
    torch.testing.assert_close(network.read(whole, cue[:, 3:4]), network(x, cue)[:, 3:4])


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_is_learned_has_a_gradient(kind) -> None:
    network = made(kind, free_gate=True) if kind is DNC else made(kind)
    torch.nn.init.normal_(network.reader.correct[-1].weight, std=0.1)
    x, cue = episode(torch.Generator().manual_seed(0), 5)
    (network(x, cue) - x).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().max()) > 0, name


def test_a_read_of_the_dnc_follows_links_where_its_modes_say_so() -> None:
    network = made(DNC)
    torch.nn.init.zeros_(network.read_interface.weight)
    x, _ = episode(torch.Generator().manual_seed(0), 8)
    with torch.no_grad():
        for mode, shift in ((0, -1), (2, 1)):
            torch.nn.init.zeros_(network.read_interface.bias)
            network.read_interface.bias[-3 + mode] = 20.0
            wrong = (network(x, x[:, 2:6]) > 0.5) != (torch.roll(x, -shift, 1)[:, 2:6] > 0.5)
            assert float(wrong.float().mean()) < 0.3, "the neighbour in the order of writing, beside the cue"


def test_the_free_gate_collapses_the_dnc() -> None:
    x, _ = episode(torch.Generator().manual_seed(0), 16)
    with torch.no_grad():
        closed, opened = (made(DNC, gate_bias=0.0, free_gate=gate) for gate in (False, True))
        kept, lost = (float(one.slots_used(one.write(x)).mean()) for one in (closed, opened))
    assert lost < 11 < 14 < kept


def test_the_curriculum_moves_on_and_blurred_writes_are_learned_away() -> None:
    network = made(DNC, gate_bias=0.0, slots=6)
    g, asked = torch.Generator().manual_seed(1), []

    def episodes(patterns: int) -> tuple[Tensor, Tensor]:
        asked.append(patterns)
        return episode(g, patterns)

    before = torch.get_rng_state()
    errors = train_on_episodes(network, episodes, steps=50, patterns=(2, 4), advance_below=3.9, lr=3e-2, warm_up=10)
    assert len(errors) == len(asked) == 50
    assert asked == sorted(asked)
    assert {2, 4} == set(asked)
    assert sum(errors[-5:]) < 0.8 * sum(errors[:5])
    assert torch.equal(torch.get_rng_state(), before)


def test_one_loop_trains_energies_and_memory_networks_too() -> None:
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    energy = GatedEnergy(32, writable=4, width=8, write_steps=1, read_steps=2)

    def loss(network: GatedEnergy, x: Tensor, cue: Tensor) -> Tensor:
        return (network.read(cue, network.write(x))[-1] - x).square().sum(-1).mean()

    first = energy.out.detach().clone()
    train_on_episodes(energy, lambda n: episode(g, n), steps=2, patterns=(2,), loss=loss)
    assert not torch.equal(energy.out, first)
    train_on_episodes(MemoryNetwork(32, 4, hidden=4), lambda n: episode(g, n), steps=2, patterns=(2,))


def test_bad_arguments_are_named() -> None:
    for kind in KINDS:
        with pytest.raises(ValueError, match="slots: expected an integer >= 1, got 0"):
            made(kind, slots=0)
    network = made(MANN)
    for options, name in (
        ({"steps": 0}, "steps"),
        ({"patterns": ()}, "patterns"),
        ({"lr": 0.0}, "lr"),
        ({"advance_below": -1.0}, "advance_below"),
    ):
        with pytest.raises(ValueError, match=name):
            train_on_episodes(
                network, lambda n: episode(torch.Generator(), n), **{"steps": 1, "patterns": (1,), **options}
            )
