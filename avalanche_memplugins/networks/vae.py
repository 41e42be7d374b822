"""Variational auto-encoder with convolutions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.divergences import bernoulli_nll, kl_standard_normal
from avalanche_memplugins.networks.convolutional import ConvDecoder, ConvEncoder, check_size


class VAEBound(NamedTuple):
    """Parts of the negative evidence lower bound in nats an image, each ``(B,)``.

    >>> VAEBound(torch.tensor([80.0]), torch.tensor([20.0])).total
    tensor([100.])
    """

    reconstruction: Tensor
    kl: Tensor

    @property
    def total(self) -> Tensor:
        """The bound."""
        return self.reconstruction + self.kl


def drawn_code(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None) -> Tensor:
    """One sample of each Gaussian, through which gradients reach mean and log-variance.

    :param generator: on their device; torch's own if None.
    """
    check.generator("generator", generator)
    noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
    return mean + (0.5 * log_variance).exp() * noise


class VAE(nn.Module):
    r"""Variational auto-encoder: :math:`p(z) = \mathcal N(0, I)`, Gaussian encoder, Bernoulli decoder.

    .. math:: -\log p(x) \le -\mathbb E_{q(z|x)} \log p(x|z) + \mathrm{KL}(q(z|x) \,\|\, \mathcal N(0, I))

    Grey pixels in [0, 1] are taken as expected bits, so the first term is their cross-entropy.

    :param channels: of the image.
    :param size: height and width, 28 or 32 pixels.
    :param code_size: of z.
    :param width: channels of the first convolution.
    :param bias: first value of the decoder's logits.
    :raises ValueError: for a size without a network.

    Source: Kingma & Welling, "Auto-encoding variational Bayes", 2014.

    >>> vae = VAE(code_size=4, width=4)
    >>> vae.encode(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 4])
    """

    def __init__(
        self, *, channels: int = 1, size: int = 28, code_size: int = 32, width: int = 16, bias: float = -2.0
    ) -> None:
        check.positive_integers(channels=channels, code_size=code_size, width=width)
        check_size(size)
        check.number("bias", bias)
        super().__init__()
        self.channels, self.size, self.code_size = channels, size, code_size
        self._kwargs = {"channels": channels, "size": size, "code_size": code_size, "width": width, "bias": bias}
        self.encoder = ConvEncoder(channels=channels, size=size, features=2 * code_size, width=width)
        self.decoder = ConvDecoder(code_size=code_size, channels=channels, size=size, width=width, bias=bias)

    def architecture(self) -> dict[str, Any]:
        """Arguments that make the same network again."""
        return dict(self._kwargs)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance ``(B, code_size)`` of q(z|x) for images ``(B, C, H, W)`` in [0, 1]."""
        check.rows("x", x, (self.channels, self.size, self.size))
        mean, log_var = self.encoder(x).chunk(2, -1)
        return mean, log_var

    def encode(self, x: Tensor) -> Tensor:
        """Mean code ``(B, code_size)``."""
        return self.posterior(x)[0]

    def decode(self, code: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1]."""
        check.rows("code", code, (self.code_size,))
        return torch.sigmoid(self.decoder(code))

    def bound(self, x: Tensor, *, generator: torch.Generator | None = None) -> VAEBound:
        """Negative bound with one sample of z an image.

        :param x: images ``(B, C, H, W)`` in [0, 1].
        :param generator: for the sample; torch's own if None.
        """
        mean, log_var = self.posterior(x)
        logits = self.decoder(drawn_code(mean, log_var, generator))
        return VAEBound(bernoulli_nll(logits, x), kl_standard_normal(mean, log_var))
