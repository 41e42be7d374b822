"""Comparators: what they hold, how many bytes it takes, and that episodes do not mix."""

from __future__ import annotations

import copy
import importlib
import pickle
import sys

import pytest
import torch
from _comparators import NAMES, controller, made
from torch import Tensor

from avalanche_memplugins.codecs import Bits, Downsampled, Uint8
from avalanche_memplugins.functional.episodes import corrupt_strings, string_episodes
from avalanche_memplugins.memories.comparators import (
    ControllerMemory,
    HopfieldMemory,
    ModernHopfieldMemory,
    RandomProjectionSlots,
    RestrictedBoltzmannMemory,
    SlotMemory,
    SparseDistributedMemory,
)
from avalanche_memplugins.networks import DNC, MANN, MemoryNetwork


def strings(episodes: int = 3, patterns: int = 12, bits: int = 128, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(2, (episodes, patterns, bits), generator=g).float()
    known = torch.rand(x.shape, generator=g).argsort(-1) < bits // 2
    return x, torch.where(known, x, 0.5), known


def memories() -> list:
    return [
        *(made(name, 128) for name in NAMES),
        HopfieldMemory(128, rule="hebb"),
        HopfieldMemory(128, rule="storkey"),
        HopfieldMemory(128, rule="storkey-whole"),
        ModernHopfieldMemory(128, beta=5.0, codec=Bits(1)),
        ControllerMemory(controller(128, DNC)),
        RandomProjectionSlots(128, width=80, seed=0),
    ]


@pytest.mark.parametrize("memory", memories(), ids=repr)
def test_episodes_do_not_mix_and_writes_add_up(memory) -> None:
    x, cue, known = strings()
    memory.write(x)
    whole = memory.read(cue, known)
    assert whole.shape == x.shape
    parts = copy.deepcopy(memory)
    parts.clear()
    if isinstance(memory, RestrictedBoltzmannMemory):  # a second write trains on, and forgets
        parts.write(x[1:2])
    else:
        parts.write(x[1:2, :5])
        parts.write(x[1:2, 5:])
    torch.testing.assert_close(parts.read(cue[1:2], known[1:2]), whole[1:2])
    torch.testing.assert_close(memory.read(cue, known), whole)


@pytest.mark.parametrize("memory", memories(), ids=repr)
def test_state_goes_into_a_fresh_memory(memory) -> None:
    fresh = pickle.loads(pickle.dumps(memory))
    x, cue, _ = strings()
    memory.write(x)
    fresh.load_state_dict(memory.state_dict())
    torch.testing.assert_close(fresh.read(cue), memory.read(cue), atol=0, rtol=0)
    assert fresh.nbytes == memory.nbytes > 0


@pytest.mark.parametrize("memory", memories(), ids=repr)
def test_bad_input_is_named_and_changes_nothing(memory) -> None:
    x, cue, known = strings()
    with pytest.raises(ValueError, match="cue: expected a memory that was written, got"):
        memory.read(cue)
    memory.write(x)
    before = memory.held.clone()
    bad = x.clone()
    bad[0, 0, 0] = torch.nan
    for value in (x[0], x[..., :5], x[:2], x[:, :0], x.long(), bad):
        with pytest.raises(ValueError, match="patterns"):
            memory.write(value)
    with pytest.raises(TypeError, match="patterns"):
        memory.write([1.0])
    with pytest.raises(ValueError, match="known"):
        memory.read(cue, known.float())
    assert torch.equal(memory.held, before)


def test_the_old_name_goes_on_working_and_says_so() -> None:
    sys.modules.pop("avalanche_memplugins.memories.baselines", None)
    with pytest.warns(DeprecationWarning, match="is called avalanche_memplugins.memories.comparators now"):
        old = importlib.import_module("avalanche_memplugins.memories.baselines")
    assert old.HopfieldMemory is HopfieldMemory
    assert {"HopfieldMemory", "ModernHopfieldMemory", "SlotMemory"} == set(old.__all__)


def test_hopfield_counts_as_the_paper_does() -> None:
    memory = HopfieldMemory(128)
    memory.write(strings(episodes=2, patterns=3)[0])
    few = memory.nbytes
    memory.write(strings(episodes=2, patterns=30)[0])
    assert memory.nbytes == few == 2 * 4 * memory.floats
    assert memory.floats == 128 * 127 // 2 + 128 == 8256


@pytest.mark.parametrize("update", ["asynchronous", "synchronous"])
def test_hopfield_recalls_bits_and_keeps_known_ones(update) -> None:
    x, cue, known = strings(patterns=32)
    memory = HopfieldMemory(128, update=update)
    memory.write(x)
    torch.testing.assert_close(memory.read(cue, known), x)
    overfull = HopfieldMemory(128, rule="hebb", update=update)
    overfull.write(strings(patterns=120)[0])
    read = overfull.read(cue, known)
    assert torch.equal(read[known], x[known])
    assert not torch.equal(overfull.read(cue)[known], x[known])


def test_hopfield_wants_bits() -> None:
    memory = HopfieldMemory(4)
    with pytest.raises(ValueError, match="patterns: expected entries 0 and 1"):
        memory.write(torch.full((1, 1, 4), 0.5))
    memory.write(torch.ones(1, 1, 4))
    with pytest.raises(ValueError, match=r"cue: expected entries 0, 0\.5 and 1"):
        memory.read(torch.full((1, 1, 4), 0.7))


def test_a_codec_says_what_it_cannot_keep() -> None:
    memory = ModernHopfieldMemory(4, beta=1.0, codec=Bits(1))
    with pytest.raises(ValueError, match="x: the codec Bits"):
        memory.write(torch.full((1, 1, 4), 2.0))
    assert len(memory) == 0


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: HopfieldMemory(0), "size"),
        (lambda: HopfieldMemory(4, rule="hebbian"), "did you mean 'hebb'"),
        (lambda: HopfieldMemory(4, update="random"), "update"),
        (lambda: HopfieldMemory(4, sweeps=0), "sweeps"),
        (lambda: ModernHopfieldMemory(4, beta=0.0), "beta"),
        (lambda: ModernHopfieldMemory(4, beta=1.0, similarity="cosine"), "similarity"),
        (lambda: ModernHopfieldMemory(4, beta=1.0, threshold=-1.0), "threshold"),
        (lambda: ModernHopfieldMemory(4, beta=1.0, capacity=0), "capacity"),
        (lambda: ModernHopfieldMemory(4, beta=1.0, shape=(1, 3)), "shape"),
    ],
)
def test_bad_arguments_are_named(make, name) -> None:
    with pytest.raises(ValueError, match=name):
        make()


