"""Every command takes its executor from the same place: a Ray cluster where it is named, else this machine."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from avalanche_memplugins.cli import _parsed
from avalanche_memplugins.lab import (
    Comparison,
    InProcess,
    LocalProcesses,
    ResultStore,
    Settings,
    compare,
    ray_executor,
)
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
    with pytest.raises(ValueError, match="jobs: expected at least 1, got 0"):
        open_executor(jobs=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_told_before_any_run() -> None:
    with pytest.raises(ValueError, match=r"gpus: expected 0, since torch finds no CUDA device, got 0\.5"):
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


def test_a_cluster_is_left_in_the_end_but_not_one_that_the_caller_has_joined(
    cluster: list[Any], fake_executor: Any, preset: str, tmp_path: Path
) -> None:
    left: list[str] = []
    fake_executor.close = lambda: left.append("left")
    command = Reproduction(preset=preset, ray_address="auto", out=tmp_path)
    reproduce(command, console=quiet())
    assert left == ["left"]

    def lost(spec: Any) -> Any:
        raise KeyboardInterrupt

    fake_executor.answer = lost
    with pytest.raises(KeyboardInterrupt):
        draw_frontier(
            Frontier(strategies=("er-1bit",), budgets=("5KB",), ray_address="auto", out=tmp_path), console=quiet()
        )
    assert left == ["left"] * 2
    with pytest.raises(KeyboardInterrupt):
        reproduce(Reproduction(preset=preset, out=tmp_path / "own"), console=quiet(), executor=fake_executor)
    assert left == ["left"] * 2


@pytest.mark.parametrize(
    "options",
    [
        Comparison(seeds=2, budget="50KB", lr=0.5, log=("csv",), out=Path("an out")),
        Frontier(strategies=("er-4bit", "vae"), budgets=("1KB",), train_rows=7),
        Reproduction(preset="clb-split-mnist", rows=("online replay, ours",), threads=2),
    ],
)
def test_the_command_line_of_options_makes_the_same_options(options: Any) -> None:
    program, *arguments = shlex.split(options.command())
    assert program == "memplugins"
    assert _parsed(arguments) == options


def test_a_commands_own_options_come_before_those_of_all() -> None:
    for kind, first in ((Comparison, "benchmarks"), (Frontier, "benchmark"), (Reproduction, "preset")):
        names = [field.name for field in fields(kind)]
        assert (names[0], names[-1]) == (first, "out")
        if kind is not Reproduction:
            assert names.index("seeds") < names.index("epochs") < names.index("lr") < names.index("jobs")


@pytest.mark.slow
def test_two_nodes_give_the_results_of_one_process(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'avalanche-memplugins[ray]'")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    frontier: dict[str, Any] = {
        "strategies": ("er-1bit", "kanerva"), "budgets": ("20KB",), "seeds": 1, "epochs": 1, "hidden": 16
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    try:
        nodes.add_node(**node)
        nodes.wait_for_nodes()
        there = reproduce(Reproduction(preset=preset, ray_address=nodes.address, out=Path("ray")), console=quiet())
        assert not ray.is_initialized()
        drawn, _ = draw_frontier(Frontier(**frontier, ray_address=nodes.address, out=Path("ray")), console=quiet())
    finally:
        ray.shutdown()
        nodes.shutdown()
    here = reproduce(Reproduction(preset=preset, out=Path("here")), console=quiet(), executor=InProcess())
    assert [one.measured for one in there] == [one.measured for one in here]
    alone, _ = draw_frontier(Frontier(**frontier, out=Path("here")), console=quiet(), executor=InProcess())
    assert [one.spec for one in drawn] == [one.spec for one in alone]
    stores = [ResultStore(Path(name, "runs")).results() for name in ("ray", "here")]
    assert len(stores[0]) == 2 + 4
    for one, other in zip(*stores, strict=True):
        assert one.ok, one.error
        assert replace(one, train_seconds=(), environment={}) == replace(other, train_seconds=(), environment={})
