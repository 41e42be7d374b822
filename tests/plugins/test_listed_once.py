"""Mistakes in putting plugins together that would otherwise train without a word."""

from __future__ import annotations

from typing import Any

import pytest
from _streams import Case, build, run

from avalanche_memplugins import (
    DarkReplayPlugin,
    EnergyMemory,
    EnergyReplayPlugin,
    LatentReplayPlugin,
    LocalAdaptationPlugin,
    MemoryReplayPlugin,
    NearestNeighbourPlugin,
    RandomMemory,
)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MemoryReplayPlugin(RandomMemory(20)),
        lambda: DarkReplayPlugin(RandomMemory(20, store_logits=True)),
        lambda: NearestNeighbourPlugin(RandomMemory(20), writes=True),
    ],
)
def test_a_plugin_listed_twice_is_named(make: Any) -> None:
    plugin = make()
    strategy = build(Case(), [plugin, plugin])
    message = f"plugins: expected each plugin once, got the same {type(plugin).__name__} 2 times"
    with pytest.raises(ValueError, match=message):
        strategy.train(next(iter(Case().stream())))
    assert not len(plugin.memory)


def test_a_plugin_that_only_reads_is_named_in_evaluation() -> None:
    replay = MemoryReplayPlugin(RandomMemory(20))
    reading = NearestNeighbourPlugin(replay.memory, mix=0.5)
    strategy = run(Case(), [replay, reading])
    strategy.eval(Case().benchmark().test_stream, num_workers=0)
    strategy.plugins.append(reading)
    with pytest.raises(ValueError, match="the same NearestNeighbourPlugin 2 times"):
        strategy.eval(Case().benchmark().test_stream, num_workers=0)


@pytest.mark.parametrize(
    ("make", "memory"),
    [
        (MemoryReplayPlugin, RandomMemory),
        (lambda memory: LatentReplayPlugin(memory, at="features"), RandomMemory),
        (DarkReplayPlugin, RandomMemory),
        (NearestNeighbourPlugin, RandomMemory),
        (LocalAdaptationPlugin, RandomMemory),
        (EnergyReplayPlugin, EnergyMemory),
    ],
)
def test_a_class_in_the_place_of_a_memory_is_named(make: Any, memory: Any) -> None:
    name = memory.__name__
    with pytest.raises(TypeError, match=rf"memory: expected an instance, got the class {name}; call it"):
        make(memory)
