"""``nbytes`` against what a memory really takes: memory of Python objects as traced, and the storage of tensors."""

from __future__ import annotations

import gc
import sys
import tracemalloc
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _comparators import NAMES, made
from torch import Tensor, nn

from avalanche_memplugins import EpisodicMemory, RandomMemory
from avalanche_memplugins.codecs import Bits, Codec, Downsampled, Float16, Int8, LatentCodec, Raw, StreamCodec, Uint8
from avalanche_memplugins.memories import (
    DifferentiableNeuralDictionary,
    DynamicKanervaMemory,
    EnergyMemory,
    GaussianMemory,
    KanervaMemory,
    LatentMemory,
    VAEMemory,
)
from avalanche_memplugins.memories.comparators import ModernHopfieldMemory
from avalanche_memplugins.memories.policies import Hardest, Placement, Ring
from avalanche_memplugins.networks import ConditionalVAE, KanervaMachine
from avalanche_memplugins.networks.energy import GatedEnergy

WIDTH = 16
GROWN = 40_000
"""Bytes by which the larger of two memories must be larger: then rounding and single objects do not matter."""


def reached(thing: Any) -> tuple[int, int]:
    """Bytes of the storage of all tensors that can be reached from an object, and of all other objects."""
    seen: set[int] = set()
    tensors: dict[int, int] = {}
    others, left = 0, [thing]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type | types.ModuleType | types.FunctionType | types.BuiltinFunctionType):
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            tensors[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        else:
            others += sys.getsizeof(one)
            left += gc.get_referents(one)
    return sum(tensors.values()), others


def taken(make: Callable[[], Any]) -> tuple[Any, int, int]:
    """A filled memory, what it takes of Python's memory and in tensors, and the same from what can be reached."""
    make()  # what is imported or kept at the first use is no memory's
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        memory = make()
        gc.collect()
        traced = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    tensors, others = reached(memory)
    return memory, traced + tensors, others + tensors


def assert_counted(make: Callable[[int], Any], small: int, large: int, *, traced: bool = True) -> None:
    """What a larger memory takes more is what it counts more.

    :param traced: by what Python allocated; a torch call leaves some 60 bytes behind, which matters to what writes many
        times. Otherwise by what can be reached from the memory.
    """
    for tries_left in (2, 1, 0):
        (one, *less), (other, *more) = (taken(lambda size=size: make(size)) for size in (small, large))
        counted = other.nbytes - one.nbytes
        assert counted >= GROWN
        grown = [b - a for a, b in list(zip(less, more, strict=True))[0 if traced else 1 :]]
        # Whatever else the process lets go of or takes meanwhile is traced, too: then it is measured once more.
        if grown == [pytest.approx(counted, rel=0.02)] * len(grown) or not tries_left:
            break
    assert grown == [pytest.approx(counted, rel=0.02)] * len(grown)


def rows(memory: RandomMemory, *, classes: int = 10, targets: bool = False) -> RandomMemory:
    """Twice the capacity in as many writes whatever it is, class after class, then all at once."""
    batch = memory.capacity // 4
    for step in range(8):
        x = torch.rand(batch, WIDTH)
        y = torch.arange(batch) % (classes if step > 4 else -(-classes * (step + 1) // 5))
        told = {"logits": torch.rand(batch, 10), "loss": torch.rand(batch)}
        told = {name: value for name, value in told.items() if name in memory.needs}
        memory.write(x, torch.rand(batch, 3).double() if targets else y, 0, origin=step, **told)
        memory.sample(32)
    memory.sample(memory.capacity)
    return memory


@pytest.mark.parametrize("read", ["uniform", "cycle", "class_balanced", "task_balanced"])
@pytest.mark.parametrize("policy", ["ring", "reservoir", "class_balanced", "task_balanced"])
def test_of_every_policy(policy: str, read: str) -> None:
    options: dict[str, Any] = {"write_policy": policy, "read_policy": read, "labels": "uint8", "store_tasks": False}
    assert_counted(lambda n: rows(RandomMemory(n, codec=Bits(1), **options)), 2_000, 40_000)


def test_of_many_classes() -> None:
    options: dict[str, Any] = {"write_policy": "class_balanced", "read_policy": "class_balanced"}
    assert_counted(lambda n: rows(RandomMemory(20_000, codec=Bits(1), **options), classes=n), 10, 5_000)


class Tiny(nn.Module):
    """An auto-encoder of rows of 16 numbers."""

    code_size = 3

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(WIDTH, 3), nn.Linear(3, WIDTH)

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z).sigmoid()


class Backwards(Ring):
    """Fills the memory from its end."""

    def place(self, *args: Any) -> list[Placement]:
        placed = super().place(*args)
        indices = [(torch.arange(self.capacity)[slots], rows) for rows, slots in placed if slots.stop < self.capacity]
        return [Placement(torch.arange(rows.start, rows.stop), self.capacity - 1 - slots) for slots, rows in indices]


CODECS: dict[str, Callable[[], Codec]] = {
    "raw": Raw,
    "float16": Float16,
    "uint8": lambda: Uint8(lossy=True),
    "int8": Int8,
    "1bit": lambda: Bits(1),
    "2bit": lambda: Bits(2),
    "4bit": lambda: Bits(4),
    "latent": lambda: LatentCodec(Tiny(), code_mean=torch.zeros(3), code_std=torch.ones(3)),
}


@pytest.mark.parametrize("codec", CODECS)
def test_of_every_codec(codec: str) -> None:
    assert_counted(lambda n: rows(RandomMemory(n, codec=CODECS[codec]())), 1_000, 20_000)


def images(memory: RandomMemory) -> RandomMemory:
    for _ in range(2):
        memory.write(torch.rand(memory.capacity, 1, 8, 8), torch.arange(memory.capacity) % 10)
    memory.sample(32)
    return memory


def generated(memory: Any, classes: int) -> Any:
    x = torch.rand(4 * classes, WIDTH)
    y = torch.arange(4 * classes) % classes
    if hasattr(memory, "write"):
        memory.write(x, y)
    else:
        memory.consolidate([(x, y, 0)], origin=0)
    memory.sample(2 * classes)
    return memory


def machine() -> KanervaMachine:
    class RowMachine(KanervaMachine):
        def __init__(self) -> None:
            super().__init__(code_size=6, rows=8, address_size=2, key_size=4, width=1)
            self.encoder, self.decoder = nn.Linear(WIDTH, 8), nn.Linear(6, WIDTH)

    return RowMachine()


def energy(slots: int, **options: Any) -> EnergyMemory:
    network = GatedEnergy(WIDTH, writable=2, width=4, write_steps=1, read_steps=1)
    memory = EnergyMemory(network, slots=slots, slot_size=4, **options)
    memory.write(torch.rand(4 * slots, WIDTH), torch.arange(4 * slots) % 10)
    memory.sample(9)
    return memory


def vae(hidden: int) -> VAEMemory:
    network = ConditionalVAE((WIDTH,), code_size=4, hidden=(hidden,), classes=None, likelihood="gaussian")
    return VAEMemory(network, steps=2, batch_size=4)


def latent(capacity: int) -> LatentMemory:
    memory = LatentMemory(capacity, codec=StreamCodec(Tiny(), steps=2))
    for origin in range(2):
        memory.consolidate([(torch.rand(capacity, WIDTH), torch.arange(capacity) % 10, 0)], origin=origin)
    memory.sample(9)
    return memory


def associative(memory: Any, episodes: int) -> Any:
    patterns = (torch.rand(episodes, 6, WIDTH) > 0.5).float()
    memory.write(patterns[:, :4])
    memory.write(patterns[:, 4:])
    memory.read(patterns[:, :2])
    return memory


def dictionary(capacity: int) -> DifferentiableNeuralDictionary:
    memory = DifferentiableNeuralDictionary(3, capacity, WIDTH)
    memory.write(torch.rand(50, WIDTH), torch.arange(50) % 3, torch.ones(50))
    memory.read(torch.rand(4, WIDTH))
    return memory


MEMORIES: dict[str, tuple[Callable[[int], Any], int, int]] = {
    "downsampled images": (lambda n: images(RandomMemory(n, codec=Downsampled(4, Bits(4)))), 1_000, 8_000),
    "logits": (lambda n: rows(RandomMemory(n, store_logits=True)), 1_000, 4_000),
    "keys": (lambda n: rows(RandomMemory(n, embedding=nn.Linear(WIDTH, 4))), 1_000, 4_000),
    "targets": (lambda n: rows(RandomMemory(n), targets=True), 1_000, 4_000),
    "gaps": (lambda n: rows(RandomMemory(n, write_policy=Backwards())), 1_000, 8_000),
    "hardest": (lambda n: rows(RandomMemory(n, write_policy=Hardest("class"))), 1_000, 8_000),
    "herding": (lambda n: rows(RandomMemory(n, write_policy="herding")), 200, 800),
    "gss": (lambda n: rows(RandomMemory(n, write_policy="gss")), 500, 2_000),
    "on the host": (lambda n: rows(RandomMemory(n, storage="host")), 1_000, 4_000),
    "episodic": (lambda n: rows(EpisodicMemory(n)), 1_000, 4_000),
    "latent": (latent, 1_000, 40_000),
    "Gaussian, rank 0": (lambda n: generated(GaussianMemory(rank=0), n), 10, 1_000),
    "Gaussian, rank 4": (lambda n: generated(GaussianMemory(rank=4), n), 10, 200),
    "Gaussian, full": (lambda n: generated(GaussianMemory(rank=None), n), 10, 200),
    "Kanerva": (lambda n: generated(DynamicKanervaMemory(rows=12), n), 10, 100),
    "Kanerva, shared": (lambda n: generated(DynamicKanervaMemory(rows=12, share="all"), n), 10, 400),
    "Kanerva machine": (lambda n: generated(KanervaMemory(machine()), n), 10, 200),
    "energy, cues": (lambda n: energy(n, cue=Uint8(lossy=True)), 10, 400),
    "energy, by class": (lambda n: energy(n, by_class=True, precision="int8"), 10, 700),
    "VAE, wide": (lambda n: generated(vae(n), 4), 10, 800),
    "VAE, many classes": (lambda n: generated(vae(8), n), 10, 500),
    **{name: (lambda n, name=name: associative(made(name, WIDTH), n), 2, 300) for name in NAMES},  # type: ignore[misc]
    "modern Hopfield, 1bit": (
        lambda n: associative(ModernHopfieldMemory(WIDTH, beta=1.0, codec=Bits(1)), n),
        20,
        4_000,
    ),
    "dictionary": (dictionary, 100, 600),
}


# As many writes as there are slots, classes or blocks of rows.
WRITE_OFTEN = ("energy, cues", "energy, by class", "Kanerva, shared", "latent")


@pytest.mark.parametrize("name", MEMORIES)
def test_of_every_memory(name: str) -> None:
    assert_counted(*MEMORIES[name], traced=name not in WRITE_OFTEN)
