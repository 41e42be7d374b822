"""Real runs, tiny: every strategy, repeatable, with honest numbers."""

from __future__ import annotations

import copy
import csv
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from avalanche_memplugins.benchmarks import SplitDigits
from avalanche_memplugins.lab import STRATEGIES, InProcess, ResultStore, RunResult, RunSpec, Settings
from avalanche_memplugins.lab import run as lab_run
from avalanche_memplugins.lab.run import _Run, execute
from avalanche_memplugins.lab.strategies import make_memory
from avalanche_memplugins.lab.strategies.ours import write_every


def _numbers(result: RunResult) -> RunResult:
    assert result.ok, result.error
    return replace(result, train_seconds=())


# The others are run in test_baselines and test_equal_bytes, where one run a strategy has to do.
FIRST = ("naive", "replay", "rma", "er-reservoir", "mbpa", "er-mbpa", "cumulative")


@pytest.mark.parametrize("strategy", FIRST)
def test_a_run_repeats_bit_for_bit_whatever_ran_before(strategy: str, spec: Callable[..., RunSpec]) -> None:
    run = spec(strategy=strategy)
    first = execute(run)
    execute(spec(strategy="naive", seed=9))
    torch.rand(3)
    assert _numbers(execute(run)) == _numbers(first)
    assert len(first.accuracy) == len(first.accuracy[0]) == 2
    assert all(0 <= value <= 1 for row in first.accuracy for value in row)
    assert len(first.train_seconds) == 2
    assert _numbers(execute(replace(run, seed=1))).weights != first.weights


@pytest.mark.parametrize("strategy", FIRST)
def test_bytes_are_the_rows_held(strategy: str, spec: Callable[..., RunSpec]) -> None:
    run = spec(strategy=strategy)
    sizes = [len(exp.dataset) for exp in SplitDigits(2, seed=0).train_stream]
    plain_row = 8 * 8 * 4 + 16
    held = execute(run).memory_bytes
    if strategy == "naive":
        assert held == (0, 0)
    elif strategy == "replay":
        assert held == (64 * plain_row, 64 * plain_row)
    elif strategy == "cumulative":
        assert held == (sizes[0] * plain_row, sum(sizes) * plain_row)
    else:
        # Ours count all that they allocate: pixels, label, task, origin, with at most a word for each.
        assert 64 * 8 * 8 * 4 < held[-1] <= 64 * (8 * 8 * 4 + 3 * 8)


def test_every_strategy_of_a_seed_begins_with_the_same_weights(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, torch.Tensor] = {}
    build = lab_run.build

    def spy(run: RunSpec, *rest: object) -> object:
        built = build(run, *rest)
        seen[run.strategy] = torch.nn.utils.parameters_to_vector(built.strategy.model.parameters()).detach().clone()
        raise RuntimeError("seen enough")

    monkeypatch.setattr(lab_run, "build", spy)
    for strategy in STRATEGIES:
        assert not execute(spec(strategy=strategy)).ok
    first, *others = seen.values()
    # 8 x 8 images have no pretrained auto-encoder, the solver of GEM may be missing, StreamingLDA has no weights, and
    # "mixed" is nothing without a budget.
    none = {"mixed", "er-latent", "er-mbpa-latent", "knn-latent", "energy", "gem", "avalanche-slda"}
    assert set(STRATEGIES) - set(seen) <= none
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("strategy", ["rma", "er-reservoir", "mbpa"])
def test_a_memory_has_the_seed_and_the_size_of_its_run(strategy: str, spec: Callable[..., RunSpec]) -> None:
    memory = make_memory(spec(strategy=strategy, seed=5, memory_size=96))
    assert memory.capacity == 96
    assert memory._generator.initial_seed() == 5
    assert repr(memory.write_policy) == ("Ring()" if strategy == "rma" else "Reservoir()")


