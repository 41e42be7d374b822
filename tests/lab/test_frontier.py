"""Accuracy against bytes: runs, table, picture."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image
from rich.console import Console
from scipy.optimize import minimize

from avalanche_memplugins.lab import InProcess, RunResult, RunSpec
from avalanche_memplugins.lab.figures import _style, frontier_figure, spread
from avalanche_memplugins.lab.formatting import label
from avalanche_memplugins.lab.frontier import LINES, Frontier, draw_frontier, points


def made_up(spec: RunSpec) -> RunResult:
    """Accuracies that rise with the budget, close together at its end as real ones are."""
    level = {"naive": 0.2, "joint": 0.97}.get(spec.strategy)
    if level is None:
        level = min(0.95, 0.3 + 0.15 * math.log10(spec.budget or 1)) + 0.01 * (len(spec.strategy) % 5)
    level = min(1.0, level + 0.01 * spec.seed)
    n = spec.n_experiences
    return RunResult(
        spec=spec,
        accuracy=((level,) * n,) * n,
        train_seconds=(1.0,) * n,
        memory_bytes=(int(0.9 * (spec.budget or 0)),) * (n - 1) + (int(0.8 * (spec.budget or 0)),),
        fixed_bytes=4096 if spec.strategy.startswith("kanerva") else 0,
    )


def run(frontier: Frontier, executor: object) -> tuple[str, list[RunResult], list[Path]]:
    screen = Console(file=io.StringIO(), width=110)
    results, files = draw_frontier(frontier, console=screen, executor=executor)  # type: ignore[arg-type]
    return screen.file.getvalue(), results, files


def test_a_run_for_every_memory_and_budget_and_one_for_each_line() -> None:
    frontier = Frontier(strategies=("er-4bit", "gaussian"), budgets=("20KB", "5KB", "20000"), seeds=2)
    specs, missing = frontier.specs()
    found = {(spec.strategy, spec.budget, spec.seed) for spec in specs}
    expected = {(line, None) for line in LINES} | {("er-4bit", 5_000), ("er-4bit", 20_000), ("gaussian", 20_000)}
    assert found == {(*point, seed) for point in expected for seed in range(2)}
    assert len(specs) == len(found)
    # Mean and variances of ten classes of 64 pixels do not fit 5 kB.
    assert list(missing) == [("gaussian", 5_000)]
    assert "5440 bytes" in missing["gaussian", 5_000]


def test_defaults_have_every_memory_and_say_what_does_not_suit_the_digits() -> None:
    specs, missing = Frontier().specs()
    assert len(specs) == 3 * (2 + 10 * 4 + 2 * 3)
    assert {budget for name, budget in missing if name == "er-latent"} == {5_000, 10_000, 20_000, 50_000}


def test_an_open_marker_stands_where_fixed_bytes_are_counted_besides() -> None:
    row = {"benchmark": "split-digits", "seeds": 2, "accuracy_half_width": 0.01, "train_seconds": 1.0}
    lines = [
        {**row, "strategy": name, "budget": budget, "memory_bytes": 0.9 * budget, "fixed_bytes": fixed, "accuracy": 0.9}
        for name, fixed in (("er-4bit", 0.0), ("er-latent", 1_000_000.0))
        for budget in (5_000, 20_000)
    ]
    panel = frontier_figure(pd.DataFrame(lines).astype({"budget": "Int64"})).axes[0]
    opened = [line for line in panel.lines if line.get_markerfacecolor() == "white"]
    assert len(opened) == 1
    np.testing.assert_allclose(opened[0].get_xdata(), [1_004_500, 1_018_000], rtol=1e-3)
    assert panel.get_xlim()[1] > 1_018_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budgets": ("5 bananas",)}, "budgets: expected bytes such as"),
        ({"budgets": ()}, "budgets: expected at least one"),
        ({"strategies": ("ewc",)}, "strategies: ewc has no memory that a budget could size"),
        ({"strategies": ("er-4bits",)}, "strategy: no 'er-4bits'; did you mean 'er-4bit'"),
        ({"seeds": 0}, "seeds: expected an integer from 1 to 10000, got 0"),
        ({"benchmark": "split-digit"}, "benchmark: no 'split-digit'; did you mean"),
    ],
)
def test_bad_settings_are_named_before_anything_is_run(
    settings: dict[str, Any], message: str, tmp_path: Path, fake_executor: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        run(Frontier(**settings, out=tmp_path / "out"), fake_executor)
    assert not (tmp_path / "out").exists()


def test_points_are_means_over_seeds_at_the_most_bytes_held(spec: Callable[..., RunSpec]) -> None:
    runs = [
        replace(made_up(spec(strategy="er-4bit", budget=1_000, seed=seed)), accuracy=((0.1, 0.1), (value, value)))
        for seed, value in enumerate((0.4, 0.6))
    ]
    runs.append(RunResult(spec=spec(strategy="er-4bit", budget=1_000, seed=2), error="Traceback"))
    (line,) = points(runs).to_dict("records")
    assert (line["budget"], line["seeds"], line["memory_bytes"], line["train_seconds"]) == (1_000, 2, 900, 2)
    assert line["accuracy"] == pytest.approx(0.5)
    # t of 0.975 with one degree of freedom is 12.706; s / sqrt(2) = 0.1.
    assert line["accuracy_half_width"] == pytest.approx(1.2706, abs=1e-4)


def test_table_files_and_what_is_left_out(tmp_path: Path, fake_executor: Any) -> None:
    fake_executor.answer = made_up
    frontier = Frontier(strategies=("er-4bit", "kanerva", "gaussian"), budgets=("5KB", "20KB"), out=tmp_path)
    screen, results, files = run(frontier, fake_executor)
    row = next(line for line in screen.splitlines() if line.lstrip().startswith("Kanerva"))
    assert "4.1 kB" in row, "fixed bytes are shown apart"
    assert " - " in row, "at 5 kB there is no run"
    assert "left out: gaussian at 5.0 kB: nbytes: expected at least the 5440 bytes" in screen
    assert [path.name for path in files] == ["frontier.csv", "frontier.png"]
    assert screen.index("left out: gaussian") < screen.index("[ 1/"), "told before the first run"
    read = pd.read_csv(tmp_path / "frontier.csv")
    pd.testing.assert_frame_equal(read, points(results), check_dtype=False)
    again, *_ = run(frontier, fake_executor)
    assert again.count("done before") == len(results)
    assert len(fake_executor.asked) == len(results)
    fake_executor.asked.clear()
    run(replace(frontier, budgets=("5KB", "20KB", "50KB")), fake_executor)
    assert {spec.budget for spec in fake_executor.asked} == {50_000}, "only what is new"


def test_failures_are_told_and_the_rest_is_drawn(tmp_path: Path, fake_executor: Any) -> None:
    def answer(spec: RunSpec) -> RunResult:
        return RunResult(spec=spec, error="MemoryError: no") if spec.strategy == "er-1bit" else made_up(spec)

    fake_executor.answer = answer
    screen, results, files = run(
        Frontier(strategies=("er-1bit", "er-4bit"), budgets=("5KB",), seeds=1, out=tmp_path), fake_executor
    )
    assert "FAILED split-digits · er-1bit · 5000 bytes · seed 0: MemoryError: no" in screen
    assert len(files) == 2
    assert sum(not result.ok for result in results) == 1


def test_budgets_that_hold_no_memory_are_told_before_anything_is_run(tmp_path: Path, fake_executor: Any) -> None:
    with pytest.raises(ValueError, match="budgets: none of them holds a memory; er-4bit at 5 bytes: nbytes: expected"):
        run(Frontier(strategies=("er-4bit",), budgets=("5B",), out=tmp_path / "out"), fake_executor)
    assert fake_executor.asked == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("budgets", [("5KB", "10KB", "20KB", "50KB", "100KB"), ("20KB",), ("1MB", "2MB")])
def test_the_picture_has_all_names_and_no_text_over_text(seeds: int, budgets: tuple[str, ...]) -> None:
    specs, _ = Frontier(budgets=budgets, seeds=seeds).specs()
    figure = frontier_figure(points([made_up(spec) for spec in specs]))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert min(Image.open(buffer).size) >= 600
    shown = {text.get_text().rsplit(" ", 1)[0] for axes in figure.axes for text in axes.texts}
    names = {label(spec.method) for spec in specs}
    assert len(names) == 14
    assert shown == {"best that keeps"} | names
    canvas, boxes = figure.bbox, []
    for text in figure.findobj(Text):
        if not text.get_text() or not text.get_visible():
            continue
        # Of the words alone: an annotation's own box has its leader in it.
        box = Text.get_window_extent(text)
        assert canvas.x0 <= box.x0 <= box.x1 <= canvas.x1, text
        assert canvas.y0 <= box.y0 <= box.y1 <= canvas.y1, text
        boxes.append((text.get_text(), box))
    overlaps = [
        (one, other)
        for i, (one, a) in enumerate(boxes)
        for other, b in boxes[:i]
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 4 and min(a.y1, b.y1) - max(a.y0, b.y0) > 4
    ]
    assert overlaps == []


def test_the_picture_shows_the_points(spec: Callable[..., RunSpec]) -> None:
    runs = [made_up(spec(strategy="er-4bit", budget=budget, seed=seed)) for budget in (1_000, 9_000) for seed in (0, 1)]
    table = points(runs)
    (axes,) = frontier_figure(table).axes  # none that generates: one panel
    (container,) = axes.containers
    line, _, (bars,) = container
    np.testing.assert_allclose(line.get_xdata(), [900, 8_100])  # alone, so not moved aside
    np.testing.assert_allclose(line.get_ydata(), 100 * table["accuracy"])
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 200 * table["accuracy_half_width"])
    assert axes.get_xscale() == "log"


def test_no_two_lines_of_a_panel_look_alike() -> None:
    assert len({_style(i) for i in range(24)}) == 24
    assert len({_style(i)[:2] for i in range(24)}) == 24


@pytest.mark.parametrize("wanted", [[0.5, 0.5, 0.5], [0.0, 0.01, 0.9, 0.91, 0.99], [0.2, 0.5, 0.8], [0.97, 0.98, 1.0]])
def test_names_are_apart_and_as_near_as_can_be(wanted: list[float]) -> None:
    gap, n = 0.1, len(wanted)
    found = spread(wanted, gap)
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(found))
    assert -1e-9 <= found[0] <= found[-1] <= 1 + 1e-9
    # An independent solver of the same quadratic programme.
    best = minimize(
        lambda h: ((h - wanted) ** 2).sum(),
        np.linspace(0, 1, n),
        bounds=[(0, 1)] * n,
        constraints={"type": "ineq", "fun": lambda h: np.diff(h) - gap},
    )
    np.testing.assert_allclose(found, best.x, atol=2e-3)


def test_real_runs_end_in_a_picture(tmp_path: Path) -> None:
    frontier = Frontier(
        strategies=("er-1bit", "kanerva-shared"),
        budgets=("2KB", "6KB"),
        seeds=1,
        experiences=2,
        epochs=1,
        hidden=16,
        out=tmp_path,
    )
    screen, results, files = run(frontier, InProcess())
    assert all(result.ok for result in results), screen
    assert all(path.exists() for path in files)
    assert all(max(result.memory_bytes) <= result.spec.budget for result in results if result.spec.budget)


def test_the_pictures_foot_tells_the_fewest_seeds_too() -> None:
    row = {"benchmark": "split-digits", "strategy": "er-uint8", "accuracy": 0.9, "accuracy_half_width": 0.01}
    row |= {"fixed_bytes": 0.0, "train_seconds": 1.0}
    table = pd.DataFrame([{**row, "budget": b, "memory_bytes": b, "seeds": n} for b, n in ((5_000, 2), (9_000, 5))])
    foot = frontier_figure(table)._supxlabel.get_text()
    assert foot.startswith("mean of 2 to 5 seeds")
