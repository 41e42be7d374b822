"""The paper's convolutional memory for images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.energy import Weights
from avalanche_memplugins.networks.energy.base import EnergyNetwork
from avalanche_memplugins.networks.energy.blocks import ReadOut, SmoothBlock, channel_norm
from avalanche_memplugins.networks.energy.hops import MAX_HOPS


class ConvolutionalEnergy(EnergyNetwork):
    r"""Energy of images with two convolutions that are written.

    Two residual blocks of stride 2; two bottlenecks, each with a 3 x 3 convolution of which ``writable`` channels are
    written and the others static, layer normalisation and tanh, the second halving the image; gated hops of
    convolutions on the state; a read-out. A slot has ``2 * writable * (9 * bottleneck + 1)`` numbers.

    :param shape: of an image, ``(C, H, W)``.
    :param writable: written channels of each bottleneck, < ``width``.
    :param channels: of the two residual blocks.
    :param width: of bottlenecks' output and state.
    :param bottleneck: channels that the written convolutions see.
    :param hops: >= 1.
    :param hidden: units of the read-out.
    :param steps: see :class:`EnergyNetwork`: ``write_steps``, ``read_steps``, ``write_rate``, ``slope_rate``,
        ``deviation_rate``, ``read_rate``.
    :raises ValueError: for numbers out of range.

    Source: Bartunov et al. 2020, section 4 and appendix (32, 64 channels, width 128, bottleneck 64, 3 hops, 1024
    units).

    >>> network = ConvolutionalEnergy((1, 8, 8), writable=2, channels=(4, 4), width=8, bottleneck=4, hops=1, hidden=8)
    >>> network.energy(torch.rand(1, 3, 1, 8, 8), network.initial).shape
    torch.Size([1, 3])
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        *,
        writable: int = 8,
        channels: Sequence[int] = (32, 64),
        width: int = 128,
        bottleneck: int = 64,
        hops: int = 3,
        hidden: int = 1024,
        **steps: Any,
    ) -> None:
        if len(check.integers("shape", shape)) != 3:
            raise ValueError(f"shape: expected (C, H, W), got {tuple(shape)}")
        check.integers("channels", channels, count=2)
        sizes = {"writable": writable, "width": width, "bottleneck": bottleneck, "hops": hops, "hidden": hidden}
        check.positive_integers(**sizes)
        if not 1 <= writable < width:
            raise ValueError(f"writable: expected 1 to width - 1 = {width - 1}, got {writable}")
        check.integer("hops", hops, least=1, most=MAX_HOPS)
        memory = {}
        for i in range(2):
            memory[f"memory_weight{i}"] = torch.randn(1, writable, bottleneck, 3, 3) / math.sqrt(9 * bottleneck)
            memory[f"memory_bias{i}"] = torch.zeros(1, writable)
        super().__init__(tuple(shape), memory, **steps)
        self._sizes = sizes
        self._channels, self._hops = list(channels), hops
        self.encoder = nn.Sequential(SmoothBlock(shape[0], channels[0]), SmoothBlock(channels[0], channels[1]))
        self.narrow = nn.ModuleList(nn.Conv2d(before, bottleneck, 1) for before in (channels[1], width))
        self.static = nn.ModuleList(
            nn.Conv2d(bottleneck, width - writable, 3, stride=stride, padding=1) for stride in (1, 2)
        )
        self.scale, self.shift = nn.Parameter(torch.ones(3, width)), nn.Parameter(torch.zeros(3, width))
        self.into = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.again = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False) if hops > 1 else None
        side = [-(-s // 8) for s in shape[1:]]  # halved three times, rounding up
        self.out = ReadOut(width * side[0] * side[1], hidden)

    def energy(self, x: Tensor, weights: Weights) -> Tensor:
        """Energies ``(E, N)`` of images ``(E, N, C, H, W)``, or flat ``(E, N, C * H * W)``."""
        self._check_patterns("x", x)
        self._check_weights(weights)
        episodes, patterns = x.shape[:2]
        h = self.encoder(2 * x.reshape(-1, *self.shape) - 1)
        for i, (narrow, static) in enumerate(zip(self.narrow, self.static, strict=True)):
            seen = narrow(h)
            written = _own_convolution(seen, weights[2 * i], weights[2 * i + 1], episodes, stride=1 + i)
            h = channel_norm(torch.cat([written, static(seen)], 1), self.scale[i], self.shift[i]).tanh()
        base, state = self.into(h), h
        for hop in range(self._hops):
            both = base if hop == 0 or self.again is None else base + self.again(state)
            gate, candidate = both.chunk(2, 1)
            candidate = channel_norm(candidate, self.scale[2], self.shift[2]).tanh()
            state = torch.lerp(state, candidate, gate.sigmoid())
        energies: Tensor = self.out(state.flatten(1))
        return energies.view(episodes, patterns)

    def architecture(self) -> dict[str, Any]:
        """Arguments that make a network like this, its weights aside."""
        return {"shape": list(self.shape), **self._sizes, "channels": self._channels, **self.step_counts()}


def _own_convolution(x: Tensor, weight: Tensor, bias: Tensor, episodes: int, *, stride: int) -> Tensor:
    """Images ``(E * N, C, H, W)``, those of each episode by its own weights ``(E, d, C, 3, 3)`` and ``(E, d)``."""
    height, width = x.shape[-2:]
    grouped = x.view(episodes, -1, *x.shape[1:]).transpose(0, 1).reshape(-1, episodes * x.shape[1], height, width)
    out = conv2d(grouped, weight.flatten(0, 1), bias.flatten(), stride=stride, padding=1, groups=episodes)
    parted = out.view(len(out), episodes, -1, *out.shape[-2:]).transpose(0, 1)
    return parted.reshape(-1, *parted.shape[2:])
