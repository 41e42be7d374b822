"""Avalanche's own strategies: each trains, does something, and is counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from avalanche_memplugins.benchmarks import SplitDigits
from avalanche_memplugins.lab import STRATEGIES, Comparison, RunResult, RunSpec, options
from avalanche_memplugins.lab.run import execute
from avalanche_memplugins.lab.strategies import ABSENT, BASELINES
from avalanche_memplugins.lab.strategies.recipe import tensor_bytes
from avalanche_memplugins.lab.streams import open_benchmark

PARAMETERS = 64 * 8 + 8 + 8 * 8 + 8 + 8 * 10 + 10
ROW = 64 * 4 + 16


@pytest.fixture(scope="module")
def runs() -> dict[str, RunResult]:
    return {}


def run(name: str, runs: dict[str, RunResult]) -> RunResult:
    if STRATEGIES[name].requires:
        pytest.importorskip(STRATEGIES[name].requires)
    if name not in runs:
        runs[name] = execute(
            RunSpec(
                benchmark="split-digits", strategy=name, seed=0, n_experiences=2, epochs=1, hidden=8, memory_size=64
            )
        )
    return runs[name]


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_trains_on_digits(name: str, runs: dict[str, RunResult]) -> None:
    result = run(name, runs)
    assert result.ok, result.error
    sizes = [len(exp.dataset) for exp in SplitDigits(2, seed=0).train_stream]
    expected = {
        "naive": 0,
        "ewc": 2 * 2 * PARAMETERS * 4,
        "si": 7 * PARAMETERS * 4,
        "lwf": PARAMETERS * 4,
        "mas": 2 * PARAMETERS * 4,
        "gss": 64 * (64 * 4 + 12),
        "der": 64 * (ROW + 40),
        "der-pp": 64 * (ROW + 40),
        "joint": sum(sizes) * ROW,
        "cumulative": sum(sizes) * ROW,
        "avalanche-slda": 4 * (10 * 64 + 10 + 64 * 64),
        "icarl": 70 * ROW,  # 64 rows over ten classes, rounded up
    }
    if name == "generative-replay":
        assert result.memory_bytes[0] < result.memory_bytes[1], "the copies of model and generator come later"
    else:
        assert result.memory_bytes[-1] == expected.get(name, 64 * ROW)
    assert result.fixed_bytes == (PARAMETERS * 4 if name == "gdumb" else 0)


@pytest.mark.parametrize("name", [name for name in BASELINES if name not in ("naive", "si", "avalanche-slda")])
def test_a_baseline_is_more_than_fine_tuning(name: str, runs: dict[str, RunResult]) -> None:
    assert run(name, runs).weights != run("naive", runs).weights


def test_si_does_nothing_on_a_cpu(runs: dict[str, RunResult]) -> None:
    """If this fails, Avalanche has mended it: drop the note in the registry and in docs/lab.md."""
    assert not torch.cuda.is_available()
    si = run("si", runs)
    assert si.weights == run("naive", runs).weights
    assert any("SI does nothing on a CPU" in warning for warning in si.warnings)
    assert "nothing on a CPU" in STRATEGIES["si"].note


def test_joint_is_trained_once_and_forgets_nothing(runs: dict[str, RunResult]) -> None:
    result = run("joint", runs)
    assert result.accuracy[0] == result.accuracy[1]
    assert result.train_seconds[1] < 0.1 * result.train_seconds[0]


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [("ewc", 0.0, 1e4), ("lwf", 0.0, 5.0), ("der", 0.0, 3.0), ("mas", 0.0, 1e3)],
)
def test_options_reach_avalanche(name: str, one: float, other: float, spec: Callable[..., RunSpec]) -> None:
    option = next(iter(STRATEGIES[name].options))
    results = [execute(spec(strategy=name, options={option: value})) for value in (one, other)]
    assert all(result.ok for result in results)
    assert results[0].weights != results[1].weights


def test_generative_replay_makes_images_of_the_benchmarks_size(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    from avalanche.models import generator

    seen: list[tuple[int, ...]] = []

    generate = generator.MlpVAE.generate

    def spy(self: generator.MlpVAE, batch_size: int | None = None) -> torch.Tensor:
        images = generate(self, batch_size)
        seen.append(tuple(images.shape[1:]))
        return images

    monkeypatch.setattr(generator.MlpVAE, "generate", spy)
    assert execute(spec(strategy="generative-replay")).ok
    assert set(seen) == {(1, 8, 8)}


def test_iterations_end_an_experience_in_the_middle_of_an_epoch(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    from avalanche_memplugins.lab import run as lab_run

    steps: list[int] = []
    build = lab_run.build

    def spy(*arguments: object) -> object:
        built = build(*arguments)
        update = built.strategy.optimizer_step
        built.strategy.optimizer_step = lambda: (steps.append(1), update())[1]
        return built

    monkeypatch.setattr(lab_run, "build", spy)
    per_epoch = -(-len(open_benchmark(spec()).train_stream[0].dataset) // 32)
    for wanted in (3, per_epoch, per_epoch + 2):
        steps.clear()
        assert execute(spec(iterations=wanted)).ok
        assert len(steps) == 2 * wanted, "two experiences"


def test_a_missing_solver_is_told_before_anything_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"strategy: gem needs the solver quadprog: pip install"):
        Comparison(strategies=("gem",)).specs()


def test_what_is_left_out_has_a_reason_and_says_it() -> None:
    with pytest.raises(ValueError, match="BiC is left out: fails on current torch"):
        Comparison(strategies=("BiC",)).specs()
    assert all(absent.reason for absent in ABSENT)


def test_bytes_of_tensors_in_whatever_holds_them() -> None:
    linear = nn.Linear(3, 2)
    assert tensor_bytes(linear) == 4 * 8
    assert tensor_bytes({"a": [torch.zeros(2), (torch.zeros(1, dtype=torch.int64),)]}, None, "text", 3) == 16


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_tells_what_a_reader_wants(name: str) -> None:
    info = STRATEGIES[name]
    assert info.name == name
    assert len(info.label) <= 20
    assert info.summary
