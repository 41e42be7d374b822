"""EnergyMemory by class: what goes when it is full, that no class goes with it, and that all else is as it was."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from _energy_bank import batches, memory, rows, same, snapshot, tiny

from avalanche_memplugins.memories import EnergyMemory
from avalanche_memplugins.memories._energy_eviction import spare_classes, with_lost_classes

NETWORK = tiny(write_steps=0)


def bank(slots: int, seed: int = 0, by_class: bool = True) -> EnergyMemory:
    """A memory with one pattern a slot, whose writes cost nothing."""
    return memory(copy.deepcopy(NETWORK), slots=slots, slot_size=1, by_class=by_class, seed=seed)


def write(mine: EnergyMemory, labels: list[int], first: int = 0) -> None:
    """Rows of these classes, each of an origin of its own, from ``first`` on."""
    n = len(labels)
    mine.write(rows(n)[0], torch.tensor(labels), origin=torch.arange(first, first + n))


def reservoir(slots: int, labels: list[int], seed: int) -> tuple[list[int], bool]:
    """Which of the slots offered a plain reservoir holds, and whether each class had one after every offer."""
    generator, held, alive = torch.Generator().manual_seed(seed), [], True
    for i in range(len(labels)):
        if len(held) < slots:
            held.append(i)
        elif (place := int(torch.randint(i + 1, (), generator=generator))) < slots:
            held[place] = i
        alive &= {labels[slot] for slot in held} == set(labels[: i + 1])
    return held, alive


# ---------------------------------------------------------------- slots offered one by one


@pytest.mark.parametrize("seed", range(4))
def test_a_full_memory_keeps_a_slot_of_every_class(seed: int) -> None:
    """A class that came once stays through a flood of others, and one that comes late gets in."""
    mine, offered = bank(6, seed), 0
    for labels in ([5], [0] * 40, [1], [2], [3, 0, 0], [4], [0] * 60):
        write(mine, labels, offered)
        offered += len(labels)
        assert set(mine.classes_held.tolist()) == set(mine.classes)
    assert sorted(mine.classes_held.tolist()) == [0, 1, 2, 3, 4, 5]


MANY = torch.randint(30, (80,), generator=torch.Generator().manual_seed(1)).tolist()
PAIR = [i % 2 for i in range(60)]


@pytest.mark.parametrize(
    ("slots", "labels", "by_class", "seed"),
    [(4, MANY, False, 0), (8, [3] * 80, True, 1), (4, list(range(80)), True, 2), *((6, PAIR, True, s) for s in (0, 2))],
    ids=["classes mixed", "one class", "a class each", "two classes, 0", "two classes, 2"],
)
def test_where_no_class_is_to_be_saved_it_is_the_reservoir_draw_by_draw(
    slots: int, labels: list[int], by_class: bool, seed: int
) -> None:
    held, alive = reservoir(slots, labels, seed)
    assert alive == (len(set(labels)) < 3)  # else these seeds show nothing
    mine = bank(slots, seed, by_class)
    for first in range(0, len(labels), 20):
        write(mine, labels[first : first + 20], first)
    assert mine.origins[:, 1].tolist() == held


def test_the_slot_that_goes_instead_is_any_of_the_class_with_the_most() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = Counter(spare_classes(0, [4, 1, 1, 2, 2, 3, 3, 3, 1], generator) for _ in range(1200))
    assert sorted(counts) == [1, 2, 5, 6, 7, 8]  # classes 1 and 3 have three each
    assert sum((n - 200) ** 2 / 200 for n in counts.values()) < 20.5  # chi-square, 5 degrees of freedom
    # The one that is to come in may have to go, too, and may be the one to stay.
    assert {spare_classes(0, [0, 1, 1], generator) for _ in range(40)} == {1, 2}
    assert {spare_classes(-1, [0, 0, 1], generator) for _ in range(40)} == {0, 1}


@pytest.mark.parametrize(("victim", "classes"), [(1, [0, 1, 1]), (-1, [0, 1, 1]), (0, [0, 1, 2]), (-1, [2, 1, 0])])
def test_a_slot_that_may_go_goes_and_nothing_is_drawn(victim: int, classes: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert spare_classes(victim, classes, generator) == victim
    assert torch.equal(generator.get_state(), before)


# ---------------------------------------------------------------- shares of experiences


def experience(classes: tuple[int, ...], n: int = 60, seed: int = 0) -> list[Any]:
    """Batches of rows of these classes in turn."""
    x, y = rows(n, seed, classes=len(classes))
    return [(x, torch.tensor(classes)[y], 0)]


@pytest.mark.parametrize("seed", range(10))
def test_as_many_slots_as_classes_hold_them_all_in_equal_shares(seed: int) -> None:
    mine = bank(10, seed)
    for origin in range(5):
        mine.consolidate(experience((2 * origin, 2 * origin + 1), seed=origin), origin=origin)
        assert set(mine.classes_held.tolist()) == set(range(2 * origin + 2))
        shares = mine.summary().per_experience.values()
        assert max(shares) - min(shares) <= 1
    assert mine.summary().per_class == dict.fromkeys(range(10), 1)


@pytest.mark.parametrize("turned", [False, True])
def test_classes_come_before_equal_shares(turned: bool) -> None:
    """Five classes of one experience and one of the other, in six slots: half of these would not hold the five."""
    mine = bank(6)
    for origin, classes in enumerate([(0,), (1, 2, 3, 4, 5)][:: -1 if turned else 1]):
        mine.consolidate(experience(classes), origin=origin)
    assert sorted(mine.classes_held.tolist()) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("seed", range(5))
def test_classes_that_come_again_and_again_are_held_by_any_experience(seed: int) -> None:
    mine = bank(3, seed)
    for origin in range(8):
        mine.consolidate(batches(classes=(0, 1), seed=origin), origin=origin)
        assert set(mine.classes_held.tolist()) == {0, 1}
        held = mine.summary().per_experience
        assert origin in held
        assert len(held) == min(3, origin + 1)


def test_with_more_classes_than_slots_each_slot_has_another() -> None:
    mine = bank(4)
    for origin in range(5):
        mine.consolidate(experience((2 * origin, 2 * origin + 1)), origin=origin)
        assert len(set(mine.classes_held.tolist())) == min(4, 2 * origin + 2)
    assert mine.filled == 4


def test_a_class_comes_back_into_room_that_an_experience_does_not_use() -> None:
    mine = bank(5)
    mine.consolidate(experience((0, 1, 2, 3)), origin=0)
    mine.consolidate(experience((4,), n=1), origin=1)
    assert sorted(mine.classes_held.tolist()) == [0, 1, 2, 3, 4]


def test_every_lost_class_comes_back_if_there_is_room_whatever_the_slots() -> None:
    """Against brute force: a class is missing only where every slot is of another class and none is free."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        n, kinds, room = (int(torch.randint(1, end, (), generator=generator)) for end in (12, 6, 9))
        classes, origins = (torch.randint(kinds, (n,), generator=generator).tolist() for _ in range(2))
        staying = torch.randperm(n, generator=generator)[
            : int(torch.randint(room + 1, (), generator=generator))
        ].tolist()
        state = generator.get_state()
        got = with_lost_classes(staying, classes, origins, room, generator)
        assert got == sorted(set(got))
        assert len(staying) <= len(got) <= room
        found = {classes[slot] for slot in got}
        assert {classes[slot] for slot in staying} <= found
        assert len(found) == min(room, len(set(classes)))
        if len({classes[slot] for slot in staying}) == len(set(classes)):
            assert got == sorted(staying)
            assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize(
    ("seed", "held", "then"),
    [
        (0, [(0, 0), (1, 0), (0, 0), (2, 1), (3, 1), (3, 1), (4, 2), (5, 2)], 530),
        (2, [(1, 0), (0, 0), (1, 0), (2, 1), (2, 1), (3, 1), (4, 2), (5, 2)], 218),
    ],
)
def test_shares_that_lose_no_class_are_drawn_as_ever(seed: int, held: list[tuple[int, int]], then: int) -> None:
    """Classes and experiences of the slots, and what the generator draws next, as before classes were kept."""
    mine = bank(8, seed)
    for origin in range(3):
        mine.consolidate(batches(classes=(2 * origin, 2 * origin + 1), n=120, seed=origin), origin=origin)
    assert list(zip(mine.classes_held.tolist(), mine.origins[:, 1].tolist(), strict=True)) == held
    assert int(torch.randint(1000, (), generator=mine._generator)) == then


def test_a_restored_memory_saves_the_same_classes_by_the_same_slots() -> None:
    """Seed 3 is one that would lose class 0 in the third experience."""
    mine = bank(8, seed=3)
    for origin in range(2):
        mine.consolidate(batches(classes=(2 * origin, 2 * origin + 1), n=120, seed=origin), origin=origin)
    again = bank(8, seed=9)
    again.load_state_dict(copy.deepcopy(mine.state_dict()))
    for each in (mine, again):
        each.consolidate(batches(classes=(4, 5), n=120, seed=2), origin=2)
        write(each, [6, *[4] * 30], 3)
    assert same(snapshot(mine), snapshot(again))
    assert set(mine.classes_held.tolist()) == set(range(7))
