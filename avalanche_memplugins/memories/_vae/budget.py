"""Networks within a budget."""

from __future__ import annotations

from typing import Any

import torch

from avalanche_memplugins.networks.conditional_vae import ConditionalVAE


def widest_network(nbytes: int, shape: tuple[int, ...], *, beside: int, seed: int, **options: Any) -> ConditionalVAE:
    """The network with the widest two hidden layers that stays within a budget.

    :param nbytes: the budget.
    :param shape: of one row.
    :param beside: bytes of the budget that something else takes.
    :param seed: of the weights.
    :param options: the other arguments of the network.
    :raises ValueError: if not even layers of one unit fit.
    """

    def takes(width: int) -> int:
        with torch.device("meta"):
            network = ConditionalVAE(shape, hidden=(width, width), **options)
        return beside + sum(p.nbytes for p in network.parameters())

    low, high = 0, nbytes
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if takes(middle) <= nbytes else (low, middle - 1)
    if low == 0:
        raise ValueError(f"nbytes: expected at least the {takes(1)} bytes that layers of one unit take, got {nbytes}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConditionalVAE(shape, hidden=(low, low), **options)
