"""Small runs for the lab's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from avalanche_memplugins.lab import ResultStore, RunResult, RunSpec

MATRIX = ((0.9, 0.1), (0.6, 0.8))


@pytest.fixture
def spec() -> Callable[..., RunSpec]:
    """A tiny run; keywords change it."""

    def make(**changes: Any) -> RunSpec:
        fields = {"benchmark": "split-digits", "strategy": "naive", "seed": 0, "n_experiences": 2, "epochs": 1}
        return RunSpec(**{**fields, "hidden": 8, "memory_size": 64, **changes})

    return make


@pytest.fixture
def result() -> Callable[..., RunResult]:
    """The result of a run that nobody has done."""

    def make(spec: RunSpec, accuracy: tuple[tuple[float, ...], ...] = MATRIX, **changes: Any) -> RunResult:
        fields = {"train_seconds": (1.5, 2.5), "memory_bytes": (10, 20), "weights": "abc"}
        return RunResult(spec=spec, accuracy=accuracy, **{**fields, **changes})

    return make


class FakeExecutor:
    """Answers at once; remembers what it was asked."""

    def __init__(self, answer: Callable[[RunSpec], RunResult]) -> None:
        self.answer = answer
        self.jobs = 1
        self.asked: list[RunSpec] = []

    def run(self, specs: Sequence[RunSpec], store: ResultStore) -> Iterator[RunResult]:
        for spec in specs:
            self.asked.append(spec)
            yield self.answer(spec)


@pytest.fixture
def fake_executor(result: Callable[..., RunResult]) -> FakeExecutor:
    return FakeExecutor(result)
