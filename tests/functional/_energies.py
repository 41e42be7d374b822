"""Energies with derivatives of every order, and draws in float64 for them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avalanche_memplugins.functional.energy import Energy, Weights

Array = NDArray[np.float64]
EPISODES, PATTERNS, SIZE, ROWS = 3, 4, 5, 2


def draw(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quadratic(x: Tensor, weights: Weights) -> Tensor:
    """E(x; W, b) = |W x - b|^2 / 2 of x ``(E, N, D)`` under W ``(E, M, D)`` and b ``(E, M)``."""
    weight, bias = weights
    return 0.5 * (x @ weight.mT - bias.unsqueeze(1)).square().sum(-1)


def smooth(x: Tensor, weights: Weights, out: Tensor) -> Tensor:
    """An energy with derivatives of every order: two layers of tanh, the first of them written."""
    weight, bias = weights
    h = (x.flatten(2) @ weight + bias.unsqueeze(1)).tanh()
    return (h @ out).tanh().sum(-1)


def with_out(out: Tensor) -> Energy:
    return lambda x, weights: smooth(x, weights, out)
