"""Arguments under other libraries' names are refused with the name that they have here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from avalanche_memplugins import (
    DarkReplayPlugin,
    EpisodicMemory,
    LatentReplayPlugin,
    MemoryReplayPlugin,
    RandomMemory,
    RandomMemoryPlugin,
)
from avalanche_memplugins.strategies import RMA, DarkExperienceReplay, ExperienceReplay, MbPA


def strategy(cls: Any) -> Any:
    def make(**arguments: Any) -> Any:
        model = nn.Linear(2, 2)
        return cls(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), evaluator=None, **arguments)

    return make


MAKERS: dict[str, Any] = {
    "RandomMemory": lambda **a: RandomMemory(10, **a),
    "EpisodicMemory": lambda **a: EpisodicMemory(10, **a),
    "MemoryReplayPlugin": lambda **a: MemoryReplayPlugin(RandomMemory(10), **a),
    "LatentReplayPlugin": lambda **a: LatentReplayPlugin(RandomMemory(10), at="0", **a),
    "DarkReplayPlugin": lambda **a: DarkReplayPlugin(RandomMemory(10, store_logits=True), **a),
    "RandomMemoryPlugin": lambda **a: RandomMemoryPlugin(10, **a),
    "RMA": strategy(RMA),
    "ExperienceReplay": strategy(ExperienceReplay),
    "DarkExperienceReplay": strategy(DarkExperienceReplay),
    "MbPA": strategy(MbPA),
}
CASES = [
    *((name, "batch_size_mem", "replay_size") for name in list(MAKERS)[2:]),
    *((name, "increasing_replay_size", "replay_size='growing'") for name in list(MAKERS)[2:]),
    *((name, "storage_policy", "write_policy") for name in list(MAKERS)[:2]),
    *((name, "max_size", "capacity") for name in list(MAKERS)[:2]),
    *((name, "storage_policy", "memory") for name in list(MAKERS)[2:6]),
    *((name, "storage_policy", "write_policy") for name in list(MAKERS)[6:]),
    *((name, "mem_size", r"the memory's capacity: RandomMemory\(n\)") for name in list(MAKERS)[2:5]),
    *((name, "capacity", "mem_size") for name in list(MAKERS)[6:]),
]


@pytest.mark.parametrize(("name", "word", "ours"), CASES)
def test_the_word_used_here_is_named(name: str, word: str, ours: str) -> None:
    with pytest.raises(TypeError, match=f"^{word}: {name} calls it {ours}$"):
        MAKERS[name](**{word: 5})


@pytest.mark.parametrize("name", list(MAKERS))
def test_a_word_that_nobody_uses_is_pythons_to_refuse(name: str) -> None:
    with pytest.raises(TypeError, match=r"argument:? '?colour"):
        MAKERS[name](colour=5)
