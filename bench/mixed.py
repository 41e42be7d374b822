"""Rows that replay and Gaussians that answer within one budget, on permuted MNIST: MixedMemory beside its halves.

    python bench/mixed.py --data DIR [--choose]      ten minutes on a core

The stream is that of the standard runs: five permutations of MNIST, 1,600 training rows and 500 test rows of each,
drawn by the seed, in batches of 16. Settings were chosen by ``--choose``: on a fifth of the training rows of seeds 0
and 1, which is taken out of training. Tests are on other seeds. What was measured is kept in ``--out``, and not
measured again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from _common import DataOptions, launch, once
from _record import interval, table

from avalanche_memplugins.benchmarks import BENCHMARKS
from avalanche_memplugins.benchmarks.streams import assemble
from avalanche_memplugins.lab import RunSpec
from avalanche_memplugins.lab.run import execute

COMMAND = "python bench/mixed.py --data DIR"
BUDGETS = (20_000, 50_000)
ROWS, HELD_BACK = 1_600, 320
GAUSSIANS = {"embedding": "projection", "precision": 4, "deviations": 4, "shrinkage": 0.1}
# The most numbers of the rank that MixedMemory takes for as many bytes.
ALONE: dict[int | None, dict[str, Any]] = {20_000: {**GAUSSIANS, "rank": 9}, 50_000: {**GAUSSIANS, "rank": 15}}
FITTED = {"weight": None}
GRID: list[tuple[int, dict[str, Any]]] = [
    *((budget, {"share": share}) for budget in BUDGETS for share in (0.6, 0.75, 0.9)),
    *((20_000, {"share": 0.75, **more}) for more in ({"replay_size": 48}, {"replay_weight": None}, FITTED)),
]


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """What to do."""

    out: Path = Path("results/mixed")
    seeds: tuple[int, ...] = (3, 4, 5, 6, 7)
    epochs: tuple[int, ...] = (1, 3)
    choose: bool = False
    """Print what each setting reaches on a fifth of the training rows of seeds 0 and 1, and nothing else."""


def held_back(n_experiences: int = 5, *, seed: int | None = None) -> Any:
    """Permuted MNIST whose tests are a fifth of the training rows, taken out of them."""
    benchmark = BENCHMARKS["permuted-mnist"].build(
        n_experiences=n_experiences, seed=seed, train_rows=ROWS, test_rows=10
    )
    data = [experience.dataset for experience in benchmark.train_stream]
    train = [rows.subset(range(HELD_BACK, ROWS)) for rows in data]
    found = assemble(train, [rows.subset(range(HELD_BACK)) for rows in data], [set(range(10))] * len(data), tasks=False)
    info = BENCHMARKS["permuted-mnist"]
    found.mean, found.std = info.mean, info.std
    return found


def lines() -> Iterator[tuple[str, str, int | None, int, dict[str, Any]]]:
    """Name, strategy, budget, epochs and options of each line, in the order of their weight."""
    for epochs in (1, 3):
        for budget in BUDGETS:
            yield "rows and Gaussians (`mixed`)", "mixed", budget, epochs, {}
        if epochs == 1:
            for budget in BUDGETS:
                yield "control: Gaussians alone (`qda`)", "qda", budget, epochs, ALONE[budget]
        for budget in BUDGETS:
            coded = {"codec": "1bit-coded"}
            yield "control: rows alone, 1 bit, entropy-coded (`er`)", "er", budget, epochs, coded
        yield "control: all rows at once (`joint`)", "joint", None, epochs, {}
        for budget in BUDGETS if epochs == 3 else ():
            yield "the same, weight fitted to stored rows", "mixed", budget, epochs, FITTED


def measure(
    strategy: str, budget: int | None, epochs: int, options: dict[str, Any], seed: int, *, chosen: bool, quick: bool
) -> dict[str, Any]:
    """Per cent right at the end, over all experiences, and bytes."""
    stream: dict[str, Any] = {"benchmark": "permuted-mnist", "train_rows": ROWS, "test_rows": 500}
    if quick:
        stream |= {"train_rows": 64, "test_rows": 20}
    if not chosen:
        stream, options = {"benchmark": "mixed:held_back"}, {"by": "experience", **options}
    fields = {"n_experiences": 5, "batch_size": 16, "epochs": epochs, "budget": budget, "options": options}
    result = execute(RunSpec(strategy=strategy, seed=seed, **fields, **stream))
    if not result.ok:
        raise RuntimeError(result.error)
    last = result.accuracy[-1]
    right = 100 * sum(last) / len(last)
    return {"right": right, "bytes": result.memory_bytes[-1], "fixed": result.fixed_bytes}


def choose() -> None:
    """What each setting reaches on rows that were held back from training."""
    for budget, options in GRID:
        found = [measure("mixed", budget, 1, options, seed, chosen=False, quick=False)["right"] for seed in (0, 1)]
        print(budget, options, f"{sum(found) / len(found):.2f}", flush=True)


def report(results: dict[tuple[str, int | None, int], list[dict[str, Any]]], seeds: int) -> str:
    """The table and what it says."""
    names = dict.fromkeys(name for name, _, _ in results)
    columns = [(epochs, budget) for epochs in dict.fromkeys(epochs for _, _, epochs in results) for budget in BUDGETS]
    rows = []
    for name in names:
        cells = [results.get((name, None if "joint" in name else budget, epochs)) for epochs, budget in columns]
        shown = ["" if cell is None else interval([one["right"] for one in cell]) for cell in cells]
        held = dict.fromkeys(f"{max(one['bytes'] for one in cell):,}" for cell in cells[:2] if cell is not None)
        rows.append([name, " / ".join(held), *shown])
    text = (
        f"Permuted MNIST, five permutations, one head, {ROWS:,} training rows and 500 test rows a permutation, batches "
        f"of 16; {seeds} seeds (3 and up), mean ± 95 % interval. MLP of 2 x 256, Adam 1e-3. Bytes: all that the stream "
        "leaves, labels and tables included, after the last experience; in an experience its ten Gaussians are "
        "float32. The projection that Gaussians model is made anew from a seed. Rows: 1 bit a pixel, entropy-coded. "
        "Share of the Gaussians, weight of replay, and the weight 0.5 of their answer: by `--choose` on a fifth of the "
        "training rows of seeds 0 and 1, at one epoch. Gaussians alone train nothing: epochs do not matter to them.\n\n"
    )
    return text + table(
        ["% correct", "bytes", *(f"{b // 1000} kB, {e} epoch{'s' * (e > 1)}" for e, b in columns)], rows
    )


def main(options: Options) -> None:
    """Measure what is missing, then write the section."""
    if options.choose:
        choose()
        return
    folder, seeds = options.runs(options.out), options.seeds[:1] if options.quick else options.seeds
    results: dict[tuple[str, int | None, int], list[dict[str, Any]]] = {}
    for number, (name, strategy, budget, epochs, settings) in enumerate(lines()):
        if epochs not in options.epochs or (options.quick and (budget == BUDGETS[1] or epochs == 3)):
            continue
        for seed in seeds:
            run = partial(measure, strategy, budget, epochs, settings, seed, chosen=True, quick=options.quick)
            found = once(folder / f"{number:02d}-{strategy}-{budget}-{epochs}-{seed}.json", run)
            results.setdefault((name, budget, epochs), []).append(found)
    options.write("Rows and Gaussians in one memory", report(results, len(seeds)), COMMAND)


if __name__ == "__main__":
    launch(main, Options, __doc__)
