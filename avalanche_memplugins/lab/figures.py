"""The comparison's pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .comparison import label
from .statistics import interval
from .table import accuracy_matrix

# Okabe & Ito's colours, which colour-blind readers tell apart; grey and black for floor and ceiling.
_FIXED = {"naive": "#8c8c8c", "cumulative": "#000000"}
_CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DPI = 150


def accuracy_curves(table: pd.DataFrame) -> Figure:
    """Mean accuracy over the experiences seen so far, after each one; a panel a benchmark.

    Lines are means over seeds, bands their 95 % t-intervals.

    :param table: from :func:`.tidy`.
    """
    benchmarks = list(dict.fromkeys(table["benchmark"]))
    figure = Figure(figsize=(5.6 * len(benchmarks), 4.2), layout="constrained", dpi=_DPI)
    panels = figure.subplots(1, len(benchmarks), sharey=True, squeeze=False)[0]
    style = _styles(list(dict.fromkeys(table["strategy"])))
    for panel, benchmark in zip(panels, benchmarks, strict=True):
        of_benchmark = table[table["benchmark"] == benchmark]
        ends = {}
        for strategy, lines in of_benchmark.groupby("strategy", sort=False):
            curves = np.stack([_seen_so_far(accuracy_matrix(run)) for _, run in lines.groupby("run", sort=False)])
            middle, half = np.array([interval(column.tolist()) for column in curves.T]).T
            steps = np.arange(1, len(middle) + 1)
            color, marker = style[str(strategy)]
            panel.plot(steps, middle, color=color, marker=marker, markersize=4.5, linewidth=1.8, zorder=3)
            if np.isfinite(half).all():
                low, high = np.clip(middle - half, 0, 100), np.clip(middle + half, 0, 100)
                panel.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
            ends[str(strategy)] = float(middle[-1])
        _name_the_lines(panel, ends, style, x=len(middle))
        panel.set_title(benchmark, loc="left", fontweight="bold")
        panel.set_xlabel("experiences trained on")
        panel.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
        panel.set_ylim(0, 101)
        _plain(panel)
    panels[0].set_ylabel("accuracy on experiences so far, %")
    _explain(figure, table, bands=True)
    return figure


def accuracy_matrices(table: pd.DataFrame) -> Figure:
    """Accuracy on each experience after each, mean over seeds; a row of panels a benchmark, a column a strategy.

    :param table: from :func:`.tidy`.
    """
    benchmarks = list(dict.fromkeys(table["benchmark"]))
    strategies = list(dict.fromkeys(table["strategy"]))
    figure = Figure(figsize=(2.3 * len(strategies) + 1.4, 2.7 * len(benchmarks) + 0.4), layout="constrained", dpi=_DPI)
    panels = figure.subplots(len(benchmarks), len(strategies), squeeze=False)
    image: Any = None
    for i, benchmark in enumerate(benchmarks):
        for k, strategy in enumerate(strategies):
            panel = panels[i, k]
            lines = table[(table["benchmark"] == benchmark) & (table["strategy"] == strategy)]
            if lines.empty:
                panel.set_axis_off()
                continue
            runs = [accuracy_matrix(run) for _, run in lines.groupby("run", sort=False)]
            image = _heatmap(panel, 100 * np.mean(runs, axis=0))
            panel.set_title(label(strategy), fontsize=10)
            panel.set_xlabel("tested on", fontsize=9)
            if k == 0:
                panel.set_ylabel("trained up to", fontsize=9)
                panel.annotate(
                    benchmark,
                    xy=(0, 0.5),
                    xytext=(-36, 0),
                    xycoords="axes fraction",
                    textcoords="offset points",
                    rotation=90,
                    ha="right",
                    va="center",
                    fontweight="bold",
                    annotation_clip=False,
                )
    figure.colorbar(image, ax=panels, shrink=0.7, label="accuracy, %")
    _explain(figure, table, bands=False)
    return figure


def _explain(figure: Figure, table: pd.DataFrame, *, bands: bool) -> None:
    seeds = int(table["seed"].nunique())
    text = "one seed" if seeds == 1 else f"mean over {seeds} seeds" + ", bands: 95 % t-intervals" * bands
    figure.suptitle(text, x=0.01, ha="left", fontsize=9, color="#555555")


def _seen_so_far(matrix: np.ndarray) -> np.ndarray:
    return np.array([100 * row[: i + 1].mean() for i, row in enumerate(matrix)])


def _styles(strategies: list[str]) -> dict[str, tuple[str, str]]:
    free = [name for name in strategies if name not in _FIXED]
    colors = {name: _CYCLE[i % len(_CYCLE)] for i, name in enumerate(free)} | _FIXED
    return {name: (colors[name], _MARKERS[i % len(_MARKERS)]) for i, name in enumerate(strategies)}


def _name_the_lines(panel: Any, ends: dict[str, float], style: dict[str, tuple[str, str]], x: float) -> None:
    """Names at the lines' right ends, moved apart where they would overlap."""
    gap = 5.5
    names = sorted(ends, key=lambda name: ends[name])
    heights: list[float] = []
    for name in names:
        heights.append(max(ends[name], heights[-1] + gap) if heights else max(ends[name], 1.0))
    # Pushed up too far: back below the top, from above.
    top = 100.0
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], top)
        top = heights[i] - gap
    for name, height in zip(names, heights, strict=True):
        panel.annotate(
            f"{label(name)} {ends[name]:.1f}",
            xy=(x, ends[name]),
            xytext=(8, height),
            textcoords=("offset points", "data"),
            color=style[name][0],
            va="center",
            fontsize=9,
            annotation_clip=False,
        )


def _heatmap(panel: Any, matrix: np.ndarray) -> Any:
    n = len(matrix)
    image = panel.imshow(matrix, vmin=0, vmax=100, cmap="cividis")
    if n <= 10:
        for i, k in np.ndindex(matrix.shape):
            panel.text(
                k,
                i,
                f"{matrix[i, k]:.0f}",
                ha="center",
                va="center",
                fontsize=8 if n <= 6 else 6,
                color="white" if matrix[i, k] < 55 else "black",
                alpha=0.45 if k > i else 1.0,
            )
    ticks = range(n) if n <= 10 else range(0, n, n // 5)
    panel.set_xticks(ticks, [str(k + 1) for k in ticks])
    panel.set_yticks(ticks, [str(k + 1) for k in ticks])
    panel.tick_params(length=0, labelsize=8)
    return image


def _plain(panel: Any) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    panel.set_axisbelow(True)
