"""The comparison's tables on the screen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from avalanche_memplugins.benchmarks.registry import BENCHMARKS

from .comparison import label
from .display import count, last_line
from .number_table import NumberTable
from .result import RunResult
from .spec import RunSpec


def tables(summary: pd.DataFrame, specs: Sequence[RunSpec], baseline: str) -> Iterator[RenderableType]:
    """A table for each benchmark and the notes that belong to them.

    :param summary: from :func:`.summarise`.
    :param specs: the runs that it is of.
    :param baseline: strategy that differences were taken from.
    """
    for benchmark, lines in summary.groupby("benchmark", sort=False):
        spec = next(spec for spec in specs if spec.benchmark == benchmark)
        info = BENCHMARKS[spec.benchmark]
        seeds = len({spec.seed for spec in specs})
        facts = ", ".join([info.scenario, *amounts(spec), count(seeds, "seed")])
        yield Text(f"{benchmark}: {facts}", "bold")
        table = NumberTable("strategy", ("accuracy %", f"vs {baseline}", "forgetting", "memory", "train"))
        best = lines.loc[~lines["strategy"].isin(["naive", "cumulative", "joint"]), "accuracy"].max()
        for line in lines.to_dict("records"):
            difference = (
                Text("-", "dim")
                if line["strategy"] == baseline
                else _percent(line["difference"], line["difference_half_width"], sign="+")
            )
            table.add_row(
                label(str(line["strategy"])) + ("" if line["seeds"] == seeds else f" ({count(line['seeds'], 'seed')})"),
                _percent(line["accuracy"], line["accuracy_half_width"]),
                difference,
                _percent(line["forgetting"], line["forgetting_half_width"]),
                nbytes(line["memory_bytes"]) + (f" + {nbytes(line['fixed_bytes'])}" if line["fixed_bytes"] else ""),
                f"{line['train_seconds']:.1f} s",
                style="bold" if line["accuracy"] == best else "",
            )
        yield table
    yield Text(_notes(specs), "dim")


def amounts(spec: RunSpec) -> list[str]:
    """How much a run trains and is tested on, for a reader: experiences, epochs or steps, rows where they are fewer."""
    passes = count(spec.epochs, "epoch") if spec.iterations is None else f"{spec.iterations:,} steps"
    rows = [
        f"{number:,} {kind} rows each"
        for number, kind in ((spec.train_rows, "training"), (spec.test_rows, "test"))
        if number is not None
    ]
    return [count(spec.n_experiences, "experience"), f"{passes} each", *rows]


def failures(results: Sequence[RunResult], paths: Sequence[str]) -> Iterator[RenderableType]:
    """A line for each failed run, and where its traceback is."""
    for result, path in zip(results, paths, strict=True):
        if not result.ok:
            yield Text(f"FAILED {result.spec.title}: {last_line(result)}\n  traceback in {path}", "red")


def nbytes(number: float) -> str:
    """A number of bytes for a reader, in decimal units."""
    if number < 1000:
        return f"{number:.0f} B"
    for unit in ("kB", "MB"):
        number /= 1000
        if number < 1000:
            return f"{number:.1f} {unit}"
    return f"{number / 1000:.1f} GB"


def _percent(value: float, half_width: float, sign: str = "") -> Text:
    if math.isnan(value):
        return Text("-", "dim")
    middle = f"{100 * value:{sign}.1f}"
    return Text(middle if math.isnan(half_width) else f"{middle} ± {100 * half_width:.1f}")


def _notes(specs: Sequence[RunSpec]) -> str:
    spec = next((spec for spec in specs if spec.budget is not None), specs[0])
    size = (
        f"{spec.memory_size} rows" if spec.budget is None else f"{nbytes(spec.budget)}, where a strategy can be sized"
    )
    notes = [
        "accuracy: mean over experiences after the last one; ± is a 95 % t-interval over seeds; "
        "differences are paired by seed.",
        "forgetting: best earlier accuracy less the last, mean over all experiences but the last "
        "(Chaudhry et al. 2018).",
        "memory: bytes held from the stream at the end; a row of Avalanche's Replay and of Cumulative counts as its "
        "float32 pixels + 16 bytes of labels. After a +: bytes needed besides, whatever the stream.",
        "train: wall-clock seconds of training in all, on one thread.",
        f"the same for all: {spec.model}, {spec.optimizer} lr {spec.lr:g}, batches of {spec.batch_size}, memories of "
        f"{size}; replay adds as many rows as the batch has.",
    ]
    if any(spec.strategy == "rma" for spec in specs):
        notes.append("RMA stores one batch every m steps, m taken from the stream's length so that the ring holds it.")
    return "\n".join(notes)
