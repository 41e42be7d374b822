"""From settings to runs."""

from __future__ import annotations

import pytest

from avalanche_memplugins.lab import Comparison


def test_defaults_are_the_readmes_comparison() -> None:
    specs = Comparison().specs()
    assert len(specs) == len(set(specs)) == 2 * 5 * 3
    assert {spec.strategy for spec in specs} == {"naive", "replay", "rma", "er-reservoir", "cumulative"}
    assert {(spec.benchmark, spec.n_experiences) for spec in specs} == {("split-digits", 5), ("permuted-digits", 5)}
    assert [spec.seed for spec in specs] == sorted(spec.seed for spec in specs), "whole comparisons first"


def test_strategies_of_a_seed_differ_in_the_strategy_only() -> None:
    for seed in range(3):
        runs = [one for one in Comparison().specs() if (one.benchmark, one.seed) == ("split-digits", seed)]
        assert len({tuple(sorted({**run.to_json(), "strategy": ""}.items())) for run in runs}) == 1


def test_settings_reach_the_runs() -> None:
    (spec,) = Comparison(
        benchmarks=("permuted-digits",),
        strategies=("rma", "rma"),
        seeds=1,
        memory_size=7,
        experiences=3,
        epochs=2,
        batch_size=5,
        model="linear",
        hidden=9,
        optimizer="sgd",
        lr=0.5,
    ).specs()
    assert spec.to_json() == {
        "benchmark": "permuted-digits",
        "strategy": "rma",
        "seed": 0,
        "n_experiences": 3,
        "epochs": 2,
        "memory_size": 7,
        "model": "linear",
        "hidden": 9,
        "optimizer": "sgd",
        "lr": 0.5,
        "batch_size": 5,
    }


def test_baseline_is_replay_or_the_first_or_what_is_named() -> None:
    assert Comparison().baseline_name() == "replay"
    assert Comparison(strategies=("rma", "naive")).baseline_name() == "rma"
    assert Comparison(baseline="naive").baseline_name() == "naive"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "seeds: expected an integer from 1 to 10000, got 0"),
        ({"strategies": ()}, "strategies: expected at least one name, got none"),
        ({"benchmarks": ("permuted",)}, "benchmark: no 'permuted'; did you mean 'permuted-"),
        ({"strategies": ("navie",)}, "strategy: no 'navie'; did you mean 'naive'"),
        ({"baseline": "nave"}, "baseline: no 'nave'; did you mean 'naive'"),
        ({"experiences": 0}, "n_experiences: expected an integer >= 1, got 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Comparison(**settings).specs()
