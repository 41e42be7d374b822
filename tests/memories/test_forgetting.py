"""Rows forgotten on request: as if they had never been written, in memory and on disk."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from avalanche_memplugins import CodedMemory, EpisodicMemory, RandomMemory
from avalanche_memplugins._folders import flatten
from avalanche_memplugins.codecs import Bits, EntropyCoded
from avalanche_memplugins.memories.policies import Ring

N = 60
X = torch.arange(N * 16.0).view(N, 16)
Y, T, ORIGIN = torch.arange(N) % 5, torch.arange(N) % 2, torch.arange(N) // 20
CHOICES: dict[str, tuple[dict[str, Any], Tensor]] = {
    "classes": ({"classes": [1, 4]}, (Y == 1) | (Y == 4)),
    "origins": ({"origins": {1}}, ORIGIN == 1),
    "labels": ({"labels": (0,)}, T == 0),
    "where": ({"where": lambda rows: rows.x[:, 0] >= 400}, X[:, 0] >= 400),
    "together": (
        {"classes": [1], "origins": [0], "where": lambda rows: rows.t == 1},
        (Y == 1) & (ORIGIN == 0) & (T == 1),
    ),
    "all": ({"classes": range(5)}, Y >= 0),
    "none": ({"classes": [77]}, Y < 0),
}
POLICIES = [
    ("reservoir", "uniform"),
    ("ring", "uniform"),
    ("class_balanced", "class_balanced"),
    ("task_balanced", "task_balanced"),
]


def write(memory: Any, rows: Tensor, step: int = 7) -> None:
    for some in torch.arange(N).split(step):
        some = some[rows[some]]
        if len(some):
            memory.write(X[some], Y[some], T[some], origin=ORIGIN[some])


def contents(memory: Any) -> dict[str, Any]:
    tensors = {name: value.clone() for name, value in memory.named_buffers()}
    state = flatten(memory.get_extra_state(), tensors, "state.")
    return {"state": state, **{name: value.tolist() for name, value in tensors.items()}}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("policies", POLICIES)
@pytest.mark.parametrize("codec", ["raw", "float16"])
def test_with_room_for_all_it_is_bit_for_bit_a_memory_that_never_saw_the_rows(
    name: str, policies: tuple[str, str], codec: str
) -> None:
    options, gone = CHOICES[name]

    def make() -> RandomMemory:
        return RandomMemory(80, write_policy=policies[0], read_policy=policies[1], codec=codec, seed=3)

    memory, never = make(), make()
    write(memory, torch.ones(N, dtype=torch.bool))
    write(never, ~gone)
    assert memory.forget(**options) == int(gone.sum())
    found, wanted = contents(memory), contents(never)
    if "balanced" in policies[0]:  # in what order rows lie within a group depends on how they came in batches
        for each in (found, wanted):
            for part in ("state.policy.place", "state.read.position"):
                each.pop(part, None)
    assert found == wanted
    assert memory.nbytes == never.nbytes
    for _ in range(2 * ("balanced" not in policies[0])):
        write(memory, Y != 2)
        write(never, Y != 2)
        assert torch.equal(memory.sample(9).x, never.sample(9).x)


@pytest.mark.parametrize("policies", [*POLICIES, ("reservoir", "cycle"), ("class_balanced", "cycle")])
def test_a_full_memory_keeps_its_other_rows_and_goes_on(policies: tuple[str, str], tmp_path: Path) -> None:
    def make() -> RandomMemory:
        return RandomMemory(20, write_policy=policies[0], read_policy=policies[1], seed=3)

    memory = make()
    for _ in range(3):
        write(memory, torch.ones(N, dtype=torch.bool))
    memory.sample(4)
    held = memory.rows(memory.slots())
    staying = held.x[held.y != 1, 0]
    assert memory.forget(classes=[1]) == int((held.y == 1).sum()) > 0
    found = memory.rows(memory.slots())
    assert torch.equal(found.x[:, 0].sort().values, staying.sort().values)
    assert torch.equal(found.y, (found.x[:, 0] / 16).long() % 5)
    memory.save(tmp_path / "saved")  # what is loaded is looked at: policies, counts and rows agree
    twin = make().load(tmp_path / "saved")
    for each in (memory, twin):
        write(each, Y != 1)
        assert len(staying) <= len(each) <= 20
        assert not bool((each.rows(each.slots()).y == 1).any())
    assert torch.equal(memory.sample(8).x, twin.sample(8).x)


def test_a_ring_lets_the_oldest_go_first_afterwards() -> None:
    memory = RandomMemory(6, write_policy="ring")
    memory.write(torch.arange(9.0)[:, None], torch.arange(9) % 3)  # slots hold 6 7 8 3 4 5
    memory.forget(where=lambda rows: rows.x[:, 0] == 7)
    memory.write(torch.tensor([[9.0], [10.0]]), torch.zeros(2).long())
    assert memory.rows(memory.slots()).x[:, 0].sort().values.tolist() == [4, 5, 6, 8, 9, 10]


def test_what_a_reservoir_keeps_after_forgetting_is_a_uniform_sample() -> None:
    """Half of a stream of 40 is forgotten from 10 slots; 40 more come: rows of both parts stay equally often."""
    counts = torch.zeros(60)
    for seed in range(400):
        memory = RandomMemory(10, seed=seed)
        memory.write(torch.arange(40.0)[:, None], torch.arange(40) % 2)
        memory.forget(classes=[1])
        memory.write(torch.arange(40.0, 80.0)[:, None], torch.zeros(40).long())
        x = memory.rows(memory.slots()).x[:, 0].long()
        counts[torch.where(x < 40, x // 2, x - 20)] += 1
    first, second = counts[:20].mean(), counts[20:].mean()
    assert 0.4 < float(first / second) < 1.05  # never more than their share: forgotten places are not refilled
    # Within each part every row is as likely: chi square of 19 and 39 degrees of freedom, at 1 in 10,000.
    assert float(((counts[:20] - first) ** 2 / first).sum()) < 52
    assert float(((counts[20:] - second) ** 2 / second).sum()) < 83


@pytest.mark.parametrize("capacity", [80, 25])
def test_no_file_below_the_folder_has_the_bytes_of_a_forgotten_row(capacity: int, tmp_path: Path) -> None:
    secret = torch.tensor([3.14159, 2.71828, 1.41421, 1.61803] * 4)
    memory = RandomMemory(capacity, storage=tmp_path / "rows", seed=0)
    write(memory, torch.ones(N, dtype=torch.bool))
    memory.write(secret.expand(30, 16), torch.full((30,), 9))

    def found() -> bool:
        files = [path.read_bytes() for path in (tmp_path / "rows").iterdir()]
        return any(secret[:4].numpy().tobytes() in content for content in files)

    assert found()
    assert memory.forget(classes=[9]) > 0
    assert not found()
    write(memory, Y == 0)
    assert not found()
    memory.forget(classes=range(10))
    assert not list((tmp_path / "rows").iterdir())
    assert memory.nbytes == RandomMemory(capacity).nbytes


def test_all_tensors_of_a_row_go_and_another_kind_may_follow() -> None:
    memory = RandomMemory(20, codec={"pixels": "uint8"}, group=lambda x, y: y["group"], seed=0)
    rows = {"pixels": torch.arange(10.0)[:, None].expand(-1, 3) / 255, "number": torch.arange(10)}
    memory.write(rows, {"group": torch.arange(10) % 2})
    assert memory.forget(classes=[0]) == 5
    found = memory.rows(memory.slots())
    assert found.x["number"].tolist() == [1, 3, 5, 7, 9]
    assert torch.equal(found.x["pixels"][:, 0] * 255, found.x["number"].float())
    assert memory.forget(where=torch.ones(5, dtype=torch.bool)) == 5
    memory.write({"pixels": torch.rand(2, 4).round()}, {"group": torch.zeros(2).long()})
    assert len(memory) == 2


def test_neighbours_are_no_longer_found() -> None:
    memory = EpisodicMemory(20, seed=0)
    memory.write(torch.arange(10.0)[:, None], torch.arange(10) % 2)
    assert memory.nearest(torch.tensor([[4.1]]), 1).rows.y.tolist() == [0]
    memory.forget(classes=[0])
    assert sorted(memory.nearest(torch.tensor([[4.1]]), 2).rows.x.flatten().tolist()) == [3.0, 5.0]


@pytest.mark.parametrize("policy", ["reservoir", "ring", "class_balanced"])
def test_rows_of_different_bytes(policy: Any, tmp_path: Path) -> None:
    def make() -> CodedMemory:
        return CodedMemory("2kB", codec=EntropyCoded(Bits(1)), write_policy=policy, seed=0)

    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(300, 1, 12, 12, generator=generator) > 0.8).float()
    memory, few, never = make(), make(), make()
    y = torch.arange(300) % 3
    few.write(x[:30], y[:30])
    never.write(x[:30][y[:30] != 1], y[:30][y[:30] != 1])
    assert few.forget(classes=[1]) == 10
    assert torch.equal(few.rows(few.slots()).x, never.rows(never.slots()).x)
    assert (few.seen, few._held, few._offered, few.nbytes) == (never.seen, never._held, never._offered, never.nbytes)
    memory.write(x, y)
    held, before = len(memory), memory.nbytes
    gone = memory.forget(classes=[1])
    assert 0 < gone < held
    assert len(memory) == held - gone
    assert memory.nbytes < before
    memory.save(tmp_path / "saved")
    for each in (memory, make().load(tmp_path / "saved")):
        each.write(x[y != 1], y[y != 1])
        assert not bool((each.labels_of(each.slots())[0] == 1).any())


class Mine(Ring):
    """Of the user's own, of version 0.1: it cannot forget."""

    forget: Any = property(lambda self: getattr(self, "_none"))  # noqa: B009


