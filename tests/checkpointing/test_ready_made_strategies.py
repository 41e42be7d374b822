"""Ready-made strategies, online streams and other processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import checkpoint_runs
import pytest
import torch
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.training import Naive
from checkpoint_runs import EXPERIENCES, MODELS, OPTIMIZERS, Run, assert_same

from avalanche_memplugins.checkpointing import load_run_state, save_run_state
from avalanche_memplugins.metrics import memory_metrics
from avalanche_memplugins.plugins.tensor_loader import TensorLoaderPlugin
from avalanche_memplugins.strategies import RMA, ExperienceReplay


def test_bitwise_in_another_process(tmp_path: Path) -> None:
    policy = "class_balanced"
    run = Run("incremental", "adam", "xy", plugins=checkpoint_runs.PLUGINS[policy])
    whole = run.whole(tmp_path)
    arguments = [run.model, run.optimizer, run.layout, policy, str(tmp_path / "2"), str(tmp_path / "there")]
    subprocess.run([sys.executable, checkpoint_runs.__file__, *arguments], check=True, capture_output=True)
    there = run.strategy(seed=5)
    assert load_run_state(there, tmp_path / "there") == EXPERIENCES
    assert_same(whole, there)


@pytest.mark.parametrize("kind", [RMA, ExperienceReplay])
def test_ready_made_strategies(kind: Any, tmp_path: Path) -> None:
    run = Run("incremental")

    def build(seed: int) -> Any:
        torch.manual_seed(seed)
        model = MODELS["incremental"]()
        made = kind(
            model=model,
            optimizer=OPTIMIZERS["sgd"](model.parameters()),
            mem_size=30,
            train_mb_size=10,
            eval_mb_size=60,
            plugins=[TensorLoaderPlugin()],
            evaluator=None,
        )
        made.evaluator.metrics += memory_metrics(epoch=True, experience=True)
        return made

    whole, stream = build(1), run.benchmark().train_stream
    for number, experience in enumerate(stream):
        save_run_state(whole, tmp_path / str(number))
        run.train(whole, [experience])
    for number in range(EXPERIENCES):
        resumed = build(2)
        assert load_run_state(resumed, tmp_path / str(number)) == number
        run.train(resumed, stream[number:])
        assert_same(whole, resumed)
    # In the first experience RMA replays its own rows, the other nothing.
    assert len(whole.evaluator.get_all_metrics()) == 3 * (1 + EXPERIENCES) - (kind is ExperienceReplay)


@pytest.mark.parametrize(("model", "boundaries"), [("incremental", True), ("plain", False)])
def test_bitwise_within_an_online_stream(model: str, boundaries: bool, tmp_path: Path) -> None:
    # With boundaries a head that evaluation has grown amid a task stays out of the optimiser until the next
    # one: the optimiser goes on holding the earlier parameter, and so it must after loading.
    run = Run(model, "adam", "xy")
    stream = [
        part
        for experience in run.benchmark().train_stream[:3]
        for part in split_online_stream([experience], 20, shuffle=False, access_task_boundaries=boundaries)
    ]

    def train(strategy: Naive, first: int, folder: Path | None = None) -> Naive:
        for number, experience in enumerate(stream[first:], start=first):
            if folder is not None:
                save_run_state(strategy, folder / str(number))
            strategy.train(experience, eval_streams=[])
            if number % 2 == 0:
                strategy.eval(run.benchmark().test_stream[: number // 2 + 1])
        return strategy

    whole = train(run.strategy(seed=1), 0, tmp_path)
    stale = 0
    for number in range(len(stream)):
        resumed = run.strategy(seed=2)
        assert load_run_state(resumed, tmp_path / str(number)) == number
        held = {id(p) for group in resumed.optimizer.param_groups for p in group["params"]}
        stale += any(id(p) not in held for p in resumed.model.parameters()) and number > 0
        assert_same(whole, train(resumed, number))
    assert len(stream) == 9
    assert (stale > 0) == boundaries
