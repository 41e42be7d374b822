"""Every memory and every plugin that joins one to a strategy; whoever adds one adds it here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_memplugins import (
    DarkReplayPlugin,
    LatentReplayPlugin,
    LocalAdaptationPlugin,
    MemoryPredictionPlugin,
    MemoryReplayPlugin,
    NearestNeighbourPlugin,
    RandomMemory,
    RandomMemoryPlugin,
)
from avalanche_memplugins.codecs import Bits, LatentCodec, StreamCodec, Uint8
from avalanche_memplugins.memories import (
    DynamicKanervaMemory,
    EnergyMemory,
    EpisodicMemory,
    GaussianMemory,
    KanervaMemory,
    LatentMemory,
    VAEMemory,
)
from avalanche_memplugins.networks import ConditionalVAE, KanervaMachine
from avalanche_memplugins.networks.energy import GatedEnergy
from avalanche_memplugins.plugins import EnergyReplayPlugin


def noise(x: Tensor) -> Tensor:
    """A random augmentation."""
    return x + 0.1 * torch.randn(x.shape, device=x.device)


def schedule(experience: int, iteration: int) -> int:
    """An amount of replay that changes, and begins with none."""
    return 4 * experience + iteration % 3


class LearningMemory(RandomMemory):
    """Knows whole experiences only; its second pass stands for learning."""

    def consolidate(self, batches: Any, *, origin: int) -> None:
        for _ in range(2):
            for x, y, t in batches:
                self.write(x, y, t, origin=origin)


POLICIES = ("ring", "reservoir", "class_balanced", "task_balanced")
READS = ("uniform", "cycle", "class_balanced", "task_balanced")

# Normalize by which the rows of the streams would be pixels within [0, 1].
PIXELS = {"mean": 0.5, "std": 0.05}


class RandomAutoencoder(nn.Module):
    """Rows of eight numbers as three."""

    code_size = 3

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 8, generator=generator))

    def encode(self, x: Tensor) -> Tensor:
        return x @ self.weight.T

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z @ self.weight)


def latent_codec() -> LatentCodec:
    return LatentCodec(RandomAutoencoder(), code_mean=torch.zeros(3), code_std=torch.ones(3), **PIXELS)


MEMORIES: dict[str, Callable[[int], RandomMemory]] = {
    f"{policy}, {read}": lambda capacity, policy=policy, read=read: RandomMemory(  # type: ignore[misc]
        capacity, policy=policy, read=read, seed=5
    )
    for policy in POLICIES
    for read in READS
}
MEMORIES["float16"] = lambda capacity: RandomMemory(capacity, codec="float16", seed=5)
MEMORIES["4bit"] = lambda capacity: RandomMemory(capacity, codec=Bits(4, **PIXELS), labels="int16", seed=5)
MEMORIES["int8"] = lambda capacity: RandomMemory(capacity, codec="int8", seed=5)
MEMORIES["latent codec"] = lambda capacity: RandomMemory(capacity, codec=latent_codec(), seed=5)
MEMORIES["host"] = lambda capacity: RandomMemory(capacity, storage="host", seed=5)
MEMORIES["logits"] = lambda capacity: RandomMemory(capacity, store_logits=True, seed=5)
MEMORIES["episodic"] = lambda capacity: EpisodicMemory(capacity, seed=5)

PLUGINS: dict[str, Callable[[], Any]] = {
    name: lambda make=make: MemoryReplayPlugin(make(40))  # type: ignore[misc]
    for name, make in MEMORIES.items()
}
PLUGINS["RMA"] = lambda: RandomMemoryPlugin(40, write_every=3)
PLUGINS["at a layer"] = lambda: MemoryReplayPlugin(RandomMemory(40, seed=5), at="features")
PLUGINS["weighted"] = lambda: MemoryReplayPlugin(RandomMemory(40, seed=5), replay_weight=0.5)
PLUGINS["growing"] = lambda: MemoryReplayPlugin(RandomMemory(40, seed=5), replay_weight="growing")
PLUGINS["replacing"] = lambda: MemoryReplayPlugin(RandomMemory(40, seed=5), batch_policy="replace")
PLUGINS["after the experience"] = lambda: MemoryReplayPlugin(RandomMemory(40, seed=5), write_at="experience")
PLUGINS["after the experience, at a layer"] = lambda: MemoryReplayPlugin(
    RandomMemory(40, seed=5), write_at="experience", at="features"
)
PLUGINS["after the experience, logits"] = lambda: MemoryReplayPlugin(
    RandomMemory(40, store_logits=True, seed=5), write_at="experience", labels="logits"
)
PLUGINS["augmented"] = lambda: MemoryReplayPlugin(RandomMemory(40, seed=5), augment=noise)
PLUGINS["growing amount"] = lambda: MemoryReplayPlugin(RandomMemory(40, seed=5), replay_size="growing")
PLUGINS["scheduled amount"] = lambda: MemoryReplayPlugin(RandomMemory(40, seed=5), replay_size=schedule)
PLUGINS["old model"] = lambda: MemoryReplayPlugin(RandomMemory(40, seed=5), labels="old_model")
PLUGINS["soft"] = lambda: MemoryReplayPlugin(RandomMemory(40, seed=5), labels="soft")
PLUGINS["soft, at a layer"] = lambda: MemoryReplayPlugin(
    RandomMemory(40, seed=5), labels="soft", at="features", replay_weight=0.5
)
PLUGINS["stored logits"] = lambda: MemoryReplayPlugin(RandomMemory(40, store_logits=True, seed=5), labels="logits")
PLUGINS["DER"] = lambda: DarkReplayPlugin(RandomMemory(40, store_logits=True, seed=5), beta=0.0)
PLUGINS["DER++"] = lambda: DarkReplayPlugin(RandomMemory(40, store_logits=True, seed=5), alpha=0.5, replay_size=6)
PLUGINS["DER++, at a layer"] = lambda: DarkReplayPlugin(RandomMemory(40, store_logits=True, seed=5), at="features")
PLUGINS["prefetching"] = lambda: MemoryReplayPlugin(RandomMemory(40, storage="host", seed=5), prefetch=True)
PLUGINS["latent"] = lambda: LatentReplayPlugin(RandomMemory(40, seed=5), at="features", freeze_below=False)
PLUGINS["learning"] = lambda: MemoryReplayPlugin(LearningMemory(40, seed=5), labels="old_model")
PLUGINS["learning, at a layer"] = lambda: MemoryReplayPlugin(LearningMemory(40, seed=5), at="features")
PLUGINS["codec trained on the stream"] = lambda: MemoryReplayPlugin(
    LatentMemory(40, codec=StreamCodec(RandomAutoencoder(), steps=5, **PIXELS), seed=5)
)


def vae_memory(classes: int | None) -> VAEMemory:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ConditionalVAE((8,), code_size=3, hidden=(8,), classes=classes, likelihood="gaussian")
    return VAEMemory(network, steps=4, batch_size=8, seed=5)


class RowMachine(KanervaMachine):
    """A Kanerva machine for rows of eight numbers."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            super().__init__(code_size=3, rows=4, address_size=2, key_size=4, width=1)
            self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(3, 8)


