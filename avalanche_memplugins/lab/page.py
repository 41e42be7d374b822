"""The comparison as one HTML file that needs nothing else: no network, no scripts, no files beside it.

Its charts are SVG text. Colours and fonts come from the page's style sheet, so they follow light and dark. All charts
are 360 units wide: at that width letters of 11 units are readable on a phone, and a wider screen shows several side by
side.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.ticker import MaxNLocator

from .formatting import amounts, count, label, last_line, percent
from .spec import RunSpec
from .store import RunResult
from .streams import scenario_of
from .table import accuracy_matrix, mean_matrix, seen_so_far, summarise, tidy

# Floor and ceilings, drawn in the text's own colour.
_PLAIN = ("naive", "cumulative", "joint")
WIDTH = 360
_LABELS = 122
_RIGHT = WIDTH - 14
_CIVIDIS = colormaps["cividis"]  # which colour-blind readers see as it is


def render(
    results: Sequence[RunResult], baseline: str, *, command: str, pictures: Mapping[str, bytes] | None = None
) -> str:
    """The whole page.

    :param results: of all runs, failed ones too.
    :param baseline: strategy that differences are taken from.
    :param command: the command line that makes the results.
    :param pictures: PNG files by caption, to be shown at the end.
    """
    names = _names(results)
    table = tidy(results)
    table["strategy"] = table["run"].map(names)
    if baseline not in set(table["strategy"]):
        baseline = next((name for name in dict.fromkeys(table["strategy"]) if name.split(" ")[0] == baseline), baseline)
    summary = summarise(table, baseline) if len(table) else pd.DataFrame()
    styles = _styles(list(dict.fromkeys(table["strategy"])))
    sections = []
    for benchmark in dict.fromkeys(table["benchmark"]):
        specs = [result.spec for result in results if result.spec.benchmark == benchmark]
        of_benchmark, lines = table[table["benchmark"] == benchmark], summary[summary["benchmark"] == benchmark]
        sections.append(_section(specs, of_benchmark, lines.to_dict("records"), baseline, styles))
    environment = Environment(
        loader=PackageLoader("avalanche_memplugins.lab", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        sections=sections,
        baseline=_label(baseline),
        percent=percent,
        amount=amount,
        command=command,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        runs=count(len(results), "run"),
        failed=[(result.spec.title, last_line(result), result.error) for result in results if not result.ok],
        warnings=list(dict.fromkeys(text for result in results for text in result.warnings)),
        environment=_environment(results),
        pictures=[
            (caption, f"data:image/png;base64,{base64.b64encode(content).decode()}")
            for caption, content in (pictures or {}).items()
        ],
    )


def _section(
    specs: list[RunSpec], table: pd.DataFrame, lines: list[dict[Any, Any]], baseline: str, styles: dict[str, int]
) -> dict[str, Any]:
    """What the template shows of one benchmark: its numbers and its charts."""
    spec = specs[0]
    by_seed: dict[str, dict[int, float]] = {line["strategy"]: {} for line in lines}
    for (name, seed), run in table.groupby(["strategy", "seed"], sort=True):
        by_seed[str(name)][int(str(seed))] = 100 * float(accuracy_matrix(run)[-1].mean())
    marks, differences = [], []
    for line in lines:
        name, middle, half = line["strategy"], 100 * line["accuracy"], 100 * line["accuracy_half_width"]
        seeds, others = by_seed[name], by_seed.get(baseline, {})
        mark = Mark(
            label=_label(name),
            style=styles[name],
            middle=middle,
            low=middle - half,
            high=middle + half,
            dots=tuple(seeds.values()),
        )
        marks.append(mark)
        if name != baseline and math.isfinite(line["difference"]):
            low, high = 100 * line["difference_low"], 100 * line["difference_high"]
            dots = tuple(seeds[seed] - others[seed] for seed in sorted(seeds.keys() & others.keys()))
            differences.append(replace(mark, middle=100 * line["difference"], low=low, high=high, dots=dots))

    # Without the dots, which have no place beside another axis.
    def against(column: str) -> list[Mark]:
        return [replace(mark, x=line[column], dots=()) for mark, line in zip(marks, lines, strict=True)]

    def ranked(found: list[Mark]) -> list[Mark]:
        return sorted(found, key=lambda mark: -mark.middle)

    matrices = [100 * mean_matrix(table[table["strategy"] == line["strategy"]]) for line in lines]
    named = list(zip(marks, matrices, strict=True))
    less = f"accuracy less that of {_label(baseline)}, points"
    return {
        "name": spec.benchmark,
        "facts": ", ".join(
            [
                scenario_of(spec.benchmark),
                *amounts(spec),
                count(len({one.seed for one in specs}), "seed"),
                spec.model,
                f"{spec.optimizer} lr {spec.lr:g}",
                f"batches of {spec.batch_size}",
            ]
        ),
        "rows": list(zip(marks, lines, strict=True)),
        "accuracy": intervals(ranked(marks), title="accuracy after the last experience, percent"),
        "differences": differences and intervals(ranked(differences), title=less, zero=True),
        "curves": curves(
            [(mark, seen_so_far(matrix).tolist()) for mark, matrix in named],
            title="accuracy on the experiences seen so far, percent",
        ),
        "by_bytes": scatter(against("memory_bytes"), title="accuracy against bytes from the stream", unit="B"),
        "by_seconds": scatter(against("train_seconds"), title="accuracy against seconds of training", unit="s"),
        "matrices": [
            (mark.label, heatmap(matrix, title=f"accuracies of {mark.label}, percent")) for mark, matrix in named
        ],
        "seeds": sorted({seed for values in by_seed.values() for seed in values}),
        "by_seed": [(_label(name), values) for name, values in by_seed.items()],
    }


def _names(results: Sequence[RunResult]) -> dict[str, str]:
    """Name of each run's strategy by the run's key; with its bytes where it runs with several budgets."""
    budgets: dict[tuple[str, str], set[int | None]] = {}
    for result in results:
        budgets.setdefault((result.spec.benchmark, result.spec.method), set()).add(result.spec.budget)
    names = {}
    for result in results:
        spec = result.spec
        several = len(budgets[spec.benchmark, spec.method]) > 1
        extra = "rows" if spec.budget is None else amount(spec.budget, "B")
        names[spec.key] = f"{spec.method} {extra}" if several else spec.method
    return names


def _label(name: str) -> str:
    strategy, _, extra = name.partition(" ")
    return f"{label(strategy)} {extra}".strip()


def _styles(strategies: list[str]) -> dict[str, int]:
    free = [name for name in strategies if name not in _PLAIN]
    return {name: free.index(name) if name in free else -1 - _PLAIN.index(name) for name in strategies}


def _environment(results: Sequence[RunResult]) -> list[tuple[str, str]]:
    """Each fact with all values that the runs had: more than one where they ran on several machines or versions."""
    facts: dict[str, list[str]] = {}
    for result in results:
        for name, value in result.environment.items():
            if value not in facts.setdefault(name, []):
                facts[name].append(value)
    return [(name, "; ".join(values)) for name, values in facts.items()]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What one strategy looks like, and its numbers.

    :param label: for the reader.
    :param style: number of its colour and shape; below 0: floor or ceiling, drawn in the text's colour.
    :param middle: the mean, in the chart's unit.
    :param low: lower end of the interval; NaN if there is none.
    :param high: upper end.
    :param dots: single values, one a seed.
    :param x: place on the other axis, where there is one.
    """

    label: str
    style: int
    middle: float
    low: float = math.nan
    high: float = math.nan
    dots: tuple[float, ...] = ()
    x: float = math.nan

    @property
    def css(self) -> str:
        """Class names of its colour."""
        return "mark" if self.style < 0 else f"mark s{self.style % 6}"

    @property
    def key(self) -> Markup:
        """The sample of its colour and shape for a legend."""
        sample = shape(self, 8, 8, size=5)
        return Markup(f'<svg class="key" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">{sample}</svg>')


