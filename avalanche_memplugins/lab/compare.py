"""The whole of a comparison: runs, tables, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from .before import check_before
from .comparison import Comparison
from .executors import Executor, executor_for
from .result import RunResult
from .rewrite import FILES, note
from .spec import RunSpec
from .store import ResultStore
from .sweep import say, sweep, tell

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a comparison has brought.

    :param results: of all runs, failed ones too.
    :param tidy: every number, see :func:`.tidy`.
    :param summary: a line a strategy, see :func:`.summarise`.
    :param files: what was written.
    """

    results: list[RunResult]
    tidy: pd.DataFrame
    summary: pd.DataFrame
    files: list[Path]


def compare(comparison: Comparison, *, console: Console | None = None, executor: Executor | None = None) -> Outcome:
    """Do the runs that are not done, then write and print tables and pictures.

    :param comparison: what to compare.
    :param console: where to print; None: standard output.
    :param executor: does the runs; None: processes of this machine.
    :raises ValueError: if a setting is out of range or unknown, before anything is run.
    """
    if not isinstance(comparison, Comparison):
        raise TypeError(f"comparison: expected a Comparison, got {type(comparison).__name__}: {comparison!r}")
    console = console or Console()
    specs = comparison.specs()
    address, jobs, settings = comparison.ray_address, comparison.jobs, comparison.settings()
    with executor_for(executor, ray_address=address, jobs=jobs, settings=settings) as does:
        store = ResultStore(comparison.out / "runs")
        check_before(specs, comparison.out, settings, here=address is None)
        _note(comparison, specs, console)
        results = sweep(specs, store, console, does)
    return _report(comparison, results, store, console)


def _note(comparison: Comparison, specs: Sequence[RunSpec], console: Console) -> None:
    kept = note(
        comparison.out,
        command=comparison.command(),
        baseline=comparison.baseline_name(),
        runs=[spec.key for spec in specs],
        files=FILES,
    )
    if kept is not None:
        say(console, f"the report of an earlier comparison is kept in {kept}")


def _report(comparison: Comparison, results: list[RunResult], store: ResultStore, console: Console) -> Outcome:
    # Here and not above: whoever asks for help, or for one run, need not wait for pandas and matplotlib.
    from . import report
    from .files import write_files

    baseline = comparison.baseline_name()
    # Again, since another command may have begun on this folder meanwhile.
    _note(comparison, comparison.specs(), console)
    written = write_files(comparison.out, results, baseline, command=comparison.command())
    if written.files:
        for part in report.tables(written.summary, comparison.specs(), baseline):
            console.print(part)
    tell(console, results, store)
    for remark in written.notes:
        console.print(Text(remark, "dim"), soft_wrap=True)
    if written.files:
        console.print(Text("written: " + ", ".join(map(str, written.files))), soft_wrap=True)
    return Outcome(results=results, tidy=written.numbers, summary=written.summary, files=written.files)