def test_a_failure_is_a_result_with_its_traceback(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(lab_run, "build", broken)
    result = execute(spec())
    assert not result.ok
    assert result.error is not None
    assert "Traceback" in result.error
    assert "ZeroDivisionError: on purpose" in result.error
    assert result.accuracy == ()


def test_warnings_are_kept_but_not_those_that_every_run_gives(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = lab_run.build

    def warn(run: RunSpec, *rest: object) -> object:
        for _ in range(2):
            warnings.warn("something is odd", stacklevel=2)
        return build(run, *rest)

    monkeypatch.setattr(lab_run, "build", warn)
    assert execute(spec(strategy="replay")).warnings == ("UserWarning: something is odd",)


def test_the_accuracy_is_avalanches_own(spec: Callable[..., RunSpec]) -> None:
    """Counted again by hand from the final model's predictions."""
    run, kept = spec(strategy="cumulative", epochs=3), []
    build = lab_run.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab_run, "build", lambda *args: kept.append(build(*args)) or kept[-1])
        result = execute(run)
    model = kept[0].strategy.model.eval()
    for k, exp in enumerate(SplitDigits(2, seed=0).test_stream):
        x, y = torch.stack([row[0] for row in exp.dataset]), torch.tensor([int(row[1]) for row in exp.dataset])
        assert result.accuracy[-1][k] == pytest.approx(float((model(x).argmax(1) == y).float().mean()), abs=1e-6)
    assert result.final_accuracy == pytest.approx(sum(result.accuracy[-1]) / 2)
    assert result.final_accuracy > 0.3


@pytest.mark.parametrize(("batches", "memory", "batch"), [(45, 200, 32), (225, 200, 32), (3, 1000, 32), (10, 8, 32)])
def test_rmas_writes_fit_the_ring_as_tightly_as_they_can(batches: int, memory: int, batch: int) -> None:
    every, slots = write_every(batches, memory, batch), max(1, memory // batch)
    assert math.ceil(batches / every) <= slots
    assert every == 1 or math.ceil(batches / (every - 1)) > slots


def test_in_process_keeps_the_callers_threads(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from avalanche_memplugins.lab import run as module

    during = []
    monkeypatch.setattr(
        module, "execute", lambda run, **how: during.append(torch.get_num_threads()) or RunResult(spec=run, error="x")
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for settings in (None, Settings(threads=3)):
            assert [one.spec for one in InProcess(settings).run([spec()], ResultStore(tmp_path))] == [spec()]
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert during == [1, 3]


def test_the_untrained_model_is_tested_and_nothing_else_changes(spec: Callable[..., RunSpec]) -> None:
    """Counted by hand; the run's own numbers are those of a run that never looked."""
    run, kept = spec(), []
    build = lab_run.build

    def spy(*args: object) -> object:
        built = build(*args)
        kept.append(copy.deepcopy(built.strategy.model).eval())
        return built

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab_run, "build", spy)
        result = execute(run)
    for k, exp in enumerate(SplitDigits(2, seed=0).test_stream):
        x, y = torch.stack([row[0] for row in exp.dataset]), torch.tensor([int(row[1]) for row in exp.dataset])
        assert result.untrained[k] == pytest.approx(float((kept[0](x).argmax(1) == y).float().mean()), abs=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "_untrained", lambda self: [])
        blind = execute(run)
    assert blind.untrained == ()
    assert replace(_numbers(blind), untrained=result.untrained) == _numbers(result)


@pytest.mark.parametrize("name", ["csv", "tensorboard"])
def test_avalanches_loggers_get_the_runs_numbers_and_change_none(
    name: str, spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    plain = execute(spec())
    logged = execute(spec(), settings=Settings(loggers=(name,)), logs=tmp_path)
    assert _numbers(logged) == _numbers(plain)
    folder = tmp_path / "from-experience-0" / name
    if name == "csv":
        rows = list(csv.DictReader((folder / "eval_results.csv").open()))
        # Avalanche writes a line an evaluated experience, four digits.
        told = [float(row["eval_accuracy"]) for row in rows]
        assert told == pytest.approx([value for row in plain.accuracy for value in row], abs=1e-4)
    else:
        assert list(folder.glob("events.out.tfevents.*"))


def test_weights_and_biases_gets_the_runs_numbers_and_changes_none(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    told: list[dict[str, float]] = []
    real = wandb.sdk.wandb_run.Run.log

    def log(self: Any, data: dict[str, float], *rest: Any, **more: Any) -> None:
        told.append(data)
        real(self, data, *rest, **more)

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "log", log)
    plain = execute(spec())
    logged = execute(spec(), settings=Settings(loggers=("wandb",)), logs=tmp_path)
    assert _numbers(logged) == _numbers(plain)
    assert wandb.run is None, "finished"
    (file,) = tmp_path.glob("from-experience-0/wandb/wandb/offline-run-*/*.wandb")
    assert spec().key in file.name
    assert file.stat().st_size > 1_000
    values = [value for data in told for name, value in data.items() if "Top1_Acc_Exp/eval_phase" in name]
    assert values == pytest.approx([value for row in plain.accuracy for value in row])
    assert not list(tmp_path.rglob("diff.patch")), "no code is kept"
