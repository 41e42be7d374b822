"""What the Kanerva machines share: the memory's prior, the decoder, and how the parts of the bound are put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.divergences import bernoulli_nll
from avalanche_memplugins.functional.kanerva import matrix_normal_kl
from avalanche_memplugins.networks.convolutional import ConvDecoder, ConvEncoder


class EpisodeBound(NamedTuple):
    """Parts of the negative bound on an episode in nats an image.

    ``reconstruction``, ``kl_item`` ``(E, T)``: given the memory; ``kl_memory`` ``(E,)``: what the memory itself costs,
    shared out over the T images of its episode; ``autoencoder`` ``(E, T)``: without the memory, no part of the bound.

    >>> ones = torch.ones(1, 3)  # an episode of three
    >>> EpisodeBound(ones, ones, torch.ones(1), ones).total
    tensor([[3., 3., 3.]])
    """

    reconstruction: Tensor
    kl_item: Tensor
    kl_memory: Tensor
    autoencoder: Tensor

    @property
    def conditional(self) -> Tensor:
        """The bound on p(x | M), ``(E, T)``: what the papers report; not comparable with a VAE's."""
        return self.reconstruction + self.kl_item

    @property
    def total(self) -> Tensor:
        """The bound on p(X), ``(E, T)``: comparable with a VAE's."""
        return self.conditional + self.kl_memory.unsqueeze(-1)

    def objective(self, memory_cost: float = 1.0, *, autoencoder: float = 0.0) -> Tensor:
        """What to train on, ``(E, T)``: the bound with the memory's divergence at another price.

        At the full price, 1, training soon prices the memory out of use: an episode's images then cost less by
        themselves. At 0 the conditional bound is trained, as the papers do; report ``kl_memory`` beside it.

        :param memory_cost: weight of ``kl_memory``, >= 0.
        :param autoencoder: weight of the images' cost without the memory, >= 0.
        :raises ValueError: for negative weights.
        """
        check.number("memory_cost", memory_cost, least=0)
        check.number("autoencoder", autoencoder, least=0)
        return self.conditional + memory_cost * self.kl_memory.unsqueeze(-1) + autoencoder * self.autoencoder


class KanervaNetwork(nn.Module):
    """A decoder of codes, and a memory of ``rows`` codes with a learned prior; subclasses make all of these."""

    channels: int
    size: int
    rows: int
    encoder: nn.Module
    decoder: ConvDecoder
    prior_mean: nn.Parameter
    prior_log_var: nn.Parameter
    _kwargs: dict[str, Any]

    def architecture(self) -> dict[str, Any]:
        """Arguments that make the same network again."""
        return dict(self._kwargs)

    def _check_images(self, name: str, value: Tensor, lead: str = "B") -> None:
        """A subclass may have an encoder of its own, for rows of another shape."""
        if isinstance(self.encoder, ConvEncoder):
            check.rows(name, value, (self.channels, self.size, self.size), lead)
        else:
            check.floats(**{name: value})

    def prior(self) -> tuple[Tensor, Tensor]:
        """Mean ``(K, C)`` and row covariance ``(K, K)`` of the memory before anything is written."""
        eye = torch.eye(self.rows, device=self.prior_mean.device, dtype=self.prior_mean.dtype)
        return self.prior_mean, self.prior_log_var.exp() * eye

    def decode(self, code: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1]."""
        check.rows("code", code, (self.prior_mean.shape[1],))
        return torch.sigmoid(self.decoder(code))

    def _read(
        self, mean: Tensor, cue: Tensor, steps: int, recalled: Callable[[Tensor, Tensor], Tensor]
    ) -> list[Tensor]:
        """Logits a step, each from the image that the one before gave.

        :param recalled: codes ``(E, T, C)`` from the memory's mean and images ``(E, T, C, H, W)``.
        """
        self._check_images("cue", cue, "E, T")
        check.rows("mean", mean, tuple(self.prior_mean.shape), "...")
        check.positive_integer("steps", steps)
        seen, out = cue, []
        for _ in range(steps):
            out.append(episodic(self.decoder(recalled(mean, seen).flatten(0, 1)), cue.shape[:2]))
            seen = torch.sigmoid(out[-1])
        return out

    def _episode_bound(
        self, x: Tensor, shown: Tensor, code: Tensor, kl: Tensor, mean: Tensor, row_cov: Tensor
    ) -> EpisodeBound:
        """The bound of episodes ``(E, T, C, H, W)``.

        :param shown: codes that the memory gave, ``(E, T, C)``.
        :param code: those of the images themselves, likewise.
        :param kl: divergences of the items given the memory, ``(E, T)``.
        :param mean: of the memory that was written, ``(E, K, C)``.
        :param row_cov: its row covariance, ``(E, K, K)``.
        """
        episodes, items = x.shape[:2]
        logits = self.decoder(torch.cat([shown, code]).flatten(0, 1))
        nll = episodic(bernoulli_nll(logits, torch.cat([x, x]).flatten(0, 1)), (2 * episodes, items))
        kl_memory = matrix_normal_kl(mean, row_cov, *self.prior()) / items
        return EpisodeBound(nll[:episodes], kl, kl_memory, nll[episodes:])


def episodic(rows: Tensor, episodes: Sequence[int]) -> Tensor:
    """Rows ``(E T, ...)`` as episodes ``(E, T, ...)``."""
    return rows.reshape(*episodes, *rows.shape[1:])