def test_modern_hopfield_keeps_the_first_patterns_that_fit() -> None:
    x, cue, known = strings(patterns=10)
    memory = ModernHopfieldMemory.from_budget(4 * 128 * 6 + 3, size=128, beta=50.0, threshold=1e-3)
    memory.write(x[:, :4])
    memory.write(x[:, 4:])
    assert len(memory) == 6
    assert memory.nbytes == 3 * 4 * 128 * 6
    read = memory.read(cue, known)
    torch.testing.assert_close(read[:, :6], x[:, :6])
    assert torch.equal(read[:, 6:], cue[:, 6:])
    with pytest.raises(ValueError, match="nbytes: expected at least the 512 bytes that one pattern takes, got"):
        ModernHopfieldMemory.from_budget(511, size=128, beta=1.0)


@pytest.mark.parametrize(
    ("codec", "each"), [(Bits(4), 32), (Bits(1), 8), (Uint8(lossy=True), 64), (Downsampled(4, Bits(4)), 8)]
)
def test_quantised_storage_gives_back_what_the_codec_keeps(codec, each) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 5, 64, generator=g)
    known = torch.rand(x.shape, generator=g) < 0.5
    images = x.view(-1, 1, 8, 8)
    kept = codec.decode(codec.encode(images), images.shape[1:], torch.float32).view_as(x)
    memory = ModernHopfieldMemory.from_budget(each * 5, size=64, beta=1e4, codec=codec, shape=(1, 8, 8))
    memory.write(x)
    assert len(memory) == 5
    assert memory.nbytes == 2 * 5 * each
    torch.testing.assert_close(memory.read(kept), kept)
    memory.clamp = True
    clamped = memory.read(x * known, known)
    assert torch.equal(clamped[known], x[known])
    assert not torch.equal(clamped[~known], x[~known])


def test_centred_products_ignore_erased_bits() -> None:
    x, cue, known = strings(patterns=20)
    memory = ModernHopfieldMemory(128, beta=4.0, similarity="dot", centre=0.5, steps=2)
    memory.write(x)
    torch.testing.assert_close(memory.read(cue), x, atol=1e-4, rtol=0)
    torch.testing.assert_close(memory.read(cue), memory.read(cue, known), atol=1e-4, rtol=0)


def test_a_slot_memory_is_its_network() -> None:
    torch.manual_seed(0)
    network = MemoryNetwork(128, 8, hidden=4)
    torch.nn.init.normal_(network.decoder[-1].weight)
    memory = SlotMemory(network)
    x, cue, known = strings()
    memory.write(x)
    assert memory.nbytes == 4 * 3 * 12 * 8
    assert memory.nbytes_fixed == 4 * sum(p.numel() for p in network.parameters())
    want = network(x, cue).clamp(0, 1)
    torch.testing.assert_close(memory.read(cue), want)
    torch.testing.assert_close(memory.read(cue, known), torch.where(known, cue, want))
    assert network.training


