"""Write policies that keep fewer rows than they are offered, leave gaps, or break their word."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from avalanche_memplugins import EpisodicMemory, RandomMemory
from avalanche_memplugins.memories.episodic_index import EpisodicIndex
from avalanche_memplugins.memories.policies import Placement

READS = ("uniform", "cycle", "class_balanced", "task_balanced")


class Own:
    """Keeps every third row in slots that ``slot`` gives, as many as the memory has."""

    grouping = None
    nbytes = 0

    def __init__(self) -> None:
        self.kept = 0

    def start(self, capacity: int) -> None:
        self.capacity = capacity

    def slot(self, number: int) -> int:
        return number

    def place(self, seen: int, batch: int, groups: Any, generator: torch.Generator) -> list[Placement]:
        rows = [row for row in range(batch) if (seen + row) % 3 == 0][: self.capacity - self.kept]
        slots = [self.slot(self.kept + i) for i in range(len(rows))]
        self.kept += len(rows)
        return [Placement(torch.tensor([row]), torch.tensor([slot])) for row, slot in zip(rows, slots, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept = state["kept"]

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Backwards(Own):
    def slot(self, number: int) -> int:
        return self.capacity - 1 - number


class Scattered(Own):
    def slot(self, number: int) -> int:
        return number * 7 % self.capacity


class Sliced(Own):
    """Skips the first half of the slots."""

    def place(self, seen: int, batch: int, groups: Any, generator: torch.Generator) -> list[Placement]:
        start = self.capacity // 2 + self.kept
        count = min(1, batch, self.capacity - start)
        self.kept += count
        return [Placement(slice(0, count), slice(start, start + count))] if count else []


class Nothing(Own):
    def place(self, *args: Any) -> list[Placement]:
        return []


KINDS = (Own, Backwards, Scattered, Sliced)


def write(memory: RandomMemory, start: int, rows: int = 6) -> None:
    number = torch.arange(start, start + rows)
    memory.write(number.float()[:, None].expand(-1, 3).clone(), number % 4, origin=number // 12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("replacement", [False, True])
def test_only_what_was_written_is_counted_and_drawn(kind: type[Own], read: str, replacement: bool) -> None:
    if read == "cycle" and replacement:
        return
    memory = RandomMemory(25, policy=kind(), read=read, replacement=replacement)
    for start in range(1, 60, 6):
        write(memory, start)
        slots = memory.slots()
        assert len(memory) == len(slots) == memory.policy.kept
        if not len(memory):
            continue
        held = set(memory.rows(slots).x[:, 0].tolist())
        assert len(held) == len(memory)
        assert 0.0 not in held  # what unwritten slots hold
        drawn = [memory.sample(4) for _ in range(40)]
        assert {x for recall in drawn for x in recall.x[:, 0].tolist()} == held
        for recall in drawn:
            number = recall.x[:, 0].long()
            assert torch.equal(recall.y, number % 4)
            assert torch.equal(recall.origin, number // 12)
        if not replacement:
            assert len(memory.sample(100).y) == len(memory)
        summary = memory.summary()
        assert summary.filled == sum(summary.per_class.values()) == sum(summary.per_experience.values()) == len(memory)
        written = set(slots.tolist())
        for slot in set(range(-1, 26)) - written:
            with pytest.raises(ValueError, match=f"slots: expected slots that hold a row .*got {slot}"):
                memory.rows(torch.tensor([int(slots[0]), slot]))
            with pytest.raises(ValueError, match="slots: expected slots that hold a row"):
                memory.labels_of(torch.tensor([slot]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("way", ["state_dict", "folder", "pickle", "deepcopy"])
@pytest.mark.parametrize("batches", [3, 20])
def test_it_goes_on_exactly_when_restored(kind: type[Own], read: str, way: str, batches: int, tmp_path: Path) -> None:
    def make() -> RandomMemory:
        return RandomMemory(16, policy=kind(), read=read, seed=3)

    memory = make()
    for start in range(batches):
        write(memory, 6 * start)
    if way == "state_dict":
        other = make()
        write(other, 300)
        other.load_state_dict(copy.deepcopy(memory.state_dict()))
    elif way == "folder":
        memory.save(tmp_path / "m")
        other = make()
        write(other, 300)
        other.load(tmp_path / "m")
    else:
        other = pickle.loads(pickle.dumps(memory)) if way == "pickle" else copy.deepcopy(memory)
    for step in range(6):
        assert torch.equal(memory.slots(), other.slots())
        assert torch.equal(memory.rows(memory.slots()).x, other.rows(other.slots()).x)
        assert torch.equal(memory.sample(3).x, other.sample(3).x)
        assert memory.nbytes == other.nbytes
        for m in (memory, other):
            write(m, 6 * (batches + step))


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_are_rows_that_were_written(kind: type[Own]) -> None:
    memory = EpisodicMemory(25, policy=kind())
    for start in range(0, 30, 6):
        write(memory, start)
    queries = torch.zeros(2, 3)  # as unwritten rows are
    found = memory.nearest(queries, 100)
    held = memory.rows(memory.slots()).x[:, 0]
    assert found.rows.x[: len(memory), 0].sort().values.tolist() == held.sort().values.tolist()
    index = EpisodicIndex(memory).search(queries, 2)
    assert set(index.indices.flatten().tolist()) <= set(memory.slots().tolist())
    assert found.rows.x[:2, 0].tolist() == held.sort().values[:2].tolist()
    memory.nearest(queries, 1, task=0)


def test_gaps_cost_bytes_that_are_counted_and_none_when_they_are_closed() -> None:
    plain, gaps = RandomMemory(16, policy=Own()), RandomMemory(16, policy=Backwards())
    for memory in (plain, gaps):
        write(memory, 0)
    assert gaps.nbytes - plain.nbytes == 5 * 16
    for start in range(6, 60, 6):
        write(gaps, start)
    assert len(gaps) == 16
    assert gaps.nbytes == plain.nbytes
    assert torch.equal(gaps.slots(), torch.arange(16))


def test_a_policy_that_keeps_nothing_leaves_nothing_to_sample(tmp_path: Path) -> None:
    memory = RandomMemory(5, policy=Nothing())
    write(memory, 0)
    assert (len(memory), memory.seen, memory.summary().per_class) == (0, 6, {})
    with pytest.raises(ValueError, match="nothing has been written"):
        memory.sample(1)
    memory.save(tmp_path / "m")
    assert len(RandomMemory(5, policy=Nothing()).load(tmp_path / "m")) == 0


class Wrong(Own):
    def __init__(self, *placements: Any) -> None:
        super().__init__()
        self.placements = placements

    def place(self, *args: Any) -> list[Placement]:
        return list(self.placements)


def indices(*values: int) -> Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ((indices(0), indices(5)), "slots from 0 to 4, got 5 to 5"),
        ((indices(0), indices(-1)), "slots from 0 to 4, got -1"),
        ((indices(6), indices(0)), "rows from 0 to 5, got 6"),
        ((indices(0, 1), indices(2, 2)), "one row for each of different slots"),
        ((indices(0, 1), indices(2)), "one row for each of different slots"),
        ((indices(0).float(), indices(2)), "rows as integers"),
        ((indices(0)[None], indices(2)), "rows as integers"),
        ((slice(0, 2), slice(0, 3)), "one row for each of different slots"),
        ((0,), "pairs of rows and slots"),
    ],
)
def test_a_placement_that_does_not_fit_is_named_before_anything_is_written(placement: Any, message: str) -> None:
    memory = RandomMemory(5, policy=Wrong((indices(0), indices(0)), placement))
    with pytest.raises(ValueError, match=f"policy: expected .*{message}"):
        write(memory, 0)
    assert len(memory) == memory.seen == 0


@pytest.mark.parametrize(
    ("slots", "error"), [([0], TypeError), (torch.tensor([0.0]), TypeError), (torch.tensor([[0]]), ValueError)]
)
def test_slots_are_integers(slots: Any, error: type[Exception]) -> None:
    memory = RandomMemory(5)
    write(memory, 0)
    with pytest.raises(error, match="slots: expected"):
        memory.rows(slots)
    assert len(memory.rows(torch.zeros(0, dtype=torch.int64)).y) == 0
