"""The picture of accuracy against bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from .comparison import label
from .frontier import LINES
from .report import nbytes
from .strategies import STRATEGIES

# Okabe & Ito's colours, which colour-blind readers tell apart; line and marker tell the rest.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_INK, _PALE = "#333333", "#777777"
_DPI = 160


def frontier_figure(table: pd.DataFrame) -> Figure:
    """Mean accuracy against bytes held, a line a strategy, its name at its end.

    Whole lines are of memories that keep rows, dashed ones of memories that generate.

    :param table: from :func:`.points`, of one benchmark.
    """
    figure = Figure(figsize=(9.6, 5.6), layout="constrained", dpi=_DPI)
    panel = figure.subplots()
    sized = table[table["budget"].notna()]
    names = [str(name) for name in dict.fromkeys(sized["strategy"])]
    low, high = _x_range(sized)
    ends: dict[str, tuple[float, float]] = {}
    style = _styles(names)
    for name in names:
        lines = sized[sized["strategy"] == name].sort_values("memory_bytes")
        x = lines["memory_bytes"].to_numpy(dtype=float)
        y, half = (100 * lines[column].to_numpy(dtype=float) for column in ("accuracy", "accuracy_half_width"))
        color, marker, dashes = style[name]
        bars = None if np.isnan(half).all() else np.clip(np.nan_to_num(half), 0, np.stack([y, 100 - y]))
        panel.errorbar(
            x,
            y,
            yerr=bars,
            color=color,
            marker=marker,
            markersize=6,
            linestyle=dashes,
            linewidth=2,
            elinewidth=1,
            capsize=2.5,
            zorder=3,
        )
        ends[name] = float(x[-1]), float(y[-1])
    panel.set_xscale("log")
    panel.set_xlim(low, high)
    panel.set_ylim(0, 102)
    _lines_across(panel, table)
    _name_the_lines(panel, ends, style, high)
    budgets = sorted(int(budget) for budget in sized["budget"].unique())
    panel.set_xticks(budgets)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: nbytes(value).replace(".0 ", " ")))
    panel.set_xlabel("bytes that the memory holds of the stream (log scale)", color=_INK)
    panel.set_ylabel("accuracy on all experiences at the end, %", color=_INK)
    panel.set_title(f"What a memory is worth per byte: {table['benchmark'].iloc[0]}", loc="left", fontweight="bold")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color="#e8e8e8", linewidth=0.8)
    panel.set_axisbelow(True)
    seeds = int(table["seeds"].max())
    spread = "one seed" if seeds == 1 else f"mean of {seeds} seeds, bars: 95 % t-intervals"
    note = f"{spread}; whole lines keep rows, dashed ones generate"
    if table["fixed_bytes"].max() > 0:
        note += "; frozen networks and priors not counted"
    figure.supxlabel(note, x=0.01, ha="left", fontsize=9, color=_PALE)
    return figure


def _styles(names: list[str]) -> dict[str, tuple[str, str, str]]:
    counts = {"-": 0, "--": 0}
    found = {}
    for i, name in enumerate(names):
        dashes = "--" if STRATEGIES[name].sized == "bytes" else "-"
        color = _COLORS[counts[dashes] % len(_COLORS)]
        counts[dashes] += 1
        found[name] = color, _MARKERS[i % len(_MARKERS)], dashes
    return found


def _x_range(sized: pd.DataFrame) -> tuple[float, float]:
    held = sized["memory_bytes"].to_numpy(dtype=float)
    return held.min() / 1.12, held.max() * 1.12


def _lines_across(panel: Any, table: pd.DataFrame) -> None:
    for name in LINES:
        lines = table[table["strategy"] == name]
        if lines.empty:
            continue
        y = 100 * float(lines["accuracy"].iloc[0])
        panel.axhline(y, color="black", linewidth=1.2, linestyle=":", zorder=2)
        panel.annotate(
            f"{label(name)} {y:.1f}",
            xy=(0.008, y),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            va="bottom",
            fontsize=9.5,
            color="black",
        )


def _name_the_lines(
    panel: Any, ends: dict[str, tuple[float, float]], style: dict[str, tuple[str, str, str]], right: float
) -> None:
    """Names beside the picture, moved apart where they would overlap, each led to the end of its line."""
    gap = 4.6
    names = sorted(ends, key=lambda name: ends[name][1])
    heights = np.array([ends[name][1] for name in names])
    # Pushed apart from below, then back under the top; what both passes leave is as near as it can be.
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    top = 100.0
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], top)
        top = heights[i] - gap
    for name, height in zip(names, heights, strict=True):
        x, y = ends[name]
        panel.annotate(
            f"{label(name)} {y:.1f}",
            xy=(x, y),
            xytext=(right * 1.05, height),
            color=style[name][0],
            va="center",
            fontsize=10,
            fontweight="bold",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": style[name][0], "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4},
        )
