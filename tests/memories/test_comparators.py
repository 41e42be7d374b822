"""Comparators: what they hold, how many bytes it takes, and that episodes do not mix."""

from __future__ import annotations

import copy
import importlib
import pickle
import sys

import pytest
import torch
from _comparators import NAMES, made
from torch import Tensor

from avalanche_memplugins.codecs import Bits, Downsampled, Uint8
from avalanche_memplugins.memories.comparators import HopfieldMemory, ModernHopfieldMemory, SlotMemory
from avalanche_memplugins.networks import MemoryNetwork


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
    ]


@pytest.mark.parametrize("memory", memories(), ids=repr)
def test_episodes_do_not_mix_and_writes_add_up(memory) -> None:
    x, cue, known = strings()
    memory.write(x)
    whole = memory.read(cue, known)
    assert whole.shape == x.shape
    parts = copy.deepcopy(memory)
    parts.clear()
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
