"""The picture of accuracy against bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from avalanche_memplugins.benchmarks.registry import BENCHMARKS

from .comparison import label
from .frontier import LINES
from .report import nbytes
from .strategies import STRATEGIES

# Okabe & Ito's colours and a brown, which colour-blind readers tell apart; markers tell the same once more.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8B5A2B")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_INK, _PALE = "#333333", "#6b6b6b"
_TICKS = (0, 10, 20, 40, 60, 80, 90, 95, 98, 99, 100)
_DPI = 160
_BOX = {
    "boxstyle": "square,pad=0.1",
    "facecolor": "white",
    "edgecolor": "none",
    "alpha": 0.75,
}  # behind words that a line may cross
_GAP = 0.058  # between names beside a panel, of its height


def frontier_figure(table: pd.DataFrame) -> Figure:
    """Mean accuracy against bytes held, a line a strategy with its name at its end.

    Left the memories that keep rows, right those that generate them, with the best of the left in grey. The scale of
    the accuracy stretches towards 100 %, where most lines lie.

    :param table: from :func:`.points`, of one benchmark.
    """
    sized = table[table["budget"].notna()]
    names = [str(name) for name in dict.fromkeys(sized["strategy"])]
    sides = {
        "memories that keep rows": [name for name in names if STRATEGIES[name].sized == "rows"],
        "memories that generate them": [name for name in names if STRATEGIES[name].sized == "bytes"],
    }
    sides = {title: side for title, side in sides.items() if side}
    figure = Figure(figsize=(6.4 * len(sides), 5.4), layout="constrained", dpi=_DPI)
    panels = figure.subplots(1, len(sides), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (title, side) in zip(panels, sides.items(), strict=True):
        panel.set_xscale("log")
        panel.set_yscale("function", functions=(_stretch, _shrink))
        panel.set_xlim(*_x_range(sized))
        panel.set_ylim(*_y_range(table))
        if side is not next(iter(sides.values())):
            _reference(panel, sized, next(iter(sides.values())))
        _lines_across(panel, table)
        _draw(panel, sized, side)
        _furnish(panel, sized, title)
    panels[0].set_ylabel("accuracy on all experiences at the end, %", color=_INK)
    info = BENCHMARKS[str(table["benchmark"].iloc[0])]
    figure.suptitle(
        f"Accuracy against bytes of memory: {info.summary}", x=0.008, ha="left", fontweight="bold", fontsize=14
    )
    fewest, most = int(table["seeds"].min()), int(table["seeds"].max())
    seeds = f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"
    note = "one seed" if most == 1 else f"mean of {seeds}, bars: 95 % t-intervals"
    if table["fixed_bytes"].max() > 0:
        note += "; networks and priors that do not depend on the stream are not counted"
    figure.supxlabel(note, x=0.008, ha="left", fontsize=9.5, color=_PALE)
    return figure


def _stretch(accuracy: np.ndarray) -> np.ndarray:
    # By the logarithm of the error, with one point more so that 100 % has a place.
    error = np.maximum(101 - np.asarray(accuracy, dtype=float), 1e-3)
    return np.asarray(-np.log10(error))


def _shrink(place: np.ndarray) -> np.ndarray:
    return np.asarray(101 - 10 ** -np.asarray(place, dtype=float))


def _style(i: int) -> tuple[str, str, str]:
    """Colour, marker and dashes of the i-th line; when colours begin anew, markers and dashes are others."""
    turn = i // len(_COLORS)
    return _COLORS[i % len(_COLORS)], _MARKERS[(i + 3 * turn) % len(_MARKERS)], ("-", "--", ":")[turn % 3]


def _draw(panel: Any, sized: pd.DataFrame, names: list[str]) -> None:
    ends: dict[str, tuple[float, float]] = {}
    for i, name in enumerate(names):
        lines = sized[sized["strategy"] == name].sort_values("memory_bytes")
        # Side by side where they would hide each other: at most 4 % off.
        x = lines["memory_bytes"].to_numpy(dtype=float) * 1.016 ** (i - (len(names) - 1) / 2)
        y, half = (100 * lines[column].to_numpy(dtype=float) for column in ("accuracy", "accuracy_half_width"))
        bars = None if np.isnan(half).all() else np.minimum(np.nan_to_num(half), np.stack([y, 100 - y]))
        color, marker, dashes = _style(i)
        panel.errorbar(
            x,
            y,
            yerr=bars,
            color=color,
            ecolor=(color, 0.55),
            marker=marker,
            markersize=6,
            linewidth=2,
            linestyle=dashes,
            elinewidth=1.2,
            capsize=0,
            zorder=3,
        )
        ends[name] = float(x[-1]), float(y[-1])
    _name_the_lines(panel, ends)


def _reference(panel: Any, sized: pd.DataFrame, others: list[str]) -> None:
    """The best that the other side has at each budget, for comparison."""
    best = sized[sized["strategy"].isin(others)].groupby("budget")[["memory_bytes", "accuracy"]].max()
    x, y = best["memory_bytes"].to_numpy(dtype=float), 100 * best["accuracy"].to_numpy(dtype=float)
    panel.plot(x, y, color="#b0b0b0", linewidth=5, alpha=0.55, solid_capstyle="round", zorder=1)
    panel.annotate(
        "best that keeps rows",
        xy=(x[-1], y[-1]),
        xytext=(-4, 8),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=9,
        color=_PALE,
        bbox=_BOX,
        zorder=4,
    )


def _lines_across(panel: Any, table: pd.DataFrame) -> None:
    # Curves rise: the top left and the bottom right are where they leave room.
    for name, x, side in zip(LINES, (0.988, 0.012), ("right", "left"), strict=True):
        lines = table[table["strategy"] == name]
        if lines.empty:
            continue
        y = 100 * float(lines["accuracy"].iloc[0])
        panel.axhline(y, color="black", linewidth=1.2, linestyle=":", zorder=2)
        panel.annotate(
            f"{label(name)} {y:.1f}",
            xy=(x, y),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha=side,
            va="bottom",
            fontsize=9.5,
            bbox=_BOX,
            zorder=2.5,  # below the points: a name may be crossed, but hides no number
        )


def _furnish(panel: Any, sized: pd.DataFrame, title: str) -> None:
    panel.set_title(title, loc="left", fontsize=11.5, color=_INK)
    panel.set_xticks(sorted(int(budget) for budget in sized["budget"].unique()))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: nbytes(value).replace(".0 ", " ")))
    panel.set_xlabel("bytes held of the stream (log scale)", color=_INK)
    low, high = panel.get_ylim()
    panel.set_yticks([tick for tick in _TICKS if low <= tick <= high])
    panel.yaxis.set_minor_locator(NullLocator())
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color="#e8e8e8", linewidth=0.8)
    panel.set_axisbelow(True)


def _x_range(sized: pd.DataFrame) -> tuple[float, float]:
    held = sized[["memory_bytes", "budget"]].to_numpy(dtype=float)
    return float(held.min()) / 1.15, float(held.max()) * 1.15


def _y_range(table: pd.DataFrame) -> tuple[float, float]:
    accuracy = 100 * table["accuracy"].to_numpy(dtype=float)
    low, high = float(accuracy.min()), float(accuracy.max())
    # Room for the name on the highest line.
    return max(0.0, low - 8), min(100.0, high + 0.45 * (100 - high))


def _name_the_lines(panel: Any, ends: dict[str, tuple[float, float]]) -> None:
    """Names beside the panel, as near to their lines' ends as they can be without overlap."""
    names = sorted(ends, key=lambda name: ends[name][1])
    low, high = _stretch(np.array(panel.get_ylim()))
    wanted = (_stretch(np.array([ends[name][1] for name in names])) - low) / (high - low)
    colors = {name: _style(i)[0] for i, name in enumerate(ends)}
    for name, height in zip(names, spread(wanted.tolist(), _GAP), strict=True):
        panel.annotate(
            f"{label(name)} {ends[name][1]:.1f}",
            xy=ends[name],
            xytext=(1.03, height),
            textcoords="axes fraction",
            color=colors[name],
            va="center",
            fontsize=10.5,
            fontweight="bold",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colors[name],
                "linewidth": 0.8,
                # A thin line from the last point to its name would look like more of the curve.
                "linestyle": (0, (1, 2)),
                "shrinkA": 0,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def spread(wanted: list[float], gap: float) -> list[float]:
    """Heights at least ``gap`` apart within [0, 1] and nearest to those wanted, in the least squares' sense.

    Names that would overlap form a block, which sits at its mean wish; blocks that then overlap join.

    :param wanted: heights, from the lowest.
    :param gap: between neighbours.
    """
    blocks: list[tuple[float, int]] = []  # mean of (wanted - index * gap), number
    for i, height in enumerate(wanted):
        mean, count = height - i * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, more = blocks.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        blocks.append((mean, count))
    flat = [mean for mean, count in blocks for _ in range(count)]
    top = 1 - (len(wanted) - 1) * gap
    return [min(max(mean, 0.0), max(top, 0.0)) + i * gap for i, mean in enumerate(flat)]
