"""What a comparison leaves behind: tables, pictures, and a page that shows them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console, RenderableType
from rich.text import Text

from avalanche_memplugins.benchmarks.names import look_up

from .display import say
from .formatting import NumberTable, amounts, count, label, nbytes, percent
from .options import UNSET
from .spec import RunSpec
from .store import ResultStore, RunResult, check_writable, sealed, unsealed, write_whole
from .strategies import STRATEGIES
from .streams import scenario_of

if TYPE_CHECKING:
    import pandas as pd

_HEAD = "comparison.json"
EARLIER = "earlier"
FILES = ("results.csv", "results.parquet", "summary.csv", "accuracy.png", "matrices.png", "report.html")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write tables, pictures and report.html anew from a folder's results."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Where `memplugins compare` wrote to."""
    baseline: Annotated[str | None, UNSET] = None
    """Strategy that differences are taken from; by default that of the last comparison."""


def note(
    out: Path, *, command: str, baseline: str | None, runs: list[str], name: str = _HEAD, files: Sequence[str]
) -> Path | None:
    """Record which runs a folder is about, so that :func:`rewrite` knows them while they are still going on.

    The report of another comparison in the same folder is moved aside first, so that no report is lost.

    :param out: the folder.
    :param command: the command line that makes it.
    :param baseline: strategy that differences are taken from, if any are.
    :param runs: keys of the runs, in their order.
    :param name: of the file that records them.
    :param files: names of what the command writes.
    :returns: where the earlier report is now; None if there was none, or if it is about the same runs.
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
    """Move the files of an earlier report to a folder of their own. The same report always gets the same folder."""
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
    """What :func:`note` wrote; None if the file is missing or damaged."""
    try:
        head = unsealed(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return None
    kinds = {"command": str, "baseline": str | None, "runs": list, "results": str}
    whole = all(isinstance(head.get(key, "runs" if key == "results" else 0), kind) for key, kind in kinds.items())
    return head if whole and all(isinstance(run, str) for run in head["runs"]) else None


def rewrite(report: Report, console: Console | None = None) -> list[Path]:
    """Write the report of a folder anew from its results, without doing any run.

    :param report: which folder.
    :param console: where to say which results are left out.
    :returns: the files written.
    :raises ValueError: if the folder holds no results, or none of the baseline.
    """
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
        places = {name: place for place, name in enumerate(STRATEGIES)}
        # Those of the user's own come last.
        results.sort(
            key=lambda one: (
                one.spec.benchmark,
                places.get(one.spec.strategy, len(places)),
                one.spec.method,
                one.spec.seed,
            )
        )
    finished = [one for one in results if one.ok]
    if not finished:
        raise ValueError(f"folder: expected a folder of `memplugins compare` with finished runs, got {report.folder}")
    cells = {(one.spec.benchmark, one.spec.method, one.spec.seed) for one in finished}
    if len(cells) < len(finished):
        raise ValueError(
            f"folder: {report.folder} holds runs of several comparisons, and no readable {_HEAD} that says which are "
            "meant; give the command of one of them again: what is done is not done again"
        )
    check_writable(report.folder, "folder")
    names = list(dict.fromkeys(one.spec.method for one in finished))
    default = "replay" if "replay" in names else names[0]
    if report.baseline is not None:
        baseline = look_up("baseline", report.baseline, {name: name for name in names})
    else:
        baseline = (head or {}).get("baseline", default)
        baseline = baseline if baseline in names else default
    command = (head or {}).get("command", f"memplugins report {report.folder}")
    return write_files(report.folder, results, baseline, command=command).files


@dataclass(frozen=True, kw_only=True)
class Written:
    """What :func:`write_files` wrote.

    :param numbers: see :func:`.tidy`.
    :param summary: see :func:`.summarise`.
    :param files: the files written; empty if no run has ended.
    :param notes: what was left out, and why.
    """

    numbers: pd.DataFrame
    summary: pd.DataFrame
    files: list[Path]
    notes: list[str]


def write_files(out: Path, results: Sequence[RunResult], baseline: str, *, command: str) -> Written:
    """Write results.csv, results.parquet, summary.csv, two pictures and report.html.

    :param out: the folder.
    :param results: of all runs, failed ones too.
    :param baseline: strategy that differences are taken from.
    :param command: the command line that the report names.
    """
    # Here and not above: whoever asks for help, or does runs, need not wait for pandas and matplotlib.
    from . import figures, page, table

    numbers = table.tidy(results)
    summary = table.summarise(numbers, baseline)
    if numbers.empty:
        return Written(numbers=numbers, summary=summary, files=[], notes=[])
    shown = page.render(results, baseline, command=command, pictures=pictures(out / "gallery"))
    contents = {
        "results.csv": numbers.to_csv(index=False).encode(),
        "summary.csv": summary.to_csv(index=False).encode(),
        "accuracy.png": figures.png(figures.accuracy_curves(numbers)),
        "matrices.png": figures.png(figures.accuracy_matrices(numbers)),
        "report.html": shown.encode(),
    }
    notes = []
    if importlib.util.find_spec("pyarrow") is None:
        notes.append("no results.parquet: that needs pyarrow (pip install pyarrow); results.csv has the same numbers")
    else:
        contents["results.parquet"] = numbers.to_parquet(index=False)
    for name, content in contents.items():
        write_whole(out / name, content)
    return Written(numbers=numbers, summary=summary, files=[out / name for name in contents], notes=notes)


def pictures(folder: Path) -> dict[str, bytes]:
    """The PNG files of a folder by their names in plain words; empty if there is no such folder."""
    shown = {}
    for path in sorted(folder.glob("*.png")) if folder.is_dir() else []:
        with suppress(FileNotFoundError, IsADirectoryError):  # gone since it was listed
            shown[path.stem.replace("_", " ").replace("-", " ")] = path.read_bytes()
    return shown


def tables(summary: pd.DataFrame, specs: Sequence[RunSpec], baseline: str) -> Iterator[RenderableType]:
    """A table for each benchmark, then notes, to be printed.

    :param summary: from :func:`.summarise`.
    :param specs: the runs that it summarises.
    :param baseline: strategy that differences are taken from.
    """
    for benchmark, lines in summary.groupby("benchmark", sort=False):
        spec = next(spec for spec in specs if spec.benchmark == benchmark)
        seeds = len({spec.seed for spec in specs})
        facts = ", ".join([scenario_of(spec.benchmark), *amounts(spec), count(seeds, "seed")])
        yield Text(f"{benchmark}: {facts}", "bold")
        table = NumberTable("strategy", ("accuracy %", f"vs {baseline}", "forgetting", "memory", "train"))
        best = lines.loc[~lines["strategy"].isin(["naive", "cumulative", "joint"]), "accuracy"].max()
        for line in lines.to_dict("records"):
            difference = math.nan if line["strategy"] == baseline else line["difference"]
            table.add_row(
                label(str(line["strategy"])) + ("" if line["seeds"] == seeds else f" ({count(line['seeds'], 'seed')})"),
                percent(line["accuracy"], line["accuracy_half_width"]),
                percent(difference, line["difference_half_width"], sign="+"),
                percent(line["forgetting"], line["forgetting_half_width"]),
                nbytes(line["memory_bytes"]) + (f" + {nbytes(line['fixed_bytes'])}" if line["fixed_bytes"] else ""),
                f"{line['train_seconds']:.1f} s",
                style="bold" if line["accuracy"] == best else "",
            )
        yield table
    yield Text(_notes(specs), "dim")


def _notes(specs: Sequence[RunSpec]) -> str:
    spec = next((spec for spec in specs if spec.budget is not None), specs[0])
    size = (
        f"{spec.memory_size} rows" if spec.budget is None else f"{nbytes(spec.budget)}, where a strategy can be sized"
    )
    notes = [
        "accuracy: mean over experiences after the last one. ± is a 95 % t-interval over seeds. "
        "Differences are paired by seed.",
        "forgetting: best earlier accuracy less the last, mean over all experiences but the last "
        "(Chaudhry et al. 2018).",
        "memory: bytes of stream data held at the end; a row of Avalanche's Replay and of Cumulative counts as its "
        "float32 pixels + 16 bytes of labels. After a +: bytes of networks that do not depend on the stream.",
        "train: wall-clock seconds of training in all, on one thread.",
        f"the same for all: {spec.model}, {spec.optimizer} lr {spec.lr:g}, batches of {spec.batch_size}, memories of "
        f"{size}; replay adds as many rows as the batch has.",
    ]
    if any(spec.strategy == "rma" for spec in specs):
        notes.append("RMA stores one batch every m steps, m taken from the stream's length so that the ring holds it.")
    return "\n".join(notes)
