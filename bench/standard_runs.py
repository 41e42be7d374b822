"""The standard runs: six streams, every memory and the main baselines, three budgets, five seeds, one command.

    python bench/standard_runs.py --data DIR        hours on two cores

``DIR`` holds MNIST, Fashion-MNIST and the features that ``bench/cifar_features.py`` makes. All strategies of a stream
see the same 1,600 training rows of each experience, drawn by the seed (8,000 in all), for one epoch in batches of 16,
and are tested on 500 rows of each experience. GEM wants ``pip install 'avalanche-memplugins[gem]'``. The command can
be stopped at any moment and given again; ``--report`` writes the pages of what is there.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from _common import DataOptions, launch
from PIL import Image
from rich.console import Console

from avalanche_memplugins.benchmarks import BENCHMARKS
from avalanche_memplugins.lab import STRATEGIES, LocalProcesses, ResultStore, RunResult, RunSpec, run_all
from avalanche_memplugins.lab.before import unsuitable
from avalanche_memplugins.lab.figures import frontier_figure
from avalanche_memplugins.lab.formatting import label
from avalanche_memplugins.lab.frontier import points
from avalanche_memplugins.lab.page import render
from avalanche_memplugins.lab.store import write_whole
from avalanche_memplugins.lab.strategies import OURS, make_memory, parsed

STREAMS = (
    "split-mnist",
    "split-mnist-domain",
    "split-mnist-task",
    "split-fmnist",
    "permuted-mnist",
    "split-cifar10-features",
)
BUDGETS = (5_000, 20_000, 50_000, 200_000)
TRAINED = BUDGETS[1:]  # of those that train a network
KEPT = 50_000
MARK = "<!-- what follows is written by bench/standard_runs.py -->"
# In this order, each for all seeds, so that what is stopped early has all seeds of the first.
FIRST = ("naive", "joint", "replay", "er-uint8", "er-4bit", "er-latent", "gaussian")
THEN = (
    "ewc",
    "lwf",
    "kanerva",
    "gdumb",
    "der-pp",
    "dark-replay",
    "er-ace",
    "knn-4bit",
    "knn-latent",
    "er-mbpa-4bit",
    "er-mbpa-latent",
)
# Near to one of the above, weak within so few bytes, or slow.
LATER = ("er-reservoir", "rma", "er-1bit", "kanerva-shared", "agem", "mas", "mir", "vae", "mbpa", "er-mbpa", "gem")
IMAGES = (*LATER, "energy")
CLASSES = (*IMAGES, "icarl", "generative-replay")
# They train nothing, or answer beside the network.
ANSWERING = (
    "nearest-mean",
    "slda",
    "slda:embedding=scattering",
    "qda",
    "qda:embedding=scattering",
    "fecam",
    "mixed",
    "avalanche-slda",
)
PICTURED = ("nearest-mean", "slda:embedding=scattering", "qda", "qda:embedding=scattering", "mixed")
LAST = {
    "split-mnist": CLASSES,
    "split-fmnist": CLASSES,
    "permuted-mnist": IMAGES,
    "split-cifar10-features": LATER,
    "split-mnist-domain": IMAGES,
    "split-mnist-task": IMAGES,
}
# What Avalanche's strategy does with a model that wants task labels.
LEFT_OUT = {
    ("split-mnist-task", "der-pp"): "its logits are asked of the model without task labels",
}


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """What to do."""

    out: Path = Path("results/standard")
    """Folder of the runs."""
    pages: Path = Path("docs/results")
    """Where the report goes."""
    seeds: int = 5
    jobs: int | None = None
    """Runs at a time; by default one a core."""
    report: bool = False
    """Only write the report, of the runs that are there."""
    answering: bool = False
    """Only what answers without training; the rest of the report stays as it was."""
    streams: tuple[str, ...] = STREAMS


def specs(seeds: int, *, answering: bool) -> tuple[list[RunSpec], dict[tuple[str, str, int], str]]:
    """All runs, and why one is missing; a memory that cannot use more bytes is not run with them."""
    missing: dict[tuple[str, str, int], str] = {}
    parts = [dict.fromkeys(STREAMS, ANSWERING)]
    if not answering:
        parts += [dict.fromkeys(STREAMS, FIRST), dict.fromkeys(STREAMS, THEN), LAST]
    found = []
    for part in parts:
        first = [
            spec
            for stream, strategies in part.items()
            for strategy in strategies
            for spec in _of_strategy(stream, strategy, missing)
        ]
        found += [RunSpec(**{**spec.to_json(), "seed": seed}) for seed in range(seeds) for spec in first]
    return found, missing


def _of_strategy(stream: str, strategy: str, missing: dict[tuple[str, str, int], str]) -> Iterator[RunSpec]:
    if (stream, strategy) in LEFT_OUT:
        missing[stream, strategy, 0] = LEFT_OUT[stream, strategy]
        return
    if STRATEGIES[parsed(strategy)[0]].sized == "no":
        yield make(stream, strategy, None)
        return
    known: set[str] = set()
    for budget in BUDGETS if strategy in ANSWERING else TRAINED:
        spec = make(stream, strategy, budget)
        if (reason := unsuitable(spec)) is not None:
            missing[stream, strategy, budget] = reason
            continue
        if strategy == "icarl" and budget < BUDGETS[-1]:
            missing[stream, strategy, budget] = "it keeps a row a class at least"
            continue
        try:
            like = repr(make_memory(spec)) if spec.strategy in OURS else str(budget)
        except ValueError as problem:
            missing[stream, strategy, budget] = str(problem)
            continue
        if like not in known:
            yield spec
        known.add(like)


def make(stream: str, strategy: str, budget: int | None) -> RunSpec:
    """The run of seed 0."""
    name, options = parsed(strategy)
    return RunSpec(
        benchmark=stream,
        strategy=name,
        options=options,
        budget=budget,
        seed=0,
        n_experiences=5,
        epochs=1,
        batch_size=16,
        train_rows=1_600,
        test_rows=500,
    )


def with_earlier(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """The points of a table, and those of the earlier report that it has none of."""
    names = ["benchmark", "strategy", "budget"]
    if file.exists():
        earlier = pd.read_csv(file).astype({"budget": "Int64"})
        table = pd.concat([table, earlier]).drop_duplicates(names)
    order = [*FIRST, *THEN, *LATER, *ANSWERING]
    places = table["strategy"].map(lambda name: order.index(name) if name in order else len(order))
    streams = table["benchmark"].map(STREAMS.index)
    return table.assign(a=streams, b=places).sort_values(["a", "b", "budget"], kind="stable").drop(columns=["a", "b"])


def at_budget(results: Sequence[RunResult], budget: int) -> Iterator[RunResult]:
    """What a strategy does within a budget: its run at it, or at the largest below that it can use."""
    used: dict[tuple[str, str], int] = {}
    for result in results:
        spec = result.spec
        if spec.budget is not None and spec.budget <= budget:
            used[spec.benchmark, spec.strategy] = max(spec.budget, used.get((spec.benchmark, spec.strategy), 0))
    for result in results:
        if result.spec.budget is None or used.get((result.spec.benchmark, result.spec.strategy)) == result.spec.budget:
            yield result


def write_report(options: Options, results: Sequence[RunResult], console: Console) -> None:
    """A page a budget, a picture a stream of what runs on most streams, one table of everything."""
    done = [result for result in results if result.ok]
    command = "python bench/standard_runs.py"
    table = with_earlier(points(done), options.pages / "standard.csv")
    write_whole(options.pages / "standard.csv", table.round(5).to_csv(index=False).encode())
    for budget in () if options.answering else TRAINED:
        page = render(list(at_budget(done, budget)), "er-uint8", command=command)
        # One of them says how they look; three are too large for a repository.
        folder = options.pages if budget == KEPT else options.out
        write_whole(folder / f"standard-{budget // 1000}kB.html", page.encode())
    for stream in STREAMS:
        lines = table[table["benchmark"] == stream]
        shown = lines["strategy"].isin([*FIRST, *THEN, "er-1bit", "energy", *PICTURED])
        sized = lines["budget"].notna() | lines["strategy"].isin(["naive", "joint"])
        drawn, small = io.BytesIO(), io.BytesIO()
        frontier_figure(lines[shown & sized]).savefig(drawn, format="png", dpi=100)
        # Few colours: a third of the bytes.
        Image.open(drawn).convert("RGB").quantize(64).save(small, format="png", optimize=True)
        write_whole(options.pages / f"standard-{stream}.png", small.getvalue())
    page = options.pages / "README.md"
    words = page.read_text(encoding="utf-8").split(MARK)[0] if page.exists() else ""
    write_whole(page, (words + MARK + "\n\n" + markdown(table)).encode())
    console.print(f"written: {options.pages} and {options.out}")


def markdown(table: pd.DataFrame) -> str:
    """A picture and a table for each stream."""
    parts = []
    for stream in STREAMS:
        lines = table[table["benchmark"] == stream]
        parts += [f"## {BENCHMARKS[stream].summary} (`{stream}`)\n", f"![{stream}](standard-{stream}.png)\n"]
        parts += [
            "| strategy | " + " | ".join(f"{b // 1000} kB" for b in BUDGETS) + " | held, kB | fixed, kB | s | seeds |"
        ]
        parts += ["|---|" + "---:|" * (len(BUDGETS) + 4)]
        # One seed may be best by luck.
        whole = lines[lines["seeds"] == lines["seeds"].max()]
        best = {budget: whole.loc[whole["budget"] == budget, "accuracy"].max() for budget in BUDGETS}
        for strategy, group in lines.groupby("strategy", sort=False):
            runs = group.to_dict("records")
            at = {int(line["budget"]): line for line in runs if not pd.isna(line["budget"])}
            cells = [_cell(at, budget, best[budget]) for budget in BUDGETS] if at else [_percent(runs[0]), "", ""]
            held = ", ".join(f"{line['memory_bytes'] / 1000:,.0f}" for line in runs)
            fixed = f"{group['fixed_bytes'].max() / 1000:,.0f}"
            seconds, seeds = f"{group['train_seconds'].mean():.1f}", group["seeds"].min()
            row = [label(str(strategy)), *cells, held, fixed, seconds, str(seeds)]
            parts.append("| " + " | ".join(row) + " |")
        parts.append("")
    return "\n".join(parts)


def _cell(at: dict[int, dict[str, float]], budget: int, best: float) -> str:
    if budget not in at:
        return "=" if any(known < budget for known in at) else "-"
    mark = "**" if at[budget]["accuracy"] == best else ""
    return mark + _percent(at[budget]) + mark


def _percent(line: dict[str, float]) -> str:
    half = line["accuracy_half_width"]
    return f"{100 * line['accuracy']:.1f}" + ("" if pd.isna(half) else f" ± {100 * half:.1f}")


def main(options: Options) -> None:
    """Do the runs that are missing, then write the report."""
    console = Console(width=120)
    wanted, missing = specs(options.least(options.seeds, 1), answering=options.answering)
    wanted = [spec for spec in wanted if spec.benchmark in options.streams]
    if options.quick:
        few = [spec for spec in wanted if spec.benchmark == "split-mnist"][:3]
        wanted = [replace(spec, train_rows=20, test_rows=10) for spec in few]
    store = ResultStore(options.runs(options.out) / "runs")
    if options.report:
        results = [result for spec in wanted if (result := store.get(spec)) is not None and result.ok]
    else:
        results = run_all(wanted, store, LocalProcesses(options.jobs), console=console)
    for (stream, strategy, budget), reason in missing.items():
        at = f" at {budget // 1000} kB" if budget else ""
        console.print(f"left out: {strategy} on {stream}{at}: {reason}", soft_wrap=True)
    if options.quick:
        console.print(*(f"{result.spec.title}: {result.error or result.final_accuracy}" for result in results))
        raise SystemExit(any(not result.ok for result in results))
    write_report(options, results, console)


if __name__ == "__main__":
    launch(main, Options, __doc__)
