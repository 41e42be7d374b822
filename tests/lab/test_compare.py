"""Screen and files of a comparison, with runs that nobody has to wait for."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from avalanche_memplugins.lab import Comparison, ResultStore, RunResult, RunSpec, compare
from avalanche_memplugins.lab.figures import accuracy_curves, accuracy_matrices
from avalanche_memplugins.lab.formatting import nbytes
from avalanche_memplugins.lab.table import tidy


def made_up(spec: RunSpec) -> RunResult:
    """Accuracies of the size that real runs have, five experiences."""
    rng = np.random.default_rng([spec.seed, len(spec.strategy), len(spec.benchmark)])
    loss = {"naive": 0.9, "cumulative": 0.0}.get(spec.strategy, 0.08)
    n = spec.n_experiences
    matrix = np.tril(np.full((n, n), 0.97 - loss), -1) + np.eye(n) * 0.97
    matrix = np.clip(matrix + 0.02 * rng.normal(size=(n, n)), 0, 1)
    return RunResult(
        spec=spec,
        accuracy=tuple(tuple(row) for row in matrix.tolist()),
        train_seconds=(1.0,) * n,
        memory_bytes=(54_400,) * n,
        weights="",
    )


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    return Comparison(benchmarks=("split-digits",), strategies=("naive", "rma"), seeds=2, out=tmp_path / "out")


def run(comparison: Comparison, executor: object, **console: Any) -> tuple[str, Any]:
    screen = Console(file=io.StringIO(), width=80, **console)
    outcome = compare(comparison, console=screen, executor=executor)
    return screen.file.getvalue(), outcome


def test_fewer_rows_than_the_data_set_has_are_told_on_screen_and_page(tmp_path: Path, fake_executor) -> None:
    fake_executor.answer = made_up
    comparison = Comparison(benchmarks=("split-digits",), train_rows=1_600, test_rows=50, seeds=1, out=tmp_path)
    screen, _ = run(comparison, fake_executor)
    told = "5 experiences, 10 epochs each, 1,600 training rows each, 50 test rows each, 1 seed"
    assert told in " ".join(screen.split())
    assert told in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_tables_fit_eighty_columns_and_files_are_written(tmp_path: Path, fake_executor) -> None:
    comparison = Comparison(out=tmp_path / "out")
    fake_executor.answer = made_up
    screen, outcome = run(comparison, fake_executor)
    assert "split-digits: class-incremental, 5 experiences, 10 epochs each, 3 seeds" in screen
    assert "…" not in screen, "nothing is cut off"
    naive = next(line for line in screen.splitlines() if line.startswith(" Naive"))
    summary = outcome.summary.set_index(["benchmark", "strategy"]).loc[("split-digits", "naive")]
    for name in ("accuracy", "difference", "forgetting"):
        sign = "+" if name == "difference" else ""
        assert f"{100 * summary[name]:{sign}.1f} ± {100 * summary[name + '_half_width']:.1f}" in naive
    assert "54.4 kB" in naive
    assert "5.0 s" in naive
    names = [path.name for path in outcome.files]
    assert [name for name in names if name != "results.parquet"] == [
        "results.csv",
        "summary.csv",
        "accuracy.png",
        "matrices.png",
        "report.html",
    ]
    assert all(str(path) in screen for path in outcome.files)
    read = pd.read_csv(comparison.out / "results.csv", dtype={"evaluated_experience": "Int64"})
    pd.testing.assert_frame_equal(read, outcome.tidy, check_dtype=False)
    assert len(list((comparison.out / "runs").iterdir())) == 30


def test_the_order_in_which_runs_end_changes_nothing(comparison: Comparison, fake_executor) -> None:
    class Backwards:
        jobs = 1

        def run(self, specs: Sequence[RunSpec], store: ResultStore) -> Iterator[RunResult]:
            return map(made_up, reversed(specs))

    fake_executor.answer = made_up
    _, one = run(comparison, fake_executor)
    _, other = run(replace(comparison, out=comparison.out / "other"), Backwards())
    pd.testing.assert_frame_equal(one.tidy, other.tidy)
    pd.testing.assert_frame_equal(one.summary, other.summary)


def test_a_plain_screen_has_a_line_a_run(comparison: Comparison, fake_executor) -> None:
    fake_executor.answer = made_up
    screen, _ = run(comparison, fake_executor)
    assert sum(line.startswith("[") for line in screen.splitlines()) == 4
    assert "[4/4] split-digits · rma · seed 1: accuracy 9" in screen
    assert "\x1b" not in screen
    again, _ = run(comparison, fake_executor)
    assert again.count("(done before)") == 4


def test_a_terminal_has_a_live_table(comparison: Comparison, fake_executor) -> None:
    fake_executor.answer = made_up
    screen, _ = run(comparison, fake_executor, force_terminal=True)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    assert re.search(r"RMA +●● +9\d\.\d", plain)
    assert "4/4" in plain
    assert "[4/4]" not in plain


def test_failures_are_shown_and_the_rest_is_reported(comparison: Comparison, fake_executor) -> None:
    def answer(spec: RunSpec) -> RunResult:
        if (spec.strategy, spec.seed) == ("rma", 1):
            return RunResult(spec=spec, error="Traceback ...\nMemoryError: too much")
        return made_up(spec)

    fake_executor.answer = answer
    screen, outcome = run(comparison, fake_executor)
    assert screen.count("FAILED split-digits · rma · seed 1: MemoryError: too much") == 1
    failed = next(result for result in outcome.results if not result.ok)
    assert str(ResultStore(comparison.out / "runs").path(failed.spec)) in screen
    assert "RMA (1 seed)" in screen
    fake_executor.answer, fake_executor.asked = made_up, []
    screen, _ = run(comparison, fake_executor)
    assert [(spec.strategy, spec.seed) for spec in fake_executor.asked] == [("rma", 1)]
    assert "FAILED" not in screen


def test_nothing_but_failures_writes_no_table(comparison: Comparison, fake_executor) -> None:
    fake_executor.answer = lambda spec: RunResult(spec=spec, error="ImportError: no torch")
    screen, outcome = run(comparison, fake_executor)
    assert outcome.files == []
    assert "ImportError: no torch" in screen
    assert not (comparison.out / "results.csv").exists()


def test_warnings_of_runs_are_told_once(comparison: Comparison, fake_executor) -> None:
    def answer(spec: RunSpec) -> RunResult:
        return RunResult(**{**vars(made_up(spec)), "warnings": ("UserWarning: odd",)})

    fake_executor.answer = answer
    screen, _ = run(comparison, fake_executor)
    assert screen.count("warned: UserWarning: odd") == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(comparison: Comparison, fake_executor, terminal: bool) -> None:
    class Interrupted:
        jobs = 1

        def run(self, specs: Sequence[RunSpec], store: ResultStore) -> Iterator[RunResult]:
            yield from map(made_up, specs[:3])
            raise KeyboardInterrupt

    screen = Console(file=io.StringIO(), width=200, force_terminal=terminal)
    with pytest.raises(KeyboardInterrupt):
        compare(comparison, console=screen, executor=Interrupted())
    assert "stopped: 3 of 4 runs are kept in" in screen.file.getvalue()
    assert "the same command goes on from there" in screen.file.getvalue()
    fake_executor.answer = made_up
    run(comparison, fake_executor)
    assert len(fake_executor.asked) == 1


def test_bad_settings_are_refused_before_anything_is_written(tmp_path: Path, fake_executor) -> None:
    with pytest.raises(ValueError, match="strategy: no 'rmaa'"):
        compare(Comparison(strategies=("rmaa",), out=tmp_path / "out"), executor=fake_executor)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("draw", [accuracy_curves, accuracy_matrices])
@pytest.mark.parametrize(("n_experiences", "seeds"), [(5, 3), (1, 1), (20, 2)])
def test_pictures_have_no_text_over_text(draw: Callable, n_experiences: int, seeds: int) -> None:
    comparison = Comparison(experiences=n_experiences, seeds=seeds)
    figure = draw(tidy(map(made_up, comparison.specs())))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert min(Image.open(buffer).size) >= 600
    canvas = figure.bbox
    boxes = []
    for axes in figure.axes:
        drawn = [tick.label1 for axis in (axes.xaxis, axes.yaxis) for tick in axis._update_ticks()]
        for text in [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *drawn]:
            if text.get_text():
                box = text.get_window_extent()
                assert canvas.x0 <= box.x0 <= box.x1 <= canvas.x1, text
                assert canvas.y0 <= box.y0 <= box.y1 <= canvas.y1, text
                boxes.append((text, box))
    # Two points of leeway: boxes are those of lines of text, taller than the letters.
    overlaps = [
        (one.get_text(), other.get_text())
        for i, (one, a) in enumerate(boxes)
        for other, b in boxes[:i]
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 4 and min(a.y1, b.y1) - max(a.y0, b.y0) > 4
    ]
    assert overlaps == []


def test_the_curve_shows_the_mean_of_the_experiences_seen(spec, result) -> None:
    runs = [result(spec(seed=0), ((0.9, 0.3), (0.5, 0.7))), result(spec(seed=1), ((0.7, 0.3), (0.3, 0.5)))]
    (line,) = accuracy_curves(tidy(runs)).axes[0].lines
    np.testing.assert_allclose(line.get_xdata(), [1, 2])
    np.testing.assert_allclose(line.get_ydata(), [80, 50])


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (54_400, "54.4 kB"), (1_955_680, "2.0 MB"), (3.5e9, "3.5 GB"), (2e12, "2000.0 GB")],
)
def test_bytes_for_a_reader(count: float, shown: str) -> None:
    assert nbytes(count) == shown


def test_defaults_are_the_readmes_comparison() -> None:
    specs = Comparison().specs()
    assert len(specs) == len(set(specs)) == 2 * 5 * 3
    assert {spec.strategy for spec in specs} == {"naive", "replay", "rma", "er", "cumulative"}
    assert {(spec.benchmark, spec.n_experiences) for spec in specs} == {("split-digits", 5), ("permuted-digits", 5)}
    assert [spec.seed for spec in specs] == sorted(spec.seed for spec in specs), "whole comparisons first"


def test_strategies_of_a_seed_differ_in_the_strategy_only() -> None:
    for seed in range(3):
        runs = [one for one in Comparison().specs() if (one.benchmark, one.seed) == ("split-digits", seed)]
        assert len({tuple(sorted({**run.to_json(), "strategy": "", "options": 0}.items())) for run in runs}) == 1


def test_settings_reach_the_runs() -> None:
    (spec,) = Comparison(
        benchmarks=("permuted-digits",),
        strategies=("rma", "rma"),
        seeds=1,
        memory_size=7,
        experiences=3,
        epochs=2,
        batch_size=5,
        model="linear",
        hidden=9,
        optimizer="sgd",
        lr=0.5,
    ).specs()
    assert spec.to_json() == {
        "benchmark": "permuted-digits",
        "strategy": "rma",
        "seed": 0,
        "n_experiences": 3,
        "epochs": 2,
        "memory_size": 7,
        "model": "linear",
        "hidden": 9,
        "optimizer": "sgd",
        "lr": 0.5,
        "batch_size": 5,
    }


def test_baseline_is_replay_or_the_first_or_what_is_named() -> None:
    assert Comparison().baseline_name() == "replay"
    assert Comparison(strategies=("rma", "naive")).baseline_name() == "rma"
    assert Comparison(baseline="naive").baseline_name() == "naive"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "seeds: expected an integer from 1 to 10000, got 0"),
        ({"strategies": ()}, "strategies: expected at least one name, got none"),
        ({"benchmarks": ("permuted",)}, "benchmark: no 'permuted'; did you mean 'permuted-"),
        ({"strategies": ("navie",)}, "strategy: no 'navie'; did you mean 'naive'"),
        ({"baseline": "nave"}, "baseline: no 'nave'; did you mean 'naive'"),
        ({"experiences": 0}, "n_experiences: expected an integer >= 1, got 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Comparison(**settings).specs()
