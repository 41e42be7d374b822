"""Whatever draws has a seed: torch.manual_seed governs the default, a number fixes it, and a saved one goes on."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from _streams import Case, network, rows, run, weights
from torch import Tensor, nn

import avalanche_memplugins
from avalanche_memplugins import (
    DarkReplayPlugin,
    EnergyMemory,
    EnergyReplayPlugin,
    LatentMemory,
    LatentReplayPlugin,
    MemoryReplayPlugin,
    RandomMemory,
    RandomMemoryPlugin,
    StreamCodec,
    TensorLoaderPlugin,
    strategies,
)
from avalanche_memplugins.memories import (
    DynamicKanervaMemory,
    EpisodicMemory,
    GaussianMemory,
    KanervaMemory,
    VAEMemory,
)
from avalanche_memplugins.memories.comparators import HopfieldMemory
from avalanche_memplugins.networks import (
    MLPVAE,
    ConditionalVAE,
    KanervaMachine,
    ProbabilisticRetrievalClassifier,
    train_vae,
)
from avalanche_memplugins.networks.energy import GatedEnergy


def apart(make: Callable[[], Any]) -> Any:
    """What ``make`` builds, with weights that no seed of the caller's touches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def machine() -> KanervaMachine:
    return apart(lambda: KanervaMachine(code_size=3, rows=4, width=4))


def energy() -> GatedEnergy:
    return apart(lambda: GatedEnergy(8, writable=2, width=4, write_steps=1, read_steps=1))


def conditional() -> ConditionalVAE:
    return apart(lambda: ConditionalVAE((8,), code_size=3, hidden=(8,), classes=6, likelihood="gaussian"))


def classifier(**options: Any) -> ProbabilisticRetrievalClassifier:
    vae = apart(lambda: MLPVAE(size=8, hidden=8))
    net = ProbabilisticRetrievalClassifier(vae, **options)
    net.head.load_state_dict(apart(lambda: ProbabilisticRetrievalClassifier(vae, seed=0)).head.state_dict())
    return net


def kanerva_rows(memory: Any) -> Tensor:
    x = torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    memory.write(x, torch.arange(20) % 3)
    return memory.sample(6).x


def drawn(memory: Any) -> Tensor:
    """Rows of a memory that was fed more than it can hold."""
    x, y = rows(60, 6).tensors
    if hasattr(memory, "consolidate"):
        memory.consolidate([(x, y, torch.zeros_like(y))], origin=0)
    else:
        memory.write(x, y)
    return torch.cat([memory.sample(8).x, memory.sample(8).x])


def ordered(plugin: Any) -> Tensor:
    return torch.randperm(50, generator=plugin._generator)


def shuffled(plugin: TensorLoaderPlugin) -> Tensor:
    return torch.cat([torch.randperm(20, generator=one) for one in plugin._generators.values()])


def recalled(memory: HopfieldMemory) -> Tensor:
    g = torch.Generator().manual_seed(0)
    memory.write((torch.rand(1, 40, 64, generator=g) < 0.5).float())
    return memory.read((torch.rand(1, 200, 64, generator=g) < 0.5).float())


def answered(net: ProbabilisticRetrievalClassifier) -> Tensor:
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.cat([net.train()(x), net.eval()(x)])


def bounds(seed: int | None = None) -> Tensor:
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    vae = apart(lambda: MLPVAE(size=8, hidden=8))
    return torch.tensor(train_vae(vae, x, epochs=2, batch_size=4, **({} if seed is None else {"seed": seed})))


def autoencoder() -> nn.Module:
    class Line(nn.Module):
        code_size = 3

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 8))

        def encode(self, x: Tensor) -> Tensor:
            return x @ self.weight.T

        def decode(self, z: Tensor) -> Tensor:
            return torch.sigmoid(z @ self.weight)

    return Line()


