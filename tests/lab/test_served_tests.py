"""The lab's own data is known to be deterministic, so its tests are served from tensors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.training import Naive

from avalanche_memplugins import TensorLoaderPlugin
from avalanche_memplugins.benchmarks.byte_rows import Bytes
from avalanche_memplugins.benchmarks.registry import BENCHMARKS
from avalanche_memplugins.benchmarks.streams import SCENARIOS, permuted_stream, split_stream
from avalanche_memplugins.lab.spec import RunSpec
from avalanche_memplugins.lab.strategies.loops import ServedTests
from avalanche_memplugins.lab.streams import open_benchmark
from avalanche_memplugins.plugins._materialise.loader import TensorLoader

AUGMENTED = ("split-cifar10",)  # its training crops and flips at random


class Loaders(ServedTests):
    """Keeps the loaders that it serves."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[type] = []

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().before_eval_exp(strategy, **kwargs)
        self.seen.append(type(strategy.dataloader))


def assert_served(benchmark: Any, *, training: bool = True) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(1000))
    model(next(iter(benchmark.train_stream[0].dataset))[0][None])
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        plugins=[served := Loaders()],
        evaluator=None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="No loggers")
        strategy.eval([benchmark.test_stream[0]])
        if training:
            strategy.train_mb_size, plugin = 256, TensorLoaderPlugin()
            strategy.plugins.append(plugin)
            strategy.train(benchmark.train_stream[0])
            assert plugin.nbytes > 0
    assert set(served.seen) == {TensorLoader}


def images() -> Bytes:
    x, y = np.random.default_rng(0).integers(0, 256, (40, 1, 6, 6), dtype=np.uint8), np.arange(40) % 4
    return Bytes(x, y, x, y)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("stream", [split_stream, permuted_stream])
def test_streams_of_bytes(stream: Any, scenario: Any) -> None:
    assert_served(stream(images(), 2, scenario=scenario, seed=0))


def run(name: str, train_rows: int | None, test_rows: int | None) -> RunSpec:
    n, rows = BENCHMARKS[name].n_experiences, {"train_rows": train_rows, "test_rows": test_rows}
    return RunSpec(benchmark=name, strategy="naive", seed=0, n_experiences=n, epochs=1, **rows)


@pytest.mark.parametrize("rows", [None, 10])
@pytest.mark.parametrize("name", [name for name, info in BENCHMARKS.items() if info.local])
def test_local_benchmarks(name: str, rows: int | None) -> None:
    assert_served(open_benchmark(run(name, rows, rows)))


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name, info in BENCHMARKS.items() if not info.local])
def test_benchmarks_of_the_data_root(name: str) -> None:
    if name == "split-cifar10-features":
        pytest.skip("its file of features is made by bench, not found in the data root")
    assert_served(open_benchmark(run(name, 300, 50)), training=name not in AUGMENTED)
