"""Replay of every kind, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from avalanche_memplugins import DarkReplayPlugin, MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.memories import GaussianMemory


def rows(**options: Any) -> MemoryReplayPlugin:
    return MemoryReplayPlugin(RandomMemory(60, seed=1), **{"write_at": "iteration", **options})


def with_outputs(kind: Any, **options: Any) -> Any:
    return kind(RandomMemory(60, store_logits=True, seed=1), write_at="iteration", **options)


REPLAY: dict[str, Callable[[], MemoryReplayPlugin]] = {
    "appended": rows,
    "replacing": partial(rows, batch_policy="replace"),
    "weighted": partial(rows, replay_weight=0.4),
    "growing weight": partial(rows, replay_weight="growing"),
    "old model": partial(rows, labels="old_model"),
    "soft": partial(rows, labels="soft"),
    "logits": partial(with_outputs, MemoryReplayPlugin, labels="logits"),
    "DER++": partial(with_outputs, DarkReplayPlugin, alpha=0.2, beta=0.5),
    "after the experience": partial(rows, write_at="experience"),
    "latent": partial(rows, at="features"),
    "latent, weighted": partial(rows, at="features", replay_weight=0.4),
    "generated": lambda: MemoryReplayPlugin(GaussianMemory(seed=1), write_at="iteration"),
}
every_replay = pytest.mark.parametrize("replay", list(REPLAY))
