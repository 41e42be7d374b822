"""What the screen shows while runs are done: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .formatting import count, label, last_line
from .spec import RunSpec
from .store import ResultStore, RunResult


@contextmanager
def display(console: Console, specs: Sequence[RunSpec], jobs: int) -> Iterator[Callable[[RunResult, bool], None]]:
    """Show the progress of runs while the block lasts.

    :param console: where to.
    :param specs: the runs.
    :param jobs: how many are done at a time.
    :returns: to be called with each result and whether it is new, or of an earlier command.
    """
    if console.is_terminal:
        table = LiveTable(console, specs, jobs)
        with table.live:
            yield table.show
    else:
        yield _lines(console, len(specs), jobs)


def _lines(console: Console, total: int, jobs: int) -> Callable[[RunResult, bool], None]:
    """Prints a line for each run."""
    console.print(f"{count(total, 'run')}, {jobs} at a time; the start takes some seconds", soft_wrap=True)
    done = itertools.count(1)

    def show(result: RunResult, fresh: bool) -> None:
        outcome = "done before" if not fresh else "done" if result.ok else f"FAILED: {last_line(result)}"
        if result.ok:
            outcome = f"accuracy {100 * result.final_accuracy:.1f} %, {sum(result.train_seconds):.1f} s ({outcome})"
        line = f"[{next(done):{len(str(total))}}/{total}] {result.spec.title}: {outcome}"
        console.print(Text(line), soft_wrap=True)

    return show


class LiveTable:
    """A table that fills: a dot for each run and the mean accuracy so far; below it a bar with the time left."""

    def __init__(self, console: Console, specs: Sequence[RunSpec], jobs: int) -> None:
        self.specs = specs
        self.results: dict[RunSpec, RunResult] = {}
        self.fresh, self.begin = 0, time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _TimeLeft(self),
            console=console,
        )
        self.task = self.bar.add_task(f"starting, {count(jobs, 'run')} at a time", total=len(specs))
        # `transient`: the report's tables take this one's place.
        self.live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self._render)

    def show(self, result: RunResult, fresh: bool) -> None:
        """Show one more result; ``fresh`` means that it was done now and not by an earlier command."""
        self.results[result.spec] = result
        if fresh:
            self.fresh += 1
            self.bar.update(self.task, description="running")
        self.bar.advance(self.task)

    def seconds_left(self) -> float | None:
        """Estimate from the runs that were done now, not by earlier commands; None before the first one."""
        if not self.fresh:
            return None
        return (time.monotonic() - self.begin) / self.fresh * (len(self.specs) - len(self.results))

    def _render(self) -> Group:
        benchmarks = list(dict.fromkeys(spec.benchmark for spec in self.specs))
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        table.add_column("accuracy so far, %", style="dim")
        for benchmark in benchmarks:
            table.add_column(benchmark)
        for strategy in dict.fromkeys(spec.method for spec in self.specs):
            table.add_row(label(strategy), *(self._cell(benchmark, strategy) for benchmark in benchmarks))
        return Group(table, self.bar)

    def _cell(self, benchmark: str, strategy: str) -> Text:
        cell, accuracies = Text(), []
        for spec in self.specs:
            if (spec.benchmark, spec.method) != (benchmark, strategy):
                continue
            result = self.results.get(spec)
            if result is None:
                cell.append("○", "dim")
            elif result.ok:
                cell.append("●", "green")
                accuracies.append(result.final_accuracy)
            else:
                cell.append("✗", "bold red")
        if accuracies:
            cell.append(f"  {100 * sum(accuracies) / len(accuracies):5.1f}")
        return cell


class _TimeLeft(ProgressColumn):
    """Rich's own column looks back for 30 seconds only, in which no run may have ended."""

    max_refresh = 0.5

    def __init__(self, table: LiveTable) -> None:
        super().__init__()
        self.table = table

    def render(self, task: Task) -> Text:
        """As :meth:`rich.progress.ProgressColumn.render`."""
        left = self.table.seconds_left()
        if left is None:
            return Text("time left unknown", "dim")
        minutes, seconds = divmod(round(left), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left", "cyan")


def say(console: Console, text: object) -> None:
    """A line that a reader should not miss."""
    console.print(Text(str(text), "yellow"), soft_wrap=True)


def tell(console: Console, results: Sequence[RunResult], store: ResultStore) -> None:
    """The failures, with where their tracebacks are, and the runs' warnings, each once."""
    for result in results:
        if not result.ok:
            line = f"FAILED {result.spec.title}: {last_line(result)}\n  traceback in {store.path(result.spec)}"
            console.print(Text(line, "red"), soft_wrap=True)
    for warning in dict.fromkeys(text for result in results for text in result.warnings):
        say(console, f"warned: {warning}")
