"""``memplugins report``: tables and pictures anew, without a run; and what tells it which runs a folder is about."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from avalanche_memplugins.benchmarks.names import look_up

from .display import count
from .store import ResultStore, check_writable, sealed, unsealed, write_whole
from .strategies import STRATEGIES

_HEAD = "comparison.json"
EARLIER = "earlier"
FILES = ("results.csv", "results.parquet", "summary.csv", "accuracy.png", "matrices.png", "report.html")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write tables, pictures and report.html anew from a folder's results."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Where `memplugins compare` wrote to."""
    baseline: str | None = None
    """Strategy that differences are taken from; by default that of the last comparison."""


def note(
    out: Path, *, command: str, baseline: str | None, runs: list[str], name: str = _HEAD, files: Sequence[str]
) -> Path | None:
    """Write down what a folder is about, so that :func:`rewrite` knows it while the runs still go on.

    What another comparison has written there is moved aside first, so that no report is lost.

    :param out: the folder.
    :param command: the command line that makes it.
    :param baseline: strategy that differences are taken from, if any are.
    :param runs: keys of the runs, in their order.
    :param name: of the file that tells it.
    :param files: names of what the command writes.
    :returns: where an earlier report is now; None if there was none, or it was of the same runs.
    """
    head = {"command": command, "baseline": baseline, "runs": runs}
    known, kept = _head(out / name), None
    if known is None or _about(known) != _about(head):
        held = [file for file in files if (out / file).is_file()]
        if held:
            kept = _aside(out, known, name, held)
        write_whole(out / name, sealed(head))
    return kept


def _about(head: dict[str, Any]) -> Any:
    return head["baseline"], head["runs"]


def _aside(out: Path, head: dict[str, Any] | None, name: str, files: Sequence[str]) -> Path:
    """Move files of an earlier report to a folder of their own; the same report takes the same folder again."""
    if head is not None:
        folder = out / EARLIER / hashlib.sha256(json.dumps(_about(head)).encode()).hexdigest()[:8]
    else:
        numbers = (out / EARLIER / f"unnamed-{i}" for i in range(1, 10**6))
        folder = next(free for free in numbers if not free.exists())
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        os.replace(out / file, folder / file)
    if head is not None:
        write_whole(folder / name, sealed({**head, "results": os.path.relpath(out / "runs", folder)}))
    return folder


def _head(path: Path) -> dict[str, Any] | None:
    """What :func:`note` wrote; None if it is not there or damaged: it names runs, and can be done without."""
    try:
        head = unsealed(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return None
    kinds = {"command": str, "baseline": str | None, "runs": list, "results": str}
    whole = all(isinstance(head.get(key, "runs" if key == "results" else 0), kind) for key, kind in kinds.items())
    return head if whole and all(isinstance(run, str) for run in head["runs"]) else None


def rewrite(report: Report, console: Console | None = None) -> list[Path]:
    """Do what ``memplugins report`` says.

    :param report: which folder.
    :param console: told of results that are left out.
    :returns: what was written.
    :raises ValueError: if the folder holds no results, or none of the baseline.
    """
    from .files import write_files
    from .sweep import say

    console = console or Console(quiet=True)
    head = _head(report.folder / _HEAD)
    store = ResultStore(report.folder / (head or {}).get("results", "runs"))
    results = store.results()
    if unread := sum(1 for _ in store.folder.glob("*.json")) - len(results):
        say(console, f"left out: {count(unread, 'file')} in {store.folder}, damaged or of another version")
    if head is not None:
        order = {key: i for i, key in enumerate(head["runs"])}
        results = sorted((one for one in results if one.spec.key in order), key=lambda one: order[one.spec.key])
    else:
        places = list(STRATEGIES)
        results.sort(key=lambda one: (one.spec.benchmark, places.index(one.spec.strategy), one.spec.seed))
    finished = [one for one in results if one.ok]
    if not finished:
        raise ValueError(f"folder: expected a folder of `memplugins compare` with finished runs, got {report.folder}")
    cells = {(one.spec.benchmark, one.spec.strategy, one.spec.seed) for one in finished}
    if len(cells) < len(finished):
        raise ValueError(
            f"folder: {report.folder} holds runs of several comparisons, and no readable {_HEAD} that says which are "
            "meant; give the command of one of them again: what is done is not done again"
        )
    check_writable(report.folder, "folder")
    names = list(dict.fromkeys(one.spec.strategy for one in finished))
    default = "replay" if "replay" in names else names[0]
    if report.baseline is not None:
        baseline = look_up("baseline", report.baseline, {name: name for name in names})
    else:
        baseline = (head or {}).get("baseline", default)
        baseline = baseline if baseline in names else default
    command = (head or {}).get("command", f"memplugins report {report.folder}")
    return write_files(report.folder, results, baseline, command=command).files
