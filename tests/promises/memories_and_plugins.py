"""One case for every memory, codec, policy and plugin of the library; whoever adds one adds it here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_memplugins import (
    DarkReplayPlugin,
    GradientAveragingPlugin,
    LatentReplayPlugin,
    LeanStepPlugin,
    LocalAdaptationPlugin,
    MemoryPredictionPlugin,
    MemoryReplayPlugin,
    NearestNeighbourPlugin,
    RandomMemory,
    RandomMemoryPlugin,
    TensorLoaderPlugin,
)
from avalanche_memplugins.codecs import (
    Bits,
    Downsampled,
    EntropyCoded,
    Float16,
    Int8,
    Integers,
    LatentCodec,
    ProductQuantised,
    Quantised,
    Raw,
    StreamCodec,
    Uint8,
)
from avalanche_memplugins.memories import (
    CodedMemory,
    DifferentiableNeuralDictionary,
    DynamicKanervaMemory,
    EnergyMemory,
    EpisodicMemory,
    GaussianMemory,
    KanervaMemory,
    LatentMemory,
    MixedMemory,
    RandomProjectionMemory,
    VAEMemory,
)
from avalanche_memplugins.memories.comparators import (
    ControllerMemory,
    HopfieldMemory,
    ModernHopfieldMemory,
    RandomProjectionSlots,
    RestrictedBoltzmannMemory,
    SlotMemory,
    SparseDistributedMemory,
)
from avalanche_memplugins.memories.policies import (
    GSS,
    Balanced,
    Cycle,
    GroupBalanced,
    Hardest,
    Herding,
    Reservoir,
    Ring,
    Uniform,
)
from avalanche_memplugins.networks import MANN, ConditionalVAE, KanervaMachine, MemoryNetwork
from avalanche_memplugins.networks.energy import GatedEnergy
from avalanche_memplugins.plugins import EnergyReplayPlugin
from avalanche_memplugins.testing import CodecCase, MemoryCase, PluginCase, PolicyCase
from avalanche_memplugins.testing.cases import pixels, vectors


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


def vae_memory(classes: int | None, seed: int = 5) -> VAEMemory:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ConditionalVAE((8,), code_size=3, hidden=(8,), classes=classes, likelihood="gaussian")
    return VAEMemory(network, steps=4, batch_size=8, seed=seed)


class RowMachine(KanervaMachine):
    """A Kanerva machine for rows of eight numbers."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            super().__init__(code_size=3, rows=4, address_size=2, key_size=4, width=1)
            self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(3, 8)


def energy_memory(slots: int = 10, seed: int = 5, **options: Any) -> EnergyMemory:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GatedEnergy(8, writable=2, width=4, write_steps=1, read_steps=1)
    return EnergyMemory(network, slots=slots, slot_size=4, seed=seed, **PIXELS, **options)


# ------------------------------------------------------------------------------------------------ codecs

HALF_A_STEP = Int8().step / 2 + 1e-6
BILINEAR = "enlarging mixes neighbouring pixels, so that the means of what comes back are others"
LEARNED = "the encoder is not the inverse of the decoder"


def integers(n: int, seed: int) -> Tensor:
    return torch.randint(256, (n, 8), generator=torch.Generator().manual_seed(seed))


def knowing_vectors(codec: Any) -> Any:
    """A codec that has learned from rows of the stream."""
    codec.fit(vectors(500, 99))
    return codec


