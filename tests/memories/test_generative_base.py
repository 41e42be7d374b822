"""What a memory on the generative base owes is told when its class is made, or the memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from avalanche_memplugins.memories._generative import GenerativeMemory
from avalanche_memplugins.memories.recall import Recall


def kind(**methods: Any) -> Any:
    return type("Zeros", (GenerativeMemory,), methods)


def write(self: Any, x: Tensor, y: Tensor, t: Any = 0, *, origin: Any = None) -> None:
    self._check(x, y, t, 0)
    self._enrol(y, t, 0)
    self.shape, self.dtype = x.shape[1:], x.dtype


def sample(self: Any, n: int) -> Recall:
    drawn = self._draw_classes(n, by_count=False)
    return self._recall(torch.zeros(n, *self.shape), drawn)


OWED: dict[str, Any] = {
    "write": write,
    "sample": sample,
    "device": property(lambda self: torch.device("cpu")),
    "_parts": lambda self: ["zeros"],
}


def test_the_short_list_is_all_that_a_memory_needs(tmp_path: Any) -> None:
    memory = kind(**OWED)(codec=None, seed=0)
    x, y = torch.rand(6, 3), torch.arange(6) % 2 + 4
    memory.check_rows(x, y)
    memory.write(x, y, 1, origin=2)
    recall = memory.sample(4)
    assert sorted(recall.y.tolist()) == [4, 4, 5, 5]
    assert (len(memory), memory.nbytes, memory.summary().per_class) == (6, 2 * 32, {4: 3, 5: 3})
    memory.save(tmp_path / "zeros")
    again = kind(**OWED)(codec=None, seed=1).load(tmp_path / "zeros")
    assert torch.equal(again.sample(9).y, memory.sample(9).y)


@pytest.mark.parametrize("missing", ["sample", "device", "_parts"])
def test_a_memory_that_owes_a_method_cannot_be_made(missing: str) -> None:
    methods = {name: method for name, method in OWED.items() if name != missing}
    with pytest.raises(TypeError, match=missing):
        kind(**methods)(codec=None, seed=0)


def test_a_class_that_takes_no_rows_cannot_be_made() -> None:
    methods = {name: method for name, method in OWED.items() if name != "write"}
    with pytest.raises(TypeError, match="Zeros: expected a method write or consolidate, got neither"):
        kind(**methods)
