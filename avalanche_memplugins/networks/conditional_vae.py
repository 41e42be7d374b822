"""Fully connected variational auto-encoder for replay, with or without classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Size, Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.divergences import bernoulli_nll, gaussian_nll, kl_standard_normal
from avalanche_memplugins.networks.vae import VAEBound, drawn_code


class ConditionalVAE(nn.Module):
    r"""The generator of deep generative replay: :math:`p(z) = \mathcal N(0, I)`, layers of ReLU both ways.

    .. math:: -\log p(x | y) \le -\mathbb E_{q(z|x, y)} \log p(x|z, y) + \mathrm{KL}(q(z|x, y) \,\|\, \mathcal N(0, I))

    With ``classes`` the first layers of encoder and decoder add a learned vector for the class (what a one-hot
    label beside the input amounts to), so z need not say which class a row is of, and a class can be asked for.

    :param shape: of one row: ``(C, H, W)`` or ``(width,)``.
    :param code_size: of z, >= 1.
    :param hidden: widths of the encoder's hidden layers; the decoder mirrors them.
    :param classes: how many classes it can be conditioned on, by index; None: it knows no classes.
    :param likelihood: of a row: ``"bernoulli"`` for pixels in [0, 1]; or ``"gaussian"`` with one learned
        variance a dimension, for codes and features.
    :raises ValueError: for sizes below 1.

    Source: van de Ven & Tolias, "Three scenarios for continual learning", 2019 (2 x 400, z of 100); conditional:
    Sohn, Lee & Yan, "Learning structured output representation", 2015.

    >>> vae = ConditionalVAE((1, 4, 4), code_size=3, hidden=(8,), classes=2)
    >>> vae.decode(torch.zeros(2, 3), torch.tensor([0, 1])).shape
    torch.Size([2, 1, 4, 4])
    """

    log_variance: nn.Parameter | None

    def __init__(
        self,
        shape: Sequence[int],
        *,
        code_size: int = 100,
        hidden: Sequence[int] = (400, 400),
        classes: int | None = None,
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
    ) -> None:
        super().__init__()
        check.integers("shape", shape)
        check.integers("hidden", hidden)
        check.positive_integer("code_size", code_size)
        if classes is not None:
            check.positive_integer("classes", classes)
        check.choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        self.shape, self.code_size, self.classes = Size(shape), code_size, classes
        self.likelihood = likelihood
        self._kwargs = {
            "shape": list(shape), "code_size": code_size, "hidden": list(hidden), "classes": classes,
            "likelihood": likelihood,
        }  # fmt: skip
        width = math.prod(shape)
        self.encoder = _Layers([width, *hidden, 2 * code_size], classes)
        self.decoder = _Layers([code_size, *reversed(hidden), width], classes)
        self.log_variance = nn.Parameter(torch.zeros(self.shape)) if likelihood == "gaussian" else None

    def architecture(self) -> dict[str, Any]:
        """Arguments that make the same network again."""
        return dict(self._kwargs)

    def posterior(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance ``(B, code_size)`` of q(z|x, y).

        :param x: ``(B, *shape)``.
        :param y: indices of the classes ``(B,)``, needed if and only if there are classes.
        """
        check.sized("x", x, self.shape.numel())
        mean, log_variance = self.encoder(x.flatten(1), y).chunk(2, -1)
        return mean, log_variance

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Mean code ``(B, code_size)``."""
        return self.posterior(x, y)[0]

    def decode(self, code: Tensor, y: Tensor | None = None) -> Tensor:
        """Mean row ``(B, *shape)`` of p(x|z, y)."""
        check.rows("code", code, (self.code_size,))
        out: Tensor = self.decoder(code, y).view(-1, *self.shape)
        return torch.sigmoid(out) if self.likelihood == "bernoulli" else out

    def bound(self, x: Tensor, y: Tensor | None = None, *, generator: torch.Generator | None = None) -> VAEBound:
        """Negative bound in nats a row, with one sample of z for each.

        :param x: ``(B, *shape)``.
        :param y: indices of the classes ``(B,)``, needed if and only if there are classes.
        :param generator: for the sample, on the device of ``x``; torch's own if None.
        """
        mean, log_variance = self.posterior(x, y)
        out = self.decoder(drawn_code(mean, log_variance, generator), y).view_as(x)
        if self.log_variance is None:
            reconstruction = bernoulli_nll(out, x)
        else:
            reconstruction = gaussian_nll(out, self.log_variance, x)
        return VAEBound(reconstruction, kl_standard_normal(mean, log_variance))


def _check_classes(y: Tensor, rows: int, classes: int) -> None:
    if check.tensor("y", y).is_floating_point() or y.dtype == torch.bool or y.shape != (rows,):
        raise ValueError(f"y: expected integers ({rows},), got {y.dtype} {tuple(y.shape)}")
    # Looked at on the CPU only, where nobody waits for them.
    if not y.is_cuda and rows:
        low, high = (int(end) for end in y.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(f"y: expected classes from 0 to {classes - 1}, got {low} to {high}")


class _Layers(nn.Module):
    def __init__(self, widths: Sequence[int], classes: int | None) -> None:
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.label = None if classes is None else nn.Embedding(classes, widths[1])
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.1)

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        if (self.label is None) != (y is None):
            wanted = "None, as the network has no classes" if y is not None else "classes (B,), as the network has some"
            raise ValueError(f"y: expected {wanted}, got {check.show(y)}")
        if self.label is not None and y is not None:
            _check_classes(y, len(x), self.label.num_embeddings)
        for place, layer in enumerate(self.linear):
            x = layer(x) if place == 0 else layer(torch.relu(x))
            if place == 0 and self.label is not None:
                x = x + self.label(y)
        return x
