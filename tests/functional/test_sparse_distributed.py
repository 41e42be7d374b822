"""Sparse distributed memory against one written out in NumPy, and against what theory says it can hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor

from avalanche_memplugins.functional.sparse_distributed import (
    activated,
    hard_locations,
    sparse_distributed_read,
    sparse_distributed_recall,
    sparse_distributed_write,
)


def signs(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


def reached(addresses: np.ndarray, cue: np.ndarray, radius: int | None, nearest: int | None) -> list[int]:
    """Locations that one cue reaches, by counting differences bit by bit; an erased bit is half of one."""
    distances = []
    for address in addresses:
        differing = sum(1 for a, s in zip(address, cue, strict=True) if a * s < 0)
        distances.append(differing + 0.5 * sum(1 for s in cue if s == 0))
    if radius is not None:
        return [place for place, distance in enumerate(distances) if distance <= radius]
    return sorted(range(len(distances)), key=lambda place: (distances[place], place))[:nearest]


@pytest.mark.parametrize("way", [{"radius": 7, "nearest": None}, {"radius": None, "nearest": 5}])
@pytest.mark.parametrize("limit", [1, 3, 127])
def test_it_is_the_memory_written_out_by_hand(way: dict[str, Any], limit: int) -> None:
    addresses = hard_locations(30, 16, generator=torch.Generator().manual_seed(1))
    patterns, cues = signs(2, 12, 16), signs(2, 4, 16, seed=2)
    cues[..., ::3] = 0
    known = cues != 0
    counters = torch.zeros(2, 30, 16, dtype=torch.int32)
    # In two goes, as a stream would.
    for part in (patterns[:, :5], patterns[:, 5:]):
        counters = sparse_distributed_write(counters, activated(addresses, part, **way), part, limit=limit)
    for episode in range(2):
        by_hand = np.zeros((30, 16), dtype=int)
        for x in patterns[episode].numpy():
            for place in reached(addresses.numpy(), x, **way):
                for bit in range(16):
                    by_hand[place, bit] = max(-limit, min(limit, by_hand[place, bit] + int(x[bit])))
        np.testing.assert_array_equal(counters[episode].numpy(), by_hand)
        for number, cue in enumerate(cues[episode].numpy()):
            state = cue.copy()
            for step in range(1, 4):
                total = by_hand[reached(addresses.numpy(), state, **way)].sum(0)
                state = np.where(known[episode, number].numpy(), cue, np.where(total == 0, state, np.sign(total)))
                got = sparse_distributed_recall(addresses, counters, cues, known=known, steps=step, **way)
                np.testing.assert_array_equal(got[episode, number].numpy(), state)


def test_locations_are_drawn_evenly_from_the_generator() -> None:
    one, same, other = (hard_locations(400, 50, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert sorted(one.unique().tolist()) == [-1, 1]
    assert abs(float(one.float().mean())) < 5 / np.sqrt(400 * 50)


@pytest.mark.parametrize("written", [15, 60, 300])
def test_bits_are_read_wrongly_as_often_as_theory_says(written: int) -> None:
    """Random bits at random addresses, each read at its own: a signal of pL against what the others left there.

    Each other one shares k of its locations, k binomial of L and p squared, and adds k or -k: its variance is the
    second moment of k. Kanerva 1988, chapter 7, and Chou 1989.
    """
    size, locations, radius = 200, 1_000, 92
    addresses = hard_locations(locations, size, generator=torch.Generator().manual_seed(0))
    at, bits = signs(written, size, seed=1), signs(written, 2_000, seed=2)
    active = activated(addresses, at, radius=radius)
    p = float(binom.cdf(radius, size, 0.5))
    assert abs(float(active.float().mean()) - p) < 0.1 * p
    counters = torch.zeros(locations, 2_000, dtype=torch.int32)
    counters = sparse_distributed_write(counters, active, bits, limit=2**31 - 1)
    sums = sparse_distributed_read(counters, active) * bits
    wrong = float((sums < 0).float().mean() + 0.5 * (sums == 0).float().mean())
    shared = locations * p**2
    noise = np.sqrt((written - 1) * (shared * (1 - p**2) + shared**2))
    expected = float(norm.cdf(-locations * p / noise))
    assert abs(wrong - expected) < 0.25 * expected  # p2 is that of a pair of addresses on average


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, c, s: hard_locations(0, 4), "locations: expected an integer >= 1, got 0"),
        (lambda a, c, s: activated(a[0], s, radius=1), r"addresses: expected \(L, n\), L at least 1, got \(4,\)"),
        (lambda a, c, s: activated(a, s[..., :3], radius=1), r"cue: expected \(..., N, 4\), got \(2, 3\)"),
        (lambda a, c, s: activated(a, s), "radius: expected a radius or nearest, not both, got None and None"),
        (lambda a, c, s: activated(a, s, radius=1, nearest=1), "radius: expected a radius or nearest, not both, got 1"),
        (lambda a, c, s: activated(a, s, radius=-1), "radius: expected an integer >= 0, got -1"),
        (lambda a, c, s: activated(a, s, nearest=6), "nearest: expected 1 to 5 locations, got 6"),
        (lambda a, c, s: sparse_distributed_read(c, torch.ones(2, 5)), "active: expected bool, got torch.float32"),
        (lambda a, c, s: sparse_distributed_read(c[0], torch.ones(2, 5) > 0), r"counters: expected \(..., L, n\), got"),
        (
            lambda a, c, s: sparse_distributed_write(c, torch.ones(3, 5) > 0, s, limit=1),
            r"patterns: expected \(3, 4\) like active, got \(2, 4\)",
        ),
        (
            lambda a, c, s: sparse_distributed_write(c, torch.ones(2, 5) > 0, s, limit=0),
            "limit: expected an integer >= 1, got 0",
        ),
        (lambda a, c, s: sparse_distributed_recall(a, c, s, radius=1, steps=0), "steps: expected an integer >= 1"),
        (lambda a, c, s: sparse_distributed_recall(a, c, s, radius=1, known=s), r"known: expected bool \(2, 4\)"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    addresses = hard_locations(5, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=message):
        call(addresses, torch.zeros(5, 4, dtype=torch.int8), signs(2, 4))
