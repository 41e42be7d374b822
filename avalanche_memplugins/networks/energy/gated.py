"""The gated-hop energy: one writable linear layer, gated refinements of a state, a linear energy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.energy import Weights
from avalanche_memplugins.networks.energy.base import EnergyNetwork
from avalanche_memplugins.networks.energy.hops import GatedHops
from avalanche_memplugins.networks.energy.whitening import Whitening


class GatedEnergy(EnergyNetwork):
    r"""Energy of flat patterns: writable and static linear layers side by side, gated hops, a linear read-out.

    .. math::
        u = 2x - 1 \text{ or whitened}, \quad e = \tanh \mathrm{LN}([u W + b \mid u S + c]), \quad
        s_0 = e, \; (z, q) = e G + s_j V, \; s_{j+1} = (1 - \sigma(z)) s_j + \sigma(z) \tanh \mathrm{LN}(q), \quad
        E = e^{\lambda} s_L^\top o

    :math:`W` and :math:`b` are written, ``(D + 1) * writable`` numbers; in the first hop, where the state is
    :math:`e` itself, :math:`G` stands for both matrices.

    :param shape: of one pattern; it is flattened to D numbers in [0, 1].
    :param writable: columns of :math:`W`, >= 1.
    :param width: of the state, > ``writable``.
    :param hops: >= 1.
    :param whitening: coordinates of images; None: the pattern, from 0 to 1 stretched to -1 to 1.
    :param rank: of a whitening whose weights are yet to be loaded; not with ``whitening``.
    :param steps: see :class:`EnergyNetwork`: ``write_steps``, ``read_steps``, ``write_rate``, ``slope_rate``,
        ``deviation_rate``, ``read_rate``; 0.5 for the last for whitened images.
    :raises ValueError: for numbers out of range.

    Source: Bartunov et al. 2020, appendix on random strings (hidden 1024, 5 hops there).

    >>> network = GatedEnergy((1, 4, 4), writable=2, width=8)
    >>> x = torch.rand(1, 3, 1, 4, 4)  # an episode of three
    >>> network.read(0.5 * x, network.write(x))[-1].shape
    torch.Size([1, 3, 1, 4, 4])
    """

    def __init__(
        self,
        shape: Sequence[int] | int,
        *,
        writable: int = 64,
        width: int = 128,
        hops: int = 1,
        whitening: Whitening | None = None,
        rank: int | None = None,
        **steps: Any,
    ) -> None:
        shape = (check.positive_integer("shape", shape),) if isinstance(shape, int) else check.integers("shape", shape)
        check.positive_integers(writable=writable, width=width, hops=hops)
        if whitening is not None:
            check.instance("whitening", whitening, Whitening, "a Whitening or None")
        if not 1 <= writable < width:
            raise ValueError(f"writable: expected 1 to width - 1 = {width - 1}, got {writable}")
        size = math.prod(shape)
        if rank is not None:
            if whitening is not None:
                raise ValueError("rank: expected None beside whitening, got both")
            whitening = Whitening.empty(size, rank)
        inner = size if whitening is None else whitening.into.shape[1]
        scale = 1 / math.sqrt(inner)
        super().__init__(
            shape,
            {
                "memory_weight": torch.randn(1, inner, writable) * scale,
                "memory_bias": torch.zeros(1, 1, writable),
            },
            **steps,
        )
        self.whitening = whitening
        self.static = nn.Linear(inner, width - writable)
        nn.init.normal_(self.static.weight, std=scale)
        self.norm_scale = nn.Parameter(torch.ones(width))
        self.norm_shift = nn.Parameter(torch.zeros(width))
        self.hops = GatedHops(width, hops)
        self.out = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self._width, self._hops, self._writable_columns = width, hops, writable

    def energy(self, x: Tensor, weights: Weights) -> Tensor:
        """Energies ``(E, N)`` of patterns ``(E, N, *shape)``."""
        self._check_patterns("x", x)
        self._check_weights(weights)
        weight, bias = weights
        flat = x.flatten(2)
        u = 2 * flat - 1 if self.whitening is None else self.whitening(flat)
        h = torch.cat([torch.baddbmm(bias, u, weight), self.static(u)], -1)
        e = layer_norm(h, h.shape[-1:], self.norm_scale, self.norm_shift).tanh()
        energies: Tensor = self.hops(e) @ self.out * self.log_scale.exp()
        return energies

    def precondition(self, slope: Tensor) -> Tensor:
        """The gradient itself, or turned back into a pattern if the network whitens."""
        check.floats(slope=slope)
        if self.whitening is None:
            return slope
        turned: Tensor = self.whitening.precondition(slope.flatten(2))
        return turned.view_as(slope)

    def architecture(self) -> dict[str, Any]:
        """Arguments that make a network like this, its weights aside."""
        return {
            "shape": list(self.shape),
            "writable": self._writable_columns,
            "width": self._width,
            "hops": self._hops,
            "rank": None if self.whitening is None else self.whitening.into.shape[1],
            **self.step_counts(),
        }
