"""A stream that says that its pixels were not normalised: a codec without mean and std fits it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.training import Naive
from torch.utils.data import TensorDataset

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.codecs import Uint8


def trained_on(mean: float, std: float) -> RandomMemory:
    data: Any = TensorDataset(torch.arange(320).view(20, 1, 4, 4) % 256 / 255.0, torch.arange(20) % 2)
    data.mean, data.std, data.targets = (mean,), (std,), [i % 2 for i in range(20)]
    experience = benchmark_from_datasets(train=[as_classification_dataset(data)]).train_stream[0]
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    memory = RandomMemory(20, codec=Uint8(mean=0.0, std=1.0), seed=0)
    Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        train_mb_size=10,
        evaluator=None,
        plugins=[MemoryReplayPlugin(memory, seed=0)],
    ).train(experience)
    return memory


def test_mean_0_and_std_1_are_pixels_from_0_to_1() -> None:
    memory = trained_on(0.0, 1.0)
    held = memory.rows(memory.slots()).x
    assert len(held) == 20
    assert (held * 255).round().sum() == (torch.arange(320) % 256).sum(), "stored without loss"


def test_others_are_told_with_their_numbers() -> None:
    with pytest.raises(ValueError, match=r"Uint8 expected pixels from 0 to 1, .* got data of mean=0\.5 and std=0\.25"):
        trained_on(0.5, 0.25)
