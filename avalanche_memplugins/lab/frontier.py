"""Accuracy against bytes: every memory at several budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from rich.console import Console
from rich.text import Text

from avalanche_memplugins._bytes import parse_bytes

from .before import unsuitable
from .display import say, tell
from .executors import Executor
from .formatting import NumberTable, amounts, count, label, nbytes
from .options import BYTES, NAMES, StreamOptions, check_seeds, own_first
from .report import note
from .spec import RunSpec
from .store import RunResult, write_whole
from .strategies import sizing

if TYPE_CHECKING:
    import pandas as pd

FILES = ("frontier.csv", "frontier.png")
LINES = ("naive", "joint")  # no memory, and all of the stream: lines across the picture


@own_first
@dataclass(frozen=True, kw_only=True)
class Frontier(StreamOptions):
    """Draw accuracy against bytes for every memory, between fine-tuning and joint training.

    Each memory gets the same bytes of what depends on the stream; frozen networks are listed apart. On the digits the
    defaults are some 130 runs of one to three CPU seconds: about two minutes on two idle cores. Runs that are already
    done are taken from the output folder.
    """

    COMMAND: ClassVar[str] = "frontier"

    benchmark: str = "split-digits"
    """Benchmark by name; `memplugins list` shows them."""
    strategies: Annotated[tuple[str, ...], NAMES] = (
        "er-4bit",
        "er-latent",
        "dark-replay",
        "er-mbpa-4bit",
        "knn-4bit",
        "replay",
        "mixed",
        "nearest-mean",
        "slda",
        "qda",
        "gaussian",
        "kanerva",
        "vae",
    )
    """Strategies by name. One that does not suit the benchmark or a budget is left out, with a message."""
    budgets: Annotated[tuple[str, ...], BYTES] = (
        "5KB",
        "10KB",
        "20KB",
        "50KB",
    )
    """Most bytes that each memory may take, such as 50KB or 2MB."""
    seeds: int = 3
    """Number of seeds: 0, 1, 2, ..."""
    out: Path = Path("results/frontier")
    """Folder for results, table and picture."""

    def specs(self) -> tuple[list[RunSpec], dict[tuple[str, int], str]]:
        """All runs, seed by seed, and the reasons why strategies are left out at a budget.

        :raises ValueError: naming the setting that is out of range or unknown.

        >>> specs, missing = Frontier(strategies=("er-4bit",), budgets=("5KB",), seeds=1).specs()
        >>> [(spec.strategy, spec.budget) for spec in specs]
        [('naive', None), ('joint', None), ('er-4bit', 5000)]
        """
        check_seeds(self.seeds)
        for field in ("strategies", "budgets"):
            if not getattr(self, field):
                raise ValueError(f"{field}: expected at least one, got none")
        budgets = sorted({parse_bytes(text, "budgets") for text in self.budgets})
        methods = self.methods(self.strategies)
        for method in methods:
            if sizing(method) == "no":
                raise ValueError(f"strategies: {method} has no memory that a budget could size")
        missing: dict[tuple[str, int], str] = {}
        points: list[tuple[str, int | None]] = [(line, None) for line in LINES]
        for strategy in methods:
            for budget in budgets:
                reason = unsuitable(self.spec(self.benchmark, strategy, 0, budget=budget))
                if reason is None:
                    points.append((strategy, budget))
                else:
                    missing[strategy, budget] = reason
        specs = [
            self.spec(self.benchmark, strategy, seed, budget=budget)
            for seed in range(self.seeds)
            for strategy, budget in points
        ]
        return specs, missing


def points(results: Sequence[RunResult]) -> pd.DataFrame:
    """A line for each strategy and budget, in the order of the runs.

    Columns: benchmark, strategy, budget (missing for those without), seeds; mean final ``accuracy`` [0, 1] and the
    half-width of its 95 % t-interval over seeds; means over seeds of ``memory_bytes`` (the most held after any
    experience), ``fixed_bytes`` and ``train_seconds`` in all.
    """
    import numpy as np
    import pandas as pd

    from .table import interval

    groups: dict[tuple[str, str, int | None], list[RunResult]] = {}
    for result in results:
        if result.ok:
            spec = result.spec
            groups.setdefault((spec.benchmark, spec.method, spec.budget), []).append(result)
    lines = []
    for (benchmark, strategy, budget), runs in groups.items():
        accuracy, half_width = interval([run.final_accuracy for run in runs])
        lines.append(
            {
                "benchmark": benchmark,
                "strategy": strategy,
                "budget": budget,
                "seeds": len(runs),
                "accuracy": accuracy,
                "accuracy_half_width": half_width,
                "memory_bytes": float(np.mean([max(run.memory_bytes) for run in runs])),
                "fixed_bytes": float(np.mean([run.fixed_bytes for run in runs])),
                "train_seconds": float(np.mean([sum(run.train_seconds) for run in runs])),
            }
        )
    return pd.DataFrame(lines).astype({"budget": "Int64"})


def draw_frontier(
    frontier: Frontier, *, console: Console | None = None, executor: Executor | None = None
) -> tuple[list[RunResult], list[Path]]:
    """Do the runs that are not done yet, then print the table and write table and picture.

    :param frontier: what to draw.
    :param console: where to print; None: standard output.
    :param executor: does the runs; None: what the options say.
    :returns: all results, and the files written.
    :raises ValueError: if a setting is out of range or unknown, before anything is run.
    """
    console = console or Console()
    specs, missing = frontier.specs()
    if not any(spec.budget for spec in specs):
        (strategy, budget), reason = next(iter(missing.items()))
        raise ValueError(f"budgets: none of them holds a memory; {strategy} at {budget} bytes: {reason}")
    results = frontier.run(specs, console, executor, announce=lambda: _say_left_out(console, missing))
    tell(console, results, frontier.store)
    files: list[Path] = []
    if any(result.ok and result.spec.budget is not None for result in results):
        from . import figures

        table = points(results)
        picture = figures.png(figures.frontier_figure(table))
        kept = note(
            frontier.out,
            command=frontier.command(),
            baseline=None,
            runs=[spec.key for spec in specs],
            name="frontier.json",
            files=FILES,
        )
        if kept is not None:
            say(console, f"an earlier table and picture are kept in {kept}")
        for name, content in (
            ("frontier.csv", table.to_csv(index=False).encode()),
            ("frontier.png", picture),
        ):
            write_whole(frontier.out / name, content)
            files.append(frontier.out / name)
        _print(console, frontier, table)
    if files:
        console.print(Text("written: " + ", ".join(map(str, files))), soft_wrap=True)
    return results, files


def _say_left_out(console: Console, missing: dict[tuple[str, int], str]) -> None:
    by_reason: dict[tuple[str, str], list[int]] = {}
    for (strategy, budget), reason in missing.items():
        by_reason.setdefault((strategy, reason.replace(f", got a budget of {budget}", "")), []).append(budget)
    for (strategy, reason), budgets in by_reason.items():
        say(console, f"left out: {strategy} at {', '.join(map(nbytes, budgets))}: {reason}")


def _print(console: Console, frontier: Frontier, table: pd.DataFrame) -> None:
    budgets = sorted(int(budget) for budget in table["budget"].dropna().unique())
    facts = ", ".join(
        [*amounts(frontier.spec(frontier.benchmark, LINES[0], 0, budget=None)), count(frontier.seeds, "seed")]
    )
    console.print(Text(f"{frontier.benchmark}: accuracy % at equal bytes, {facts}", "bold"))
    shown = NumberTable("memory", [*map(nbytes, budgets), "fixed"])
    best = table[table["budget"].notna()].groupby("budget")["accuracy"].max()
    for strategy, lines in table.groupby("strategy", sort=False):
        name = str(strategy)
        if sizing(name) == "no":
            line = lines.iloc[0]
            across = _percent(line["accuracy"], line["accuracy_half_width"])
            shown.add_row(label(name), across, style="dim")
            continue
        at = {int(line["budget"]): line for line in lines.to_dict("records")}
        cells = [
            Text(
                _percent(at[budget]["accuracy"], at[budget]["accuracy_half_width"]) if budget in at else "-",
                "bold" if budget in at and at[budget]["accuracy"] == best[budget] else "",
            )
            for budget in budgets
        ]
        fixed = lines["fixed_bytes"].max()
        shown.add_row(label(name), *cells, nbytes(fixed) if fixed else "-")
    console.print(shown)
    console.print(
        Text(
            "accuracy: mean over experiences after the last one; ± is a 95 % t-interval over seeds. Bytes: all state "
            "that depends on the stream; fixed: networks and priors that do not, listed apart.",
            "dim",
        )
    )


def _percent(value: float, half_width: float) -> str:
    # Five of them and a name have to fit a line of 80.
    half = "" if math.isnan(half_width) else f"±{100 * half_width:.{1 if half_width < 0.0995 else 0}f}"
    return f"{100 * value:.1f}{half}"
