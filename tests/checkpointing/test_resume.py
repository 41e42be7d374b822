"""A run that is saved, built anew and loaded goes on as one that never stopped, at every boundary."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint_runs import EXPERIENCES, Run, assert_same

from avalanche_memplugins.checkpointing import load_run_state, save_run_state

RUNS = [
    Run(model, optimizer, layout)
    for model in ("plain", "incremental", "multihead", "as_multitask")
    for optimizer in ("sgd", "adam")
    for layout in ("xyt", "xy")
    # Avalanche's MultiHeadClassifier cannot be trained on its newer benchmarks: it indexes by a set of classes.
    if not (model in ("multihead", "as_multitask") and layout == "xy")
]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.model}-{run.optimizer}-{run.layout}")
def test_bitwise_at_every_boundary(run: Run, tmp_path: Path) -> None:
    whole = run.whole(tmp_path)
    for boundary in range(EXPERIENCES + 1):
        assert_same(whole, run.resumed(tmp_path / str(boundary)))


def test_bitwise_without_evaluation(tmp_path: Path) -> None:
    run = Run("incremental", evaluate=False)
    whole = run.whole(tmp_path)
    for boundary in range(EXPERIENCES + 1):
        assert_same(whole, run.resumed(tmp_path / str(boundary)))


@pytest.mark.parametrize("options", [{"eval_every": 1}, {"eval_every": 3, "peval_mode": "iteration"}])
def test_bitwise_with_periodic_evaluation(options: dict[str, object], tmp_path: Path) -> None:
    run = Run("incremental", "adam", options=options)
    assert_same(run.whole(tmp_path), run.resumed(tmp_path / "2"))


def test_saving_changes_nothing(tmp_path: Path) -> None:
    run = Run("multihead", "adam")
    quiet = run.strategy(seed=1)
    run.train(quiet, run.benchmark().train_stream)
    assert_same(run.whole(tmp_path), quiet)


def test_save_load_save_gives_the_same_files(tmp_path: Path) -> None:
    run = Run("incremental", "adam")
    run.whole(tmp_path)
    strategy = run.strategy(seed=9)
    for name in ("again", "and again"):
        load_run_state(strategy, tmp_path / "2")
        save_run_state(strategy, tmp_path / name)
        strategy = run.strategy(seed=10)
    first, second = ((tmp_path / name / "tensors.safetensors").read_bytes() for name in ("2", "and again"))
    assert first == second


def test_resuming_without_the_checkpoint_differs(tmp_path: Path) -> None:
    # The other tests could not fail if runs were the same whatever their weights and random states.
    run = Run()
    whole = run.whole(tmp_path)
    other = run.strategy(seed=77)
    run.train(other, run.benchmark().train_stream)
    with pytest.raises(AssertionError):
        assert_same(whole, other)
