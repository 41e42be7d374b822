"""The numbers of a comparison: forgetting, intervals over seeds, paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

CONFIDENCE = 0.95


def average_accuracy(matrix: ArrayLike) -> float:
    r"""Accuracy after the last experience, averaged over experiences.

    .. math:: A_T = \frac{1}{T} \sum_{k=1}^{T} a_{T,k}

    :param matrix: ``(T, T)``, [0, 1]; :math:`a_{i,k}` is the accuracy on experience k after training on i.
    :raises ValueError: if the matrix is not square.

    Source: Lopez-Paz & Ranzato 2017, section 2 (ACC).
    """
    return float(_square(matrix)[-1].mean())


def forgetting(matrix: ArrayLike) -> float:
    r"""What was once known and is lost at the end, averaged over all experiences but the last.

    .. math:: F_T = \frac{1}{T-1} \sum_{k=1}^{T-1} \Bigl(\max_{i < T} a_{i,k} - a_{T,k}\Bigr)

    :param matrix: as for :func:`average_accuracy`.
    :returns: a number in [-1, 1]; below 0 if the experiences have gained since. NaN for T = 1.
    :raises ValueError: if the matrix is not square.

    Source: Chaudhry et al., "Riemannian walk for incremental learning", 2018, section 3. Avalanche's ``forgetting``
    takes :math:`a_{k,k}` for the maximum, which misses what was gained between.
    """
    a = _square(matrix)
    if len(a) == 1:
        return math.nan
    return float((a[:-1, :-1].max(axis=0) - a[-1, :-1]).mean())


def backward_transfer(matrix: ArrayLike) -> float:
    r"""What later experiences did to earlier ones: accuracy at the end less that just after training on it.

    .. math:: BWT = \frac{1}{T-1} \sum_{k=1}^{T-1} (a_{T,k} - a_{k,k})

    :param matrix: as for :func:`average_accuracy`.
    :returns: a number in [-1, 1], below 0 where experiences were forgotten. NaN for T = 1.
    :raises ValueError: if the matrix is not square.

    Source: Lopez-Paz & Ranzato 2017, section 2.
    """
    a = _square(matrix)
    if len(a) == 1:
        return math.nan
    return float((a[-1, :-1] - a.diagonal()[:-1]).mean())


def forward_transfer(matrix: ArrayLike, untrained: ArrayLike) -> float:
    r"""What earlier experiences did for later ones: accuracy just before training on it less that of the first weights.

    .. math:: FWT = \frac{1}{T-1} \sum_{k=2}^{T} (a_{k-1,k} - b_k)

    :param matrix: as for :func:`average_accuracy`.
    :param untrained: ``(T,)`` [0, 1], b: accuracy on each experience before any training; empty if it is not known.
    :returns: a number in [-1, 1]. In a class-incremental stream it is about -1/classes by construction: a class that
        was not seen yet is not predicted. NaN for T = 1 and where b is not known.
    :raises ValueError: if the matrix is not square, or ``untrained`` has another length.

    Source: Lopez-Paz & Ranzato 2017, section 2.
    """
    a, b = _square(matrix), np.asarray(untrained, dtype=np.float64)
    if len(a) == 1 or b.size == 0:
        return math.nan
    if b.shape != (len(a),):
        raise ValueError(f"untrained: wants {len(a)} numbers, one an experience, got shape {b.shape}")
    return float((a.diagonal(offset=1) - b[1:]).mean())


def interval(values: Sequence[float]) -> tuple[float, float]:
    r"""Mean over seeds and the half-width of its 95 % interval.

    .. math:: \bar v \pm t_{0.975,\,n-1} \frac{s}{\sqrt n}

    :param values: one a seed, n >= 1; the interval assumes independent seeds and normal noise.
    :returns: mean, half-width; the half-width is NaN for n = 1.
    :raises ValueError: if there are no values.
    """
    v = np.asarray(values, dtype=np.float64)
    if v.ndim != 1 or len(v) == 0:
        raise ValueError(f"values: wants a flat sequence of at least one number, got shape {v.shape}")
    if len(v) == 1:
        return float(v[0]), math.nan
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(v) - 1))
    return float(v.mean()), quantile * float(v.std(ddof=1)) / math.sqrt(len(v))


def paired_difference(ours: dict[int, float], baseline: dict[int, float]) -> tuple[float, float, int]:
    """Mean difference to a baseline over the seeds that both have, and the half-width of its 95 % interval.

    A seed fixes stream and first weights for every strategy, so differences within a seed are free of
    what only the seed has brought.

    :param ours: value by seed.
    :param baseline: value by seed.
    :returns: mean, half-width (NaN for one seed), number of seeds; all NaN and 0 without a common seed.
    """
    seeds = sorted(ours.keys() & baseline.keys())
    if not seeds:
        return math.nan, math.nan, 0
    return *interval([ours[seed] - baseline[seed] for seed in seeds]), len(seeds)


def _square(matrix: ArrayLike) -> np.ndarray:
    a = np.asarray(matrix, dtype=np.float64)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or len(a) == 0:
        raise ValueError(f"matrix: wants a square accuracy matrix, got shape {a.shape}")
    return a
