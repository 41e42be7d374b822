"""Gated refinements of a state vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from avalanche_memplugins import _checks as check

MAX_HOPS = 100


class GatedHops(nn.Module):
    r"""A gated recurrence over hops, twice differentiable.

    .. math::
        (z, q) = G e + g + V s_j, \qquad s_{j+1} = s_j + \sigma(z) (\tanh \mathrm{LN}(q) - s_j), \qquad s_0 = e

    In the first hop :math:`V s_0` is left out: the state is :math:`e` itself, so that :math:`G` covers it.

    :param width: of state and input.
    :param hops: 1 to 100.
    :raises ValueError: for other hops.

    Source: Bartunov et al. 2020, appendix: skip connections and gates let the backward pass refine the gradient.
    """

    def __init__(self, width: int, hops: int) -> None:
        super().__init__()
        check.integer("hops", hops, least=1, most=MAX_HOPS)
        self.count = hops
        self.into = nn.Linear(width, 2 * width)
        nn.init.normal_(self.into.weight, std=1 / math.sqrt(width))
        nn.init.zeros_(self.into.bias)
        again = torch.randn(2 * width, width) / math.sqrt(width)
        self.again = nn.Parameter(again) if hops > 1 else None
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, e: Tensor) -> Tensor:
        """State ``(..., width)`` after the hops, of inputs ``(..., width)``."""
        base, state = self.into(e), e
        for hop in range(self.count):
            both = base if hop == 0 or self.again is None else base + linear(state, self.again)
            gate, candidate = both.chunk(2, -1)
            candidate = layer_norm(candidate, candidate.shape[-1:], self.scale, self.shift).tanh()
            state = torch.lerp(state, candidate, gate.sigmoid())
        return state
