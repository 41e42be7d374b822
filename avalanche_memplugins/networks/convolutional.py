"""Small convolutional encoder and decoder for square images of 28 or 32 pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check

SIZES = (28, 32)


class ConvEncoder(nn.Module):
    """Three strided convolutions and a linear map: image -> features.

    :param channels: of the image, >= 1.
    :param size: height and width, 28 or 32 pixels.
    :param features: of the output.
    :param width: channels after the first convolution; they double twice.
    :raises ValueError: for another size.
    """

    def __init__(self, *, channels: int, size: int, features: int, width: int) -> None:
        super().__init__()
        check_size(size)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 4 * width, 3, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(4 * width * 16, features),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, features)`` of images ``(B, C, H, W)`` in [0, 1]."""
        features: Tensor = self.layers(2 * x - 0.5)
        return features


class ConvDecoder(nn.Module):
    """A linear map and three transposed convolutions: code -> logits of an image.

    :param code_size: of the input.
    :param channels: of the image.
    :param size: height and width, 28 or 32 pixels.
    :param width: channels before the last convolution.
    :param bias: first value of every logit: below 0 for images that are mostly dark.
    :raises ValueError: for another size.
    """

    def __init__(self, *, code_size: int, channels: int, size: int, width: int, bias: float) -> None:
        super().__init__()
        check_size(size)
        self.width = width
        self.project = nn.Linear(code_size, 4 * width * 16)
        last = nn.ConvTranspose2d(width, channels, 4, 2, 1)
        nn.init.constant_(last.bias if last.bias is not None else torch.zeros(0), bias)
        # 4 -> 7 or 8 pixels, then twice as many, twice.
        first = nn.ConvTranspose2d(4 * width, 2 * width, 3 if size == 28 else 4, 2, 1)
        self.layers = nn.Sequential(
            nn.SiLU(),
            first,
            nn.SiLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            nn.SiLU(),
            last,
        )

    def forward(self, code: Tensor) -> Tensor:
        """Logits ``(B, C, H, W)`` for codes ``(B, code_size)``."""
        logits: Tensor = self.layers(self.project(code).view(-1, 4 * self.width, 4, 4))
        return logits


def check_size(size: int) -> int:
    """``size`` if there is a network for it.

    :raises ValueError: if not.
    """
    if check.integer("size", size) not in SIZES:
        raise ValueError(f"size: expected an image of 28 or 32 pixels a side, got {size}")
    return size