def intervals(marks: Sequence[Mark], *, title: str, zero: bool = False, digits: int = 1) -> Markup:
    """A line a strategy: its mean, its interval, and a dot a seed.

    :param zero: whether the axis shows 0, as a line.
    """
    ends = [v for m in marks for v in (m.middle, m.low, m.high, *m.dots, *([0.0] * zero)) if math.isfinite(v)]
    low, high, ticks = axis(min(ends), max(ends)) if zero else percent_axis(ends)
    height = 22 * len(marks) + 34

    def place(value: float) -> float:
        return _LABELS + (value - low) / (high - low) * (_RIGHT - _LABELS - 40)

    parts = [_line(place(t), 6, place(t), height - 26, "zero" if zero and t == 0 else "grid") for t in ticks]
    parts += [_text(place(t), height - 12, _number(t), "tick", "middle") for t in ticks]
    for i, m in enumerate(marks):
        y = 22 * i + 16
        sign = "+" if zero else ""
        parts.append(_text(_LABELS - 8, y + 4, _short(m.label), "name", "end", whole=m.label))
        parts += [f'<circle class="{m.css} dot" cx="{place(d):.1f}" cy="{y}" r="2"/>' for d in m.dots]
        if math.isfinite(m.low):
            parts.append(_line(place(max(m.low, low)), y, place(min(m.high, high)), y, f"{m.css} whisker"))
        parts.append(shape(m, place(m.middle), y))
        parts.append(_text(WIDTH - 2, y + 4, f"{m.middle:{sign}.{digits}f}", "value", "end"))
    return _svg(height, parts, title)


