"""Every memory and plugin of a run draws from the run's seed, and from nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from avalanche_memplugins.benchmarks.byte_rows import Bytes
from avalanche_memplugins.benchmarks.streams import split_stream
from avalanche_memplugins.lab.run import build
from avalanche_memplugins.lab.spec import RunSpec
from avalanche_memplugins.lab.strategies import OURS


@pytest.fixture(scope="module")
def benchmark() -> Any:
    """Split MNIST of noise."""
    x = np.random.default_rng(0).integers(0, 256, (100, 1, 28, 28), dtype=np.uint8)
    y = np.arange(100) % 10
    return split_stream(Bytes(x, y, x, y), 5, seed=0)


def generators(strategy: Any) -> list[Tensor]:
    """States of all that a run of ours draws from, but for the loader of tests, which shuffles nothing."""
    parts = [strategy.memory, *strategy.plugins]
    return [part._generator.get_state() for part in parts if hasattr(part, "_generator")]


@pytest.mark.parametrize("budget", [None, 2_000_000])
@pytest.mark.parametrize("name", OURS)
def test_a_run_draws_from_its_own_seed(name: str, budget: int | None, benchmark: Any) -> None:
    if name == "mixed" and budget is None:
        pytest.skip("it shares a budget between its parts")

    def made(seed: int, beside: int) -> list[Tensor]:
        spec = RunSpec(benchmark="split-mnist", strategy=name, seed=seed, n_experiences=5, epochs=1, budget=budget)
        torch.manual_seed(beside)
        return generators(build(spec, benchmark, None).strategy)

    first, again, other = made(1, 0), made(1, 9), made(2, 0)
    assert len(first) >= 1
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
