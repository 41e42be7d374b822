"""Rows that a memory will refuse when an experience has ended are told before it is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _streams import FEATURES, Case, build, network, rows, weights
from avalanche.benchmarks import nc_benchmark
from torch import Tensor, nn

from avalanche_memplugins import (
    EnergyMemory,
    GaussianMemory,
    LatentCodec,
    MemoryReplayPlugin,
    RandomMemory,
    VAEMemory,
)
from avalanche_memplugins.codecs import Uint8
from avalanche_memplugins.networks import ConditionalVAE
from avalanche_memplugins.networks.energy import GatedEnergy
from avalanche_memplugins.strategies import VAEReplay


def stays_untrained(strategy: Any, message: str) -> None:
    before = weights(strategy).clone()
    with pytest.raises(ValueError, match=message):
        strategy.train(next(iter(Case().stream())), num_workers=0)
    assert torch.equal(weights(strategy), before)


def latent() -> LatentCodec:
    vae = ConditionalVAE((1, 4, 4), hidden=(4, 4), code_size=2)
    return LatentCodec(vae, code_mean=torch.zeros(2), code_std=torch.ones(2))


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (
            lambda: VAEMemory(ConditionalVAE((5,), likelihood="gaussian")),
            r"x: expected rows of shape \(5,\)",
        ),
        (lambda: VAEMemory(ConditionalVAE((FEATURES,))), "x: the memory VAEMemory expected values from 0 to 1, got"),
        (
            lambda: EnergyMemory(GatedEnergy(5, writable=4, width=8, write_steps=1, read_steps=1), mean=0.5, std=0.05),
            "x: expected rows of 5 numbers, for which the network was made, got",
        ),
        (lambda: RandomMemory(20, codec=Uint8()), "x: the codec Uint8 expected the 256 levels of pixels, got"),
        (lambda: GaussianMemory(codec=latent()), r"x: .*got \(1, 8\)"),
    ],
)
def test_a_memory_written_after_the_experience_is_asked_before(memory: Any, message: str) -> None:
    stays_untrained(build(Case(), [MemoryReplayPlugin(memory(), write_at="experience")]), message)


def test_the_strategy_says_it_first_too() -> None:
    model = network()
    strategy = VAEReplay(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), evaluator=None)
    stays_untrained(strategy, r"x: expected rows of shape \(1, 28, 28\), as the network's are, got")


def test_rows_of_another_shape_than_those_held_are_told() -> None:
    memory = RandomMemory(20)
    memory.write(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64))
    plugin = MemoryReplayPlugin(memory, write_at="experience", replay_weight="growing")
    stays_untrained(
        build(Case(), [plugin]), r"x: expected torch\.float32 rows of shape \(5,\), as this memory holds, got"
    )


def test_codes_of_a_layer_are_not_taken_for_rows() -> None:
    memory = VAEMemory(ConditionalVAE((16,), likelihood="gaussian"), steps=1, batch_size=8)
    build(Case(), [MemoryReplayPlugin(memory, at="features")]).train(next(iter(Case().stream())), num_workers=0)
    assert len(memory) == 60


def test_a_look_takes_no_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*, look: bool) -> Tensor:
        if not look:
            monkeypatch.delattr(RandomMemory, "check_rows")
        noisy = nc_benchmark(
            rows(60, 0), rows(12, 1), 1, False, seed=1, eval_transform=lambda x: x + torch.randn_like(x)
        )
        plugin = MemoryReplayPlugin(RandomMemory(40), write_at="experience")
        strategy = build(Case(model=lambda: nn.Sequential(network(), nn.Dropout())), [plugin])
        torch.manual_seed(5)
        strategy.train(noisy.train_stream[0], num_workers=0)
        return torch.cat([weights(strategy), plugin.memory.sample(40).x.flatten()])

    assert torch.equal(run(look=True), run(look=False))
