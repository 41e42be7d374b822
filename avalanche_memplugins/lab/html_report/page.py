"""From results to the page."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from avalanche_memplugins.benchmarks.registry import BENCHMARKS

from ..comparison import label
from ..display import count, last_line
from ..report import amounts
from ..result import RunResult
from ..table import accuracy_matrix, summarise, tidy
from . import svg

# Floor and ceilings, drawn in the text's own colour.
_PLAIN = ("naive", "cumulative", "joint")


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
        sections.append(_Section(str(benchmark), specs, of_benchmark, lines, baseline, styles).values())
    environment = Environment(
        loader=PackageLoader("avalanche_memplugins.lab", "html_report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        sections=sections,
        baseline=_label(baseline),
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


@dataclass
class _Section:
    """One benchmark."""

    name: str
    specs: list[Any]
    table: pd.DataFrame
    summary: pd.DataFrame
    baseline: str
    styles: dict[str, int]

    def values(self) -> dict[str, Any]:
        spec = self.specs[0]
        strategies = [str(name) for name in self.summary["strategy"]]
        seeds = self._by_seed()
        lines = {str(line["strategy"]): line for line in self.summary.to_dict("records")}
        marks = {
            name: svg.Mark(
                label=_label(name),
                style=self.styles[name],
                middle=100 * lines[name]["accuracy"],
                low=100 * (lines[name]["accuracy"] - lines[name]["accuracy_half_width"]),
                high=100 * (lines[name]["accuracy"] + lines[name]["accuracy_half_width"]),
                dots=tuple(100 * value for value in seeds[name].values()),
            )
            for name in strategies
        }
        differences = [
            svg.Mark(
                label=_label(name),
                style=self.styles[name],
                middle=100 * lines[name]["difference"],
                low=100 * lines[name]["difference_low"],
                high=100 * lines[name]["difference_high"],
                dots=tuple(
                    100 * (value - seeds[self.baseline][seed])
                    for seed, value in seeds[name].items()
                    if seed in seeds[self.baseline]
                ),
            )
            for name in strategies
            if name != self.baseline and math.isfinite(lines[name]["difference"])
        ]
        # Without the dots, which have no place beside another axis.
        bare = {name: replace(mark, dots=()) for name, mark in marks.items()}
        by_bytes = [replace(mark, x=lines[name]["memory_bytes"]) for name, mark in bare.items()]
        by_seconds = [replace(mark, x=lines[name]["train_seconds"]) for name, mark in bare.items()]
        matrices = {name: self._matrix(name) for name in strategies}
        ranked = sorted(marks.values(), key=lambda mark: -mark.middle)
        return {
            "name": self.name,
            "facts": self._facts(spec),
            "rows": [self._row(lines[name], marks[name]) for name in strategies],
            "legend": [(Markup(svg.key(mark)), mark.label) for mark in marks.values()],
            "accuracy": Markup(svg.intervals(ranked, title="accuracy after the last experience, percent")),
            "differences": differences
            and Markup(
                svg.intervals(
                    sorted(differences, key=lambda mark: -mark.middle),
                    title=f"accuracy less that of {_label(self.baseline)}, points",
                    zero=True,
                )
            ),
            "curves": Markup(
                svg.curves(
                    [(marks[name], _seen_so_far(matrix)) for name, matrix in matrices.items()],
                    title="accuracy on the experiences seen so far, percent",
                )
            ),
            "by_bytes": Markup(svg.scatter(by_bytes, title="accuracy against bytes from the stream", unit="B")),
            "by_seconds": Markup(svg.scatter(by_seconds, title="accuracy against seconds of training", unit="s")),
            "matrices": [
                (_label(name), Markup(svg.heatmap(matrix, title=f"accuracies of {_label(name)}, percent")))
                for name, matrix in matrices.items()
            ],
            "seeds": sorted({seed for values in seeds.values() for seed in values}),
            "by_seed": [
                (_label(name), {seed: f"{100 * value:.1f}" for seed, value in values.items()})
                for name, values in seeds.items()
            ],
        }

    def _facts(self, spec: Any) -> str:
        info = BENCHMARKS[spec.benchmark]
        facts = [
            info.scenario,
            *amounts(spec),
            count(len({one.seed for one in self.specs}), "seed"),
            spec.model,
            f"{spec.optimizer} lr {spec.lr:g}",
            f"batches of {spec.batch_size}",
        ]
        return ", ".join(facts)

    def _row(self, line: Mapping[Any, Any], mark: svg.Mark) -> dict[str, Any]:
        name = str(line["strategy"])
        is_baseline = name == self.baseline
        low, high = line["difference_low"], line["difference_high"]
        return {
            "key": Markup(svg.key(mark)),
            "label": mark.label,
            "seeds": int(line["seeds"]),
            "accuracy": _percent(line["accuracy"], line["accuracy_half_width"]),
            "difference": "baseline" if is_baseline else _percent(line["difference"], sign="+"),
            "interval": "" if is_baseline or not math.isfinite(low) else f"{100 * low:+.1f} to {100 * high:+.1f}",
            "forgetting": _percent(line["forgetting"], line["forgetting_half_width"]),
            "backward": _percent(line["backward_transfer"], line["backward_transfer_half_width"], sign="+"),
            "forward": _percent(line["forward_transfer"], line["forward_transfer_half_width"], sign="+"),
            "memory": svg.amount(line["memory_bytes"], "B"),
            "fixed": svg.amount(line["fixed_bytes"], "B") if line["fixed_bytes"] else "-",
            "seconds": f"{line['train_seconds']:.1f}",
        }

    def _by_seed(self) -> dict[str, dict[int, float]]:
        values: dict[str, dict[int, float]] = {}
        for (name, seed), run in self.table.groupby(["strategy", "seed"], sort=False):
            values.setdefault(str(name), {})[int(str(seed))] = float(accuracy_matrix(run)[-1].mean())
        return {name: dict(sorted(seeds.items())) for name, seeds in values.items()}

    def _matrix(self, name: str) -> np.ndarray:
        lines = self.table[self.table["strategy"] == name]
        runs = [accuracy_matrix(run) for _, run in lines.groupby("run", sort=False)]
        mean: np.ndarray = 100 * np.mean(runs, axis=0)
        return mean


def _names(results: Sequence[RunResult]) -> dict[str, str]:
    """Name of each run's strategy by the run's key; with its bytes where it runs with several budgets."""
    budgets: dict[tuple[str, str], set[int | None]] = {}
    for result in results:
        budgets.setdefault((result.spec.benchmark, result.spec.strategy), set()).add(result.spec.budget)
    names = {}
    for result in results:
        spec = result.spec
        several = len(budgets[spec.benchmark, spec.strategy]) > 1
        extra = "rows" if spec.budget is None else svg.amount(spec.budget, "B")
        names[spec.key] = f"{spec.strategy} {extra}" if several else spec.strategy
    return names


def _label(name: str) -> str:
    strategy, _, extra = name.partition(" ")
    return f"{label(strategy)} {extra}".strip()


def _styles(strategies: list[str]) -> dict[str, int]:
    free = [name for name in strategies if name not in _PLAIN]
    return {name: free.index(name) if name in free else -1 - _PLAIN.index(name) for name in strategies}


def _seen_so_far(matrix: np.ndarray) -> list[float]:
    return [float(row[: i + 1].mean()) for i, row in enumerate(matrix)]


def _percent(value: float, half_width: float = math.nan, sign: str = "") -> str:
    if not math.isfinite(value):
        return "-"
    middle = f"{100 * value:{sign}.1f}"
    return f"{middle} ± {100 * half_width:.1f}" if math.isfinite(half_width) else middle


def _environment(results: Sequence[RunResult]) -> list[tuple[str, str]]:
    """Each fact with all values that the runs had: more than one where they ran on several machines or versions."""
    facts: dict[str, list[str]] = {}
    for result in results:
        for name, value in result.environment.items():
            if value not in facts.setdefault(name, []):
                facts[name].append(value)
    return [(name, "; ".join(values)) for name, values in facts.items()]


def pictures(folder: Path) -> dict[str, bytes]:
    """The PNG files of a folder by their names in plain words; empty if there is no such folder."""
    shown = {}
    for path in sorted(folder.glob("*.png")) if folder.is_dir() else []:
        with suppress(FileNotFoundError, IsADirectoryError):  # gone since it was listed
            shown[path.stem.replace("_", " ").replace("-", " ")] = path.read_bytes()
    return shown