# What models the stream instead of keeping rows: counts all it has taken in.
PLUGINS["Gaussian"] = lambda: MemoryReplayPlugin(GaussianMemory(rank=2, seed=5))
PLUGINS["Gaussian, full, after the experience"] = lambda: MemoryReplayPlugin(
    GaussianMemory(rank=None, seed=5), write_at="experience"
)
PLUGINS["Gaussian, packed mixtures"] = lambda: MemoryReplayPlugin(
    GaussianMemory(rank=None, precision=6, components=2, seed=5)
)
PLUGINS["Gaussian, answering"] = lambda: MemoryPredictionPlugin(
    GaussianMemory(tied=True, rank=1, precision=8, by="experience", seed=5), writes=True
)
PLUGINS["Kanerva"] = lambda: MemoryReplayPlugin(DynamicKanervaMemory(rows=4, seed=5))
PLUGINS["Kanerva, shared, after the experience"] = lambda: MemoryReplayPlugin(
    DynamicKanervaMemory(rows=8, share="all", seed=5), write_at="experience"
)
PLUGINS["Kanerva machine"] = lambda: MemoryReplayPlugin(KanervaMemory(RowMachine(), **PIXELS, seed=5))
PLUGINS["VAE"] = lambda: MemoryReplayPlugin(vae_memory(6), replay_weight="growing")
PLUGINS["VAE without classes"] = lambda: MemoryReplayPlugin(
    vae_memory(None), replay_weight="growing", labels="old_model"
)
MODELS = {
    "Gaussian",
    "Gaussian, answering",
    "Gaussian, full, after the experience",
    "Gaussian, packed mixtures",
    "Kanerva",
    "Kanerva machine",
    "Kanerva, shared, after the experience",
    "VAE",
    "VAE without classes",
}


def energy_memory(**options: Any) -> EnergyMemory:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GatedEnergy(8, writable=2, width=4, write_steps=1, read_steps=1)
    return EnergyMemory(network, slots=10, slot_size=4, seed=5, **PIXELS, **options)


# Holds rows by slots, which an experience of few rows does not fill.
PLUGINS["energy, stored cues"] = lambda: EnergyReplayPlugin(energy_memory(cue=Uint8(lossy=True, **PIXELS)))
PLUGINS["energy, current rows"] = lambda: EnergyReplayPlugin(
    energy_memory(by_class=True, precision="int8"), cue="current", replay_weight="growing"
)
BANKS = {"energy, stored cues", "energy, current rows"}
for policy in ("ring", "reservoir"):
    PLUGINS[f"MbPA, {policy}"] = lambda policy=policy: LocalAdaptationPlugin(  # type: ignore[misc]
        EpisodicMemory(40, policy=policy, seed=5), writes=True, neighbours=5, steps=2
    )
PLUGINS["nearest neighbours"] = lambda: NearestNeighbourPlugin(EpisodicMemory(40, seed=5), writes=True, neighbours=3)
PLUGINS["MbPA, 4bit"] = lambda: LocalAdaptationPlugin(
    EpisodicMemory(40, codec=Bits(4, **PIXELS), seed=5), writes=True, neighbours=5, steps=2
)


def with_a_seed(make: Callable[[], Any]) -> Callable[[], Any]:
    """The same plugin each time, also where it draws its seed itself."""

    def made() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            return make()

    return made


PLUGINS = {name: with_a_seed(make) for name, make in PLUGINS.items()}


def for_model(plugin: Any, multi_head: bool) -> Any:
    """A layer has another name below the multi-task wrapper."""
    if multi_head and getattr(plugin, "at", None) is not None:
        names = [plugin, plugin._tap, getattr(plugin.targets.teacher, "_tap", None)]
        for named in filter(None, names):
            named.at = f"model.{named.at}"
    return plugin
