"""Smooth convolutional blocks: every second derivative is there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu


class SmoothBlock(nn.Module):
    r"""Residual block that halves images: :math:`\mathrm{conv}(\mathrm{silu}(\mathrm{conv}(x))) + \mathrm{skip}(x)`.

    Three by three convolutions, the first with stride 2, and a skip of one by one with stride 2. SiLU stands in for the
    source's nonlinearity: ReLU has no second derivative to learn a write through.

    :param channels: of the input.
    :param out: of the output.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride=2, padding=1)
        self.second = nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(channels, out, 1, stride=2)
        for layer in (self.first, self.second, self.skip):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, out, H/2, W/2)`` of images ``(B, channels, H, W)``."""
        out: Tensor = (self.second(silu(self.first(x))) + self.skip(x)) * 0.5**0.5
        return out


def channel_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Layer normalisation over channels and pixels of images ``(B, C, H, W)``, a scale and shift a channel."""
    normed = layer_norm(x, x.shape[1:])
    return torch.addcmul(shift.view(-1, 1, 1), normed, scale.view(-1, 1, 1))


class ReadOut(nn.Module):
    r"""The energy of features: :math:`w^\top \tanh(W h + b)`.

    :param width: of the features.
    :param hidden: units.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, 1, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """Energies ``(...)`` of features ``(..., width)``."""
        energies: Tensor = self.out(self.hidden(h).tanh())
        return energies.squeeze(-1)