@pytest.mark.parametrize(
    ("memory", "chosen", "message"),
    [
        (RandomMemory(9), {}, "forget: expected classes, origins, labels or where"),
        (RandomMemory(9), {"classes": 3}, "classes: expected a collection of integers"),
        (RandomMemory(9), {"classes": ["3"]}, "classes: expected"),
        (RandomMemory(9), {"where": 3}, "where: expected a function"),
        (RandomMemory(9), {"where": torch.ones(3, dtype=torch.bool)}, r"where: expected bools \(6,\)"),
        (RandomMemory(9), {"where": lambda rows: rows.y}, r"where: expected bools \(6,\)"),
        (RandomMemory(9, store_tasks=False), {"origins": [0]}, "origins: expected a memory that knows them"),
        (
            RandomMemory(9, write_policy="herding"),
            {"classes": [0]},
            "write_policy: expected one that .* got Herd",
        ),
        (
            RandomMemory(9, write_policy=Mine()),
            {"classes": [0]},
            "write_policy: expected one that .* got Mine",
        ),
    ],
)
def test_what_cannot_be_forgotten_is_told_and_nothing_has_changed(
    memory: RandomMemory, chosen: dict[str, Any], message: str
) -> None:
    memory = copy.deepcopy(memory)
    memory.write(X[:6], Y[:6])
    before = contents(memory)
    with pytest.raises((TypeError, ValueError), match=message):
        memory.forget(**chosen)
    assert contents(memory) == before


def test_targets_have_no_classes() -> None:
    memory = RandomMemory(9)
    memory.write(X[:6], torch.rand(6))
    with pytest.raises(ValueError, match="classes: expected a memory of rows that have classes or groups"):
        memory.forget(classes=[1])
