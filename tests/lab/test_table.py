"""The tidy table, the summary made of it, and its numbers against hand-worked ones and other people's code."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from avalanche.evaluation.functional import forgetting as avalanche_forgetting
from scipy import stats

from avalanche_memplugins.lab import RunResult, RunSpec
from avalanche_memplugins.lab.table import (
    TIDY,
    accuracy_matrix,
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    interval,
    paired_difference,
    summarise,
    tidy,
)


@pytest.fixture
def results(spec: Callable[..., RunSpec], result: Callable[..., RunResult]) -> list[RunResult]:
    return [
        result(spec(strategy="naive", seed=0), ((0.9, 0.0), (0.1, 0.8))),
        result(spec(strategy="replay", seed=0), ((0.9, 0.0), (0.7, 0.9))),
        result(spec(strategy="naive", seed=1), ((1.0, 0.0), (0.2, 0.9))),
        result(spec(strategy="replay", seed=1), ((1.0, 0.0), (0.9, 0.9))),
        RunResult(spec=spec(strategy="replay", seed=2), error="Traceback ..."),
    ]


def test_tidy_has_a_line_a_number_and_survives_csv(results: list[RunResult], tmp_path) -> None:
    table = tidy(results)
    assert tuple(table.columns) == TIDY
    # Four runs: 2 x 2 accuracies, 2 times, 2 sizes, 1 fixed size; the failed one has none.
    assert len(table) == 4 * (4 + 2 + 2 + 1)
    line = table[(table["strategy"] == "replay") & (table["seed"] == 1) & (table["metric"] == "accuracy")]
    one = line[(line["trained_experience"] == 1) & (line["evaluated_experience"] == 0)]
    assert one["value"].tolist() == [0.9]
    assert one["run"].tolist() == [results[3].spec.key]
    table.to_csv(tmp_path / "t.csv", index=False)
    again = pd.read_csv(tmp_path / "t.csv", dtype={"evaluated_experience": "Int64"})
    np.testing.assert_array_equal(accuracy_matrix(again[again["run"] == results[0].spec.key]), results[0].accuracy)


def test_matrix_does_not_depend_on_the_order_of_lines(results: list[RunResult]) -> None:
    table = tidy(results[:1]).sample(frac=1, random_state=0)
    np.testing.assert_array_equal(accuracy_matrix(table), [[0.9, 0.0], [0.1, 0.8]])


def test_summary_by_hand(results: list[RunResult]) -> None:
    summary = summarise(tidy(results), baseline="naive").set_index("strategy")
    assert summary.index.tolist() == ["naive", "replay"]
    naive, replay = summary.loc["naive"], summary.loc["replay"]
    assert naive["accuracy"] == pytest.approx((0.45 + 0.55) / 2)
    # s of (0.45, 0.55) over sqrt(2) is 0.05; t(0.975, 1) = 12.706.
    assert naive["accuracy_half_width"] == pytest.approx(12.706 * 0.05, rel=1e-4)
    assert naive["forgetting"] == pytest.approx((0.8 + 0.8) / 2)
    assert replay["forgetting"] == pytest.approx((0.2 + 0.1) / 2)
    assert replay["difference"] == pytest.approx((0.35 + 0.35) / 2)
    assert replay["difference_half_width"] == pytest.approx(0.0, abs=1e-12)
    assert naive["difference"] == 0
    assert (replay["memory_bytes"], replay["train_seconds"], replay["seeds"]) == (20, 4.0, 2)


def test_summary_without_the_baseline_has_no_differences(results: list[RunResult]) -> None:
    summary = summarise(tidy(results), baseline="cumulative")
    assert summary["difference"].isna().all()
    assert not summary["accuracy"].isna().any()


def test_benchmarks_are_kept_apart(spec: Callable[..., RunSpec], result: Callable[..., RunResult]) -> None:
    table = tidy(
        [result(spec()), result(spec(benchmark="permuted-digits"), ((0.5, 0.5), (0.5, 0.5)), train_seconds=(1, 1))]
    )
    summary = summarise(table, baseline="naive").set_index("benchmark")
    assert summary.loc["split-digits", "accuracy"] == pytest.approx(0.7)
    assert summary.loc["permuted-digits", "accuracy"] == pytest.approx(0.5)
    assert math.isnan(summary.loc["permuted-digits", "accuracy_half_width"])


def test_nothing_but_failures_is_an_empty_table(spec: Callable[..., RunSpec]) -> None:
    table = tidy([RunResult(spec=spec(), error="boom")])
    assert tuple(table.columns) == TIDY
    assert len(table) == 0
    assert len(summarise(table, baseline="naive")) == 0


def test_transfer_and_differences_by_hand(spec: Callable[..., RunSpec], result: Callable[..., RunResult]) -> None:
    """What is measured before training changes neither the matrix nor the accuracy."""
    runs = [
        result(spec(strategy="naive", seed=0), ((0.9, 0.3), (0.1, 0.8)), untrained=(0.2, 0.1), fixed_bytes=7),
        result(spec(strategy="naive", seed=1), ((0.9, 0.5), (0.3, 0.8)), untrained=(0.2, 0.1), fixed_bytes=7),
        result(spec(strategy="replay", seed=0), ((0.9, 0.3), (0.9, 0.8))),
        result(spec(strategy="replay", seed=1), ((0.9, 0.5), (0.7, 0.8))),
    ]
    table = tidy(runs)
    np.testing.assert_array_equal(accuracy_matrix(table[table["run"] == runs[0].spec.key]), runs[0].accuracy)
    summary = summarise(table, baseline="naive").set_index("strategy")
    naive, replay = summary.loc["naive"], summary.loc["replay"]
    assert naive["backward_transfer"] == pytest.approx((-0.8 - 0.6) / 2)
    assert naive["forward_transfer"] == pytest.approx((0.2 + 0.4) / 2)
    assert math.isnan(replay["forward_transfer"]), "not measured"
    assert (naive["fixed_bytes"], replay["fixed_bytes"]) == (7, 0)
    assert naive["accuracy"] == pytest.approx((0.45 + 0.55) / 2)
    # Differences 0.4 and 0.2: t of 0.975 with one degree of freedom is 12.706, s / sqrt(2) = 0.1. The page's intervals
    # are the screen's: of two seeds the bootstrap would say 0.2 to 0.4, and call level things different.
    assert (replay["difference_low"], replay["difference_high"]) == pytest.approx(
        (0.3 - 1.2706, 0.3 + 1.2706), abs=1e-4
    )
    assert replay["difference_half_width"] == pytest.approx(1.2706, abs=1e-4)


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
    with pytest.raises(ValueError, match="values: expected a flat sequence"):
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
        with pytest.raises(ValueError, match="matrix: expected a square accuracy matrix"):
            function(matrix)


def test_transfers_by_hand() -> None:
    matrix = [[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.5, 0.9, 0.9]]
    assert backward_transfer(matrix) == pytest.approx(((0.5 - 0.9) + (0.9 - 0.8)) / 2)
    assert forward_transfer(matrix, [0.5, 0.1, 0.1]) == pytest.approx(((0.2 - 0.1) + (0.3 - 0.1)) / 2)
    assert math.isnan(forward_transfer(matrix, []))
    assert math.isnan(backward_transfer([[0.5]]))
    assert math.isnan(forward_transfer([[0.5]], [0.1]))
    with pytest.raises(ValueError, match=r"untrained: expected 3 numbers, one an experience, got shape \(2,\)"):
        forward_transfer(matrix, [0.1, 0.2])
