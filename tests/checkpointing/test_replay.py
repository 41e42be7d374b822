"""Strategies that carry a memory stop and resume, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.checkpointing import maybe_load_checkpoint, save_checkpoint
from checkpoint_runs import EXPERIENCES, FEATURES, Run, assert_same
from torch import nn

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.checkpointing import CheckpointError, avalanche_checkpoint_compat, load_run_state
from avalanche_memplugins.codecs import Uint8
from avalanche_memplugins.metrics import memory_metrics

POLICIES = ("ring", "reservoir", "class_balanced", "task_balanced")


def replay(**kwargs: Any) -> Callable[[Any], list[Any]]:
    plugin = {name: kwargs.pop(name) for name in ("write_at", "at", "replay_weight") if name in kwargs}
    return lambda optimizer: [MemoryReplayPlugin(RandomMemory(25, seed=5, **kwargs), **plugin)]


def every_boundary(run: Run, folder: Path) -> None:
    whole = run.whole(folder)
    mine = whole.plugins[0].memory
    drawn = mine.sample(20)
    for boundary in range(EXPERIENCES + 1):
        resumed = run.resumed(folder / str(boundary))
        assert_same(whole, resumed)
        other = resumed.plugins[0].memory
        assert (len(mine), mine.seen) == (len(other), other.seen) == (25, mine.seen)
        # The memories go on alike beyond the end, too: their generators are where they would have been.
        for a, b in zip(drawn, other.sample(20), strict=True):
            assert a is b is None or torch.equal(a, b)


@pytest.mark.parametrize(
    ("policy", "model", "optimizer", "layout"),
    [
        *((policy, "incremental", "adam", "xy") for policy in POLICIES),
        ("class_balanced", "plain", "sgd", "xyt"),
        ("task_balanced", "multihead", "adam", "xyt"),
    ],
)
def test_bitwise_at_every_boundary(policy: str, model: str, optimizer: str, layout: str, tmp_path: Path) -> None:
    every_boundary(Run(model, optimizer, layout, plugins=replay(write_policy=policy)), tmp_path)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"codec": Uint8(mean=0.0, std=8.0, lossy=True)},
        {"codec": "float16", "read_policy": "class_balanced"},
        {"store_logits": True},
        {"write_at": "experience"},
        {"at": "trunk", "replay_weight": "growing"},
        {"embedding": nn.Linear(FEATURES, 3), "keep": "both", "replacement": True},
    ],
    ids=lambda kwargs: "-".join(kwargs),
)
def test_bitwise_with_other_memories(kwargs: dict[str, Any], tmp_path: Path) -> None:
    every_boundary(Run("plain", "sgd", plugins=replay(**kwargs)), tmp_path)


def test_bitwise_with_a_memory_in_a_file(tmp_path: Path) -> None:
    numbers = iter(range(10))
    every_boundary(
        Run(plugins=lambda optimizer: replay(storage=tmp_path / f"rows{next(numbers)}")(optimizer)), tmp_path
    )


def test_a_memory_of_another_size_does_not_fit(tmp_path: Path) -> None:
    Run(plugins=replay()).whole(tmp_path)
    run = Run(plugins=lambda optimizer: [MemoryReplayPlugin(RandomMemory(30, seed=5))])
    fresh, same = run.strategy(seed=3), run.strategy(seed=3)
    with pytest.raises(CheckpointError, match=r"25.*30|30.*25"):
        load_run_state(fresh, tmp_path / "2")
    assert len(fresh.plugins[0].memory) == 0
    assert fresh.plugins[0].memory.capacity == 30
    for strategy in (fresh, same):
        torch.manual_seed(0)
        run.train(strategy, run.benchmark().train_stream[:2])
    assert_same(fresh, same)


@pytest.mark.parametrize("policy", POLICIES)
def test_avalanches_own_checkpoint(policy: str, tmp_path: Path) -> None:
    run = Run("incremental", "sgd", plugins=replay(write_policy=policy))
    whole, stream = run.strategy(seed=1), run.benchmark().train_stream
    whole.evaluator.metrics += memory_metrics(experience=True)
    run.train(whole, stream[:2])
    with avalanche_checkpoint_compat():
        save_checkpoint(whole, str(tmp_path / "run.pkl"))
    run.train(whole, stream[2:])
    resumed, start = maybe_load_checkpoint(run.strategy(seed=5), str(tmp_path / "run.pkl"))
    run.train(resumed, stream[start:])
    assert_same(whole, resumed)
