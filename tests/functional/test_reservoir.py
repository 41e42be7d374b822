"""Reservoir indices against one-row-at-a-time sampling and closed-form probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from avalanche_memplugins.functional import distinct_integers, last_write_wins, reservoir_slots


def fill(capacity: int, batches: list[int], generator: torch.Generator) -> list[int]:
    """Stream positions that a reservoir holds after batches of the given sizes."""
    held, seen = [-1] * capacity, 0
    for batch in batches:
        rows, slots = last_write_wins(reservoir_slots(seen, batch, capacity, generator=generator))
        for row, slot in zip(rows.tolist(), slots.tolist(), strict=True):
            held[slot] = seen + row
        seen += batch
    return held


@pytest.mark.parametrize(
    "batches",
    [[1] * 30, [7, 7, 7, 9], [30], [3, 27], [10, 20], [29, 1]],
    ids=["one by one", "sevens", "one batch beyond the capacity", "short then long", "exactly full", "long then short"],
)
def test_every_row_is_held_with_probability_capacity_over_stream(batches: list[int]) -> None:
    capacity, stream, repeats = 10, sum(batches), 6_000
    generator = torch.Generator().manual_seed(len(batches))
    counts = np.zeros(stream)
    for _ in range(repeats):
        held = fill(capacity, batches, generator)
        assert len(set(held)) == capacity
        counts[held] += 1
    expected = repeats * capacity / stream
    # Inclusion counts have variance np(1-p)(1 + 1/(N-1)) and covariances that this factor accounts for.
    statistic = ((counts - expected) ** 2).sum() / expected * (stream - 1) / (stream - capacity)
    assert 1e-4 < stats.chi2.sf(statistic, stream - 1) < 1 - 1e-4


def test_pairs_are_held_as_often_as_in_sampling_without_replacement() -> None:
    capacity, stream, repeats = 3, 8, 20_000
    generator = torch.Generator().manual_seed(5)
    both = np.zeros((stream, stream))
    for _ in range(repeats):
        held = fill(capacity, [5, 3], generator)
        both[np.ix_(held, held)] += 1
    pairs = both[np.triu_indices(stream, 1)]
    probability = capacity * (capacity - 1) / (stream * (stream - 1))
    assert np.abs(pairs / repeats - probability).max() < 5 * np.sqrt(probability * (1 - probability) / repeats)


def test_the_first_rows_fill_the_slots_in_order() -> None:
    assert reservoir_slots(0, 4, 10).tolist() == [0, 1, 2, 3]
    assert reservoir_slots(8, 4, 10, generator=torch.Generator().manual_seed(0))[:2].tolist() == [8, 9]


def test_the_last_row_wins_a_slot() -> None:
    rows, slots = last_write_wins(torch.tensor([3, -1, 0, 3, 3, 0, -1]))
    assert dict(zip(slots.tolist(), rows.tolist(), strict=True)) == {3: 4, 0: 5}


def test_no_slot_is_taken_twice_beyond_any_capacity() -> None:
    generator = torch.Generator().manual_seed(1)
    _, slots = last_write_wins(reservoir_slots(0, 5_000, 7, generator=generator))
    assert sorted(slots.tolist()) == list(range(7))


@pytest.mark.parametrize(("bound", "count"), [(50, 5), (6, 2), (5, 5), (40, 13)])
def test_distinct_integers_are_distinct_and_uniform(bound: int, count: int) -> None:
    generator = torch.Generator().manual_seed(2)
    repeats = 4_000
    first, all_counts = np.zeros(bound), np.zeros(bound)
    for _ in range(repeats):
        drawn = distinct_integers(bound, count, generator=generator).tolist()
        assert len(set(drawn)) == count
        first[drawn[0]] += 1
        all_counts[drawn] += 1
    assert stats.chisquare(first).pvalue > 1e-4
    assert np.abs(all_counts / repeats - count / bound).max() < 5 * np.sqrt(0.25 / repeats)


def test_more_distinct_integers_than_there_are() -> None:
    with pytest.raises(ValueError, match="count: expected at most 3"):
        distinct_integers(3, 4)
