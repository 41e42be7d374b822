"""Targets that are no classes: numbers, several labels, masks; and what needs classes says so."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from avalanche_memplugins import EpisodicMemory, RandomMemory
from avalanche_memplugins._folders import flatten
from avalanche_memplugins.codecs import Bits
from avalanche_memplugins.memories import DynamicKanervaMemory, EnergyMemory, GaussianMemory, VAEMemory
from avalanche_memplugins.networks import ConditionalVAE
from avalanche_memplugins.networks.energy import GatedEnergy

ROWS = torch.arange(60.0)[:, None].expand(-1, 3) / 60
TARGETS: dict[str, Tensor] = {
    "numbers (B,)": torch.arange(60.0) * 0.1,
    "numbers (B, 1)": torch.arange(60.0)[:, None] * 0.1,
    "float64": torch.arange(60, dtype=torch.float64)[:, None] / 3,
    "float16 (B, 2)": torch.arange(120).view(60, 2).half(),
    "bfloat16 (B,)": torch.arange(60).bfloat16(),
    "several labels": torch.arange(300).view(60, 5) % 3 == 0,
    "one yes or no": torch.arange(60) % 2 == 0,
    "integers (B, 2)": torch.arange(120).view(60, 2) - 7,
    "masks": (torch.arange(60 * 16).view(60, 4, 4) % 200).byte(),
    "(B, 0)": torch.zeros(60, 0),
}
POLICIES = (("reservoir", "uniform"), ("ring", "cycle"), ("task_balanced", "task_balanced"))


def same(y: Tensor, of: Tensor, rows: Tensor) -> bool:
    """Whether ``y`` is what was given with the rows ``x``."""
    return y.dtype == of.dtype and torch.equal(y, of[(rows[:, 0] * 60).round().long()])


def contents(memory: Any) -> dict[str, Any]:
    """All that a memory holds, as numbers that compare."""
    tensors = {name: value.clone() for name, value in (*memory.named_parameters(), *memory.named_buffers())}
    state = flatten(memory.get_extra_state(), tensors, "state.")
    return {"state": state, **{name: value.tolist() for name, value in tensors.items()}}


def fill(memory: RandomMemory, y: Tensor) -> None:
    for start in range(0, 60, 7):
        part = slice(start, start + 7)
        memory.write(ROWS[part], y[part], torch.full((len(y[part]),), start % 2), origin=start // 20)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(("policy", "read"), POLICIES)
@pytest.mark.parametrize("way", ["state_dict", "folder", "pickle", "deepcopy"])
def test_they_come_back_as_they_were_given(name: str, policy: str, read: str, way: str, tmp_path: Path) -> None:
    y = TARGETS[name]

    def make() -> RandomMemory:
        return RandomMemory(20, write_policy=policy, read_policy=read, seed=2)

    memory = make()
    memory.write(ROWS[:0], y[:0])
    fill(memory, y)
    recall = memory.sample(9)
    assert same(recall.y, y, recall.x)
    assert set(recall.t.tolist()) <= {0, 1}
    held = memory.rows(memory.slots())
    assert same(held.y, y, held.x)
    assert torch.equal(memory.labels_of(memory.slots())[0], held.y)
    assert sum(memory.summary().per_task.values()) == sum(memory.summary().per_experience.values()) == 20
    assert memory.summary().per_class == {}
    if way == "state_dict":
        other = make()
        other.load_state_dict(copy.deepcopy(memory.state_dict()))
    elif way == "folder":
        memory.save(tmp_path / "m")
        other = make().load(tmp_path / "m")
    else:
        other = pickle.loads(pickle.dumps(memory)) if way == "pickle" else copy.deepcopy(memory)
    for _ in range(3):
        for m in (memory, other):
            fill(m, y)
        one, two = memory.sample(8), other.sample(8)
        assert torch.equal(one.x, two.x)
        assert torch.equal(one.y, two.y)
    assert other.nbytes == memory.nbytes


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("store_tasks", [True, False])
def test_their_bytes_are_counted_and_budgeted(name: str, store_tasks: bool) -> None:
    y = TARGETS[name]
    row = 12 + y[0].nbytes + 8 * store_tasks
    options: dict[str, Any] = {"target_shape": y.shape[1:], "target_dtype": y.dtype, "store_tasks": store_tasks}
    for budget in (20 * row, 21 * row - 1):
        memory = RandomMemory.from_budget(budget, shape=(3,), **options)
        memory.write(ROWS, y)
        assert memory.capacity == 20
        assert memory.nbytes == 20 * row == sum(t.nbytes for t in memory.buffers())
    recall = memory.sample(5)
    assert same(recall.y, y, recall.x)
    assert (recall.t.tolist(), recall.origin.tolist()) == ([0] * 5, [0 if store_tasks else -1] * 5)
    assert memory.summary().per_task == {0: 20}
    with pytest.raises(ValueError, match=f"expected at least the {row} bytes that one row takes"):
        RandomMemory.from_budget(row - 1, shape=(3,), **options)


@pytest.mark.parametrize("first", TARGETS)
def test_the_first_write_fixes_kind_type_and_shape(first: str) -> None:
    memory = RandomMemory(20)
    memory.write(ROWS[:4], TARGETS[first][:4])
    kind = TARGETS[first].dtype, TARGETS[first].shape
    for y in (*(y for y in TARGETS.values() if (y.dtype, y.shape) != kind), torch.arange(60)):
        before = contents(memory)
        for call in (memory.write, memory.check_rows):
            with pytest.raises(ValueError, match=r"y: expected .*as first written, got"):
                call(ROWS[:4], y[:4])
        assert contents(memory) == before
    memory.write(ROWS[4:8], TARGETS[first][4:8])
    classes = RandomMemory(20)
    classes.write(ROWS[:4], torch.arange(4))
    with pytest.raises(ValueError, match=r"y: expected integer classes \(B,\), as first written, got"):
        classes.write(ROWS[:4], TARGETS[first][:4])


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("options", [{"write_policy": "class_balanced"}, {"read_policy": "class_balanced"}], ids=str)
def test_what_is_balanced_by_class_needs_classes(name: str, options: dict[str, Any]) -> None:
    memory = RandomMemory(20, **options)
    for call in (memory.write, memory.check_rows):
        with pytest.raises(ValueError, match=r"y: expected integer classes \(B,\), as .* by class, got .*\(B,"):
            call(ROWS[:4], TARGETS[name][:4])
    assert memory.seen == 0
    memory.write(ROWS[:4], torch.arange(4))  # nothing of it is left


BAD: list[tuple[Any, type[Exception], str]] = [
    (3, TypeError, "y: expected a tensor"),
    ([0, 1, 2, 3], TypeError, "y: expected a tensor"),
    (None, TypeError, "y: expected a tensor"),
    (torch.tensor(1.0), ValueError, "y: expected 4 rows"),
    (torch.zeros(3, 1), ValueError, "y: expected 4 rows"),
    (torch.zeros(3), ValueError, "y: expected 4 rows"),
    (torch.zeros(4, dtype=torch.complex64), ValueError, "y: expected a dense tensor of real numbers"),
    (torch.zeros(4, 2).to_sparse(), ValueError, "y: expected a dense tensor of real numbers"),
    (torch.zeros(4, 1, device="meta"), ValueError, "y: expected a dense tensor of real numbers"),
    (torch.tensor([0.0, 1.0, float("nan"), 2.0]), ValueError, "y: .*finite"),
    (torch.full((4, 2), float("inf")), ValueError, "y: .*finite"),
    (torch.tensor([0, 1, -1, 2]), ValueError, "y: .*-1"),
]


@pytest.mark.parametrize(("y", "error", "message"), BAD, ids=lambda v: str(v)[:30])
def test_bad_targets_are_named_and_change_nothing(y: Any, error: type[Exception], message: str) -> None:
    memory = RandomMemory(20)
    calls = [memory.write] if y is None else [memory.write, memory.check_rows]
    for call in calls:
        with pytest.raises(error, match=message):
            call(ROWS[:4], y)
    assert memory.seen == 0
    memory.write(ROWS[:4], torch.arange(4))


def energy() -> EnergyMemory:
    return EnergyMemory(GatedEnergy(3, writable=2, width=4, write_steps=1, read_steps=1), slots=4, slot_size=4)


def vae() -> VAEMemory:
    return VAEMemory(ConditionalVAE((3,), code_size=2, hidden=(4,), classes=3, likelihood="gaussian"), steps=1)


MEMORIES: dict[str, Any] = {
    "random": lambda: RandomMemory(20),
    "balanced": lambda: RandomMemory(20, write_policy="class_balanced", read_policy="class_balanced"),
    "small labels": lambda: RandomMemory(20, labels="uint8", store_tasks=False),
    "4bit": lambda: RandomMemory(20, codec=Bits(4)),
    "episodic": lambda: EpisodicMemory(20),
    "Gaussian": lambda: GaussianMemory(rank=1),
    "Kanerva": lambda: DynamicKanervaMemory(rows=2),
    "energy": energy,
    "VAE": vae,
}


def take(memory: Any, x: Tensor, y: Any, t: Any) -> None:
    if hasattr(memory, "write"):
        memory.write(x, y, t)
    else:
        memory.consolidate([(x, y, t)], origin=0)


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("name", MEMORIES)
def test_looking_at_rows_raises_what_writing_them_would_and_changes_nothing(name: str, written: bool) -> None:
    memory = MEMORIES[name]()
    if written:
        take(memory, ROWS[:20], torch.arange(20) % 3, 0)
    x, y = ROWS[:4], torch.arange(4) % 3
    cases: list[tuple[Any, Any, Any]] = [
        (x, y, 0),
        (x, y, torch.zeros(4, dtype=torch.int64)),
        (x, y.float(), 0),
        (x, y.float()[:, None], 0),
        (x, y - 1, 0),
        (x, y[:3], 0),
        (x, y + 300, 0),
        (x, torch.arange(4), 0),
        (x, 3, 0),
        (x, y, -1),
        (x, y, 1),
        (x, y, torch.ones(4, dtype=torch.int64)),
        (x, y, torch.zeros(4)),
        (x + float("nan"), y, 0),
        (x[:, :2], y, 0),
        (x.double(), y, 0),
    ]
    for x_, y_, t in cases:
        before = contents(memory)
        try:
            memory.check_rows(x_, y_, t)
            told = None
        except (TypeError, ValueError) as error:
            told = str(error)
        assert contents(memory) == before
        try:
            take(copy.deepcopy(memory), x_, y_, t)
            raised = None
        except (TypeError, ValueError) as error:
            raised = str(error)
        assert told == raised
