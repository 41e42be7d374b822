"""Pictures: accuracy along the stream, accuracy matrices, accuracy against bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from avalanche_memplugins.benchmarks.registry import BENCHMARKS

from .formatting import label, nbytes
from .frontier import LINES
from .strategies import sizing
from .table import accuracy_matrix, interval, mean_matrix, seen_so_far

# Okabe & Ito's colours, which colour-blind readers tell apart, then black and a brown; markers tell the same once more.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8B5A2B")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_FIXED = {"naive": "#8c8c8c", "cumulative": "#000000"}  # floor and ceiling
_INK, _PALE = "#333333", "#6b6b6b"
_TICKS = (0, 10, 20, 40, 60, 80, 90, 95, 98, 99, 100)
_DPI = 150
# Behind words that a line may cross.
_BOX = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
_SEEN = 1.1  # what must be counted besides to be drawn, as a multiple of the bytes held
_GAP = 0.058  # between names beside a panel, of its height
# A thin dotted line from the last point to its name: a solid one would look like more of the curve.
_LEADER = {
    "arrowstyle": "-",
    "linewidth": 0.8,
    "linestyle": (0, (1, 2)),
    "shrinkA": 0,
    "shrinkB": 4,
    "relpos": (0, 0.5),
}


def png(figure: Figure, **options: Any) -> bytes:
    """A picture as the content of a PNG file; ``options`` are those of ``savefig``."""
    content = io.BytesIO()
    figure.savefig(content, format="png", **options)
    return content.getvalue()


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
            curves = 100 * np.stack([seen_so_far(accuracy_matrix(run)) for _, run in lines.groupby("run", sort=False)])
            middle, half = np.array([interval(column.tolist()) for column in curves.T]).T
            steps = np.arange(1, len(middle) + 1)
            color, marker = style[str(strategy)]
            panel.plot(steps, middle, color=color, marker=marker, markersize=4.5, linewidth=1.8, zorder=3)
            if np.isfinite(half).all():
                low, high = np.clip(middle - half, 0, 100), np.clip(middle + half, 0, 100)
                panel.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
            ends[str(strategy)] = float(middle[-1])
        heights = {name: (float(len(middle)), end, end / 101) for name, end in ends.items()}
        _name_the_lines(panel, heights, {name: color for name, (color, _) in style.items()}, fontsize=9)
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
            image = _heatmap(panel, 100 * mean_matrix(lines))
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


def _styles(strategies: list[str]) -> dict[str, tuple[str, str]]:
    free = [name for name in strategies if name not in _FIXED]
    colors = {name: _COLORS[i % 6] for i, name in enumerate(free)} | _FIXED
    return {name: (colors[name], _MARKERS[i % len(_MARKERS)]) for i, name in enumerate(strategies)}


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


def frontier_figure(table: pd.DataFrame) -> Figure:
    """Mean accuracy against bytes held, a line a strategy with its name at its end.

    Left the memories that keep rows, right those that keep models of them, with the best of the left in grey. An open
    marker stands where bytes of networks and priors, which do not depend on the stream, are counted besides. The scale
    of the accuracy stretches towards 100 %, where most lines lie.

    :param table: from :func:`.points`, of one benchmark.
    """
    sized = table[table["budget"].notna()]
    names = [str(name) for name in dict.fromkeys(sized["strategy"])]
    sides = {
        "memories that keep rows": [name for name in names if sizing(name) == "rows"],
        "memories that keep models of them": [name for name in names if sizing(name) == "bytes"],
    }
    sides = {title: side for title, side in sides.items() if side}
    figure = Figure(figsize=(6.4 * len(sides), 5.4), layout="constrained", dpi=160)
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
    name = str(table["benchmark"].iloc[0])
    summary = BENCHMARKS[name].summary if name in BENCHMARKS else name
    figure.suptitle(f"Accuracy against bytes of memory: {summary}", x=0.008, ha="left", fontweight="bold", fontsize=14)
    fewest, most = int(table["seeds"].min()), int(table["seeds"].max())
    seeds = f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"
    note = "one seed" if most == 1 else f"mean of {seeds}, bars: 95 % t-intervals"
    if table["fixed_bytes"].max() > 0:
        note += "; open: with networks and priors that do not depend on the stream"
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
    ends: dict[str, tuple[float, float, float]] = {}
    low, high = _stretch(np.array(panel.get_ylim()))
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
        beyond = lines["fixed_bytes"].to_numpy(dtype=float) + x
        if (beyond > _SEEN * x).any():  # an open marker where the bytes of its network are counted, too
            panel.hlines(y, x, beyond, color=color, alpha=0.35, linewidth=1, zorder=2)
            panel.plot(
                beyond, y, color=color, marker=marker, markersize=6, markerfacecolor="white", linewidth=0, zorder=3
            )
        height = (float(_stretch(y[-1:])[0]) - low) / (high - low)
        ends[name] = float(x[-1]), float(y[-1]), height
    colors = {name: _style(i)[0] for i, name in enumerate(names)}
    _name_the_lines(panel, ends, colors, fontsize=10.5, fontweight="bold", arrowprops=_LEADER)


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
    budgets = sorted(int(budget) for budget in sized["budget"].unique())
    # Beyond them, where only fixed bytes reach, whole powers of ten.
    panel.set_xticks(
        budgets + [10**power for power in range(3, 13) if 3 * budgets[-1] < 10**power <= panel.get_xlim()[1]]
    )
    low, high = panel.get_xlim()
    if high > 300 * low:  # then they would touch
        panel.tick_params(axis="x", labelsize=7.5)
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
    held, fixed = sized[["memory_bytes", "budget"]].to_numpy(dtype=float), sized["fixed_bytes"].to_numpy(dtype=float)
    beyond = (sized["memory_bytes"].to_numpy(dtype=float) + fixed)[fixed > 0]
    return float(held.min()) / 1.15, float(np.append(beyond, held.max()).max()) * 1.15


def _y_range(table: pd.DataFrame) -> tuple[float, float]:
    accuracy = 100 * table["accuracy"].to_numpy(dtype=float)
    low, high = float(accuracy.min()), float(accuracy.max())
    # Room for the name on the highest line.
    return max(0.0, low - 8), min(100.0, high + 0.45 * (100 - high))


def _name_the_lines(
    panel: Any, ends: dict[str, tuple[float, float, float]], colors: dict[str, str], **how: Any
) -> None:
    """Names beside the panel, as near to their lines' ends as they can be without overlap.

    :param ends: x and y of each line's end, and its height as a part of the panel's.
    :param how: looks of the words; ``arrowprops`` draws a line from the end to the name.
    """
    names = sorted(ends, key=lambda name: ends[name][2])
    for name, height in zip(names, spread([ends[name][2] for name in names], _GAP), strict=True):
        x, y, _ = ends[name]
        looks = {**how, "arrowprops": {**how["arrowprops"], "color": colors[name]}} if "arrowprops" in how else how
        panel.annotate(
            f"{label(name)} {y:.1f}",
            xy=(x, y),
            xytext=(1.03, height),
            textcoords="axes fraction",
            color=colors[name],
            va="center",
            annotation_clip=False,
            **looks,
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
