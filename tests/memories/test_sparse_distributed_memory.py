"""Sparse distributed memory among the comparators: bytes, counters, what it can hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from avalanche_memplugins.functional.episodes import corrupt_strings, string_episodes
from avalanche_memplugins.memories.comparators import SparseDistributedMemory


def wrong(patterns: int, *, steps: int = 1, clamp: bool = False, **options: Any) -> float:
    """Wrong bits of a string, of 128 bits of which 64 were erased."""
    generator = torch.Generator().manual_seed(0)
    x = string_episodes(4, patterns, 128, generator=generator)
    cue, known = corrupt_strings(x, 64, generator=generator)
    memory = SparseDistributedMemory.from_budget(4 * 8_256, size=128, seed=1, steps=steps, **options)
    memory.write(x)
    return float((memory.read(cue, known if clamp else None) - x).abs().sum(-1).mean())


def test_it_holds_few_patterns_well_and_many_badly() -> None:
    few, some, many = (wrong(n, nearest=20, steps=10, clamp=True) for n in (16, 48, 128))
    assert few < 0.5 < some < 6 < many < 32


def test_reading_again_helps_where_known_bits_are_kept() -> None:
    once, again = (wrong(32, nearest=24, steps=steps, clamp=True) for steps in (1, 10))
    assert again < 1 < 4 < once


def test_in_the_same_bytes_many_locations_beat_wide_counters() -> None:
    narrow = wrong(32, nearest=24, steps=10, clamp=True)
    wide = wrong(32, nearest=5, counter_bits=8, steps=10, clamp=True)
    assert narrow < wide / 3


@pytest.mark.parametrize(("bits", "each"), [(2, 5), (8, 18), (32, 72)])
def test_bytes_by_hand(bits: Any, each: int) -> None:
    memory = SparseDistributedMemory(18, locations=7, counter_bits=bits, seed=0)
    assert memory.nbytes == 0
    memory.write(torch.ones(3, 2, 18))
    assert memory.nbytes == 3 * 7 * each
    assert memory.nbytes_fixed == 7 * 18
    made = SparseDistributedMemory.from_budget(each * 9 + each - 1, size=18, counter_bits=bits)
    assert made.locations == 9
    with pytest.raises(ValueError, match=f"nbytes: expected at least the {each} bytes that one location takes, got"):
        SparseDistributedMemory.from_budget(each - 1, size=18, counter_bits=bits)


def counters(memory: SparseDistributedMemory) -> Tensor:
    return memory._counters()


@pytest.mark.parametrize(("bits", "limit"), [(2, 1), (8, 127), (32, 200)])
def test_counters_stay_within_their_bits(bits: Any, limit: int) -> None:
    memory = SparseDistributedMemory(4, locations=1, counter_bits=bits, seed=0)
    memory.write(torch.tensor([1.0, 0.0, 1.0, 1.0]).expand(1, 200, 4))
    assert counters(memory).flatten().tolist() == [limit, -limit, limit, limit]


def test_a_state_brings_its_addresses_and_another_kind_is_refused() -> None:
    first, second = SparseDistributedMemory(16, locations=50), SparseDistributedMemory(16, locations=50)
    assert not torch.equal(first.addresses, second.addresses)
    x = string_episodes(2, 3, 16, generator=torch.Generator().manual_seed(0))
    first.write(x)
    assert "addresses" not in first.state_dict()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.addresses, second.addresses)
    assert torch.equal(first.read(x), second.read(x))
    for other in (SparseDistributedMemory(16, locations=51), SparseDistributedMemory(16, locations=50, counter_bits=8)):
        before = other.addresses.clone()
        with pytest.raises(ValueError, match="state: "):
            other.load_state_dict(first.state_dict())
        assert torch.equal(other.addresses, before)
        assert not other.held.numel()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"locations": 0}, "locations: expected an integer >= 1, got 0"),
        ({"radius": 17}, "radius: expected 0 to 16, got 17"),
        ({"radius": 3, "nearest": 3}, "nearest: expected None beside radius, got 3"),
        ({"nearest": 1_001}, "nearest: expected 1 to 1000 locations, got 1001"),
        ({"counter_bits": 4}, "counter_bits: expected 2, 8 or 32, got 4"),
        ({"steps": 0}, "steps: expected an integer >= 1, got 0"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseDistributedMemory(16, **options)


def test_it_takes_bits() -> None:
    memory = SparseDistributedMemory(4)
    with pytest.raises(ValueError, match="patterns: expected entries 0 and 1"):
        memory.write(torch.full((1, 1, 4), 0.5))
    memory.write(torch.ones(1, 1, 4))
    with pytest.raises(ValueError, match=r"cue: expected entries 0, 0\.5 and 1"):
        memory.read(torch.full((1, 1, 4), 0.7))
