"""A tiny energy memory, rows for it, and looks into it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins.memories import EnergyMemory
from avalanche_memplugins.networks.energy import EnergyNetwork, GatedEnergy

FLOATS = 3 * (16 + 1)  # of a slot of the tiny network


def tiny(shape: Any = (1, 4, 4), seed: int = 0, **options: Any) -> GatedEnergy:
    torch.manual_seed(seed)
    defaults: dict[str, Any] = {"write_steps": 2, "read_steps": 2, "write_rate": 1.0, "read_rate": 0.3}
    return GatedEnergy(shape, writable=3, width=8, **{**defaults, **options})


def rows(n: int = 12, seed: int = 0, classes: int = 3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 4, 4, generator=g), torch.arange(n) % classes


def batches(*, classes: tuple[int, ...], n: int = 40, seed: int = 0, t: int = 0, size: int = 16) -> list[Any]:
    """Batches of an experience, nine rows in ten of the first of its classes."""
    x = rows(n, seed=seed)[0]
    y = torch.where(torch.arange(n) % 10 == 9, classes[-1], classes[0])
    return [(x[i : i + size], y[i : i + size], t) for i in range(0, n, size)]


def memory(network: EnergyNetwork | None = None, **options: Any) -> EnergyMemory:
    defaults: dict[str, Any] = {"slots": 4, "slot_size": 4, "precision": "float32", "seed": 3}
    return EnergyMemory(tiny() if network is None else network, **{**defaults, **options})


def read_alone(mine: EnergyMemory, cue: Tensor, slot: int, **options: Any) -> Tensor:
    with torch.no_grad():
        shaped = cue.view(1, 1, *mine.network.shape)
        return mine.network.read(shaped, mine.weights(torch.tensor([slot])), **options)[-1].flatten()


def snapshot(mine: EnergyMemory) -> dict[str, Any]:
    return copy.deepcopy(dict(mine.state_dict()))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)
