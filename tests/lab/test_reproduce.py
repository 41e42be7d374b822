"""Published numbers: files that are read, runs that are judged."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from avalanche_memplugins.lab import InProcess, RunResult, RunSpec
from avalanche_memplugins.lab.reproduce import (
    PresetRow,
    Reproduction,
    load_preset,
    preset_names,
    reproduce,
    verdict,
)

TINY = """
summary: digits in seconds
source: this test
seeds: 2
minutes: 0.1
note: not published anywhere
common: {benchmark: split-digits, n_experiences: 2, hidden: 16, memory_size: 64, epochs: 1}
rows:
  - {label: None, run: {strategy: naive}, expected: 50, tolerance: 49}
  - {label: replay, run: {strategy: er-4bit, budget: 3KB, iterations: 5, options: {}}, expected: 1, tolerance: 0.5}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


def run(settings: Reproduction, executor: object = None) -> tuple[str, list[Any]]:
    screen = Console(file=io.StringIO(), width=100)
    found = reproduce(settings, console=screen, executor=executor or InProcess())  # type: ignore[arg-type]
    return screen.file.getvalue(), found


def test_the_presets_that_were_asked_for_are_there() -> None:
    assert {
        "rma-permuted-mnist",
        "mbpa-permuted-mnist",
        "three-scenarios-split-mnist",
        "clb-split-mnist",
        "der-permuted-mnist",
    } <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_read_with_source_and_valid_runs(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name
    assert len(preset.source) > 20
    assert all(0 < row.tolerance < row.expected <= 100 for row in preset.rows)
    keys = [row.spec(0).key for row in preset.rows]
    assert len(set(keys)) == len(keys), "no row is another one again"


def test_published_numbers_are_those_of_the_sources() -> None:
    def expected(name: str) -> dict[str, float]:
        return {row.label: row.expected for row in load_preset(name).rows}

    assert list(expected("rma-permuted-mnist").values()) == [76.8, 73.2, 56.7]
    published = {"LwF": 23, "GDumb": 97, "GSS": 82, "GR": 75, "online replay": 92}
    assert expected("clb-split-mnist") == {**published, "online replay, ours": 92}
    for name in ("der-split-mnist", "der-permuted-mnist"):
        rows = expected(name)
        for label, number in rows.items():
            assert number == rows[label.removesuffix(", ours")], "the same number to reach"
    table = expected("three-scenarios-split-mnist")
    assert (table["None"], table["DGR"], table["iCaRL"], table["Offline"]) == (19.9, 90.79, 94.57, 97.9)


def test_settings_of_the_file_reach_the_runs(tiny: Path) -> None:
    naive, replay = load_preset(tiny).rows
    assert naive.spec(3) == RunSpec(
        benchmark="split-digits", strategy="naive", seed=3, n_experiences=2, hidden=16, memory_size=64, epochs=1
    )
    assert (replay.spec(0).budget, replay.spec(0).iterations) == (3_000, 5)
    rma = load_preset("rma-permuted-mnist").rows[0].spec(0)
    assert (rma.model, rma.optimizer, rma.lr, rma.iterations) == ("linear-zero", "sgd", 0.5, 10_000)
    assert dict(rma.options) == {"write_every": 1_000, "write_epochs": "all"}
    assert dict(rma.benchmark_options) == {"normalise": False}


def test_real_runs_are_judged_kept_and_not_done_again(tiny: Path, tmp_path: Path) -> None:
    settings = Reproduction(preset=str(tiny), out=tmp_path / "out")
    screen, (none, replay) = run(settings)
    assert none.reproduced
    assert none.seeds == replay.seeds == 2
    assert not replay.reproduced
    assert replay.text == f"{replay.measured - 1:.1f} points above"
    line = next(line for line in screen.splitlines() if line.strip().startswith("replay"))
    assert "1 ± 0.5" in line
    assert f"{replay.measured:.1f} ± {replay.half_width:.1f}" in line
    assert "this test" in screen
    assert "not published anywhere" in screen
    table = pd.read_csv(tmp_path / "out" / "tiny.csv")
    assert table["measured"].tolist() == pytest.approx([none.measured, replay.measured])
    again, verdicts = run(settings)
    assert again.count("done before") == 4
    assert verdicts == [none, replay]


def test_rows_and_seeds_can_be_chosen(tiny: Path, tmp_path: Path, fake_executor: Any) -> None:
    run(Reproduction(preset=str(tiny), rows=("replay",), seeds=3, out=tmp_path), fake_executor)
    assert [(spec.strategy, spec.seed) for spec in fake_executor.asked] == [("er-4bit", seed) for seed in range(3)]
    with pytest.raises(ValueError, match="rows: no 'relpay'; did you mean 'replay'"):
        run(Reproduction(preset=str(tiny), rows=("relpay",), out=tmp_path))
    with pytest.raises(ValueError, match="seeds: expected an integer from 1 to 10000, got 0"):
        run(Reproduction(preset=str(tiny), seeds=0, out=tmp_path))


@pytest.mark.parametrize(
    ("accuracies", "text"),
    [
        ((0.88, 0.90), "reproduced"),
        ((0.87, 0.87), "reproduced"),
        ((0.86, 0.87), "3.5 points below"),
        ((0.95, 0.95), "5.0 points above"),
        ((0.90, None), "1 failed"),
    ],
)
def test_a_verdict_is_about_the_mean_and_every_run(
    accuracies: tuple[float | None, ...], text: str, spec: Callable[..., RunSpec]
) -> None:
    runs = [
        RunResult(spec=spec(seed=seed), error="no")
        if value is None
        else RunResult(spec=spec(seed=seed), accuracy=((value, value), (value, value)))
        for seed, value in enumerate(accuracies)
    ]
    found = verdict(PresetRow(label="x", run={}, expected=90, tolerance=3), runs)
    assert found.text == text
    assert found.reproduced == (text == "reproduced")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("strategy: naive", "strategy: navie"), "preset tiny, row None: strategy: no 'navie'; did you mean 'naive'"),
        (("epochs: 1", "epoch: 1"), "preset tiny, row None: .*'epoch'"),
        (("budget: 3KB", "budget: 3 cups"), "preset tiny, row replay: budget: expected bytes"),
        (
            ("expected: 50", "expected: fifty"),
            "row None, expected: expected a number above 0, got 'fifty'",
        ),
        (("tolerance: 49", "tolerance: 0"), "preset tiny, row None, tolerance: expected a number above 0, got 0"),
        (("tolerance: 49", "note: x"), "preset tiny, row None: expected a field 'tolerance'"),
        (("source: this test", "sauce: this test"), "preset tiny: expected no field 'sauce'"),
        (("label: replay", "label: None"), "preset tiny, rows: expected a label of its own for each"),
        (("seeds: 2", "seeds: 0"), "preset tiny, seeds: expected an integer >= 1, got 0"),
        (("strategy: naive", "seed: 1, strategy: naive"), "row None: expected no seed of its own"),
        (("rows:", "rows: ["), "tiny.yaml is no preset"),
    ],
)
def test_a_damaged_file_is_named_with_row_and_field(tiny: Path, change: tuple[str, str], message: str) -> None:
    tiny.write_text(tiny.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_preset(tiny)


def test_unknown_and_missing_presets_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="preset: no 'rma-permuted-mnits'; did you mean 'rma-permuted-mnist'"):
        load_preset("rma-permuted-mnits")
    with pytest.raises(ValueError, match="preset: cannot read"):
        load_preset(tmp_path / "none.yaml")
