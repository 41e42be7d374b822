"""``nbytes`` against what a memory really takes, for settings beside those of tests/promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from avalanche_memplugins import GaussianMemory, RandomMemory, VAEMemory
from avalanche_memplugins.codecs import Bits, Downsampled
from avalanche_memplugins.memories import EnergyMemory
from avalanche_memplugins.memories.comparators import ModernHopfieldMemory
from avalanche_memplugins.memories.policies import Hardest, Placement, Ring
from avalanche_memplugins.networks import ConditionalVAE
from avalanche_memplugins.networks.energy import GatedEnergy
from avalanche_memplugins.testing import MemoryCase
from avalanche_memplugins.testing._memory_checks import check_nbytes_counts_what_is_held
from avalanche_memplugins.testing.cases import pixels


class Backwards(Ring):
    """Fills the memory from its end."""

    def place(self, *args: Any) -> list[Placement]:
        placed = super().place(*args)
        indices = [(torch.arange(self.capacity)[slots], rows) for rows, slots in placed if slots.stop < self.capacity]
        return [Placement(torch.arange(rows.start, rows.stop), self.capacity - 1 - slots) for slots, rows in indices]


def rows(name: str, sizes: tuple[int, int] = (1_000, 8_000), **options: Any) -> MemoryCase:
    more = {key: options.pop(key) for key in ("rows", "write") if key in options}
    return MemoryCase(name, lambda n, seed: RandomMemory(n, seed=seed, **options), sizes=sizes, **more)


def bits(read: str, write: str) -> MemoryCase:
    """Rows of two bytes, beside which each byte of a policy counts."""
    options = {"write_policy": write, "read_policy": read, "labels": "uint8", "store_tasks": False}
    return rows(
        f"{write}, {read}",
        (2_000, 40_000),
        write=lambda memory, x, y, origin: memory.write(x, y, 0, origin=origin),
        codec=Bits(1, mean=0.5, std=0.05),
        **options,
    )


def modelled(name: str, make: Callable[..., Any], sizes: tuple[int, int]) -> MemoryCase:
    return MemoryCase(name, lambda n, seed: make(seed=seed), error=None, grows="classes", sizes=sizes)


def vae(hidden: int, seed: int) -> VAEMemory:
    network = ConditionalVAE((8,), code_size=4, hidden=(hidden,), classes=None, likelihood="gaussian")
    return VAEMemory(network, steps=2, batch_size=4, seed=seed)


def energy(capacity: int, seed: int) -> EnergyMemory:
    network = GatedEnergy(8, writable=40, width=64, write_steps=1, read_steps=1)
    return EnergyMemory(
        network, slots=capacity // 4, slot_size=4, by_class=True, precision="int8", mean=0.5, std=0.05, seed=seed
    )


def several_targets(memory: RandomMemory, x: Tensor, y: Tensor, origin: int) -> None:
    memory.write(x, torch.stack([y, y, y], 1).double(), origin=origin)


CASES = [
    bits("uniform", "class_balanced"),
    bits("cycle", "ring"),
    bits("class_balanced", "reservoir"),
    bits("task_balanced", "task_balanced"),
    rows("downsampled images", rows=pixels, codec=Downsampled(4, Bits(4))),
    rows("targets", (1_000, 4_000), write=several_targets),
    rows("gaps", write_policy=Backwards()),
    rows("hardest of each class", write_policy=Hardest("class")),
    modelled("Gaussian, variances", lambda **k: GaussianMemory(rank=0, **k), (10, 1_000)),
    modelled("Gaussian, packed", lambda **k: GaussianMemory(rank=None, precision=6, **k), (10, 400)),
    MemoryCase("VAE, wide", vae, writes="experiences", error=None, sizes=(40, 560)),
    MemoryCase("energy, by class", energy, error=None, sizes=(40, 640), traced=False),  # as many writes as slots
    MemoryCase(
        "modern Hopfield, 1 bit",
        lambda n, seed: ModernHopfieldMemory(16, beta=1.0, codec=Bits(1)),
        rows=lambda n, seed: torch.randint(2, (n, 6, 16), generator=torch.Generator().manual_seed(seed)).float(),
        write=lambda memory, x, y, origin: memory.write(x),
        read=lambda memory, x: memory.read(x[:1].expand(len(memory.held), -1, -1)),
        sizes=(20, 4_000),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_counted_is_what_is_taken(case: MemoryCase) -> None:
    check_nbytes_counts_what_is_held(case)


def test_many_classes_under_a_balanced_policy() -> None:
    options: dict[str, Any] = {"write_policy": "class_balanced", "read_policy": "class_balanced"}
    case = MemoryCase(
        "classes",
        lambda n, seed: RandomMemory(20_000, codec=Bits(1, mean=0.5, std=0.05), seed=seed, **options),
        error=None,
        grows="classes",
        sizes=(10, 5_000),
    )
    check_nbytes_counts_what_is_held(case)
