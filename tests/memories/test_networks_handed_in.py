"""A network that is handed in is copied: it stays as it was, and what becomes of it later changes no memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avalanche_memplugins.codecs import LatentCodec
from avalanche_memplugins.memories import DynamicKanervaMemory, EnergyMemory, GaussianMemory, KanervaMemory, VAEMemory
from avalanche_memplugins.memories.comparators import SlotMemory
from avalanche_memplugins.networks import (
    MLPVAE,
    ConditionalVAE,
    DynamicKanervaMachine,
    FrozenEncoder,
    KanervaMachine,
    MemoryNetwork,
)
from avalanche_memplugins.networks.energy import GatedEnergy


def x(shape: tuple[int, ...], rows: int = 6) -> Tensor:
    return torch.rand(rows, *shape, generator=torch.Generator().manual_seed(0))


def sampled(memory: Any, shape: tuple[int, ...]) -> Callable[[], Any]:
    if hasattr(memory, "consolidate"):
        memory.consolidate([(x(shape), torch.arange(6) % 2, 0)], origin=0)
    else:
        memory.write(x(shape), torch.arange(6) % 2)
    return lambda: copy.deepcopy(memory).sample(4).x


def associative(network: MemoryNetwork) -> Callable[[], Any]:
    memory = SlotMemory(network)
    memory.write(x((1, 8)))
    return lambda: memory.read(x((1, 8)))


def codec(network: nn.Module) -> LatentCodec:
    return LatentCodec(network, code_mean=torch.zeros(3), code_std=torch.ones(3))


def encoder(network: nn.Module) -> Callable[[], Any]:
    frozen = FrozenEncoder(network)
    return lambda: frozen(x(PIXELS))


def mlp() -> MLPVAE:
    return MLPVAE(3, hidden=4, size=3)


PIXELS = (1, 3, 3)
IMAGE = (1, 28, 28)
MADE: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Callable[[], Any]]]] = {
    "energy": (
        lambda: GatedEnergy(8, writable=2, width=4, write_steps=1, read_steps=1),
        lambda network: sampled(EnergyMemory(network, slots=4, slot_size=2, seed=0), (8,)),
    ),
    "VAE": (
        lambda: ConditionalVAE((8,), code_size=3, hidden=(4,), classes=2),
        lambda network: sampled(VAEMemory(network, steps=2, batch_size=4, seed=0), (8,)),
    ),
    "Kanerva": (
        lambda: KanervaMachine(code_size=3, rows=2, width=1),
        lambda network: sampled(KanervaMemory(network, seed=0), IMAGE),
    ),
    "dynamic Kanerva": (
        lambda: DynamicKanervaMachine(code_size=3, rows=2, width=1),
        lambda network: sampled(DynamicKanervaMemory.from_machine(network, seed=0), IMAGE),
    ),
    "codec": (mlp, lambda network: sampled(GaussianMemory(codec=codec(network), seed=0), PIXELS)),
    "slots": (lambda: MemoryNetwork(8, 3, hidden=4), associative),
    "encoder": (mlp, encoder),
}


@pytest.mark.parametrize("name", MADE)
def test_the_network_stays_the_callers(name: str) -> None:
    make, use = MADE[name]
    torch.manual_seed(0)
    network = make().train()
    first = next(network.parameters()).requires_grad_(False)
    modes = [module.training for module in network.modules()]
    wanted = [parameter.requires_grad for parameter in network.parameters()]
    weights = [(parameter, parameter.clone()) for parameter in network.parameters()]
    look = use(network)
    before = look()
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == wanted
    assert not first.requires_grad
    for (one, value), other in zip(weights, network.parameters(), strict=True):
        assert other is one
        assert torch.equal(other, value)
    with torch.no_grad():  # what training it further would do
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert torch.equal(look(), before)
    network.requires_grad_(True)
    assert torch.equal(look(), before)


def test_each_memory_counts_its_own_copy() -> None:
    network = GatedEnergy(8, writable=2, width=4, write_steps=1, read_steps=1)
    memories = [EnergyMemory(network, slots=4, slot_size=2) for _ in range(2)]
    bytes_of_it = sum(parameter.nbytes for parameter in network.parameters())
    assert [memory.nbytes_fixed for memory in memories] == [bytes_of_it] * 2
    assert memories[0].network is not memories[1].network
