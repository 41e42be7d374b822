"""Results as tables: one tidy table of every number, one summary with a line a strategy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from .result import RunResult
from .statistics import (
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    interval,
    paired_difference,
)

TIDY = ("run", "seed", "benchmark", "strategy", "trained_experience", "evaluated_experience", "metric", "value")


def tidy(results: Iterable[RunResult]) -> pd.DataFrame:
    """Every number of the runs that ended, one a line.

    Columns: run (the spec's key), seed, benchmark, strategy, trained_experience (from 0; -1 before any training),
    evaluated_experience (from 0; missing for numbers that belong to no test set), metric, value. Metrics: ``accuracy``
    [0, 1], ``train_seconds`` for that experience, ``memory_bytes`` held after it, ``fixed_bytes`` needed besides.
    """
    rows: list[tuple[Any, ...]] = []
    for result in results:
        if not result.ok:
            continue
        spec = result.spec
        run = (spec.key, spec.seed, spec.benchmark, spec.strategy)
        rows += [(*run, -1, k, "accuracy", value) for k, value in enumerate(result.untrained)]
        for trained, accuracies in enumerate(result.accuracy):
            rows += [(*run, trained, k, "accuracy", value) for k, value in enumerate(accuracies)]
            rows.append((*run, trained, None, "train_seconds", result.train_seconds[trained]))
            rows.append((*run, trained, None, "memory_bytes", float(result.memory_bytes[trained])))
        rows.append((*run, len(result.accuracy) - 1, None, "fixed_bytes", float(result.fixed_bytes)))
    table = pd.DataFrame(rows, columns=list(TIDY))
    return table.astype({"trained_experience": "int64", "evaluated_experience": "Int64", "value": "float64"})


def accuracy_matrix(table: pd.DataFrame) -> np.ndarray:
    """Accuracy ``(T, T)`` of the tidy lines of one run, trained experience down, evaluated experience across."""
    lines = table[(table["metric"] == "accuracy") & (table["trained_experience"] >= 0)]
    square = lines.pivot(index="trained_experience", columns="evaluated_experience", values="value")
    return square.to_numpy(dtype=np.float64)


def untrained_accuracy(table: pd.DataFrame) -> np.ndarray:
    """Accuracy ``(T,)`` before any training, of the tidy lines of one run; ``(0,)`` if it was not measured."""
    lines = table[(table["metric"] == "accuracy") & (table["trained_experience"] < 0)]
    return lines.sort_values("evaluated_experience")["value"].to_numpy(dtype=np.float64)


def summarise(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """A line for each benchmark and strategy, in the order in which the tidy table has them.

    Columns: benchmark, strategy, seeds; mean and half-width of the 95 % t-interval over seeds of ``accuracy``,
    ``forgetting``, ``backward_transfer`` and ``forward_transfer`` (see :mod:`.statistics`) and of ``difference``, the
    accuracy less the baseline's in the same seed, of which also the interval's ends ``difference_low`` and
    ``difference_high``; mean ``memory_bytes`` at the end, ``fixed_bytes``, and ``train_seconds`` in all.

    :param table: from :func:`tidy`.
    :param baseline: name of the strategy to take differences from; if it has no results they are missing.
    """
    lines = []
    for benchmark, of_benchmark in table.groupby("benchmark", sort=False):
        by_strategy = {
            str(name): _by_seed(of_strategy) for name, of_strategy in of_benchmark.groupby("strategy", sort=False)
        }
        accuracies = {
            name: {seed: values["accuracy"] for seed, values in seeds.items()} for name, seeds in by_strategy.items()
        }
        for name, seeds in by_strategy.items():
            line: dict[str, Any] = {"benchmark": benchmark, "strategy": name, "seeds": len(seeds)}
            for metric in ("accuracy", "forgetting", "backward_transfer", "forward_transfer"):
                values = [numbers[metric] for numbers in seeds.values()]
                line[metric], line[f"{metric}_half_width"] = interval(values)
            difference, half_width, _ = paired_difference(accuracies[name], accuracies.get(baseline, {}))
            line["difference"], line["difference_half_width"] = difference, half_width
            line["difference_low"], line["difference_high"] = difference - half_width, difference + half_width
            for metric in ("memory_bytes", "fixed_bytes", "train_seconds"):
                line[metric] = float(np.mean([numbers[metric] for numbers in seeds.values()]))
            lines.append(line)
    return pd.DataFrame(lines)


def _by_seed(of_strategy: pd.DataFrame) -> dict[int, dict[str, float]]:
    numbers: dict[int, dict[str, float]] = {}
    for seed, of_run in of_strategy.groupby("seed", sort=True):
        matrix = accuracy_matrix(of_run)
        held = of_run[of_run["metric"] == "memory_bytes"].sort_values("trained_experience")["value"]
        numbers[int(str(seed))] = {
            "accuracy": average_accuracy(matrix),
            "forgetting": forgetting(matrix),
            "backward_transfer": backward_transfer(matrix),
            "forward_transfer": forward_transfer(matrix, untrained_accuracy(of_run)),
            "memory_bytes": float(held.iloc[-1]),
            "fixed_bytes": float(of_run[of_run["metric"] == "fixed_bytes"]["value"].sum()),
            "train_seconds": float(of_run[of_run["metric"] == "train_seconds"]["value"].sum()),
        }
    return numbers