def trained(kind: Any, **options: Any) -> Tensor:
    model = options.pop("model", None) or apart(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    strategy = kind(model=model, optimizer=optimizer, train_mb_size=16, evaluator=None, **options)
    for seed, experience in enumerate(Case().stream()):
        torch.manual_seed(seed)  # so that all that differs is what was drawn when the strategy was made
        strategy.train(experience, num_workers=0)
    return weights(strategy)


SHAPE = {"shape": (8,)}
MEMORIES: dict[str, Callable[..., Any]] = {
    "RandomMemory": lambda **o: RandomMemory(30, write_policy="reservoir", **o),
    "RandomMemory.from_budget": lambda **o: RandomMemory.from_budget(1_500, write_policy="reservoir", **SHAPE, **o),
    "EpisodicMemory": lambda **o: EpisodicMemory(30, write_policy="reservoir", **o),
    "LatentMemory": lambda **o: LatentMemory(
        30, codec=StreamCodec(autoencoder(), steps=2, mean=0.5, std=0.05), write_policy="reservoir", **o
    ),
    "GaussianMemory": GaussianMemory,
    "GaussianMemory.from_budget": lambda **o: GaussianMemory.from_budget(2_000, classes=6, **SHAPE, **o),
    "DynamicKanervaMemory": lambda **o: DynamicKanervaMemory(rows=4, **o),
    "DynamicKanervaMemory, shared": lambda **o: DynamicKanervaMemory(rows=4, share="all", **o),
    "DynamicKanervaMemory.from_budget": lambda **o: DynamicKanervaMemory.from_budget(4_000, classes=6, **SHAPE, **o),
    "KanervaMemory": lambda **o: KanervaMemory(machine(), **o),
    "VAEMemory": lambda **o: VAEMemory(conditional(), steps=4, batch_size=8, **o),
    "VAEMemory.from_budget": lambda **o: VAEMemory.from_budget(
        20_000, classes=6, code_size=2, steps=4, batch_size=8, **SHAPE, **o
    ),
    "EnergyMemory": lambda **o: EnergyMemory(energy(), slots=5, slot_size=4, mean=0.5, std=0.05, **o),
    "EnergyMemory.from_budget": lambda **o: EnergyMemory.from_budget(
        6_000, energy(), classes=6, slot_size=4, mean=0.5, std=0.05, **SHAPE, **o
    ),
}
OTHERS: dict[str, tuple[Callable[..., Any], Callable[[Any], Tensor]]] = {
    "HopfieldMemory": (lambda **o: HopfieldMemory(64, rule="hebb", **o), recalled),
    "MemoryReplayPlugin": (lambda **o: MemoryReplayPlugin(RandomMemory(4, seed=1), **o), ordered),
    "RandomMemoryPlugin": (
        lambda **o: RandomMemoryPlugin(30, write_policy="reservoir", **o),
        lambda p: torch.cat([drawn(p.memory).flatten(), ordered(p)]),
    ),
    "LatentReplayPlugin": (lambda **o: LatentReplayPlugin(RandomMemory(4, seed=1), at="features", **o), ordered),
    "DarkReplayPlugin": (lambda **o: DarkReplayPlugin(RandomMemory(4, store_logits=True, seed=1), **o), ordered),
    "EnergyReplayPlugin": (
        lambda **o: EnergyReplayPlugin(
            EnergyMemory(energy(), by_class=True, seed=1, mean=0.5, std=0.05), cue="current", **o
        ),
        ordered,
    ),
    "TensorLoaderPlugin": (TensorLoaderPlugin, shuffled),
    "ProbabilisticRetrievalClassifier": (classifier, answered),
    "train_vae": (bounds, lambda found: found),
}
STRATEGIES: dict[str, Callable[..., Tensor]] = {
    "RMA": lambda **o: trained(strategies.RMA, mem_size=20, write_every=1, **o),
    "ExperienceReplay": lambda **o: trained(strategies.ExperienceReplay, mem_size=20, **o),
    "DarkExperienceReplay": lambda **o: trained(strategies.DarkExperienceReplay, mem_size=20, **o),
    "MbPA": lambda **o: trained(strategies.MbPA, mem_size=20, replay=True, write_policy="reservoir", **o),
    "VAEReplay": lambda **o: trained(strategies.VAEReplay, steps=4, batch_size=8, **SHAPE, **o),
}
MADE: dict[str, tuple[Callable[..., Any], Callable[[Any], Tensor]]] = {
    **{name: (make, kanerva_rows if name == "KanervaMemory" else drawn) for name, make in MEMORIES.items()},
    **OTHERS,
    **{name: (make, lambda found: found) for name, make in STRATEGIES.items()},
}


def after(seed: int, name: str, /, **options: Any) -> Tensor:
    make, look = MADE[name]
    torch.manual_seed(seed)
    return look(make(**options))


@pytest.mark.parametrize("name", MADE)
def test_torchs_seed_governs_the_default(name: str) -> None:
    first = after(0, name)
    assert torch.equal(after(0, name), first)
    other = after(1, name)
    assert other.shape != first.shape or not torch.equal(other, first)


@pytest.mark.parametrize("name", MADE)
def test_a_number_fixes_it_and_leaves_the_global_generator_alone(name: str) -> None:
    assert torch.equal(after(0, name, seed=3), after(1, name, seed=3))
    state = torch.get_rng_state()
    if name not in (*STRATEGIES, "ProbabilisticRetrievalClassifier"):  # first weights and training draw besides
        MADE[name][0](seed=3)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [name for name in (*MEMORIES, *OTHERS) if "Classifier" not in name])