def wrong_bits(memory, x: Tensor, cue: Tensor, known: Tensor | None = None) -> float:
    return float(((memory.read(cue, known) > 0.5) != (x > 0.5)).sum(-1).float().mean())


def test_a_boltzmann_machine_holds_what_a_hopfield_network_of_as_many_floats_does_not() -> None:
    x = string_episodes(1, 48, generator=torch.Generator().manual_seed(0))
    cue, known = corrupt_strings(x, 64, generator=torch.Generator().manual_seed(1))
    machine = RestrictedBoltzmannMemory.from_budget(4 * 8256, size=128, write_steps=300, lr=0.01, seed=0)
    assert (machine.hidden, machine.floats) == (63, 128 * 63 + 128 + 63)
    machine.write(x)
    assert machine.nbytes == 4 * machine.floats
    hebb = HopfieldMemory(128, rule="hebb", seed=0)
    hebb.write(x)
    assert wrong_bits(machine, x, cue) < 2 < 8 < wrong_bits(hebb, x, cue)
    old = machine.read(cue, known)
    assert torch.equal(old[known], x[known])
    machine.write(string_episodes(1, 48, generator=torch.Generator().manual_seed(2)))
    assert wrong_bits(machine, x, cue) > 10, "a second write forgets the first"


@pytest.mark.parametrize(("patterns", "width", "most"), [(64, 128, 0.0), (96, 86, 0.0), (128, 56, 8.0)])
def test_a_random_projection_is_read_exactly_while_there_are_enough_equations(patterns, width, most) -> None:
    x = string_episodes(2, patterns, generator=torch.Generator().manual_seed(0))
    cue, known = corrupt_strings(x, 64, generator=torch.Generator().manual_seed(1))
    memory = RandomProjectionSlots(128, width=width, seed=0)
    memory.write(x)
    assert memory.nbytes == 2 * 4 * patterns * width
    assert wrong_bits(memory, x, cue) <= most
    torch.testing.assert_close(memory.read(cue), memory.read(cue, known))
    assert wrong_bits(memory, x, cue) > 0 or width > 64


@pytest.mark.parametrize(("kind", "floats"), [(MANN, 16 * 130 + 8), (DNC, 16 * (128 + 16 + 3) + 8)])
def test_a_controllers_memory_counts_all_that_it_carries(kind, floats) -> None:
    x, cue, _ = strings(patterns=16)
    network = controller(128, kind)
    memory = ControllerMemory(network)
    memory.write(x)
    assert network.floats == floats
    assert memory.nbytes == 3 * 4 * floats
    torch.testing.assert_close(memory.read(cue), network(x, cue).clamp(0, 1))
    assert wrong_bits(memory, x, cue) < 2, "its projection reads before any training"
    assert bool((memory.slots_used() > 14).all())


def test_mann_loses_the_oldest_and_dnc_the_newest() -> None:
    x, cue, _ = strings(episodes=8, patterns=24)
    errors = {}
    for kind in (MANN, DNC):
        memory = ControllerMemory(controller(128, kind))
        memory.write(x)
        wrong = ((memory.read(cue) > 0.5) != (x > 0.5)).sum(-1).float().mean(0)
        errors[kind] = float(wrong[:8].mean()), float(wrong[-8:].mean())
    assert errors[MANN][1] < 2 < 15 < errors[MANN][0]
    assert errors[DNC][0] < errors[DNC][1] - 5


@pytest.mark.parametrize("name", NAMES)
def test_steps_of_a_read(name: str) -> None:
    memory = made(name, 128)
    x, cue, known = strings(patterns=20)
    memory.write(x)
    assert memory.read(cue, known, steps=3).shape == x.shape
    with pytest.raises(ValueError, match="steps: expected an integer >= 1, got 0"):
        memory.read(cue, steps=0)


@pytest.mark.parametrize(
    "memory",
    [SparseDistributedMemory(128, locations=300, nearest=10, seed=0), ControllerMemory(controller(128))],
    ids=repr,
)
def test_a_second_step_reads_what_the_first_gave(memory) -> None:
    memory = copy.deepcopy(memory)
    x, cue, known = strings(patterns=20)
    memory.write(x)
    once = memory.read(cue, known, steps=1)
    torch.testing.assert_close(memory.read(once, known, steps=1), memory.read(cue, known, steps=2))
    assert not torch.equal(once, memory.read(cue, known, steps=2))
