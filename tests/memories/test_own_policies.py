"""Write policies that keep fewer rows than they are offered, leave gaps, or break their word."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from avalanche_memplugins import EpisodicMemory, RandomMemory
from avalanche_memplugins.memories.episodic_index import EpisodicIndex
from avalanche_memplugins.memories.policies import Placement, Ring

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
    memory = RandomMemory(25, write_policy=kind(), read_policy=read, replacement=replacement, seed=1)
    for start in range(1, 60, 6):
        write(memory, start)
        slots = memory.slots()
        assert len(memory) == len(slots) == memory.write_policy.kept
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
        return RandomMemory(16, write_policy=kind(), read_policy=read, seed=3)

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
    memory = EpisodicMemory(25, write_policy=kind())
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
    plain, gaps = RandomMemory(16, write_policy=Own()), RandomMemory(16, write_policy=Backwards())
    for memory in (plain, gaps):
        write(memory, 0)
    assert gaps.nbytes - plain.nbytes == 5 * 16
    for start in range(6, 60, 6):
        write(gaps, start)
    assert len(gaps) == 16
    assert gaps.nbytes == plain.nbytes
    assert torch.equal(gaps.slots(), torch.arange(16))


def test_a_policy_that_keeps_nothing_leaves_nothing_to_sample(tmp_path: Path) -> None:
    memory = RandomMemory(5, write_policy=Nothing())
    write(memory, 0)
    assert (len(memory), memory.seen, memory.summary().per_class) == (0, 6, {})
    with pytest.raises(ValueError, match="nothing has been written"):
        memory.sample(1)
    memory.save(tmp_path / "m")
    assert len(RandomMemory(5, write_policy=Nothing()).load(tmp_path / "m")) == 0


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
    memory = RandomMemory(5, write_policy=Wrong((indices(0), indices(0)), placement))
    with pytest.raises(ValueError, match=f"write_policy: expected .*{message}"):
        write(memory, 0)
    assert len(memory) == memory.seen == 0


class Given(Own):
    """Gives what a function gives; counts its calls and draws, as a policy with state of its own does."""

    def __init__(self, give: Any) -> None:
        super().__init__()
        self.give = give

    def place(self, seen: int, batch: int, groups: Any, generator: torch.Generator) -> Any:
        self.kept += 1
        torch.rand(3, generator=generator)
        return self.give(batch)


def state(memory: RandomMemory) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items()}
        return (value.dtype, value.tolist()) if isinstance(value, Tensor) else value

    return repr(plain(dict(memory.state_dict())))


NOTHING = ([], (), iter(()), [([], [])], [(np.zeros(0, int), np.zeros(0, int))], [(slice(0, 0), slice(0, 0))])
SAME = (
    [(np.array([0, 2]), np.array([3, 1]))],
    [(np.array([0, 2], np.uint16), np.array([3, 1], np.int32))],
    [([0, 2], (3, 1))],
    [([np.int64(0), np.int64(2)], [3, 1])],
    [(0, 3), (np.int64(2), np.int64(1))],
    [(slice(0, 3, 2), indices(3, 1).to(torch.uint8))],
    ((rows, slots) for rows, slots in [(range(0, 3, 2), [3, 1])]),
)
BROKEN = (
    None, 3, "ab", [3], [(1, 2, 3)], [(None, None)], [("a", "b")], [([0.5], [1])], [([True] * 6, range(6))],
    [([0], [10**30])], [([0], [1]), ([9], [2])], [(torch.zeros(1, dtype=torch.int64, device="meta"), [1])],
    [([0], [float("inf")])], [([[0]], [[1]])], [(slice(0, 6), slice(8, 14))], {0: 1},
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(NOTHING)))
def test_nothing_may_be_placed_in_any_form(number: int) -> None:
    memory = RandomMemory(5, write_policy=Given(lambda batch: NOTHING[number]))
    write(memory, 0)
    assert (len(memory), memory.seen) == (0, 6)


@pytest.mark.parametrize("number", range(len(SAME)))
@pytest.mark.parametrize("read", READS)
def test_rows_and_slots_are_integers_of_any_kind(number: int, read: str) -> None:
    memory = RandomMemory(5, write_policy=Ring(), read_policy=read)
    memory.write_policy = Given(lambda batch: SAME[number])  # not copied, as a generator cannot be
    memory.write_policy.start(5)
    write(memory, 0)
    if not len(memory):  # the generator is used up
        return
    assert memory.slots().tolist() == [1, 3]
    assert memory.rows(indices(3, 1)).x[:, 0].tolist() == [0, 2]
    assert sorted(memory.sample(9).x[:, 0].tolist()) == [0, 2]


@pytest.mark.parametrize("number", range(len(BROKEN)))
@pytest.mark.parametrize("read", ["uniform", "class_balanced"])
@pytest.mark.parametrize("fresh", [True, False])
def test_what_is_no_placement_is_named_and_changes_nothing(number: int, read: str, fresh: bool) -> None:
    memory = RandomMemory(7, write_policy=Given(lambda batch: [(range(3), range(3))]), read_policy=read, seed=0)
    if not fresh:
        write(memory, 0)
    memory.write_policy.give = lambda batch: BROKEN[number]
    before = state(memory)
    with pytest.raises(ValueError, match=r"^write_policy: expected .*, got "):
        write(memory, 6)
    assert state(memory) == before


def test_what_a_policy_raises_itself_changes_nothing() -> None:
    memory = RandomMemory(7, write_policy=Given(lambda batch: [(range(batch), range(batch))]), seed=0)
    before = state(memory)
    memory.write_policy.give = lambda batch: 1 / 0
    with pytest.raises(ZeroDivisionError):
        write(memory, 0)
    assert state(memory) == before


class Reads:
    grouping = None
    nbytes = 0

    def __init__(self, give: Any) -> None:
        self.give = give
        self.calls = 0

    def start(self, capacity: int) -> None: ...

    def choose(self, count: int, filled: int, generator: torch.Generator) -> Any:
        self.calls += 1
        torch.rand(3, generator=generator)
        return self.give(filled)

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


CHOSEN = (
    np.array([0, 1, 0]), [0, 1, 0], (0, 1, 0), indices(0, 1, 0).int(), indices(0, 1, 0).to(torch.uint8),
    np.array([0, 1, 0], np.uint16), [np.int64(0), np.int64(1), 0],
)  # fmt: skip
NOT_CHOSEN = (
    None, "ab", slice(0, 2), [0.5], [True], [[0]], [-1], [99], [10**30], [float("nan")],
    torch.zeros(1, dtype=torch.int64, device="meta"),
)  # fmt: skip


@pytest.mark.parametrize("kind", [Own, Backwards])
def test_what_a_read_policy_chooses_is_looked_at(kind: type[Own]) -> None:
    memory = RandomMemory(9, write_policy=kind(), read_policy=Reads(None), seed=0)
    write(memory, 0)
    for chosen in CHOSEN:
        memory.read_policy.give = lambda filled, chosen=chosen: chosen
        assert memory.sample(3).x[:, 0].tolist() == [0, 3, 0]
    for chosen in NOT_CHOSEN:
        memory.read_policy.give = lambda filled, chosen=chosen: chosen
        before = state(memory)
        with pytest.raises(ValueError, match=r"^read_policy: expected .*, got "):
            memory.sample(3)
        assert state(memory) == before


def without(kind: type, part: str) -> Any:
    parts = {name: value for base in reversed(kind.__mro__[:-1]) for name, value in vars(base).items()}
    parts = {name: value for name, value in parts.items() if not name.startswith("__") or name == "__init__"}
    return type("Lacking", (), {name: value for name, value in parts.items() if name != part})


@pytest.mark.parametrize("part", ["grouping", "start", "place", "nbytes", "state_dict", "load_state_dict"])
def test_what_a_policy_lacks_is_named(part: str) -> None:
    def use(policy: Any, **options: Any) -> None:
        memory = RandomMemory(9, write_policy=policy, **options)
        write(memory, 0)
        memory.sample(2)
        assert memory.nbytes
        memory.load_state_dict(memory.state_dict())

    with pytest.raises((TypeError, ValueError), match=f"write_policy: expected .*got Lacking, without {part}"):
        use(without(Own, part)())
    if part != "place":
        with pytest.raises((TypeError, ValueError), match=f"read_policy: expected .*got Lacking, without {part}"):
            use("ring", read_policy=without(Reads, part)(lambda filled: [0]))


@pytest.mark.parametrize("grouping", ["klass", 3, True, ["class"]])
def test_groups_are_of_classes_or_tasks(grouping: Any) -> None:
    policy, read = Own(), Reads(None)
    policy.grouping = read.grouping = grouping
    with pytest.raises(ValueError, match=r"^write_policy: expected a grouping of None, 'class' or 'task', got "):
        RandomMemory(5, write_policy=policy)
    with pytest.raises(ValueError, match=r"^read_policy: expected a grouping of None, 'class' or 'task', got "):
        RandomMemory(5, read_policy=read)


def test_a_policy_that_does_not_say_what_it_is_can_be_loaded(tmp_path: Path) -> None:
    memory = RandomMemory(5, write_policy=without(Own, "__repr__")())
    write(memory, 0)
    memory.save(tmp_path / "m")
    other = RandomMemory(5, write_policy=without(Own, "__repr__")()).load(tmp_path / "m")
    assert torch.equal(other.rows(other.slots()).x, memory.rows(memory.slots()).x)


@pytest.mark.parametrize(
    ("slots", "error"), [([0], TypeError), (torch.tensor([0.0]), TypeError), (torch.tensor([[0]]), ValueError)]
)
def test_slots_are_integers(slots: Any, error: type[Exception]) -> None:
    memory = RandomMemory(5)
    write(memory, 0)
    with pytest.raises(error, match="slots: expected"):
        memory.rows(slots)
    assert len(memory.rows(torch.zeros(0, dtype=torch.int64)).y) == 0
