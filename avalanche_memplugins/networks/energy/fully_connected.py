"""The paper's fully connected memory for images."""

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
from avalanche_memplugins.networks.energy.blocks import ReadOut, SmoothBlock
from avalanche_memplugins.networks.energy.hops import GatedHops


class FullyConnectedEnergy(EnergyNetwork):
    r"""Energy of images by a static convolutional encoder and a writable fully connected layer.

    Three residual blocks of stride 2, a linear layer to ``code`` numbers with layer normalisation, then
    :math:`e = \tanh \mathrm{LN}[h W + b \mid h S + c]` with :math:`W, b` written, ``(code + 1) * writable`` numbers,
    gated hops, and a read-out of one hidden layer. Meant for long trainings: none of the networks that come with the
    library is of this kind.

    :param shape: of an image, ``(C, H, W)``.
    :param writable: columns of :math:`W`.
    :param code: width behind the encoder.
    :param width: of the state, > ``writable``.
    :param hops: >= 1.
    :param channels: of the three blocks.
    :param hidden: units of the read-out.
    :param steps: see :class:`EnergyNetwork`: ``write_steps``, ``read_steps``, ``write_rate``, ``slope_rate``,
        ``deviation_rate``, ``read_rate``.
    :raises ValueError: for numbers out of range.

    Source: Bartunov et al. 2020, section 4 and appendix (32, 64, 96 channels, code 256, width 512, 3 hops, 1024 units).

    >>> network = FullyConnectedEnergy((1, 8, 8), writable=2, code=4, width=8, hops=1, channels=(4,), hidden=8)
    >>> network.energy(torch.rand(1, 3, 1, 8, 8), network.initial).shape
    torch.Size([1, 3])
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        *,
        writable: int = 32,
        code: int = 256,
        width: int = 512,
        hops: int = 3,
        channels: Sequence[int] = (32, 64, 96),
        hidden: int = 1024,
        **steps: Any,
    ) -> None:
        if len(check.integers("shape", shape)) != 3:
            raise ValueError(f"shape: expected (C, H, W), got {tuple(shape)}")
        check.integers("channels", channels)
        sizes = {"writable": writable, "code": code, "width": width, "hops": hops, "hidden": hidden}
        check.positive_integers(**sizes)
        if not 1 <= writable < width:
            raise ValueError(f"writable: expected 1 to width - 1 = {width - 1}, got {writable}")
        weight = torch.randn(1, code, writable) / math.sqrt(code)
        memory = {"memory_weight": weight, "memory_bias": torch.zeros(1, 1, writable)}
        super().__init__(tuple(shape), memory, **steps)
        self._sizes = sizes
        self._channels = list(channels)
        blocks, side = [], (shape[1], shape[2])
        for before, after in zip((shape[0], *channels[:-1]), channels, strict=True):
            blocks.append(SmoothBlock(before, after))
            side = (-(-side[0] // 2), -(-side[1] // 2))
        self.encoder = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(channels[-1] * side[0] * side[1], code))
        self.norm = nn.LayerNorm(code)
        self.static = nn.Linear(code, width - writable)
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.hops = GatedHops(width, hops)
        self.out = ReadOut(width, hidden)

    def energy(self, x: Tensor, weights: Weights) -> Tensor:
        """Energies ``(E, N)`` of images ``(E, N, C, H, W)``, or flat ``(E, N, C * H * W)``."""
        self._check_patterns("x", x)
        self._check_weights(weights)
        weight, bias = weights
        h = self.norm(self.encoder(2 * x.reshape(-1, *self.shape) - 1)).view(*x.shape[:2], -1)
        both = torch.cat([torch.baddbmm(bias, h, weight), self.static(h)], -1)
        e = layer_norm(both, both.shape[-1:], self.scale, self.shift).tanh()
        energies: Tensor = self.out(self.hops(e))
        return energies

    def architecture(self) -> dict[str, Any]:
        """Arguments that make a network like this, its weights aside."""
        return {"shape": list(self.shape), **self._sizes, "channels": self._channels, **self.step_counts()}
