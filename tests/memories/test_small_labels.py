"""Labels of one or two bytes, with and without task and origin: honest bytes, nothing lost."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from avalanche_memplugins import EpisodicMemory, RandomMemory
from avalanche_memplugins.codecs import Bits, Downsampled, Uint8

GREY = (1, 28, 28)


@pytest.mark.parametrize(
    ("codec", "labels", "store_tasks", "row"),
    [
        ("raw", "int32", True, 3136 + 12),
        (Uint8(), "uint8", False, 785),  # as the field counts a raw image
        (Uint8(), "uint8", True, 787),
        (Uint8(), "int16", True, 790),
        ("4bit", "uint8", False, 393),
        ("1bit", "uint8", False, 99),
        (Downsampled(14, Bits(4)), "uint8", False, 99),
    ],
)
def test_a_row_costs_what_it_says_and_a_budget_is_used_to_the_byte(
    codec: Any, labels: Any, store_tasks: bool, row: int
) -> None:
    options: dict[str, Any] = {"codec": codec, "labels": labels, "store_tasks": store_tasks}
    for budget, rows in ((20 * row, 20), (21 * row - 1, 20), (row, 1)):
        memory = RandomMemory.from_budget(budget, shape=GREY, **options)
        memory.write(torch.zeros(3, *GREY), torch.arange(3))
        assert memory.capacity == rows
        assert memory.nbytes == rows * row == sum(t.nbytes for t in memory.buffers())
    with pytest.raises(ValueError, match=f"the {row} bytes that one row takes, got {row - 1}"):
        RandomMemory.from_budget(row - 1, shape=GREY, **options)


@pytest.mark.parametrize(("labels", "largest"), [("uint8", 255), ("int16", 2**15 - 1), ("int32", 2**31 - 1)])
@pytest.mark.parametrize("validate", ["auto", "first"])
def test_the_largest_label_comes_back_and_a_larger_one_is_refused(labels: Any, largest: int, validate: Any) -> None:
    memory = RandomMemory(6, labels=labels, validate=validate, write_policy="ring")
    x, y = torch.zeros(2, 3), torch.tensor([0, largest])
    memory.write(x, y, y, origin=largest)
    recall = memory.rows(torch.arange(2))
    assert recall.y.tolist() == recall.t.tolist() == [0, largest]
    assert recall.origin.tolist() == [largest, largest]
    assert recall.y.dtype == recall.t.dtype == recall.origin.dtype == torch.int64
    before = copy.deepcopy(memory)
    if labels == "int32" and validate == "first":
        return  # nobody looks there after the first write
    for arguments in ({"y": y + 1}, {"t": y + 1}, {"t": largest + 1}, {"origin": y + 1}, {"origin": largest + 1}):
        name = next(iter(arguments))
        limit = r"2\*\*31 - 1" if labels == "int32" else str(largest)
        with pytest.raises(ValueError, match=f"{name}: expected integers from 0 to {limit}.*got {largest + 1}"):
            memory.write(**{"x": x, "y": y, "t": 0, "origin": 0, **arguments})
    assert memory.seen == before.seen
    assert torch.equal(memory.rows(torch.arange(2)).y, before.rows(torch.arange(2)).y)


@pytest.mark.parametrize("validate", ["auto", "first"])
@pytest.mark.parametrize("labels", ["uint8", "int32"])
def test_without_tasks_only_the_class_comes_back(labels: Any, validate: Any) -> None:
    options: dict[str, Any] = {"write_policy": "task_balanced", "read_policy": "task_balanced", "validate": validate}
    memory = RandomMemory(10, labels=labels, store_tasks=False, **options)
    assert memory.summary().per_class == {}
    for origin in range(4):
        memory.write(torch.zeros(40, 3), torch.arange(40) % 5, torch.zeros(40, dtype=torch.int64), origin=1000 + origin)
    recall = memory.sample(8)
    assert set(recall.t.tolist()) == {0}
    assert set(recall.origin.tolist()) == {-1}
    summary = memory.summary()
    assert sum(summary.per_class.values()) == 10
    assert (summary.per_task, summary.per_experience) == ({0: 10}, {})
    for t in (1, torch.tensor([0, 2])):
        with pytest.raises(ValueError, match="t: a memory with store_tasks=False keeps rows of task label 0 only"):
            memory.write(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), t)
    for origin in (-1, torch.tensor([0, -1])):
        with pytest.raises(ValueError, match="origin: expected integers"):
            memory.write(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), origin=origin)
    assert memory.seen == 160


@pytest.mark.parametrize("store_tasks", [True, False])
@pytest.mark.parametrize("way", ["state_dict", "folder"])
def test_they_come_back_and_are_not_taken_for_others(store_tasks: bool, way: str, tmp_path: Path) -> None:
    def make(labels: Any = "uint8", **options: Any) -> RandomMemory:
        return RandomMemory(7, labels=labels, **{"store_tasks": store_tasks, **options})

    memory = make()
    memory.write(torch.randn(20, 3), torch.arange(20))
    memory.save(tmp_path / "m")

    def restore(into: RandomMemory) -> RandomMemory:
        if way == "folder":
            return into.load(tmp_path / "m")
        into.load_state_dict(memory.state_dict())
        return into

    restored = restore(make())
    assert restored.nbytes == memory.nbytes
    assert torch.equal(restored.sample(5).y, memory.sample(5).y)
    for other in (make("int32"), make(store_tasks=not store_tasks)):
        with pytest.raises(ValueError, match="parts"):
            restore(other)


def test_an_episodic_memory_searches_by_task_whatever_the_labels() -> None:
    x, y, t = torch.randn(20, 3), torch.arange(20), torch.arange(20) % 2
    found = [EpisodicMemory(20, labels=labels) for labels in ("int32", "uint8")]
    for memory in found:
        memory.write(x, y, t)
    assert torch.equal(found[0].nearest(x[:5], 3, task=1).rows.y, found[1].nearest(x[:5], 3, task=1).rows.y)
    alone = EpisodicMemory(20, labels="uint8", store_tasks=False)
    alone.write(x, y)
    assert alone.nearest(x[:5], 1, task=0).rows.y.tolist() == [0, 1, 2, 3, 4]


def test_bad_labels() -> None:
    with pytest.raises(ValueError, match="labels: expected one of 'int32', 'int16', 'uint8', got 'int8'"):
        RandomMemory(3, labels="int8")  # type: ignore[arg-type]
