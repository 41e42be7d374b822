"""Write and read policies against counts in closed form and against brute force."""

from __future__ import annotations

import pickle
import time
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from avalanche_memplugins import RandomMemory
from avalanche_memplugins.memories.policies import Balanced, GroupBalanced
from avalanche_memplugins.memories.policies._slot_groups import SlotGroups
from avalanche_memplugins.memories.policies._slot_groups import water_level as water_level_of


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
    memory = RandomMemory(24, write_policy="class_balanced")
    write_groups(memory, groups, batch)
    held = [memory.summary().per_class.get(g, 0) for g in range(len(counts))]
    assert sum(held) == min(24, len(groups))
    for got, want in zip(sorted(held), sorted(water_level(counts, 24)), strict=True):
        assert abs(got - want) <= 1


def test_more_groups_than_slots() -> None:
    memory = RandomMemory(4, write_policy="task_balanced")
    write_groups(memory, list(range(50)), 3)
    assert len(memory) == 4
    assert max(memory.summary().per_experience.values()) == 1


def kept(policy: GroupBalanced, groups: list[int], batch: int, seed: int) -> np.ndarray:
    """Numbers of the rows in the slots, from the policy alone."""
    generator = torch.Generator().manual_seed(seed)
    rows = np.full(policy.capacity, -1)
    for start in range(0, len(groups), batch):
        part = groups[start : start + batch]
        for placement in policy.place(start, len(part), part, generator):
            rows[placement.slots.numpy()] = start + placement.rows.numpy()
    return rows


def evenness(counts: np.ndarray, repeats: int, held: float) -> float:
    """p-value of every row being held equally often, of ``held`` a time without replacement."""
    n, p = len(counts), held / len(counts)
    statistic = ((counts - repeats * p) ** 2).sum() / (repeats * p) * (n - 1) / (n * (1 - p))
    return float(stats.chi2.sf(statistic, n - 1))


@pytest.mark.parametrize("batch", [1, 5, 36])
def test_within_a_group_every_row_is_held_equally_often(batch: int) -> None:
    # Shares shrink twice while the first group is still being offered rows.
    groups = [0] * 12 + [1] * 6 + [0] * 8 + [2] * 10
    counts, repeats = np.zeros(len(groups)), 400 if batch == 1 else 1_000
    for seed in range(repeats):
        policy = GroupBalanced("class")
        policy.start(9)
        rows = kept(policy, groups, batch, seed)
        counts[rows] += 1
        assert np.bincount(np.array(groups)[rows]).tolist() == [3, 3, 3]
    for g in range(3):
        assert evenness(counts[np.array(groups) == g], repeats, 3) > 1e-4


def test_balanced_reading_takes_equal_shares() -> None:
    memory = RandomMemory(100, read_policy="class_balanced", replacement=True)
    write_groups(memory, [0] * 90 + [1] * 9 + [2], 10)
    counts = np.zeros(3)
    for _ in range(500):
        y = memory.sample(10).y.bincount(minlength=3).numpy()
        assert sorted(y.tolist()) == [3, 3, 4]
        counts += y
    assert np.abs(counts / 5_000 - 1 / 3).max() < 0.02


def test_balanced_reading_of_fewer_rows_than_groups_is_fair() -> None:
    memory = RandomMemory(60, read_policy="task_balanced")
    write_groups(memory, [g for g in range(20) for _ in range(1 + 2 * (g % 2))], 8)
    counts = np.zeros(20)
    for _ in range(2_000):
        origin = memory.sample(5).origin
        assert len(set(origin.tolist())) == 5
        counts[origin.numpy()] += 1
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("kind", ["class_balanced", "task_balanced"])
@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("counts", [[97, 2, 1], [50, 2], [1, 1, 1, 5, 40], [30, 30, 30], [1] * 20], ids=str)
@pytest.mark.parametrize("wanted", [1, 7, 20, 60, 500])
def test_balanced_reading_shares_what_small_groups_cannot_give(
    kind: str, replacement: bool, counts: list[int], wanted: int
) -> None:
    memory = RandomMemory(200, read_policy=kind, replacement=replacement)
    write_groups(memory, [g for g, n in enumerate(counts) for _ in range(n)], 10)
    for _ in range(5):
        recall = memory.sample(wanted)
        got = (recall.y if kind == "class_balanced" else recall.origin).bincount(minlength=len(counts)).tolist()
        if replacement:
            assert len(recall.y) == wanted
            assert max(got) - min(got) <= 1
        else:
            assert len(set(recall.x[:, 0].tolist())) == len(recall.y) == min(wanted, sum(counts))
            level = water_level(counts, wanted)
            assert sorted(got) == sorted(level)
            assert all(g == n for g, n in zip(got, counts, strict=True) if n < max(level))


