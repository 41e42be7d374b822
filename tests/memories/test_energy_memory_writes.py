"""EnergyMemory: what a write stores, in which slots, and how experiences share them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from _energy_bank import batches, memory, rows, same, snapshot, tiny

from avalanche_memplugins.memories import EnergyMemory
from avalanche_memplugins.memories._energy_slots import EMPTY
from avalanche_memplugins.networks.energy import GatedEnergy


def test_written_weights_are_those_of_the_network() -> None:
    mine = memory()
    x, y = rows(10)
    mine.write(x, y)
    for slot, part in enumerate(x.split(4)):
        want = mine.network.write(part.unsqueeze(0))
        for got, weight in zip(mine.weights(torch.tensor([slot])), want, strict=True):
            torch.testing.assert_close(got, weight.detach(), rtol=1e-5, atol=1e-6)


def test_a_slot_holds_rows_of_one_task_and_origin() -> None:
    mine = memory(slots=10)
    x, _ = rows(14)
    y = torch.tensor([4, 4, 2, 7, 7, 2, 4, 2, 7, 4, 4, 4, 2, 2])
    t = torch.tensor([0, 0, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0])
    mine.write(x, y, t, origin=t + 5)
    places = mine.labels.long()
    held = [mine._table[row[row != EMPTY], 0].tolist() for row in places]
    assert sorted(zip(mine.origins.tolist(), held, strict=True)) == sorted(
        [([0, 5], [4, 4, 7, 2]), ([0, 5], [4, 2, 4, 2]), ([0, 5], [2]), ([1, 6], [2, 7, 7, 4]), ([1, 6], [4])]
    )
    assert (len(mine), mine.filled, bool(mine)) == (14, 5, True)
    assert sorted(mine.classes_held.tolist()) == sorted(y.tolist())
    summary = mine.summary()
    assert summary.per_class == {2: 5, 4: 6, 7: 3}
    assert (summary.per_task, summary.per_experience) == ({0: 9, 1: 5}, {5: 9, 6: 5})
    assert (summary.capacity, summary.filled, summary.seen) == (40, 14, 14)


def test_by_class_no_slot_mixes_classes() -> None:
    mine = memory(slots=10, by_class=True)
    x, y = rows(14)
    mine.write(x, y)
    held = [mine._table[row[row != EMPTY].long(), 0].tolist() for row in mine.labels]
    assert all(len(set(row)) == 1 for row in held)
    assert sorted(map(len, held)) == [1, 1, 4, 4, 4]
    recall = mine.sample(14)
    assert torch.bincount(recall.y).tolist() == [5, 5, 4]


# ---------------------------------------------------------------- slots and shares


def test_a_full_memory_keeps_a_uniform_draw_of_the_slots_offered() -> None:
    mine = memory(tiny(write_steps=0), slots=100, slot_size=1, seed=11)
    x, y = rows(800)
    offered = torch.arange(800)
    for part in (slice(0, 90), slice(90, 400), slice(400, 800)):
        mine.write(x[part], y[part], origin=offered[part])
    held = mine.origins[:, 1]
    assert len(mine) == mine.filled == len(held.unique()) == 100
    counts = torch.bincount(held // 100, minlength=8).float()
    assert float(((counts - 12.5) ** 2 / 12.5).sum()) < 24.3  # chi-square, 7 degrees of freedom, one in a thousand
    assert mine.summary().seen == 800
    assert torch.equal(mine.classes_held, held % 3)


def test_early_and_late_slots_have_the_same_chance() -> None:
    network, (x, y) = tiny(write_steps=0), rows(16)
    counts = torch.zeros(16)
    for seed in range(60):
        mine = memory(network, slots=2, slot_size=1, seed=seed)
        mine.write(x, y, origin=torch.arange(16))
        counts += torch.bincount(mine.origins[:, 1], minlength=16)
    assert float(((counts - 7.5) ** 2 / 7.5).sum()) < 37.7  # chi-square, 15 degrees of freedom, one in a thousand


def test_experiences_have_equal_shares_and_classes_too() -> None:
    mine = memory(slots=6, slot_size=4)
    mine.consolidate(batches(classes=(0, 1), n=120), origin=0)
    assert mine.summary().per_experience == {0: 24}
    assert mine.summary().per_class == {0: 12, 1: 12}
    before = [weight.clone() for weight in mine.weights(torch.arange(6))]
    mine.consolidate(batches(classes=(2, 3), n=120, seed=1, t=4), origin=1)
    assert mine.summary().per_experience == {0: 12, 1: 12}
    assert mine.summary().per_task == {0: 12, 4: 12}
    assert mine.summary().per_class == {0: 6, 1: 6, 2: 6, 3: 6}
    # Older slots are let go of or kept as they were.
    old = mine.origins[:, 1] == 0
    for weight, was in zip(mine.weights(torch.arange(6)), before, strict=True):
        assert all(any(torch.equal(one, other) for other in was) for one in weight[old])
    for origin in (2, 3):
        mine.consolidate(batches(classes=(origin, 9), n=120, seed=origin), origin=origin)
    assert sorted(mine.summary().per_experience.values()) == [4, 4, 8, 8]


def test_an_experience_smaller_than_its_share_is_written_whole() -> None:
    mine = memory(slots=6, slot_size=4)
    mine.consolidate(batches(classes=(0, 1), n=10), origin=0)
    assert (len(mine), mine.filled) == (10, 3)
    mine.consolidate(batches(classes=(2, 3), n=120, seed=1), origin=1)
    assert mine.summary().per_experience == {0: 10, 1: 12}


def test_slots_of_one_class_each_are_shared_by_all_classes() -> None:
    mine = memory(slots=6, slot_size=4, by_class=True)
    for origin in range(3):
        mine.consolidate(batches(classes=(2 * origin, 2 * origin + 1), n=120, seed=origin), origin=origin)
    assert mine.summary().per_experience == {0: 8, 1: 8, 2: 8}
    newest = {label: n for label, n in mine.summary().per_class.items() if label > 3}
    assert newest == {4: 4, 5: 4}


def test_with_more_experiences_than_slots_the_newest_has_one() -> None:
    mine = memory(slots=3, slot_size=4)
    kept = []
    for origin in range(8):
        mine.consolidate(batches(classes=(0, 1), seed=origin), origin=origin)
        kept.append(set(mine.summary().per_experience))
        assert origin in kept[-1]
    assert all(len(each) == 3 for each in kept[2:])
    assert mine.filled == 3


def test_rows_are_drawn_evenly_over_an_experience() -> None:
    """Of 60 rows 12 are kept, wherever they came."""
    counts = torch.zeros(60)
    network = tiny(write_steps=0)
    for seed in range(40):
        mine = memory(network, slots=12, slot_size=1, cue=4, seed=seed)
        x = (torch.arange(60.0) / 255).view(60, 1, 1, 1).expand(60, 1, 4, 4)
        mine.consolidate(
            [(x[i : i + 16], torch.zeros(len(x[i : i + 16]), dtype=torch.int64), 0) for i in range(0, 60, 16)], origin=0
        )
        counts += torch.bincount(mine.cues.flatten(1)[:, 0].long(), minlength=60)
    assert float(counts.sum()) == 480
    quarters = counts.view(4, 15).sum(1)
    assert float(((quarters - 120) ** 2 / 120).sum()) < 16.3  # chi-square, 3 degrees of freedom


def test_consolidation_is_repeatable_and_a_failed_one_changes_no_rows() -> None:
    mine, again = memory(cue=2), memory(cue=2)
    for each in (mine, again):
        for origin in range(3):
            each.consolidate(batches(classes=(0, 1), seed=origin), origin=origin)
    assert same(snapshot(mine), snapshot(again))
    bad = batches(classes=(2, 3), seed=5)
    bad[-1] = (bad[-1][0] * 9, *bad[-1][1:])
    for wrong in (bad, []):
        with pytest.raises(ValueError, match=r"x: |batches: expected the rows of an experience, got none"):
            again.consolidate(wrong, origin=4)
    many = [(rows(100)[0], torch.arange(100) + 100 * i, 0) for i in range(3)]
    with pytest.raises(ValueError, match="y: expected at most 255 classes, all that this memory holds, got"):
        memory(slot_size=100).consolidate(many, origin=4)
    got, want = snapshot(again), snapshot(mine)
    got["_extra_state"].pop("generator")
    want["_extra_state"].pop("generator")
    assert same(got, want)


# ---------------------------------------------------------------- arguments


X, Y = rows(4)
WRONG_WRITES: list[tuple[tuple[Any, ...], Any, str]] = [
    ((X[:, :, :3], Y), ValueError, "x: "),
    ((X.flatten(1), Y), ValueError, r"x: expected rows of shape \(1, 4, 4\)"),
    ((X * 2, Y), ValueError, "x: the memory EnergyMemory expected pixels from 0 to 1, got"),
    ((X / 0, Y), ValueError, "x: expected finite values"),
    ((X.byte(), Y), ValueError, "x: expected floating-point rows without a codec, got"),
    ((X.tolist(), Y), TypeError, "x: expected a tensor"),
    ((X, Y[:3]), ValueError, r"y: expected shape \(4,\)"),
    ((X, Y.float()), ValueError, "y: expected integers"),
    ((X, -Y - 1), ValueError, "y: expected integers from 0"),
    ((X, Y, torch.zeros(3, dtype=torch.int64)), ValueError, "t: expected shape"),
    ((X, Y, -1), ValueError, "t: expected integers from 0"),
]


@pytest.mark.parametrize("case", range(len(WRONG_WRITES)))
def test_rows_that_do_not_fit_are_named_and_change_nothing(case: int) -> None:
    arguments, error, message = WRONG_WRITES[case]
    mine = memory(cue=2)
    mine.write(*rows(7))
    before = snapshot(mine)
    with pytest.raises(error, match=message):
        mine.write(*arguments)
    assert same(snapshot(mine), before)
    mine.write(X[:0], Y[:0])
    assert same(snapshot(mine), before)


def test_the_first_rows_must_fit_the_network_and_the_cue() -> None:
    for options, x, message in (
        (
            {},
            torch.rand(4, 1, 5, 5),
            "x: expected rows of 16 numbers, for which the network was made,",
        ),
        ({"cue": 5}, X, r"x: the codec Downsampled expected images \(B, C, H, W\) of at least 5 x 5, got"),
        ({"label_bits": 3}, X, "x: expected rows of 13 numbers, for which the network"),
    ):
        mine = memory(**options)
        with pytest.raises(ValueError, match=message):
            mine.write(x, Y)
        assert not len(mine)
        assert mine.classes == []
    mine = memory(slots=1, slot_size=1)
    many = rows(255, classes=255)
    mine.write(*many)
    with pytest.raises(ValueError, match="y: expected at most 255 classes"):
        mine.write(X[:1], torch.tensor([255]))
    assert len(mine.classes) == 255


def test_a_write_that_diverges_changes_nothing() -> None:
    torch.manual_seed(0)
    network = GatedEnergy(4, writable=2, width=4, write_steps=2, read_steps=1)
    memory = EnergyMemory(network, slots=4, slot_size=2)
    x, y = torch.rand(4, 4), torch.tensor([0, 1, 0, 1])
    memory.write(x, y)
    before = copy.deepcopy(memory.state_dict())
    with torch.no_grad():
        memory.network.write_rates.fill_(float("inf"))
    for attempt in (lambda: memory.write(x, y + 2), lambda: memory.consolidate([(x, y + 2, 0)], origin=1)):
        with pytest.raises(ValueError, match="x: expected rows that can be written, got"):
            attempt()
    after = memory.state_dict()
    assert memory.classes == [0, 1]
    assert torch.equal(after["delta0"], before["delta0"])
    assert torch.equal(after["_extra_state"]["generator"], before["_extra_state"]["generator"])
    assert after["_extra_state"]["offered"] == before["_extra_state"]["offered"]
