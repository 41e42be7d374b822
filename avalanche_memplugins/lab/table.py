"""Results as tables, and the numbers in them: forgetting, intervals over seeds, paired differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .store import RunResult

TIDY = ("run", "seed", "benchmark", "strategy", "trained_experience", "evaluated_experience", "metric", "value")


def tidy(results: Iterable[RunResult]) -> pd.DataFrame:
    """Every number of the runs that ended, one in each line.

    Columns: run (the spec's key), seed, benchmark, strategy, trained_experience (from 0; -1 before any training),
    evaluated_experience (from 0; missing for numbers that belong to no test set), metric, value. Metrics: ``accuracy``
    [0, 1], ``train_seconds`` for that experience, ``memory_bytes`` held after it, ``fixed_bytes`` needed besides.

    :param results: of the runs; failed ones are left out.

    >>> from avalanche_memplugins.lab import RunSpec
    >>> spec = RunSpec(benchmark="split-digits", strategy="naive", seed=0, n_experiences=1, epochs=1)
    >>> result = RunResult(spec=spec, accuracy=((0.9,),), train_seconds=(1.5,), memory_bytes=(10,))
    >>> tidy([result]).set_index("metric")["value"].to_dict()
    {'accuracy': 0.9, 'train_seconds': 1.5, 'memory_bytes': 10.0, 'fixed_bytes': 0.0}
    """
    rows: list[tuple[Any, ...]] = []
    for result in results:
        if not result.ok:
            continue
        spec = result.spec
        run = (spec.key, spec.seed, spec.benchmark, spec.method)
        rows += [(*run, -1, k, "accuracy", value) for k, value in enumerate(result.untrained)]
        for trained, accuracies in enumerate(result.accuracy):
            rows += [(*run, trained, k, "accuracy", value) for k, value in enumerate(accuracies)]
            rows.append((*run, trained, None, "train_seconds", result.train_seconds[trained]))
            rows.append((*run, trained, None, "memory_bytes", float(result.memory_bytes[trained])))
        rows.append((*run, len(result.accuracy) - 1, None, "fixed_bytes", float(result.fixed_bytes)))
    table = pd.DataFrame(rows, columns=list(TIDY))
    return table.astype({"trained_experience": "int64", "evaluated_experience": "Int64", "value": "float64"})


def accuracy_matrix(table: pd.DataFrame) -> np.ndarray:
    """Accuracy ``(T, T)`` of one run: a row for each trained experience, a column for each evaluated one.

    :param table: lines of :func:`tidy`, all of the same run.
    """
    lines = table[(table["metric"] == "accuracy") & (table["trained_experience"] >= 0)]
    square = lines.pivot(index="trained_experience", columns="evaluated_experience", values="value")
    return square.to_numpy(dtype=np.float64)


def mean_matrix(table: pd.DataFrame) -> np.ndarray:
    """Accuracy ``(T, T)``, mean over runs.

    :param table: lines of :func:`tidy`, of runs with the same number of experiences.
    """
    matrices = [accuracy_matrix(run) for _, run in table.groupby("run", sort=False)]
    mean: np.ndarray = np.mean(matrices, axis=0)
    return mean


def seen_so_far(matrix: np.ndarray) -> np.ndarray:
    """Accuracy ``(T,)`` after each experience, mean over the experiences up to it.

    :param matrix: ``(T, T)``, from :func:`accuracy_matrix`.

    >>> seen_so_far(np.array([[0.9, 0.1], [0.5, 0.7]])).round(3).tolist()
    [0.9, 0.6]
    """
    return np.array([row[: i + 1].mean() for i, row in enumerate(matrix)])


def untrained_accuracy(table: pd.DataFrame) -> np.ndarray:
    """Accuracy ``(T,)`` of one run before any training; ``(0,)`` if it was not measured.

    :param table: lines of :func:`tidy`, all of the same run.
    """
    lines = table[(table["metric"] == "accuracy") & (table["trained_experience"] < 0)]
    return lines.sort_values("evaluated_experience")["value"].to_numpy(dtype=np.float64)


def summarise(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """A line for each benchmark and strategy, in the order of the tidy table.

    Columns: benchmark, strategy, seeds; mean and half-width of the 95 % t-interval over seeds of ``accuracy``,
    ``forgetting``, ``backward_transfer`` and ``forward_transfer`` and of ``difference``, the
    accuracy less the baseline's in the same seed, of which also the interval's ends ``difference_low`` and
    ``difference_high``; mean ``memory_bytes`` at the end, ``fixed_bytes``, and ``train_seconds`` in all.

    :param table: from :func:`tidy`.
    :param baseline: strategy that differences are taken from; without results of it they are missing.
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


def average_accuracy(matrix: ArrayLike) -> float:
    r"""Accuracy after the last experience, averaged over experiences.

    .. math:: A_T = \frac{1}{T} \sum_{k=1}^{T} a_{T,k}

    :param matrix: ``(T, T)``, [0, 1]; :math:`a_{i,k}` is the accuracy on experience k after training on i.
    :raises ValueError: if the matrix is not square.

    Source: Lopez-Paz & Ranzato 2017, section 2 (ACC).

    >>> average_accuracy([[0.9, 0.0], [0.5, 0.7]])
    0.6
    """
    return float(_square(matrix)[-1].mean())


def forgetting(matrix: ArrayLike) -> float:
    r"""Best earlier accuracy less the last one, averaged over all experiences but the last.

    .. math:: F_T = \frac{1}{T-1} \sum_{k=1}^{T-1} \Bigl(\max_{i < T} a_{i,k} - a_{T,k}\Bigr)

    :param matrix: as for :func:`average_accuracy`.
    :returns: a number in [-1, 1], below 0 if later training has improved earlier experiences. NaN for T = 1.
    :raises ValueError: if the matrix is not square.

    Source: Chaudhry et al., "Riemannian walk for incremental learning", 2018, section 3. Avalanche's ``forgetting``
    takes :math:`a_{k,k}` instead of the maximum, which misses gains in between.

    >>> forgetting([[0.9, 0.0], [0.5, 0.7]])
    0.4
    """
    a = _square(matrix)
    if len(a) == 1:
        return math.nan
    return float((a[:-1, :-1].max(axis=0) - a[-1, :-1]).mean())


def backward_transfer(matrix: ArrayLike) -> float:
    r"""Accuracy on an experience at the end less that just after training on it, mean over all but the last.

    .. math:: BWT = \frac{1}{T-1} \sum_{k=1}^{T-1} (a_{T,k} - a_{k,k})

    :param matrix: as for :func:`average_accuracy`.
    :returns: a number in [-1, 1], below 0 where experiences were forgotten. NaN for T = 1.
    :raises ValueError: if the matrix is not square.

    Source: Lopez-Paz & Ranzato 2017, section 2.

    >>> backward_transfer([[0.9, 0.0], [0.5, 0.7]])
    -0.4
    """
    a = _square(matrix)
    if len(a) == 1:
        return math.nan
    return float((a[-1, :-1] - a.diagonal()[:-1]).mean())


def forward_transfer(matrix: ArrayLike, untrained: ArrayLike) -> float:
    r"""Accuracy on an experience just before training on it less that of the first weights, mean over the later ones.

    .. math:: FWT = \frac{1}{T-1} \sum_{k=2}^{T} (a_{k-1,k} - b_k)

    :param matrix: as for :func:`average_accuracy`.
    :param untrained: ``(T,)`` [0, 1], b: accuracy on each experience before any training; empty if it is not known.
    :returns: a number in [-1, 1]. In a class-incremental stream it is about -1/classes by construction: a class that
        was not seen yet is not predicted. NaN for T = 1 and if b is not known.
    :raises ValueError: if the matrix is not square, or ``untrained`` has another length.

    Source: Lopez-Paz & Ranzato 2017, section 2.

    >>> forward_transfer([[0.9, 0.25], [0.5, 0.75]], [0.0, 0.5])
    -0.25
    """
    a, b = _square(matrix), np.asarray(untrained, dtype=np.float64)
    if len(a) == 1 or b.size == 0:
        return math.nan
    if b.shape != (len(a),):
        raise ValueError(f"untrained: expected {len(a)} numbers, one an experience, got shape {b.shape}")
    return float((a.diagonal(offset=1) - b[1:]).mean())


def interval(values: Sequence[float]) -> tuple[float, float]:
    r"""Mean over seeds and the half-width of its 95 % interval.

    .. math:: \bar v \pm t_{0.975,\,n-1} \frac{s}{\sqrt n}

    :param values: one a seed, n >= 1; the interval assumes independent seeds and normal noise.
    :returns: mean and half-width; the half-width is NaN for n = 1.
    :raises ValueError: if there are no values.

    >>> mean, half = interval([1.0, 2.0, 3.0])
    >>> print(f"{mean} ± {half:.3f}")
    2.0 ± 2.484
    """
    v = np.asarray(values, dtype=np.float64)
    if v.ndim != 1 or len(v) == 0:
        raise ValueError(f"values: expected a flat sequence of at least one number, got shape {v.shape}")
    if len(v) == 1:
        return float(v[0]), math.nan
    from scipy import stats

    quantile = float(stats.t.ppf(0.975, len(v) - 1))
    return float(v.mean()), quantile * float(v.std(ddof=1)) / math.sqrt(len(v))


def paired_difference(ours: dict[int, float], baseline: dict[int, float]) -> tuple[float, float, int]:
    """Mean difference to a baseline over the seeds that both have, and the half-width of its 95 % interval.

    A seed fixes stream and first weights for every strategy. Differences within a seed are therefore free of the
    seed's own effect.

    :param ours: value by seed.
    :param baseline: value by seed.
    :returns: mean, half-width (NaN for one seed), number of seeds. NaN, NaN and 0 without a common seed.

    >>> mean, half, seeds = paired_difference({0: 0.75, 1: 0.5, 2: 0.5}, {0: 0.5, 1: 0.25})
    >>> mean, half, seeds
    (0.25, 0.0, 2)
    """
    seeds = sorted(ours.keys() & baseline.keys())
    if not seeds:
        return math.nan, math.nan, 0
    return *interval([ours[seed] - baseline[seed] for seed in seeds]), len(seeds)


def _square(matrix: ArrayLike) -> np.ndarray:
    a = np.asarray(matrix, dtype=np.float64)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or len(a) == 0:
        raise ValueError(f"matrix: expected a square accuracy matrix, got shape {a.shape}")
    return a
