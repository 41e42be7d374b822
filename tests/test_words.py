"""Arguments under other libraries' names are refused with the name that they have here."""

from __future__ import annotations

import inspect
import warnings
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
from avalanche_memplugins._bytes import show_bytes
from avalanche_memplugins._words import renamed
from avalanche_memplugins.codecs import Uint8
from avalanche_memplugins.memories.policies import Cycle, Hardest, Ring
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


EARLIER: dict[str, Any] = {
    "RandomMemory": lambda **a: RandomMemory(10, **a),
    "EpisodicMemory": lambda **a: EpisodicMemory(10, **a),
    "RandomMemory.from_budget": lambda **a: RandomMemory.from_budget(1_000, shape=(4,), **a),
    "EpisodicMemory.from_budget": lambda **a: EpisodicMemory.from_budget(1_000, shape=(4,), **a),
}


@pytest.mark.parametrize("name", EARLIER)
def test_earlier_names_of_the_policies_are_taken_and_told_once_where_they_stand(name: str) -> None:
    with pytest.warns(DeprecationWarning, match="the argument policy= is now write_policy=") as told:
        memory = EARLIER[name](policy="ring")
    assert [warning.filename for warning in told] == [__file__]
    assert isinstance(memory.write_policy, Ring)
    with pytest.warns(DeprecationWarning, match="the argument read= is now read_policy=") as told:
        memory = EARLIER[name](read="cycle", write_policy="ring")
    assert len(told) == 1
    assert isinstance(memory.read_policy, Cycle)
    with pytest.raises(TypeError, match=r"^policy: is the earlier name of write_policy, expected one of the two, got"):
        EARLIER[name](policy="ring", write_policy="ring")


def test_attributes_are_there_under_their_earlier_names() -> None:
    memory = RandomMemory(10, write_policy="ring", read_policy="cycle")
    with pytest.warns(DeprecationWarning, match="RandomMemory: the attribute policy is now write_policy") as told:
        assert memory.policy is memory.write_policy
    assert told[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="the attribute read is now read_policy"):
        memory.read = uniform = RandomMemory(10).read_policy
    assert memory.read_policy is uniform
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert memory.write_policy.capacity == 10  # type: ignore[attr-defined]


def test_a_renamed_argument_of_any_function() -> None:
    @renamed({"size": "capacity"})
    def make(capacity: int, *, colour: str = "red") -> tuple[int, str]:
        """Make."""
        return capacity, colour

    assert make(3) == (3, "red")
    assert (make.__name__, make.__doc__, list(inspect.signature(make).parameters)) == (
        "make",
        "Make.",
        ["capacity", "colour"],
    )
    with pytest.warns(DeprecationWarning, match="make: the argument size= is now capacity="):
        assert make(size=4, colour="blue") == (4, "blue")  # type: ignore[call-arg]


def rows(memory: RandomMemory, count: int = 3) -> RandomMemory:
    told = {"loss": torch.rand(count)} if memory.needs else {}
    memory.write(torch.zeros(count, 2), torch.zeros(count, dtype=torch.int64), **told)
    return memory


@pytest.mark.parametrize(
    ("memory", "shown"),
    [
        (RandomMemory(5), "RandomMemory(0 of 5 rows, reservoir, raw, 0 bytes)"),
        (rows(RandomMemory(2_000)), "RandomMemory(3 of 2,000 rows, reservoir, raw, 40 kB)"),
        (rows(EpisodicMemory(9, write_policy="ring")), "EpisodicMemory(3 of 9 rows, ring, raw, 180 bytes)"),
        (
            rows(RandomMemory(60, write_policy=Hardest("task"), codec=Uint8(mean=0.5, std=0.5, lossy=True))),
            "RandomMemory(3 of 60 rows, Hardest('task'), Uint8(mean=0.5, std=0.5, lossy=True), 5.66 kB)",
        ),
        (
            RandomMemory(9, write_policy=Hardest(), codec=Uint8()),
            "RandomMemory(0 of 9 rows, hardest, uint8, 364 bytes)",
        ),
    ],
)
def test_a_memory_shows_fill_and_bytes(memory: RandomMemory, shown: str) -> None:
    assert repr(memory) == shown
    assert str(memory.summary()).startswith(shown)


@pytest.mark.parametrize(
    ("nbytes", "shown"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1 kB"),
        (1_234, "1.23 kB"),
        (99_949, "99.9 kB"),
        (99_951, "100 kB"),
        (181_499, "181 kB"),
        (999_499, "999 kB"),
        (999_501, "1 MB"),
        (3_141_592, "3.14 MB"),
        (7 * 10**15, "7,000 TB"),
    ],
)
def test_bytes_are_shown_with_three_figures(nbytes: int, shown: str) -> None:
    assert show_bytes(nbytes) == shown
