"""The encoder of a trained auto-encoder, as a layer that never learns."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check


class FrozenEncoder(nn.Module):
    r"""Codes of images, from an auto-encoder that stays as it is: no gradient, always in eval mode.

    What it gives is what latent replay stores: name it in ``MemoryReplayPlugin(memory, at="encoder")``.

    :param autoencoder: has ``encode(x)`` that gives mean codes ``(B, C)``; for ``code="posterior"``
        ``posterior(x)`` that gives their mean and log-variance, too. It is copied: yours stays as it is.
    :param code: ``"mean"``: :math:`\mu`, ``(B, C)``; or ``"posterior"``: :math:`(\mu, \log \sigma^2)` side by
        side, ``(B, 2C)``.
    :param mean: of the ``Normalize`` that the images went through, a number or one a channel; undone before
        encoding, since auto-encoders take pixels in [0, 1].
    :param std: of that ``Normalize``.
    :raises ValueError: for an unknown ``code``, or an auto-encoder without the method it takes.

    >>> from avalanche_memplugins.networks import MLPVAE
    >>> encoder = FrozenEncoder(MLPVAE(2, hidden=8, size=4), mean=0.5, std=0.5)
    >>> encoder(torch.zeros(3, 1, 4, 4)).shape
    torch.Size([3, 2])
    >>> any(parameter.requires_grad for parameter in encoder.parameters())
    False
    """

    autoencoder: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        autoencoder: nn.Module,
        *,
        code: Literal["mean", "posterior"] = "mean",
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        wanted = {"mean": "encode", "posterior": "posterior"}
        check.choice("code", code, tuple(wanted))
        check.made("autoencoder", autoencoder)
        if not isinstance(autoencoder, nn.Module) or not callable(getattr(autoencoder, wanted[code], None)):
            raise ValueError(
                f"autoencoder: expected a module with a method {wanted[code]}(x) for code={code!r}, got "
                f"{check.show(autoencoder)}"
            )
        means, stds = check.channels("mean", mean), check.channels("std", std, above=0)
        self.code = code
        self.autoencoder = copy.deepcopy(autoencoder).requires_grad_(False).eval()
        self.register_buffer("mean", means, persistent=False)
        self.register_buffer("std", stds, persistent=False)

    @property
    def code_size(self) -> int:
        """C, numbers in a mean code."""
        return int(self.autoencoder.code_size)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Set the mode of this layer; the auto-encoder stays in eval mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Codes ``(B, C)`` or ``(B, 2C)`` of images ``(B, ch, H, W)``."""
        shape = getattr(self.autoencoder, "shape", None)
        if isinstance(shape, tuple):
            check.rows("x", x, shape)
        elif check.batch("x", x).ndim and not x.is_floating_point():
            raise ValueError(f"x: expected floating-point images, got {x.dtype}")
        channels = (-1,) + (1,) * (x.ndim - 2)
        pixels = x * self.std.view(channels) + self.mean.view(channels)
        if self.code == "mean":
            code: Tensor = self.autoencoder.encode(pixels)
            return code
        return torch.cat(self.autoencoder.posterior(pixels), 1)