def curves(lines: Sequence[tuple[Mark, Sequence[float]]], *, title: str) -> Markup:
    """Percent (0 to 100) after each experience, a line a strategy."""
    height, left, bottom = 230, 34, 196
    n = max(len(values) for _, values in lines)

    def x(i: float) -> float:
        return left + (i / max(1, n - 1)) * (_RIGHT - left) if n > 1 else (left + _RIGHT) / 2

    def y(value: float) -> float:
        return bottom - value / 100 * (bottom - 10)

    parts = []
    for t in (0, 25, 50, 75, 100):
        parts += [_line(left, y(t), _RIGHT, y(t), "grid"), _text(left - 6, y(t) + 4, str(t), "tick", "end")]
    for i in sorted({round(i) for i in np.linspace(0, n - 1, min(n, 10))}):
        parts.append(_text(x(i), bottom + 16, str(i + 1), "tick", "middle"))
    parts.append(_text((left + _RIGHT) / 2, height - 4, "experiences trained on", "tick", "middle"))
    for mark, values in lines:
        points = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(values))
        parts.append(
            f'<polyline class="{mark.css} curve" points="{points}"><title>{escape(mark.label)}</title></polyline>'
        )
        parts += [shape(mark, x(i), y(v), size=3.2) for i, v in enumerate(values) if n <= 12]
    return _svg(height, parts, title)


def scatter(marks: Sequence[Mark], *, title: str, unit: str) -> Markup:
    """Percent against bytes or seconds on a log scale; what takes nothing stands at the left, apart.

    :param marks: ``x`` is the bytes or seconds, >= 0.
    :param unit: ``"B"`` or ``"s"``.
    """
    height, left, bottom = 240, 34, 206
    ends = [v for m in marks for v in (m.middle, m.low, m.high) if math.isfinite(v)]
    low, high, ticks = percent_axis(ends)
    places = log_ticks([m.x for m in marks if m.x > 0] or [1.0])
    first, last = math.log10(places[0]), math.log10(places[-1])
    nothing = any(m.x <= 0 for m in marks)
    begin = left + (66 if nothing else 18)

    def x(value: float) -> float:
        return left + 14 if value <= 0 else begin + (math.log10(value) - first) / (last - first) * (_RIGHT - begin - 8)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - 12)

    parts = []
    for t in ticks:
        parts += [_line(left, y(t), _RIGHT, y(t), "grid"), _text(left - 6, y(t) + 4, _number(t), "tick", "end")]
    for t in places:
        parts.append(_line(x(t), bottom, x(t), bottom + 4, "grid"))
        parts.append(_text(x(t), bottom + 16, amount(t, unit), "tick", "middle"))
    if nothing:
        parts.append(_text(x(0), bottom + 16, f"0 {unit}", "tick", "middle"))
    for m in marks:
        if math.isfinite(m.low):
            parts.append(_line(x(m.x), y(max(m.low, low)), x(m.x), y(min(m.high, high)), f"{m.css} whisker"))
        parts.append(shape(m, x(m.x), y(m.middle), size=4.6, hint=f"{m.label}: {m.middle:.1f} %, {amount(m.x, unit)}"))
    return _svg(height, parts, title)