CODECS = [
    CodecCase("quantised", lambda: knowing_vectors(Quantised(8)), error=None, nbytes=8),
    CodecCase("product quantised", lambda: knowing_vectors(ProductQuantised(4, bits=4)), error=None, nbytes=2),
    CodecCase("integers", lambda: Integers("uint8"), rows=integers, nbytes=8),
    CodecCase("raw", Raw, error=0.0, nbytes=32),
    CodecCase("float16", Float16, error=3 * 2**-11, nbytes=16),
    CodecCase("uint8", lambda: Uint8(mean=0.5, std=0.25), rows=lambda n, s: (pixels(n, s) - 0.5) / 0.25, nbytes=64),
    CodecCase("uint8, lossy", lambda: Uint8(lossy=True, **PIXELS), error=0.5 / 255 / 0.05 + 1e-4, nbytes=8),
    CodecCase("int8", Int8, error=HALF_A_STEP, nbytes=8),
    *(
        CodecCase(f"{bits}bit", lambda bits=bits: Bits(bits), rows=pixels, error=0.5 / (2**bits - 1), nbytes=8 * bits)
        for bits in (1, 2, 4)
    ),
    CodecCase(
        "downsampled",
        lambda: Downsampled(4, Bits(4)),
        {"check_what_came_back_is_stored_without_further_loss": BILINEAR},
        rows=pixels,
        error=None,
        nbytes=8,
    ),
    CodecCase(
        "latent",
        latent_codec,
        {"check_what_came_back_is_stored_without_further_loss": LEARNED},
        error=None,
        nbytes=3,
    ),
    CodecCase(
        "stream",
        lambda: fitted(StreamCodec(RandomAutoencoder(), steps=5, **PIXELS)),
        {"check_what_came_back_is_stored_without_further_loss": LEARNED},
        error=None,
        nbytes=3,
    ),
]


def fitted(codec: StreamCodec) -> StreamCodec:
    codec.fit(iter([vectors(20, 1)] * 5), [vectors(20, 1)], seed=0)
    return codec


# ------------------------------------------------------------------------------------------------ policies

POLICIES = [
    PolicyCase("ring", Ring),
    PolicyCase("reservoir", Reservoir, uniform=True),
    PolicyCase("class_balanced", lambda: GroupBalanced("class"), uniform=True),
    PolicyCase("task_balanced", lambda: GroupBalanced("task"), uniform=True),
    PolicyCase("hardest", Hardest),
    PolicyCase("hardest, by class", lambda: Hardest("class")),
    PolicyCase("herding", Herding),
    PolicyCase("gss", GSS),
    PolicyCase("uniform", Uniform, uniform=True),
    PolicyCase("uniform, replacement", lambda: Uniform(replacement=True), uniform=True),
    PolicyCase("cycle", Cycle, uniform=True),
    PolicyCase("class_balanced read", lambda: Balanced("class"), uniform=True),
    PolicyCase("task_balanced read, replacement", lambda: Balanced("task", replacement=True), uniform=True),
]

# ------------------------------------------------------------------------------------------------ memories


def random_memory(
    name: str,
    *,
    error: float = 0.0,
    codec: Any = "raw",
    sizes: tuple[int, int] = (1_000, 8_000),
    fill: int = 20_000,
    **options: Any,
) -> MemoryCase:
    """
    :param codec: a name, or a function that makes the codec.
    """

    def arguments() -> dict[str, Any]:
        return {"codec": codec() if callable(codec) else codec, **options}

    return MemoryCase(
        name,
        lambda capacity, seed: RandomMemory(capacity, seed=seed, **arguments()),
        error=error,
        sizes=sizes,
        fill=fill,
        from_budget=lambda nbytes: RandomMemory.from_budget(
            nbytes, shape=(8,), classes=6, experiences=3, seed=0, **arguments()
        ),
    )


def coded(nbytes: int, seed: int) -> CodedMemory:
    return CodedMemory(nbytes, codec=EntropyCoded(Bits(4)), labels="int16", store_tasks=True, seed=seed)


def generative(name: str, make: Callable[..., Any], sizes: tuple[int, int], **options: Any) -> MemoryCase:
    return MemoryCase(name, lambda capacity, seed: make(seed=seed), error=None, grows="classes", sizes=sizes, **options)


def gaussian(nbytes: int) -> GaussianMemory:
    return GaussianMemory.from_budget(nbytes, classes=6, shape=(8,), seed=0)


def mixed(nbytes: int) -> MixedMemory:
    return MixedMemory.from_budget(nbytes, classes=6, shape=(8,), share=0.3, rows={"store_tasks": True}, seed=0)


def kanerva(nbytes: int) -> DynamicKanervaMemory:
    return DynamicKanervaMemory.from_budget(nbytes, classes=6, shape=(8,), seed=0)


def energy(nbytes: int) -> EnergyMemory:
    options = {"slot_size": 4, "cue": Uint8(lossy=True, **PIXELS), "seed": 0, **PIXELS}
    return EnergyMemory.from_budget(nbytes, energy_memory().network, shape=(8,), classes=6, **options)


