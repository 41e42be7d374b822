"""Write and read policies against counts in closed form and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from avalanche_memplugins import RandomMemory
from avalanche_memplugins.memories.policies import Balanced, GroupBalanced


def water_level(counts: list[int], capacity: int) -> list[int]:
    """Rows that each group should hold, by pouring them in one at a time."""
    rows = [0] * len(counts)
    for _ in range(min(capacity, sum(counts))):
        open_groups = [g for g in range(len(counts)) if rows[g] < counts[g]]
        rows[min(open_groups, key=lambda g: rows[g])] += 1
    return rows


def write_groups(memory: RandomMemory, groups: list[int], batch: int) -> None:
    for start in range(0, len(groups), batch):
        part = torch.tensor(groups[start : start + batch])
        number = torch.arange(start, start + len(part)).float()[:, None]
        memory.write(number, part, origin=part)


@pytest.mark.parametrize("batch", [1, 7, 64, 1_000])
@pytest.mark.parametrize("counts", [[50, 50, 50], [200, 3, 30], [1, 1, 400], [5, 5], [90, 1, 1, 1, 1, 1, 1]], ids=str)
@pytest.mark.parametrize("order", ["one after the other", "mixed"])
def test_groups_share_the_slots_like_water(counts: list[int], batch: int, order: str) -> None:
    groups = [g for g, n in enumerate(counts) for _ in range(n)]
    if order == "mixed":
        groups = np.random.default_rng(0).permutation(groups).tolist()
    memory = RandomMemory(24, policy="class_balanced")
    write_groups(memory, groups, batch)
    held = [memory.summary().per_class.get(g, 0) for g in range(len(counts))]
    assert sum(held) == min(24, len(groups))
    for got, want in zip(sorted(held), sorted(water_level(counts, 24)), strict=True):
        assert abs(got - want) <= 1


def test_more_groups_than_slots() -> None:
    memory = RandomMemory(4, policy="task_balanced")
    write_groups(memory, list(range(50)), 3)
    assert len(memory) == 4
    assert max(memory.summary().per_experience.values()) == 1


def test_within_a_group_every_row_is_held_equally_often() -> None:
    # Shares shrink twice while the first group is still being offered rows.
    groups = [0] * 12 + [1] * 6 + [0] * 8 + [2] * 10
    generator = np.random.default_rng(1)
    counts, sizes, repeats = np.zeros(len(groups)), np.zeros(3), 3_000
    for _ in range(repeats):
        memory = RandomMemory(9, policy="class_balanced", seed=int(generator.integers(2**31)))
        write_groups(memory, groups, 5)
        rows = memory.rows(torch.arange(9)).x[:, 0].long().numpy()
        counts[rows] += 1
        for g in range(3):
            sizes[g] += sum(groups[r] == g for r in rows)
    assert (sizes == 3 * repeats).all()
    for g in range(3):
        mine = counts[[i for i, group in enumerate(groups) if group == g]]
        n, p = len(mine), 3 / len(mine)
        statistic = ((mine - repeats * p) ** 2).sum() / (repeats * p) * (n - 1) / (n - 3)
        assert stats.chi2.sf(statistic, n - 1) > 1e-4


def test_balanced_reading_takes_equal_shares() -> None:
    memory = RandomMemory(100, read="class_balanced", replacement=True)
    write_groups(memory, [0] * 90 + [1] * 9 + [2], 10)
    counts = np.zeros(3)
    for _ in range(500):
        y = memory.sample(10).y.bincount(minlength=3).numpy()
        assert sorted(y.tolist()) == [3, 3, 4]
        counts += y
    assert np.abs(counts / 5_000 - 1 / 3).max() < 0.02


def test_balanced_reading_of_fewer_rows_than_groups_is_fair() -> None:
    memory = RandomMemory(60, read="task_balanced")
    write_groups(memory, [g for g in range(20) for _ in range(1 + 2 * (g % 2))], 8)
    counts = np.zeros(20)
    for _ in range(2_000):
        origin = memory.sample(5).origin
        assert len(set(origin.tolist())) == 5
        counts[origin.numpy()] += 1
    assert stats.chisquare(counts).pvalue > 1e-4


def test_balanced_reading_without_replacement_gives_what_a_small_group_has() -> None:
    memory = RandomMemory(100, read="class_balanced")
    write_groups(memory, [0] * 50 + [1] * 2, 10)
    recall = memory.sample(20)
    assert recall.y.bincount().tolist() == [10, 2]
    assert len(set(recall.x[:, 0].tolist())) == 12


def test_the_index_of_groups_follows_every_overwriting() -> None:
    read = Balanced("class")
    read.start(30)
    truth = np.full(30, -1)
    generator = np.random.default_rng(2)
    for _ in range(300):
        slots = generator.choice(30, 4, replace=False)
        groups = generator.integers(6, size=4)
        truth[slots] = groups
        read.assign(slots.tolist(), groups.tolist())
        there = set(truth[truth >= 0].tolist())
        drawn = read.choose(30, 30, torch.Generator().manual_seed(0)).tolist()
        assert set(truth[drawn].tolist()) == there
        for g in there:
            members = [s for s in drawn if truth[s] == g]
            assert len(members) == len(set(members)) <= (truth == g).sum()


def test_a_balanced_policy_wants_groups() -> None:
    policy = GroupBalanced("class")
    policy.start(3)
    with pytest.raises(ValueError, match="groups: a balanced policy wants"):
        policy.place(0, 2, None, torch.Generator())


@pytest.mark.parametrize("seed", range(6))
def test_a_group_holds_the_rows_with_its_largest_keys(seed: int) -> None:
    """Also where a group that has dropped rows stands one row below the largest."""
    policy = GroupBalanced("class")
    policy.start(9)
    ours, theirs = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    random = np.random.default_rng(seed)
    offered: dict[int, list[float]] = {}
    for _ in range(40):
        groups = random.integers(3 if seed % 2 else 2, size=3).tolist()
        policy.place(0, 3, groups, ours)
        for key, group in zip(torch.rand(3, generator=theirs, dtype=torch.float64).tolist(), groups, strict=True):
            offered.setdefault(group, []).append(key)
        state = policy.state_dict()
        for group, keys in offered.items():
            held = sorted(state["key"][state["group"] == group].tolist(), reverse=True)
            assert held == sorted(keys, reverse=True)[: len(held)]
