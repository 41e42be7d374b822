"""Networks of the Kanerva machine: a two-storey variational auto-encoder with a memory as its prior."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.divergences import kl_diagonal_normals, kl_standard_normal
from avalanche_memplugins.functional.kanerva import kanerva_posterior
from avalanche_memplugins.networks._kanerva_network import EpisodeBound, KanervaNetwork, episodic
from avalanche_memplugins.networks.convolutional import ConvDecoder, ConvEncoder, check_size


class KanervaMachine(KanervaNetwork):
    r"""Kanerva machine: an addressing latent y picks a mixture of memory rows, which is the prior of the code z.

    .. math::
        y \sim \mathcal N(0, I), \quad w = f(y)^\top A, \quad z \sim \mathcal N(w^\top M, \sigma^2 I), \quad
        x \sim \mathrm{Bernoulli}(d(z))

    with :math:`M \sim \mathcal{MN}(R_0, u_0 I, I)`. Inference: :math:`q(y|x)` and :math:`q(z|x, y, M)`, which corrects
    the memory's word by the image's, are Gaussian; the memory is written by Bayes' rule with the image's own codes and
    addresses. The bound of an episode of T images counts all three divergences:

    .. math:: -\tfrac1T \log p(X) \le
        \tfrac1T \sum_t \big(-\mathbb E \log p(x_t|z_t) + \mathrm{KL}_{y,t} + \mathrm{KL}_{z,t}\big)
        + \tfrac1T \mathrm{KL}(q(M|X) \,\|\, p(M))

    :param channels: of the image.
    :param size: height and width, 28 or 32 pixels.
    :param code_size: columns C of the memory.
    :param rows: rows K of the memory.
    :param address_size: of y.
    :param key_size: columns S of the address matrix A.
    :param width: channels of the first convolution.
    :param noise_std: :math:`\sigma`.
    :param bias: first value of the decoder's logits.
    :raises ValueError: for a size without a network.

    Source: Wu et al., "The Kanerva machine", 2018, section 3.

    >>> machine = KanervaMachine(code_size=4, rows=2, address_size=2, key_size=3, width=4)
    >>> images = torch.rand(1, 3, 1, 28, 28)  # an episode of three
    >>> machine.bound(images).total.shape
    torch.Size([1, 3])
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        size: int = 28,
        code_size: int = 64,
        rows: int = 32,
        address_size: int = 32,
        key_size: int = 64,
        width: int = 16,
        noise_std: float = 1.0,
        bias: float = -2.0,
    ) -> None:
        sizes = {
            "channels": channels, "code_size": code_size, "rows": rows, "address_size": address_size,
            "key_size": key_size, "width": width,
        }  # fmt: skip
        check.positive_integers(**sizes)
        check_size(size)
        check.number("noise_std", noise_std, above=0)
        check.number("bias", bias)
        super().__init__()
        self.channels, self.size, self.code_size, self.rows = channels, size, code_size, rows
        self.address_size, self.noise_var = address_size, noise_std**2
        self._kwargs = {**sizes, "size": size, "noise_std": noise_std, "bias": bias}
        features = 8 * width
        self.encoder = ConvEncoder(channels=channels, size=size, features=features, width=width)
        self.to_code = nn.Linear(features, code_size)
        self.to_address = nn.Linear(features, 2 * address_size)
        self.correct = nn.Sequential(
            nn.Linear(features + code_size, 2 * features), nn.SiLU(), nn.Linear(2 * features, 2 * code_size)
        )
        self.key = nn.Sequential(nn.Linear(address_size, 2 * key_size), nn.SiLU(), nn.Linear(2 * key_size, key_size))
        self.address_matrix = nn.Parameter(torch.randn(key_size, rows) / math.sqrt(key_size))
        self.decoder = ConvDecoder(code_size=code_size, channels=channels, size=size, width=width, bias=bias)
        self.prior_mean = nn.Parameter(torch.randn(rows, code_size))
        self.prior_log_var = nn.Parameter(torch.zeros(()))

    def features(self, x: Tensor) -> Tensor:
        """What the encoder sees in images ``(B, C, H, W)`` in [0, 1], ``(B, features)``."""
        self._check_images("x", x)
        features: Tensor = nn.functional.silu(self.encoder(x))
        return features

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``(B, code_size)`` that are written."""
        code: Tensor = self.to_code(self.features(x))
        return code

    def address_posterior(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(y|x), ``(..., address_size)`` each."""
        check.rows("features", features, (self.to_address.in_features,), "...")
        mean, log_var = self.to_address(features).chunk(2, -1)
        return mean, log_var

    def weights(self, latent: Tensor) -> Tensor:
        """Weights w ``(..., K)`` of the memory's rows for latents y ``(..., address_size)``."""
        check.rows("latent", latent, (self.address_size,), "...")
        weights: Tensor = self.key(latent) @ self.address_matrix
        return weights

    def code_posterior(self, features: Tensor, recalled: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x, y, M) where the memory says ``recalled`` ``(..., C)``."""
        check.rows("features", features, (self.to_address.in_features,), "...")
        check.rows("recalled", recalled, (self.code_size,), "...")
        shift, log_var = self.correct(torch.cat([features, recalled], -1)).chunk(2, -1)
        return recalled + shift, log_var

    def bound(
        self,
        x: Tensor,
        *,
        sequential: bool = False,
        sample_memory: bool = True,
        fresh_address: bool = False,
        generator: torch.Generator | None = None,
    ) -> EpisodeBound:
        """Negative bound of episodes, one sample of y, M and z an item.

        :param x: episodes ``(E, T, C, H, W)`` of images in [0, 1].
        :param sequential: write one item after the other; the result is the same, only slower.
        :param sample_memory: False: read at the memory's posterior mean; ``total`` is then no bound.
        :param fresh_address: draw y anew for the read. With the y of the write, the default as in the paper, M already
            knows it, and ``conditional`` is no bound given M.
        :param generator: for the samples; torch's own if None.
        """
        self._check_images("x", x, "E, T")
        check.flags(sequential=sequential, sample_memory=sample_memory, fresh_address=fresh_address)
        check.generator("generator", generator)
        episodes, items = x.shape[:2]
        features = episodic(self.features(x.flatten(0, 1)), (episodes, items))
        code = self.to_code(features)
        mean_y, log_var_y = self.address_posterior(features)
        sizes = [self.address_size, self.code_size, self.code_size]
        shape = (episodes, items, sum(sizes))
        noise = torch.randn(shape, dtype=x.dtype, device=x.device, generator=generator)
        noise_y, noise_m, noise_z = torch.split(noise, sizes, -1)
        weights = self.weights(mean_y + (0.5 * log_var_y).exp() * noise_y)
        mean, row_cov = (part.expand(episodes, *part.shape) for part in self.prior())
        mean, row_cov = kanerva_posterior(mean, row_cov, weights, code, noise_var=self.noise_var, sequential=sequential)
        if fresh_address:
            again = torch.randn(noise_y.shape, dtype=x.dtype, device=x.device, generator=generator)
            weights = self.weights(mean_y + (0.5 * log_var_y).exp() * again)
        recalled = weights @ mean
        if sample_memory:
            spread = ((weights @ row_cov) * weights).sum(-1, keepdim=True).clamp_min(0).sqrt()
            recalled = recalled + spread * noise_m
        mean_z, log_var_z = self.code_posterior(features, recalled)
        drawn = mean_z + (0.5 * log_var_z).exp() * noise_z
        log_noise = torch.tensor(math.log(self.noise_var), dtype=torch.float64)
        kl = kl_standard_normal(mean_y, log_var_y) + kl_diagonal_normals(mean_z, log_var_z, recalled, log_noise)
        return self._episode_bound(x, drawn, code, kl, mean, row_cov)

    def written(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The memory after writing episodes ``(E, T, C, H, W)`` at the means of y: ``(E, K, C)``, ``(E, K, K)``."""
        self._check_images("x", x, "E, T")
        features = episodic(self.features(x.flatten(0, 1)), x.shape[:2])
        weights = self.weights(self.address_posterior(features)[0])
        mean, row_cov = (part.expand(len(x), *part.shape) for part in self.prior())
        return kanerva_posterior(mean, row_cov, weights, self.to_code(features), noise_var=self.noise_var)

    def read(self, mean: Tensor, cue: Tensor, *, steps: int = 1) -> list[Tensor]:
        """Iterative reading at the means of y and z: logits ``(E, T, C, H, W)`` a step.

        :param mean: of the memory, ``(E, K, C)``.
        :param cue: images ``(E, T, C, H, W)`` in [0, 1].
        :param steps: reads, >= 1; each starts from the image that the one before gave.
        """
        return self._read(mean, cue, steps, self._recalled)

    def _recalled(self, mean: Tensor, seen: Tensor) -> Tensor:
        features = episodic(self.features(seen.flatten(0, 1)), seen.shape[:2])
        return self.code_posterior(features, self.weights(self.address_posterior(features)[0]) @ mean)[0]
