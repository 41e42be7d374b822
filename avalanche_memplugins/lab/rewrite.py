"""``memplugins report``: tables and pictures anew, without a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .store import ResultStore, write_whole
from .strategies import STRATEGIES

_HEAD = "comparison.json"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write tables, pictures and report.html anew from a folder's results."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Where `memplugins compare` wrote to."""
    baseline: str | None = None
    """Strategy that differences are taken from; by default that of the last comparison."""


def note(out: Path, *, command: str, baseline: str, runs: list[str]) -> None:
    """Write down what a folder is about, so that :func:`rewrite` knows it while the runs still go on.

    :param out: the folder.
    :param command: the command line that makes it.
    :param baseline: strategy that differences are taken from.
    :param runs: keys of the runs, in their order.
    """
    head = {"command": command, "baseline": baseline, "runs": runs}
    write_whole(out / _HEAD, (json.dumps(head, indent=1) + "\n").encode())


def rewrite(report: Report) -> list[Path]:
    """Do what ``memplugins report`` says.

    :returns: what was written.
    :raises ValueError: if the folder holds no results, or none of the baseline.
    """
    from .files import write_files

    results = ResultStore(report.folder / "runs").results()
    try:
        head = json.loads((report.folder / _HEAD).read_text(encoding="utf-8"))
        order = {key: i for i, key in enumerate(head["runs"])}
        results = sorted((one for one in results if one.spec.key in order), key=lambda one: order[one.spec.key])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        head = {}
        places = list(STRATEGIES)
        results.sort(key=lambda one: (one.spec.benchmark, places.index(one.spec.strategy), one.spec.seed))
    if not any(one.ok for one in results):
        raise ValueError(f"folder: wants a folder of `memplugins compare` with finished runs, got {report.folder}")
    names = list(dict.fromkeys(one.spec.strategy for one in results))
    default = "replay" if "replay" in names else names[0]
    baseline = report.baseline or head.get("baseline", default)
    if baseline not in names:
        raise ValueError(f"baseline: wants one of {', '.join(names)}, got {baseline!r}")
    command = head.get("command", f"memplugins report {report.folder}")
    return write_files(report.folder, results, baseline, command=command).files
