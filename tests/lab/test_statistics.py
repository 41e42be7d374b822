"""Forgetting, intervals and paired differences against hand-worked numbers and other people's code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from avalanche.evaluation.functional import forgetting as avalanche_forgetting
from scipy import stats

from avalanche_memplugins.lab.statistics import (
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    interval,
    paired_difference,
)


def test_forgetting_by_hand() -> None:
    matrix = [[0.9, 0.2, 0.1], [0.7, 0.8, 0.1], [0.5, 0.6, 0.9]]
    # Best before the end: 0.9 and 0.8; at the end 0.5 and 0.6.
    assert forgetting(matrix) == pytest.approx((0.4 + 0.2) / 2)
    assert average_accuracy(matrix) == pytest.approx((0.5 + 0.6 + 0.9) / 3)


def test_forgetting_counts_from_the_best_and_not_from_the_first() -> None:
    matrix = [[0.5, 0.0, 0.0], [0.9, 0.8, 0.0], [0.6, 0.8, 0.9]]
    assert forgetting(matrix) == pytest.approx((0.3 + 0.0) / 2)


def test_forgetting_is_avalanches_where_learning_is_best_at_once() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        size = int(rng.integers(2, 7))
        # Falls down each column from the diagonal on, and is 0 above it: then the maximum is on the diagonal.
        matrix = np.tril(np.sort(rng.random((size, size)), axis=0)[::-1])
        assert forgetting(matrix) == pytest.approx(avalanche_forgetting(matrix)[-1, :-1].mean())


def test_gain_is_negative_forgetting_and_one_experience_has_none() -> None:
    assert forgetting([[0.5, 0.0], [0.7, 0.9]]) == pytest.approx(-0.2)
    assert math.isnan(forgetting([[0.5]]))


def test_interval_by_the_table_of_student() -> None:
    # n = 3: t(0.975, 2) = 4.303 (tables); mean 2, s = 1.
    middle, half = interval([1.0, 2.0, 3.0])
    assert middle == pytest.approx(2.0)
    assert half == pytest.approx(4.303 / math.sqrt(3), rel=1e-4)


def test_interval_is_scipys() -> None:
    rng = np.random.default_rng(1)
    for n in (2, 5, 30):
        values = rng.normal(size=n)
        middle, half = interval(values.tolist())
        low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
        assert (middle - half, middle + half) == (pytest.approx(low), pytest.approx(high))


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for values in rng.normal(loc=7, scale=3, size=(2000, 3)):
        middle, half = interval(values.tolist())
        hits += middle - half <= 7 <= middle + half
    # Binomial(2000, 0.95): four standard deviations are 0.02.
    assert abs(hits / 2000 - 0.95) < 0.02


def test_one_value_has_no_interval_and_none_is_an_error() -> None:
    middle, half = interval([0.3])
    assert middle == 0.3
    assert math.isnan(half)
    with pytest.raises(ValueError, match="values: wants a flat sequence"):
        interval([])


def test_paired_difference_is_the_one_sample_t_test() -> None:
    ours, base = {0: 0.9, 1: 0.8, 2: 0.85, 9: 0.1}, {0: 0.7, 1: 0.65, 2: 0.6, 7: 0.9}
    middle, half, n = paired_difference(ours, base)
    gaps = np.array([0.2, 0.15, 0.25])
    test = stats.ttest_rel([0.9, 0.8, 0.85], [0.7, 0.65, 0.6]).confidence_interval(0.95)
    assert n == 3
    assert middle == pytest.approx(gaps.mean())
    assert (middle - half, middle + half) == (pytest.approx(test.low), pytest.approx(test.high))


def test_paired_difference_without_a_common_seed_is_missing() -> None:
    middle, half, n = paired_difference({0: 1.0}, {1: 1.0})
    assert math.isnan(middle)
    assert math.isnan(half)
    assert n == 0


@pytest.mark.parametrize("matrix", [[0.1, 0.2], [[0.1, 0.2]], []])
def test_a_matrix_that_is_not_square_is_refused(matrix: list[object]) -> None:
    for function in (forgetting, average_accuracy):
        with pytest.raises(ValueError, match="matrix: wants a square accuracy matrix"):
            function(matrix)


def test_transfers_by_hand() -> None:
    matrix = [[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.5, 0.9, 0.9]]
    assert backward_transfer(matrix) == pytest.approx(((0.5 - 0.9) + (0.9 - 0.8)) / 2)
    assert forward_transfer(matrix, [0.5, 0.1, 0.1]) == pytest.approx(((0.2 - 0.1) + (0.3 - 0.1)) / 2)
    assert math.isnan(forward_transfer(matrix, []))
    assert math.isnan(backward_transfer([[0.5]]))
    assert math.isnan(forward_transfer([[0.5]], [0.1]))
    with pytest.raises(ValueError, match=r"untrained: wants 3 numbers, one an experience, got shape \(2,\)"):
        forward_transfer(matrix, [0.1, 0.2])
