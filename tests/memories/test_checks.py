"""Arguments that every memory and plugin has are refused by name, by all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from _energy_bank import tiny
from _streams import FEATURES, network

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory, RandomMemoryPlugin, TensorLoaderPlugin
from avalanche_memplugins.memories import (
    DynamicKanervaMemory,
    EnergyMemory,
    EpisodicMemory,
    GaussianMemory,
    KanervaMemory,
    VAEMemory,
)
from avalanche_memplugins.memories.comparators import HopfieldMemory
from avalanche_memplugins.networks import ConditionalVAE, KanervaMachine
from avalanche_memplugins.strategies import VAEReplay


def vae_replay(**options: Any) -> VAEReplay:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return VAEReplay(model=model, optimizer=optimizer, shape=(FEATURES,), evaluator=None, **options)


SEEDED: dict[str, Any] = {
    "RandomMemory": lambda **o: RandomMemory(4, **o),
    "EpisodicMemory": lambda **o: EpisodicMemory(4, **o),
    "GaussianMemory": GaussianMemory,
    "DynamicKanervaMemory": DynamicKanervaMemory,
    "KanervaMemory": lambda **o: KanervaMemory(KanervaMachine(rows=2, code_size=2), **o),
    "VAEMemory": lambda **o: VAEMemory(ConditionalVAE((4,), likelihood="gaussian"), **o),
    "VAEMemory.from_budget": lambda **o: VAEMemory.from_budget(10_000, shape=(4,), classes=2, code_size=2, **o),
    "EnergyMemory": lambda **o: EnergyMemory(tiny(), **o),
    "HopfieldMemory": lambda **o: HopfieldMemory(4, **o),
    "MemoryReplayPlugin": lambda **o: MemoryReplayPlugin(RandomMemory(4), **o),
    "RandomMemoryPlugin": lambda **o: RandomMemoryPlugin(4, **o),
    "TensorLoaderPlugin": TensorLoaderPlugin,
    "VAEReplay": vae_replay,
}


@pytest.mark.parametrize("name", SEEDED)
def test_a_seed_that_is_none_is_named(name: str) -> None:
    for wrong in ("a", 1.5, True):
        with pytest.raises(TypeError, match=f"seed: expected an integer or None, got {wrong!r}"):
            SEEDED[name](seed=wrong)
    with pytest.raises(
        ValueError, match=r"seed: expected an integer from -2\*\*63 to 2\*\*64 - 1, got 18446744073709551616"
    ):
        SEEDED[name](seed=2**64)


def test_a_seed_of_numpys_is_the_same_seed() -> None:
    x, y = torch.arange(40.0).view(20, 2), torch.zeros(20, dtype=torch.int64)
    held = []
    for seed in (7, np.int64(7)):
        memory = RandomMemory(5, seed=seed)
        memory.write(x, y)
        held.append(memory.sample(5).x)
    assert torch.equal(*held)


def test_the_largest_seed_serves_a_memory_that_makes_others_of_it() -> None:
    memory = DynamicKanervaMemory(rows=2, seed=2**64 - 1)
    memory.write(torch.randn(4, 3), torch.zeros(4, dtype=torch.int64))
    assert bool(memory.sample(3).x.isfinite().all())
