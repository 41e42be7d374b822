"""Runs with their progress on the screen, kept in a folder, done once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from .display import display_for
from .executors import Executor
from .result import RunResult
from .runner import run_all
from .spec import RunSpec
from .store import ResultStore


def sweep(specs: Sequence[RunSpec], store: ResultStore, console: Console, executor: Executor) -> list[RunResult]:
    """Do the runs that are not done; a stop loses nothing that has ended.

    :param specs: the runs.
    :param store: where results are kept.
    :param console: for the progress.
    :param executor: does the runs.
    :raises KeyboardInterrupt: after Ctrl-C, having said how to go on.
    """
    try:
        with display_for(console, specs, min(executor.jobs, len(specs))) as display:
            return run_all(specs, store, executor, display.show)
    except KeyboardInterrupt:
        done = sum(1 for spec in specs if (known := store.get(spec)) is not None and known.ok)
        say(
            console,
            f"stopped: {done} of {len(specs)} runs are kept in {store.folder}; the same command goes on from there",
        )
        raise


def tell(console: Console, results: Sequence[RunResult], store: ResultStore) -> None:
    """The failures, with where their tracebacks are, and what was warned of, each once."""
    from .report import failures

    for part in failures(results, [str(store.path(result.spec)) for result in results]):
        console.print(part, soft_wrap=True)
    for warning in dict.fromkeys(text for result in results for text in result.warnings):
        say(console, f"warned: {warning}")


def say(console: Console, text: Any) -> None:
    """A line that a reader should not miss."""
    console.print(Text(str(text), "yellow"), soft_wrap=True)