def heatmap(matrix: np.ndarray, *, title: str) -> Markup:
    """Percent on each experience (across) after each one (down)."""
    n = len(matrix)
    left, top = 32, 8
    cell = (WIDTH - left - 6) / n
    height = top + cell * n + 46
    parts = []
    for i in range(n):
        for k in range(n):
            value = float(matrix[i, k])
            x, y = left + k * cell, top + i * cell
            hint = f"trained on {i + 1}, tested on {k + 1}: {value:.1f} %"
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell + 0.2:.1f}" height="{cell + 0.2:.1f}" '
                f'fill="{to_hex(_CIVIDIS(value / 100))}"><title>{hint}</title></rect>'
            )
            if n <= 10:
                ink = "#fff" if value < 55 else "#000"
                size = min(26.0, cell * 0.42)
                parts.append(
                    f'<text x="{x + cell / 2:.1f}" y="{y + cell / 2 + size * 0.35:.1f}" text-anchor="middle" '
                    f'fill="{ink}" style="font-size:{size:.0f}px" opacity="{0.6 if k > i else 1}">{value:.0f}</text>'
                )
    for i in range(0, n, max(1, n // 10)):
        parts.append(_text(left - 6, top + (i + 0.5) * cell + 6, str(i + 1), "big", "end"))
        parts.append(_text(left + (i + 0.5) * cell, top + n * cell + 20, str(i + 1), "big", "middle"))
    parts.append(_text(left + n * cell / 2, height - 3, "tested on", "big", "middle"))
    return _svg(height, parts, title)


def shape(mark: Mark, x: float, y: float, *, size: float = 4.2, hint: str = "") -> str:
    """A strategy's sign."""
    corners: list[tuple[float, float]] | None = {
        0: None,
        1: [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        2: [(0, -1.15), (1.1, 0.85), (-1.1, 0.85)],
        3: [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        4: [(0, 1.15), (1.1, -0.85), (-1.1, -0.85)],
        5: [(-0.35, -1.1), (0.35, -1.1), (0.35, -0.35), (1.1, -0.35), (1.1, 0.35), (0.35, 0.35), (0.35, 1.1),
            (-0.35, 1.1), (-0.35, 0.35), (-1.1, 0.35), (-1.1, -0.35), (-0.35, -0.35)],
    }[(-1 - mark.style if mark.style < 0 else mark.style // 6 + mark.style) % 6]  # fmt: skip
    inside = f"<title>{escape(hint or mark.label)}</title>"
    if corners is None:
        return f'<circle class="{mark.css} sign" cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}">{inside}</circle>'
    points = " ".join(f"{x + size * a:.1f},{y + size * b:.1f}" for a, b in corners)
    return f'<polygon class="{mark.css} sign" points="{points}">{inside}</polygon>'


def axis(low: float, high: float) -> tuple[float, float, list[float]]:
    """Round ends that hold both values, and round ticks between them."""
    if high - low < 1e-9:
        low, high = low - 1, high + 1
    ticks = [float(tick) for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)]
    return ticks[0], ticks[-1], ticks


def percent_axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """An axis for percentages: intervals may reach past 0 and 100, the axis does not."""
    inside = [min(100.0, max(0.0, value)) for value in values]
    low, high, ticks = axis(min(inside), max(inside))
    return max(0.0, low), min(100.0, high), [t for t in ticks if 0 <= t <= 100]


def log_ticks(values: Sequence[float]) -> list[float]:
    """Ticks for a log scale that begin below the smallest value and end above the largest, at most six."""
    low, high = min(values) / 1.05, max(values) * 1.05
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        ticks = [f * 10.0**p for p in powers for f in factors]
        ticks = [t for t in ticks if t >= max((s for s in ticks if s <= low), default=0.0)]
        ticks = [t for t in ticks if t <= min((s for s in ticks if s >= high), default=math.inf)]
        if len(ticks) <= 6:
            return ticks
    return [ticks[round(i)] for i in np.linspace(0, len(ticks) - 1, min(5, len(ticks)))]


def amount(value: float, unit: str) -> str:
    """A number of bytes or seconds, short."""
    if unit == "s":
        return f"{value:g} s" if value < 10_000 else f"{value:.0e} s".replace("e+0", "e")
    power = 0 if value < 1000 else min(3, int(math.log10(value) // 3))
    return f"{value / 1000**power:.3g} {('', 'k', 'M', 'G')[power]}B"


def _svg(height: float, parts: Sequence[str], title: str) -> Markup:
    label = escape(title, quote=True)
    whole = "".join(parts)
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}">{whole}</svg>')


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, css: str, anchor: str, whole: str = "") -> str:
    inside = f"<title>{escape(whole)}</title>" if whole != text and whole else ""
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}{inside}</text>'


def _short(label: str) -> str:
    return label if len(label) <= 19 else label[:18] + "…"


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) >= 1e-12 else "0"
