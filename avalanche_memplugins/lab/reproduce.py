"""Published numbers measured anew."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text

from avalanche_memplugins.benchmarks.names import look_up

from .before import check_before
from .comparison import check_seeds, check_strategy
from .executors import Executor, executor_for
from .number_table import NumberTable
from .presets import Preset, PresetRow, load_preset
from .result import RunResult
from .rewrite import note
from .settings import Settings
from .store import ResultStore, write_whole
from .sweep import say, sweep, tell


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Run a preset, and compare what it gives with what was published.

    `memplugins list` shows the presets, with the time that they take. Runs that are already done are taken from the
    output folder. The exit status is 0 only if every number is reproduced.
    """

    preset: Annotated[str, tyro.conf.Positional]
    """Name of a preset, or a YAML file of your own."""
    rows: tuple[str, ...] = ()
    """Only these rows, by label; by default all."""
    seeds: int | None = None
    """Number of seeds: 0, 1, 2, ...; by default the preset's."""
    jobs: int | None = None
    """Runs at a time, a process each; by default as many as the cores hold."""
    threads: int = 1
    """Threads of a run."""
    gpus: float = 0.0
    """Share of a GPU that a run takes; 0 trains on the CPU."""
    ray_address: str | None = None
    """Ray cluster that does the runs, such as auto or HOST:PORT; by default this machine's processes do."""
    data_root: Path | None = None
    """Folder of the data sets, as torchvision lays them out; MEMPLUGINS_DATA if not given."""
    out: Path = Path("results/reproduce")
    """Folder for results and tables."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came out for a row.

    :param row: what was expected.
    :param measured: mean over seeds, %; NaN if no run ended.
    :param half_width: of its 95 % t-interval, NaN for one seed.
    :param seeds: runs that ended.
    :param failed: runs that did not.
    """

    row: PresetRow
    measured: float
    half_width: float
    seeds: int
    failed: int

    @property
    def reproduced(self) -> bool:
        """Whether all runs ended and their mean is within the tolerance."""
        return not self.failed and abs(self.measured - self.row.expected) <= self.row.tolerance

    @property
    def text(self) -> str:
        """For a reader."""
        if self.failed:
            return f"{self.failed} failed"
        if self.reproduced:
            return "reproduced"
        gap = self.measured - self.row.expected
        return f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}"


def reproduce(
    reproduction: Reproduction, *, console: Console | None = None, executor: Executor | None = None
) -> list[Verdict]:
    """Do the runs that are not done, then print and write the table of expected and measured.

    :param reproduction: which preset, and how.
    :param console: where to print; None: standard output.
    :param executor: does the runs; None: processes of this machine.
    :raises ValueError: if the preset or a row is unknown or damaged, before anything is run.
    """
    console = console or Console()
    preset = load_preset(reproduction.preset)
    rows = _wanted(preset, reproduction.rows)
    seeds = preset.seeds if reproduction.seeds is None else reproduction.seeds
    check_seeds(seeds)
    for row in rows:
        check_strategy(row.spec(0).strategy)
    specs = [row.spec(seed) for seed in range(seeds) for row in rows]
    settings = Settings(threads=reproduction.threads, gpus=reproduction.gpus, data_root=reproduction.data_root)
    address, jobs = reproduction.ray_address, reproduction.jobs
    with executor_for(executor, ray_address=address, jobs=jobs, settings=settings) as does:
        check_before(specs, reproduction.out, settings, here=address is None)
        console.print(Text(f"{preset.name}: {preset.summary}\nsource: {preset.source}", "bold"), soft_wrap=True)
        if preset.note:
            console.print(Text(preset.note, "dim"), soft_wrap=True)
        store = ResultStore(reproduction.out / "runs")
        found = sweep(specs, store, console, does)
        tell(console, found, store)
        results = {result.spec: result for result in found}
    verdicts = [verdict(row, [results[row.spec(seed)] for seed in range(seeds)]) for row in rows]
    console.print(_table(verdicts))
    for one in verdicts:
        if one.row.note:
            console.print(Text(f"{one.row.label}: {one.row.note}", "dim"), soft_wrap=True)
    path = reproduction.out / f"{preset.name}.csv"
    kept = note(
        reproduction.out,
        command=f"memplugins reproduce {reproduction.preset}",
        baseline=None,
        runs=[spec.key for spec in specs],
        name=f"{preset.name}.json",
        files=(path.name,),
    )
    if kept is not None:
        say(console, f"an earlier table, of other runs, is kept in {kept}")
    write_whole(path, _csv(verdicts))
    console.print(Text(f"written: {path}"), soft_wrap=True)
    return verdicts


def verdict(row: PresetRow, results: list[RunResult]) -> Verdict:
    """What the runs of a row say."""
    from .statistics import interval

    accuracies = [100 * result.final_accuracy for result in results if result.ok]
    measured, half_width = interval(accuracies) if accuracies else (math.nan, math.nan)
    failed = len(results) - len(accuracies)
    return Verdict(row=row, measured=measured, half_width=half_width, seeds=len(accuracies), failed=failed)


def _wanted(preset: Preset, labels: tuple[str, ...]) -> list[PresetRow]:
    known = {row.label: row for row in preset.rows}
    return [look_up("rows", label, known) for label in labels] or list(known.values())


def _table(verdicts: list[Verdict]) -> NumberTable:
    table = NumberTable("row", ("expected %", "measured %", "seeds", "verdict"))
    for one in verdicts:
        table.add_row(
            one.row.label,
            f"{one.row.expected:g} ± {one.row.tolerance:g}",
            "-" if math.isnan(one.measured) else f"{one.measured:.1f}" + _half(one.half_width),
            str(one.seeds),
            Text(one.text, "green" if one.reproduced else "red"),
        )
    return table


def _half(width: float) -> str:
    return "" if math.isnan(width) else f" ± {width:.1f}"


def _csv(verdicts: list[Verdict]) -> bytes:
    import pandas as pd

    lines: list[dict[str, Any]] = [
        {
            "row": one.row.label,
            "expected": one.row.expected,
            "tolerance": one.row.tolerance,
            "measured": one.measured,
            "half_width": one.half_width,
            "seeds": one.seeds,
            "failed": one.failed,
            "verdict": one.text,
        }
        for one in verdicts
    ]
    content: bytes = pd.DataFrame(lines).to_csv(index=False).encode()
    return content
