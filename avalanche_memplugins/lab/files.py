"""What a comparison leaves behind: tables, pictures, and a page that shows them."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from . import figures, html_report, table
from .html_report.page import pictures
from .result import RunResult
from .store import write_whole


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written.

    :param numbers: see :func:`.tidy`.
    :param summary: see :func:`.summarise`.
    :param files: in the order of writing; none if no run has ended.
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
    :param command: what the report names as the command that makes it.
    """
    numbers = table.tidy(results)
    summary = table.summarise(numbers, baseline)
    if numbers.empty:
        return Written(numbers=numbers, summary=summary, files=[], notes=[])
    page = html_report.render(results, baseline, command=command, pictures=pictures(out / "gallery"))
    contents = {
        "results.csv": numbers.to_csv(index=False).encode(),
        "summary.csv": summary.to_csv(index=False).encode(),
        "accuracy.png": _png(figures.accuracy_curves(numbers)),
        "matrices.png": _png(figures.accuracy_matrices(numbers)),
        "report.html": page.encode(),
    }
    notes = []
    if importlib.util.find_spec("pyarrow") is None:
        notes.append("no results.parquet: that needs pyarrow (pip install pyarrow); results.csv has the same numbers")
    else:
        contents["results.parquet"] = numbers.to_parquet(index=False)
    for name, content in contents.items():
        write_whole(out / name, content)
    return Written(numbers=numbers, summary=summary, files=[out / name for name in contents], notes=notes)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
