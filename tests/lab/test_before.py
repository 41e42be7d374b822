"""What is told before the first run is what the runs themselves would find out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avalanche_memplugins.lab import STRATEGIES, RunSpec, Settings
from avalanche_memplugins.lab.before import check_before, unsuitable
from avalanche_memplugins.lab.run import build
from avalanche_memplugins.lab.strategies import OURS
from avalanche_memplugins.lab.streams import open_benchmark

SIZED = [name for name, info in STRATEGIES.items() if info.sized == "rows" and name not in OURS and name != "gem"]


@pytest.fixture(scope="module")
def stream() -> Any:
    return open_benchmark(run("naive"))


def run(strategy: str, **changes: Any) -> RunSpec:
    fields = {"benchmark": "split-digits", "seed": 0, "n_experiences": 5, "epochs": 1, "hidden": 8}
    return RunSpec(strategy=strategy, **{**fields, **changes})


@pytest.mark.parametrize("strategy", SIZED)
def test_the_least_budget_is_the_builders_own(strategy: str, stream: Any) -> None:
    why = unsuitable(run(strategy, budget=1))
    assert why is not None
    least = int(why.split("at least ")[1].split()[0])
    enough, short = run(strategy, budget=least), run(strategy, budget=least - 1)
    assert unsuitable(enough) is None
    assert unsuitable(short) is not None
    build(enough, stream, None)
    with pytest.raises(ValueError, match=r"budget|memory"):
        build(short, stream, None)


def test_missing_data_is_told_and_data_that_is_there_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(run("naive"), benchmark="split-mnist")

    def offline(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no network")

    monkeypatch.setattr("torchvision.datasets.MNIST.download", offline)
    settings = Settings(data_root=tmp_path)
    with pytest.raises(ValueError, match=r"^data: split-mnist is not in .*, and cannot be got: no network"):
        check_before([spec], tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()
    check_before([spec], tmp_path / "out", settings, here=False)  # a cluster's nodes have their own
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").touch()
    check_before([spec], tmp_path / "out", settings)


def test_runs_read_their_data_from_the_folder_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from avalanche_memplugins.benchmarks.roots import data_root

    monkeypatch.setenv("MEMPLUGINS_DATA", "elsewhere")
    with Settings(data_root=tmp_path).data():
        assert data_root() == tmp_path
    with pytest.raises(ValueError, match="MEMPLUGINS_DATA: expected an existing folder, got 'elsewhere'"):
        data_root()
    spec = run("naive")
    assert "data" not in str(spec.to_json()), "where the data is plays no part in what a run is"


@pytest.mark.parametrize("strategy", ["rma", "er-reservoir", "er-1bit", "er-4bit", "knn-4bit", "dark-replay"])
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"budget": 2**63 - 1}, "budget: expected a memory that fits this machine's"),
        ({"memory_size": 10_000}, "memory_size: expected a memory that fits this machine's"),
        ({"hidden": 2**31 - 1}, "hidden: expected a model that fits this machine's"),
    ],
)
def test_what_this_machine_cannot_hold_is_told(
    strategy: str, changes: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avalanche_memplugins.lab.before.memory_of_machine", lambda: 50_000)
    spec = run(strategy, **changes)
    with pytest.raises(ValueError, match=told):
        check_before([spec], tmp_path / "out", Settings())
    assert not (tmp_path / "out").exists()
    check_before([spec], tmp_path / "out", Settings(), here=False)  # a cluster's nodes have their own
    check_before([run(strategy)], tmp_path / "out", Settings())