def bits(n: int, seed: int) -> Tensor:
    """Two patterns of each of n episodes."""
    return torch.randint(2, (n, 2, 16), generator=torch.Generator().manual_seed(seed)).float()


def associative(name: str, make: Callable[[], Any], sizes: tuple[int, int], **options: Any) -> MemoryCase:
    return MemoryCase(
        name,
        lambda capacity, seed: make(),
        rows=bits,
        write=lambda memory, x, y, origin: memory.write(x),
        read=lambda memory, x: memory.read(bits(len(memory.held), 77)),
        sizes=sizes,
        **options,
    )


MEMORIES = [
    *(
        random_memory(policy, write_policy=policy)
        for policy in ("ring", "reservoir", "class_balanced", "task_balanced")
    ),
    *(random_memory(f"{read} read", read_policy=read) for read in ("cycle", "class_balanced", "task_balanced")),
    random_memory("hardest", write_policy="hardest"),
    replace(
        random_memory("herding", write_policy="herding", sizes=(100, 900), fill=1_000),
        expected_failures={
            "check_the_cost_of_a_write_and_a_read_does_not_grow_with_the_fill": "it looks at all rows of a class"
        },
        traced=False,  # its means let go of more than 2 % meanwhile
    ),
    random_memory("gss", write_policy="gss", sizes=(100, 1_600), fill=1_000),
    random_memory("float16", codec="float16", error=2e-3),
    random_memory("4bit", codec=lambda: Bits(4, **PIXELS), labels="int16", error=0.5 / 15 / 0.05 + 1e-4),
    random_memory("int8", codec="int8", error=HALF_A_STEP),
    random_memory("latent codec", codec=latent_codec, error=20.0),
    random_memory("host", storage="host"),
    MemoryCase(
        "coded",
        lambda capacity, seed: coded(60 * capacity, seed),
        {"check_nbytes_does_not_shrink": "the rows that take the place of others may be shorter"},
        rows=pixels,
        error=0.5 / 15 + 1e-6,
        from_budget=lambda nbytes: coded(nbytes, 0),
        budget=(10_000, 0.98),
        traced=False,  # tables that all memories share are read with the first
    ),
    random_memory("logits", store_logits=True),
    random_memory("keys", embedding=nn.Linear(8, 4)),
    MemoryCase("episodic", lambda capacity, seed: EpisodicMemory(capacity, seed=seed)),
    MemoryCase(
        "latent",
        lambda capacity, seed: LatentMemory(
            capacity, codec=StreamCodec(RandomAutoencoder(), steps=2, **PIXELS), seed=seed
        ),
        writes="experiences",
        error=20.0,
        sizes=(1_000, 16_000),
        from_budget=lambda nbytes: LatentMemory.from_budget(
            nbytes, shape=(8,), codec=StreamCodec(RandomAutoencoder(), steps=2, **PIXELS), seed=0
        ),
        traced=False,  # many blocks of rows are made anew, each of which torch leaves some bytes of
    ),
    generative(
        "Gaussian", lambda **k: GaussianMemory(rank=2, **k), (10, 1_000), from_budget=gaussian, budget=(1_300, 0.8)
    ),
    generative(
        "Gaussian, full",
        lambda **k: GaussianMemory(rank=None, **k),
        (10, 500),
        from_budget=gaussian,
        budget=(1_250, 0.99),
    ),
    generative(
        "random projection",
        lambda **k: RandomProjectionMemory(width=20, **k),
        (10, 500),
        reads="predict",
        from_budget=lambda nbytes: RandomProjectionMemory.from_budget(nbytes, classes=6, shape=(8,), seed=0),
        budget=(40_000, 0.98),
    ),
    MemoryCase(
        "rows and Gaussians",
        lambda capacity, seed: MixedMemory(
            RandomMemory(capacity, seed=seed), GaussianMemory(rank=2, precision=6, seed=seed)
        ),
        from_budget=mixed,
        budget=(9_000, 0.9),
    ),
    generative(
        "Kanerva", lambda **k: DynamicKanervaMemory(rows=4, **k), (10, 300), from_budget=kanerva, budget=(1_500, 0.8)
    ),
    generative(
        "Kanerva, shared",
        lambda **k: DynamicKanervaMemory(rows=8, share="all", **k),
        (10, 400),
        from_budget=kanerva,
        budget=(1_500, 0.8),
        traced=False,
    ),
    generative(
        "Kanerva machine",
        lambda **k: KanervaMemory(RowMachine(), **PIXELS, **k),
        (10, 300),
        forget=lambda memory, x, y: memory.forget(x, y),
    ),
    generative(
        "VAE",
        lambda **k: vae_memory(None, **k),
        (10, 500),
        writes="experiences",
        from_budget=lambda nbytes: VAEMemory.from_budget(
            nbytes, shape=(8,), classes=6, conditional=False, code_size=3, steps=2, seed=0
        ),
        budget=(20_000, 0.9),
    ),
    MemoryCase(
        "energy, cues",
        lambda capacity, seed: energy_memory(capacity // 4, seed, cue=Uint8(lossy=True, **PIXELS)),
        error=None,
        sizes=(40, 2_400),
        fill=1_000,
        from_budget=energy,
        budget=(4_000, 0.95),
        traced=False,  # as many writes as there are slots, each of which torch leaves some bytes of
    ),
    associative("Hopfield", lambda: HopfieldMemory(16), (40, 400)),
    associative(
        "modern Hopfield",
        lambda: ModernHopfieldMemory(16, beta=4.0),
        (40, 400),
        budget=(200 * 128, 0.98),  # of 200 episodes
        from_budget=lambda nbytes: ModernHopfieldMemory.from_budget(nbytes // 200, size=16, beta=4.0),
    ),
    associative(
        "sparse distributed",
        lambda: SparseDistributedMemory(16, locations=50, seed=0),
        (40, 1_200),
        budget=(200 * 128, 0.98),  # of 200 episodes
        from_budget=lambda nbytes: SparseDistributedMemory.from_budget(nbytes // 200, size=16, seed=0),
    ),
    associative("slots", lambda: SlotMemory(MemoryNetwork(16, code_size=8)), (40, 1_200)),
    associative("random projections", lambda: RandomProjectionSlots(16, width=8, seed=0), (40, 1_200)),
    associative(
        "Boltzmann",
        lambda: RestrictedBoltzmannMemory(16, hidden=8, write_steps=2, seed=0),
        (40, 1_200),
        budget=(200 * 1_200, 0.9),  # of 200 episodes
        from_budget=lambda nbytes: RestrictedBoltzmannMemory.from_budget(nbytes // 200, size=16, write_steps=2, seed=0),
    ),
    associative(
        "controller", lambda: ControllerMemory(MANN(16, slots=4, width=8, controller=4, hidden=4)), (40, 1_200)
    ),
    MemoryCase(
        "dictionary",
        lambda capacity, seed: DifferentiableNeuralDictionary(6, capacity, 8),
        {"check_len_counts_rows_up_to_the_capacity": "its capacity is that of each class"},
        write=lambda memory, x, y, origin: memory.write(x, y, x[:, 0]),
        read=lambda memory, x: memory.read(x),
        sizes=(100, 400),
    ),
]

# ------------------------------------------------------------------------------------------------ plugins


def replay(name: str, memory: Callable[[], Any], *, keeps_all: bool = True, **options: Any) -> PluginCase:
    replaces = options.get("batch_policy") == "replace"
    return PluginCase(name, lambda: MemoryReplayPlugin(memory(), **options), replaces=replaces, keeps_all=keeps_all)


def rows(**options: Any) -> RandomMemory:
    return RandomMemory(40, seed=5, **options)


def mbpa(**options: Any) -> LocalAdaptationPlugin:
    return LocalAdaptationPlugin(EpisodicMemory(40, seed=5, **options), writes=True, neighbours=5, steps=2)


def stream_memory() -> LatentMemory:
    return LatentMemory(40, codec=StreamCodec(RandomAutoencoder(), steps=5, **PIXELS), seed=5)


PLUGINS = [
    replay("ring", lambda: rows(write_policy="ring"), keeps_all=False),
    replay("reservoir", rows),
    replay("reservoir, cycle", lambda: rows(read_policy="cycle")),
    replay("class_balanced", lambda: rows(write_policy="class_balanced", read_policy="class_balanced")),
    replay("task_balanced", lambda: rows(write_policy="task_balanced", read_policy="task_balanced")),
    replay("4bit", lambda: rows(codec=Bits(4, **PIXELS), labels="int16")),
    replay("latent codec", lambda: rows(codec=latent_codec())),
    PluginCase("RMA", lambda: RandomMemoryPlugin(40, write_every=3), keeps_all=False),
    replay("at a layer", rows, at="features"),
    replay("weighted", rows, replay_weight=0.5),
    replay("growing", rows, replay_weight="growing"),
    replay("replacing", rows, batch_policy="replace"),
    replay("after the experience", rows, write_at="experience"),
    replay("after the experience, at a layer", rows, write_at="experience", at="features"),
    replay("after the experience, logits", lambda: rows(store_logits=True), write_at="experience", labels="logits"),
    replay("augmented", rows, augment=noise),
    replay("growing amount", rows, replay_size="growing"),
    replay("scheduled amount", rows, replay_size=schedule),
    replay("old model", rows, labels="old_model"),
    replay("soft", rows, labels="soft"),
    replay("soft, at a layer", rows, labels="soft", at="features", replay_weight=0.5),
    replay("stored logits", lambda: rows(store_logits=True), labels="logits"),
    PluginCase("DER", lambda: DarkReplayPlugin(rows(store_logits=True), beta=0.0)),
    PluginCase("DER++", lambda: DarkReplayPlugin(rows(store_logits=True), alpha=0.5, replay_size=6)),
    PluginCase("DER++, at a layer", lambda: DarkReplayPlugin(rows(store_logits=True), at="features")),
    replay("prefetching", lambda: rows(storage="host"), prefetch=True),
    PluginCase("latent", lambda: LatentReplayPlugin(rows(), at="features", freeze_below=False)),
    replay("learning", lambda: LearningMemory(40, seed=5), labels="old_model"),
    replay("learning, at a layer", lambda: LearningMemory(40, seed=5), at="features"),
    replay("codec trained on the stream", stream_memory),
    replay("Gaussian", lambda: GaussianMemory(rank=2, seed=5)),
    replay("Gaussian, full, after the experience", lambda: GaussianMemory(rank=None, seed=5), write_at="experience"),
    replay("Kanerva", lambda: DynamicKanervaMemory(rows=4, seed=5)),
    replay(
        "Kanerva, shared, after the experience",
        lambda: DynamicKanervaMemory(rows=8, share="all", seed=5),
        write_at="experience",
    ),
    replay("Kanerva machine", lambda: KanervaMemory(RowMachine(), **PIXELS, seed=5)),
    replay("VAE", lambda: vae_memory(6), replay_weight="growing"),
    replay("VAE without classes", lambda: vae_memory(None), replay_weight="growing", labels="old_model"),
    PluginCase("energy, stored cues", lambda: EnergyReplayPlugin(energy_memory(cue=Uint8(lossy=True, **PIXELS)))),
    PluginCase(
        "energy, current rows",
        lambda: EnergyReplayPlugin(
            energy_memory(by_class=True, precision="int8"), cue="current", replay_weight="growing"
        ),
    ),
    PluginCase("MbPA, ring", lambda: mbpa(write_policy="ring"), keeps_all=False),
    PluginCase("MbPA, reservoir", mbpa),
    PluginCase("MbPA, 4bit", lambda: mbpa(codec=Bits(4, **PIXELS))),
    PluginCase(
        "nearest neighbours",
        lambda: NearestNeighbourPlugin(EpisodicMemory(40, seed=5), writes=True, neighbours=3),
    ),
    PluginCase("answers of Gaussians", lambda: MemoryPredictionPlugin(GaussianMemory(rank=2, seed=5), writes=True)),
    replay("rows and Gaussians", lambda: MixedMemory(rows(), GaussianMemory(rank=2, precision=6, seed=5))),
    PluginCase(
        "answers of neighbours, fitted, beside the network",
        lambda: MemoryPredictionPlugin(
            EpisodicMemory(40, seed=5), combine="product", temperature="fitted", fit_size=20, writes=True
        ),
    ),
    PluginCase(
        "answers of packed Gaussians at a layer",
        lambda: MemoryPredictionPlugin(GaussianMemory(rank=None, precision=8, seed=5), at="features", writes=True),
    ),
    PluginCase("lean", LeanStepPlugin),
    PluginCase("tensors", TensorLoaderPlugin, reorders=True),
    PluginCase("averaging gradients", GradientAveragingPlugin),
]
