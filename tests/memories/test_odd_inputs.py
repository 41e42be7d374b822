"""Rows, labels, keys and sizes of kinds that nobody plans for: taken rightly, or named with nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avalanche_memplugins import DynamicKanervaMemory, EnergyMemory, EpisodicMemory, GaussianMemory, RandomMemory
from avalanche_memplugins.codecs import Bits, Uint8
from avalanche_memplugins.networks.energy import GatedEnergy

Y = torch.arange(6) % 3
MEMORIES: dict[str, Callable[[], Any]] = {
    "reservoir": lambda: RandomMemory(8, seed=0),
    "balanced": lambda: RandomMemory(8, write_policy="class_balanced", read_policy="class_balanced", seed=0),
    "int8": lambda: RandomMemory(8, codec="int8", seed=0),
    "1bit": lambda: RandomMemory(8, codec="1bit", seed=0),
    "keys": lambda: RandomMemory(8, embedding=nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), seed=0),
    "episodic": lambda: EpisodicMemory(8, seed=0),
    "Gaussian": lambda: GaussianMemory(seed=0),
    "Kanerva": lambda: DynamicKanervaMemory(rows=4, seed=0),
    "energy": lambda: EnergyMemory(
        GatedEnergy(16, writable=2, width=4, write_steps=1, read_steps=1), slots=4, slot_size=4, seed=0
    ),
}


def rows() -> Tensor:
    return torch.rand(6, 1, 4, 4)


ROWS: dict[str, Callable[[], Tensor]] = {
    "nested": lambda: torch.nested.nested_tensor([torch.rand(2), torch.rand(3)]),
    "a byte a float": lambda: rows().to(torch.float8_e4m3fn),
    "quantised": lambda: torch.quantize_per_tensor(rows(), 0.1, 0, torch.quint8),
    "no numbers": lambda: torch.rand(6, 0),
    "no numbers in a channel": lambda: torch.rand(6, 3, 0, 4),
}
LABELS: dict[str, Callable[[], Tensor]] = {
    "a byte a float": lambda: torch.zeros(6).to(torch.float8_e4m3fn),
    "too large for int64": lambda: torch.full((6,), 2**63, dtype=torch.uint64),
    "nested": lambda: torch.nested.nested_tensor([torch.rand(2), torch.rand(3)]),
    "unsigned targets": lambda: torch.zeros(6, 2, dtype=torch.uint16),
}


def state(memory: Any) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items()}
        return (value.dtype, value.tolist()) if isinstance(value, Tensor) else value

    return repr(plain(dict(memory.state_dict())))


def assert_refused(memory: Any, argument: str, x: Any, y: Any, **options: Any) -> None:
    before = state(memory)
    with pytest.raises((TypeError, ValueError), match=f"^{argument}: .*expected .*got "):
        memory.write(x, y, **options)
    assert state(memory) == before


@pytest.mark.parametrize("name", MEMORIES)
@pytest.mark.parametrize("fresh", [True, False])
def test_rows_and_labels_that_cannot_be_kept_are_named_and_change_nothing(name: str, fresh: bool) -> None:
    memory = MEMORIES[name]()
    if not fresh:
        memory.write(rows(), Y)
    for make in ROWS.values():
        assert_refused(memory, "x", make(), Y)
    for make in LABELS.values():
        assert_refused(memory, "y", rows(), make())


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
@pytest.mark.parametrize("policy", ["reservoir", "ring", "class_balanced"])
@pytest.mark.parametrize("shape", [(6, 4), (6, 1, 4, 4)])
def test_wide_unsigned_rows_are_refused_and_such_labels_are_taken(
    dtype: torch.dtype, policy: str, shape: tuple[int, ...]
) -> None:
    memory = RandomMemory(8, write_policy=policy, seed=0)
    assert_refused(memory, "x", torch.zeros(shape, dtype=dtype), Y)
    memory.write(torch.rand(shape), Y.to(dtype))
    assert sorted(memory.sample(8).y.tolist()) == sorted(Y.tolist())


class Embedding(nn.Module):
    def __init__(self, give: Callable[[Tensor, int], Any]) -> None:
        super().__init__()
        self.give, self.calls = give, 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return self.give(x, self.calls)


EMBEDDINGS: dict[str, Callable[[Tensor, int], Any]] = {
    "a tuple": lambda x, call: (x, x),
    "None": lambda x, call: None,
    "no rows of numbers": lambda x, call: x[:, 0],
    "NaN": lambda x, call: x * float("nan"),
    "fewer": lambda x, call: x[:1],
    "complex": lambda x, call: x.to(torch.complex64),
    "empty": lambda x, call: x[:, :0],
    "wider each time": lambda x, call: x[:, :call],
    "another type": lambda x, call: x if call == 1 else x.double(),
}


@pytest.mark.parametrize("name", EMBEDDINGS)
@pytest.mark.parametrize("keep", ["both", "key"])
@pytest.mark.parametrize("kind", [RandomMemory, EpisodicMemory])
def test_keys_that_cannot_be_kept_are_named_and_change_nothing(kind: Any, keep: Any, name: str) -> None:
    memory = kind(8, embedding=Embedding(EMBEDDINGS[name]), keep=keep, seed=0)
    if name in ("wider each time", "another type"):
        memory.write(torch.rand(4, 3), torch.arange(4))
    assert_refused(memory, "(embedding|x)", torch.rand(4, 3), torch.arange(4))


@pytest.mark.parametrize("keep", ["both", "key"])
@pytest.mark.parametrize("x", [torch.rand(6, 5), torch.rand(6, 4).double(), torch.rand(6, 4) > 0.5])
def test_rows_that_the_embedding_does_not_take_are_named(keep: Any, x: Tensor) -> None:
    memory = RandomMemory(8, embedding=nn.Linear(4, 2), keep=keep, seed=0)
    assert_refused(memory, "x", x, Y)
    memory.write(torch.rand(6, 4), Y)
    assert_refused(memory, "x", x, Y)


LOGITS = (
    torch.zeros(6, 3, dtype=torch.int64),
    torch.zeros(6, 3) > 0,
    torch.zeros(6, 0),
    torch.full((6, 3), 1e300, dtype=torch.float64),  # infinite in float32, in which the first were written
)


@pytest.mark.parametrize("number", range(len(LOGITS)))
def test_logits_are_finite_numbers_in_the_type_that_is_held(number: int) -> None:
    memory = RandomMemory(12, store_logits=True, seed=0)
    memory.write(rows(), Y, logits=torch.rand(6, 3))
    assert_refused(memory, "logits", rows(), Y, logits=LOGITS[number])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.int64])
def test_slots_may_be_integers_of_any_type(dtype: torch.dtype) -> None:
    memory = RandomMemory(5, write_policy="ring")
    memory.write(torch.arange(4.0)[:, None], torch.arange(4))
    slots = torch.tensor([2, 0]).to(dtype)
    assert memory.rows(slots).x[:, 0].tolist() == memory.labels_of(slots)[0].tolist() == [2, 0]
    with pytest.raises(ValueError, match="slots: expected slots with data, got"):
        memory.rows(slots.to("meta"))


@pytest.mark.parametrize("capacity", [10**12, 2**62])
@pytest.mark.parametrize("storage", ["device", "host"])
def test_more_rows_than_fit_into_the_machine_are_told(capacity: int, storage: str) -> None:
    memory = RandomMemory(capacity, storage=storage, seed=0)
    assert_refused(memory, "capacity", rows(), Y)
    for options in ({"write_policy": "class_balanced"}, {"read_policy": "task_balanced"}):
        with pytest.raises(ValueError, match="capacity: expected a number of rows that fits in"):
            RandomMemory(capacity, **options)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("dtype", torch.complex64), ("dtype", torch.uint16), ("dtype", torch.float8_e4m3fn),
        ("target_dtype", torch.complex64), ("target_dtype", "float32"), ("target_shape", 3), ("target_shape", (-1,)),
        ("target_shape", "ab"), ("target_shape", (1.5,)), ("target_shape", (10**15,)), ("experiences", -1),
        ("experiences", 2.5), ("experiences", "a"), ("classes", 10**9), ("capacity", 3),
    ],
)  # fmt: skip
def test_a_budget_for_what_there_is_not_is_refused(argument: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{argument}: expected .*got "):
        RandomMemory.from_budget(20_000, shape=(4,), write_policy="class_balanced", **{argument: value})


@pytest.mark.parametrize("codec", [Uint8, lambda **options: Bits(4, **options)])
@pytest.mark.parametrize("value", [10**400, (True,), torch.tensor([0.5 + 1j]), [True, False]])
@pytest.mark.parametrize("argument", ["mean", "std"])
def test_mean_and_std_are_real_numbers(codec: Any, value: Any, argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: expected a finite number.*got "):
        codec(**{argument: value})
    assert codec(**{argument: np.array([0.5, 0.25])})