def test_the_default_draws_once_from_it(name: str) -> None:
    torch.manual_seed(5)
    MADE[name][0]()
    state = torch.get_rng_state()
    torch.manual_seed(5)
    torch.empty((), dtype=torch.int64).random_()
    if name == "RandomMemoryPlugin":  # a memory and a plugin, a seed each
        torch.empty((), dtype=torch.int64).random_()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_memory_and_its_plugin_do_not_share_a_stream() -> None:
    plugin = RandomMemoryPlugin(10)
    assert not torch.equal(plugin.memory._generator.get_state(), plugin._generator.get_state())
    torch.manual_seed(0)
    model = network()
    strategy = strategies.VAEReplay(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), evaluator=None, **SHAPE
    )
    (replay,) = (p for p in strategy.plugins if isinstance(p, MemoryReplayPlugin))
    assert not torch.equal(replay.memory._generator.get_state(), replay._generator.get_state())


@pytest.mark.parametrize("name", MEMORIES)
def test_a_saved_memory_goes_on_as_it_would_have(name: str, tmp_path: Path) -> None:
    make, look = MADE[name]
    torch.manual_seed(0)
    memory = make()
    look(memory)
    memory.save(tmp_path / "memory")
    torch.manual_seed(1)
    loaded, by_state = make().load(tmp_path / "memory"), make()
    by_state.load_state_dict(memory.state_dict())
    expected = look(memory)  # writes, new classes' priors included, and draws
    assert torch.equal(look(loaded), expected)
    assert torch.equal(look(by_state), expected)


def test_new_classes_of_a_loaded_kanerva_memory_begin_where_they_would_have(tmp_path: Path) -> None:
    x, y = rows(60, 6).tensors
    for share in ("class", "all"):
        torch.manual_seed(0)
        memory = DynamicKanervaMemory(rows=4, share=share)  # type: ignore[arg-type]
        memory.write(x[y < 3], y[y < 3])
        memory.save(tmp_path / share)
        loaded = DynamicKanervaMemory(rows=4, share=share).load(tmp_path / share)  # type: ignore[arg-type]
        for one in (memory, loaded):
            one.write(x[y >= 3], y[y >= 3])
        assert torch.equal(memory.mean, loaded.mean)
        with pytest.raises(ValueError, match="seed=7"):
            DynamicKanervaMemory(rows=4, share=share, seed=7).load(tmp_path / share)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["HopfieldMemory", "ProbabilisticRetrievalClassifier"])
def test_a_drawn_seed_is_part_of_the_state(name: str) -> None:
    make, look = MADE[name]
    first, second = make(), make()
    look(first)
    second.load_state_dict(first.state_dict())
    assert torch.equal(look(second), look(first))
    old = {key: value for key, value in first.state_dict().items() if name != "HopfieldMemory" or "extra" not in key}
    if name == "ProbabilisticRetrievalClassifier":
        old["_extra_state"] = {"generator": old["_extra_state"]["generator"]}
    make().load_state_dict(old)  # states of before it was kept load


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomMemoryPlugin(30, write_policy="reservoir", augment=lambda x: x + torch.randn(x.shape)),
        lambda: MemoryReplayPlugin(VAEMemory(conditional(), steps=4, batch_size=8), replay_weight="growing"),
        lambda: MemoryReplayPlugin(DynamicKanervaMemory(rows=4)),
    ],
)
def test_a_saved_plugin_goes_on_as_it_would_have(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    plugin = make()
    run(Case(), [plugin])
    state = plugin.state_dict()
    expected = (plugin.memory.sample(8).x, ordered(plugin))
    torch.manual_seed(1)
    other = make()
    other.load_state_dict(state)
    assert torch.equal(other.memory.sample(8).x, expected[0])
    assert torch.equal(ordered(other), expected[1])


FIXED = {
    *("EnergyTraining", "Gallery", "RunSpec", "evaluate", "bootstrap_interval", "published"),
    *("MemoryCase", "PluginCase", "CodecCase", "PolicyCase", "_filled", "_generator"),
    *("ProductQuantised", "Scattering", "RandomProjection", "controllers", "LinearKanerva"),
}
"""A run's own description, cases of checks, and what is to be the same in each run: projections, codebooks, demos."""


def test_no_default_is_a_number() -> None:
    found = set()
    for module in pkgutil.walk_packages(avalanche_memplugins.__path__, "avalanche_memplugins."):
        for name, thing in vars(import_module(module.name)).items():
            if getattr(thing, "__module__", None) != module.name:
                continue
            methods = vars(thing) if inspect.isclass(thing) else {}
            for called, function in {name: thing, **{f"{name}.{m}": getattr(thing, m) for m in methods}}.items():
                if not callable(function) or FIXED & set(called.split(".")):
                    continue
                try:
                    default = inspect.signature(function).parameters["seed"].default
                except (KeyError, TypeError, ValueError):
                    continue
                if isinstance(default, int):
                    found.add(called)
    assert not found