def test_rows_of_a_group_are_drawn_equally_often_whatever_its_share() -> None:
    """Of groups that give all, much, or little of what they have."""
    counts = [2, 9, 12, 60]
    memory = RandomMemory(100, read_policy="class_balanced", seed=2)
    write_groups(memory, [g for g, n in enumerate(counts) for _ in range(n)], 100)
    drawn, repeats = np.zeros(sum(counts)), 2_000
    for _ in range(repeats):
        drawn[memory.sample(24).x[:, 0].long().numpy()] += 1
    for mine in np.split(drawn, np.cumsum(counts)[:-1]):
        held = mine.sum() / repeats
        assert held == len(mine) or evenness(mine, repeats, held) > 1e-4


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
    with pytest.raises(ValueError, match="groups: expected the group of every row"):
        policy.place(0, 2, None, torch.Generator())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("find", [True, False])
def test_slots_by_group_against_sets(seed: int, find: bool) -> None:
    """Batches of slots that leave, come, and change their group, against a dictionary of sets."""
    random = np.random.default_rng(seed)
    ours, truth = SlotGroups(40, find=find, count=False), {}
    for step in range(200):
        ranks = ours.ranks([]) if step else ours.ranks([3, 900, 7])
        places = random.permutation(ours.filled)[: random.integers(0, 5)]
        gone = ours.slots(places)
        spare = [slot for slot in range(40) if slot not in truth]
        come = random.permutation(np.array([*gone, *spare], dtype=np.int64))[: random.integers(0, 9)]
        groups = 5 * random.integers(0, 2 + step // 20, size=len(come))
        for slot in gone.tolist():
            del truth[slot]
        truth.update(zip(come.tolist(), groups.tolist(), strict=True))
        ranks = ours.ranks(groups)
        ours.change(places, come, ranks)
        if step % 3 == 0:
            ours.drop_empty()
        assert ours.filled == len(truth)
        held = {
            int(g): set(ours.slots(np.arange(start, start + size)).tolist())
            for g, start, size in zip(ours.groups, ours.starts, ours.sizes, strict=True)
            if size
        }
        assert held == {g: {slot for slot, of in truth.items() if of == g} for g in set(truth.values())}
        if find and truth:
            slots = np.array(list(truth))
            places, ranks = ours.groups_of(slots)
            assert (ours.slots(places) == slots).all()
            assert ours.groups[ranks].tolist() == list(truth.values())
        copied = pickle.loads(pickle.dumps(ours))
        assert (copied.groups.tolist(), copied.sizes.tolist()) == (ours.groups.tolist(), ours.sizes.tolist())


@pytest.mark.parametrize("seed", range(20))
def test_the_water_level_is_that_of_pouring(seed: int) -> None:
    random = np.random.default_rng(seed)
    limits = random.integers(0, 12, size=random.integers(1, 9))
    for total in range(int(limits.sum()) + 3):
        level, rest = water_level_of(limits, total)
        poured = sorted(water_level(limits.tolist(), total))
        assert rest <= (limits > level).sum()
        assert np.minimum(limits, level).sum() + rest == sum(poured)
        assert max(poured) in (level, level + 1)


@pytest.mark.parametrize("batch", [13, 40, 200])
def test_rows_of_every_group_are_kept_equally_often(batch: int) -> None:
    """A long stream in which groups come, grow, stay rare and come back, against the uniform sample's frequencies."""
    random = np.random.default_rng(5)
    groups = [*random.choice(3, 60, p=[0.6, 0.3, 0.1]), *[3] * 40, *random.choice(5, 100, p=[0.5, 0.1, 0.1, 0.1, 0.2])]
    counts, sizes, repeats = np.zeros(len(groups)), np.zeros(5), 700
    for seed in range(repeats):
        policy = GroupBalanced("task")
        policy.start(30)
        rows = kept(policy, groups, batch, seed)
        assert len(set(rows.tolist())) == 30
        counts[rows] += 1
        sizes += np.bincount(np.array(groups)[rows], minlength=5)
    assert np.abs(sizes / repeats - 6).max() <= 1
    for g in range(5):
        assert evenness(counts[np.array(groups) == g], repeats, sizes[g] / repeats) > 1e-4


def test_a_state_of_an_earlier_version_is_taken_up() -> None:
    """It had a random key a slot instead of the slot's place among those of its group."""
    memory = RandomMemory(12, write_policy="class_balanced")
    write_groups(memory, [0] * 20 + [1] * 9 + [2], 6)
    state = memory.write_policy.state_dict()
    old = {"key": torch.rand(12, dtype=torch.float64), **{k: v for k, v in state.items() if k != "place"}}
    policy = GroupBalanced("class")
    policy.start(12)
    policy.load_state_dict(old)
    again = policy.state_dict()
    assert all(torch.equal(again[k], state[k]) for k in ("group", "offered", "offered_group"))
    policy.place(30, 40, [2] * 40, torch.Generator())
    assert policy.state_dict()["group"].bincount().tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": torch.zeros(13, dtype=torch.int32)}, "at most 12 slots"),
        ({"group": None}, "group of some rows, got None"),
        ({"group": torch.full((12,), -1)}, "group of integers >= 0"),
        ({"offered": torch.tensor([1, 1, 1])}, "at least what it holds"),
        ({"offered": torch.tensor([20])}, "at least what it holds"),
        ({"place": torch.zeros(12, dtype=torch.int32)}, "the places 0, 1"),
        ({"place": torch.zeros(3, dtype=torch.int32)}, "the places 0, 1"),
    ],
)
def test_a_state_that_contradicts_itself_changes_nothing(change: Any, message: str) -> None:
    memory = RandomMemory(12, write_policy="class_balanced")
    write_groups(memory, [0] * 20 + [1] * 9 + [2], 6)
    before = memory.write_policy.state_dict()
    with pytest.raises(ValueError, match=f"state: .*{message}"):
        memory.write_policy.load_state_dict({**before, **change})
    assert all(torch.equal(value, before[name]) for name, value in memory.write_policy.state_dict().items())


