"""Nothing is done twice, nothing done is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from avalanche_memplugins.lab import ResultStore, RunResult, RunSpec, run_all


def test_a_run_already_done_is_not_done_again(spec: Callable[..., RunSpec], fake_executor, tmp_path: Path) -> None:
    store, specs = ResultStore(tmp_path), [spec(seed=seed) for seed in range(3)]
    first = run_all(specs[:2], store, fake_executor)
    assert fake_executor.asked == specs[:2]
    told: list[tuple[int, bool]] = []
    again = run_all(specs, store, fake_executor, lambda result, fresh: told.append((result.spec.seed, fresh)))
    assert fake_executor.asked == specs
    assert again[:2] == first
    assert told == [(0, False), (1, False), (2, True)]


def test_an_interrupted_comparison_goes_on_where_it_stopped(
    spec: Callable[..., RunSpec], fake_executor, tmp_path: Path
) -> None:
    store, specs = ResultStore(tmp_path), [spec(seed=seed) for seed in range(4)]

    class Interrupted:
        def run(self, wanted: Sequence[RunSpec], store: ResultStore) -> Iterator[RunResult]:
            yield fake_executor.answer(wanted[2])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(specs, store, Interrupted())
    results = run_all(specs, store, fake_executor)
    assert [one.seed for one in fake_executor.asked] == [0, 1, 3]
    assert [one.spec for one in results] == specs


def test_a_failure_is_recorded_the_rest_goes_on_and_it_is_tried_again(
    spec: Callable[..., RunSpec], result: Callable[..., RunResult], fake_executor, tmp_path: Path
) -> None:
    store, specs = ResultStore(tmp_path), [spec(seed=seed) for seed in range(3)]
    fake_executor.answer = lambda one: RunResult(spec=one, error="boom") if one.seed == 1 else result(one)
    results = run_all(specs, store, fake_executor)
    assert [one.ok for one in results] == [True, False, True]
    known = store.get(specs[1])
    assert known is not None
    assert known.error == "boom"
    fake_executor.answer, fake_executor.asked = result, []
    assert all(one.ok for one in run_all(specs, store, fake_executor))
    assert fake_executor.asked == [specs[1]]


def test_a_run_named_twice_is_done_once(spec: Callable[..., RunSpec], fake_executor, tmp_path: Path) -> None:
    results = run_all([spec(), spec()], ResultStore(tmp_path), fake_executor)
    assert len(fake_executor.asked) == len(results) == 1
