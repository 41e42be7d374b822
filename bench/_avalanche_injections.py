"""What bench/avalanche_tests.py gives to every strategy: a fresh plugin, or a few that belong together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from avalanche_memplugins import (
    DarkReplayPlugin,
    DynamicKanervaMemory,
    EnergyMemory,
    EnergyReplayPlugin,
    EpisodicMemory,
    GaussianMemory,
    LatentReplayPlugin,
    LeanStepPlugin,
    LocalAdaptationPlugin,
    MemoryReplayPlugin,
    NearestNeighbourPlugin,
    RandomMemory,
    RandomMemoryPlugin,
    TensorLoaderPlugin,
    VAEMemory,
)
from avalanche_memplugins.functional import reconstruction_loss
from avalanche_memplugins.networks import ConditionalVAE
from avalanche_memplugins.networks.energy import GatedEnergy

CAPACITY = 200
# Features of Avalanche's fast benchmark as pixels: x * STD + MEAN lies in [0, 1].
MEAN, STD = 0.5, 0.04
TRAINING_STEPS = 1_000


class Unsuited(Exception):
    """A strategy that a plugin cannot be made for; says why."""


def linear_layers(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Names and modules of the linear layers, in the order of the model."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def features(model: nn.Module) -> int:
    """Inputs of the first linear layer: entries of a row of the stream."""
    found = linear_layers(model)
    if not found:
        raise Unsuited("the model has no nn.Linear to tell the size of a row")
    return found[0][1].in_features


def penultimate(model: nn.Module, strategy: str) -> str:
    """Name of the last linear layer but one, as the model will be when it is trained."""
    found = linear_layers(model)
    if len(found) < 2:
        raise Unsuited("the model has no linear layer before the last one")
    # FeatureReplay puts the model into another one after the plugins are there.
    return ("feature_extractor." if strategy == "FeatureReplay" else "") + found[-2][0]


def seeded(make: Callable[[], Any]) -> Any:
    """Make a network without touching the random numbers of the test."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def rows(**options: Any) -> RandomMemory:
    """A memory of rows."""
    return RandomMemory(CAPACITY, seed=0, **options)


def vae(model: nn.Module) -> VAEMemory:
    """A small generator of rows."""
    size = features(model)
    network = seeded(lambda: ConditionalVAE((size,), code_size=3, hidden=(8,), likelihood="gaussian"))
    return VAEMemory(network, steps=4, batch_size=8, seed=0)


@functools.cache
def trained(size: int) -> GatedEnergy:
    """An energy network that has learned, in a few seconds, to restore rows as the stream has them.

    One that has not been trained reads values far out of the stream's range. A test of Avalanche trains at a learning
    rate of 1 in batches of one row, which does not survive these.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GatedEnergy(size, writable=4, width=8, write_steps=1, read_steps=1)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(TRAINING_STEPS):
            rows = MEAN + STD * torch.randn(8, 4, size)
            read = network.read(torch.rand_like(rows), network.write(rows))
            optimizer.zero_grad()
            reconstruction_loss(read, rows).backward()
            optimizer.step()
    return network


def energy(model: nn.Module) -> EnergyMemory:
    """A small bank, trained in a moment."""
    return EnergyMemory(trained(features(model)), slots=12, slot_size=4, by_class=True, mean=MEAN, std=STD, seed=0)


def replay(**options: Any) -> MemoryReplayPlugin:
    """Replay of rows, from the first experience on, which is all that many tests train on."""
    return MemoryReplayPlugin(rows(), **{"write_at": "iteration", **options})


def dark() -> DarkReplayPlugin:
    """DER++."""
    return DarkReplayPlugin(rows(store_logits=True))


def latent(model: nn.Module, strategy: str) -> LatentReplayPlugin:
    """Replay at the last linear layer but one."""
    return LatentReplayPlugin(rows(), at=penultimate(model, strategy), freeze_below=False, write_at="iteration")


def reading(make: Callable[..., Any], **options: Any) -> list[Any]:
    """Replay, and a plugin that reads the same memory in evaluation."""
    memory = EpisodicMemory(CAPACITY, seed=0)
    return [MemoryReplayPlugin(memory, write_at="iteration"), make(memory, **options)]


Injection = Callable[[nn.Module, str], list[Any]]
PLUGINS: dict[str, Injection] = {
    "nothing else": lambda model, strategy: [],
    "replay": lambda model, strategy: [replay()],
    'replay, batch_policy="replace"': lambda model, strategy: [replay(batch_policy="replace")],
    "replay, replay_weight=0.5": lambda model, strategy: [replay(replay_weight=0.5)],
    'replay, labels="old_model"': lambda model, strategy: [replay(labels="old_model")],
    'replay, labels="soft"': lambda model, strategy: [replay(labels="soft")],
    'replay, write_at="experience"': lambda model, strategy: [replay(write_at="experience")],
    "RandomMemoryPlugin": lambda model, strategy: [RandomMemoryPlugin(CAPACITY)],
    "DarkReplayPlugin": lambda model, strategy: [dark()],
    "LatentReplayPlugin": lambda model, strategy: [latent(model, strategy)],
    "LocalAdaptationPlugin, replay": lambda model, strategy: reading(LocalAdaptationPlugin, neighbours=5, steps=2),
    "NearestNeighbourPlugin, replay": lambda model, strategy: reading(NearestNeighbourPlugin, neighbours=3),
    "GaussianMemory": lambda model, strategy: [
        MemoryReplayPlugin(GaussianMemory(rank=2, seed=0), write_at="iteration")
    ],
    "DynamicKanervaMemory": lambda model, strategy: [
        MemoryReplayPlugin(DynamicKanervaMemory(rows=4, seed=0), write_at="iteration")
    ],
    "VAEMemory": lambda model, strategy: [MemoryReplayPlugin(vae(model))],
    "EnergyReplayPlugin": lambda model, strategy: [EnergyReplayPlugin(energy(model))],
}
ACCELERATIONS: dict[str, Callable[[], list[Any]]] = {
    "off": lambda: [],
    "TensorLoaderPlugin": lambda: [TensorLoaderPlugin()],
    "LeanStepPlugin": lambda: [LeanStepPlugin()],
    "both": lambda: [TensorLoaderPlugin(), LeanStepPlugin()],
}