def test_a_read_state_that_contradicts_itself_changes_nothing() -> None:
    memory = RandomMemory(12, read_policy="class_balanced")
    write_groups(memory, [0] * 20 + [1] * 9 + [2], 6)
    before = memory.read_policy.state_dict()
    for change in ({"group": torch.zeros(3)}, {"position": torch.zeros(12, dtype=torch.int32)}, {"position": None}):
        with pytest.raises(ValueError, match=r"state: expected (the positions|group of 12 rows|position of 12 rows)"):
            memory.read_policy.load_state_dict({**before, **change})
        assert all(torch.equal(value, before[name]) for name, value in memory.read_policy.state_dict().items())


@pytest.mark.parametrize(("policy", "read"), [("class_balanced", "class_balanced"), ("task_balanced", "task_balanced")])
def test_the_cost_does_not_depend_on_the_capacity(policy: str, read: str) -> None:
    """A wide ratio: what grows with the rows held would be a hundred times dearer."""

    def cost(capacity: int) -> float:
        memory = RandomMemory(capacity, write_policy=policy, read_policy=read)
        x, y = torch.zeros(1_000, 4), torch.arange(1_000) % 10
        for _ in range(capacity // 1_000 + 1):
            memory.write(x, y, origin=y)
        best = float("inf")
        for _ in range(7):
            began = time.process_time()
            for _ in range(20):
                memory.write(x[:32], y[:32], origin=y[:32])
                memory.sample(32)
            best = min(best, time.process_time() - began)
        return best

    assert cost(100_000) <= 3 * cost(1_000)
