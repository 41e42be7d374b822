"""Every command takes its executor from the same place: a Ray cluster where it is named, else this machine."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from avalanche_memplugins.lab import Comparison, InProcess, LocalProcesses, Settings, compare, ray_executor
from avalanche_memplugins.lab.executors import open_executor
from avalanche_memplugins.lab.frontier import Frontier, draw_frontier
from avalanche_memplugins.lab.reproduce import Reproduction, reproduce

PRESET = """
summary: seconds
source: this test
seeds: 1
minutes: 0.1
common: {benchmark: split-digits, n_experiences: 2, hidden: 8, epochs: 1, memory_size: 64}
rows:
  - {label: naive, run: {strategy: naive}, expected: 50, tolerance: 50}
  - {label: replay, run: {strategy: er-uint8}, expected: 50, tolerance: 50}
"""


@pytest.fixture
def preset(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(PRESET)
    return str(path)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, fake_executor: Any, result: Callable[..., Any]) -> list[Any]:
    """A cluster that answers at once; the list says where and how it was opened."""
    opened: list[Any] = []

    def join(address: str, *, settings: Settings) -> Any:
        opened.append((address, settings))
        return fake_executor

    fake_executor.answer = result
    monkeypatch.setattr(ray_executor, "RayExecutor", join)
    return opened


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


def test_this_machine_does_the_runs_where_no_cluster_is_named() -> None:
    executor = open_executor(jobs=3, settings=Settings(threads=2))
    assert isinstance(executor, LocalProcesses)
    assert (executor.jobs, executor.settings.threads) == (3, 2)
    with pytest.raises(ValueError, match="jobs: wants at least 1, got 0"):
        open_executor(jobs=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_told_before_any_run() -> None:
    with pytest.raises(ValueError, match=r"gpus: wants 0 where torch finds no CUDA device, got 0\.5"):
        open_executor(settings=Settings(gpus=0.5))


def test_a_frontier_is_drawn_on_a_cluster(cluster: list[Any], fake_executor: Any, tmp_path: Path) -> None:
    draw_frontier(
        Frontier(
            strategies=("er-1bit",), budgets=("5KB",), seeds=2, ray_address="HOST:1", threads=3, gpus=0.5, out=tmp_path
        ),
        console=quiet(),
    )
    assert cluster == [("HOST:1", Settings(threads=3, gpus=0.5))]
    assert {(spec.strategy, spec.seed) for spec in fake_executor.asked} == {
        (name, seed) for name in ("naive", "joint", "er-1bit") for seed in (0, 1)
    }


def test_a_preset_is_reproduced_on_a_cluster(
    cluster: list[Any], fake_executor: Any, preset: str, tmp_path: Path
) -> None:
    reproduce(Reproduction(preset=preset, ray_address="auto", threads=2, out=tmp_path), console=quiet())
    assert cluster == [("auto", Settings(threads=2))]
    assert [spec.strategy for spec in fake_executor.asked] == ["naive", "er-uint8"]


def test_a_comparison_is_made_on_a_cluster(cluster: list[Any], fake_executor: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"benchmarks": ("split-digits",), "strategies": ("naive",), "seeds": 1}
    compare(Comparison(**settings, experiences=2, ray_address="auto", out=tmp_path), console=quiet())
    assert cluster == [("auto", Settings())]
    assert len(fake_executor.asked) == 1


def test_no_cluster_is_joined_before_a_preset_is_known_to_be_right(cluster: list[Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="preset: cannot read"):
        reproduce(Reproduction(preset=str(tmp_path / "none.yaml"), ray_address="auto"), console=quiet())
    with pytest.raises(ValueError, match="strategies: ewc has no memory"):
        draw_frontier(Frontier(strategies=("ewc",), ray_address="auto", out=tmp_path), console=quiet())
    assert not cluster


@pytest.mark.slow
def test_a_real_cluster_gives_the_verdicts_of_one_process(preset: str, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'avalanche-memplugins[ray]'")
    try:
        there = reproduce(Reproduction(preset=preset, ray_address="local", out=tmp_path / "ray"), console=quiet())
    finally:
        ray.shutdown()
    here = reproduce(Reproduction(preset=preset, out=tmp_path / "here"), console=quiet(), executor=InProcess())
    assert [one.measured for one in there] == [one.measured for one in here]
