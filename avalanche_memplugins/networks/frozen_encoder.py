"""The encoder of a trained auto-encoder, as a layer that never learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn


class FrozenEncoder(nn.Module):
    r"""Codes of images, from an auto-encoder that stays as it is: no gradient, always in eval mode.

    What it gives is what latent replay stores: name it in ``MemoryReplayPlugin(memory, at="encoder")``.

    :param autoencoder: has ``encode(x)`` that gives mean codes ``(B, C)``; for ``code="posterior"``
        ``posterior(x)`` that gives their mean and log-variance, too. Its parameters are frozen in place.
    :param code: ``"mean"``: :math:`\mu`, ``(B, C)``; or ``"posterior"``: :math:`(\mu, \log \sigma^2)` side by
        side, ``(B, 2C)``.
    :param mean: of the ``Normalize`` that the images went through, a number or one a channel; undone before
        encoding, since auto-encoders want pixels in [0, 1].
    :param std: of that ``Normalize``.
    :raises ValueError: for an unknown ``code``, or an auto-encoder without the method it takes.
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
        if code not in wanted:
            raise ValueError(f"code: wants 'mean' or 'posterior', got {code!r}")
        if not callable(getattr(autoencoder, wanted[code], None)):
            raise ValueError(
                f"autoencoder: wants a method {wanted[code]}(x) for code={code!r}, got {type(autoencoder).__name__}"
            )
        self.code = code
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).reshape(-1), persistent=False)
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32).reshape(-1), persistent=False)

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
        channels = (-1,) + (1,) * (x.ndim - 2)
        pixels = x * self.std.view(channels) + self.mean.view(channels)
        if self.code == "mean":
            code: Tensor = self.autoencoder.encode(pixels)
            return code
        return torch.cat(self.autoencoder.posterior(pixels), 1)
