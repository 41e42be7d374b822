"""Networks of the dynamic Kanerva machine: an auto-encoder trained through a linear-Gaussian memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.divergences import kl_diagonal_normals
from avalanche_memplugins.functional.kanerva import kanerva_address, kanerva_dynamic_write, kanerva_posterior
from avalanche_memplugins.networks._kanerva_network import EpisodeBound, KanervaNetwork, episodic
from avalanche_memplugins.networks.convolutional import ConvDecoder, ConvEncoder, check_size


class DynamicKanervaMachine(KanervaNetwork):
    r"""Dynamic Kanerva machine: codes :math:`z = e(x)`, addresses by least squares, a memory written by Bayes' rule.

    .. math::
        z = e(x), \quad w = (R R^\top + \tfrac{\sigma^2}{\sigma_w^2} I)^{-1} R z, \quad q(w) = \mathcal N(w, s(x)^2),
        \quad p(x | w, M) = \mathrm{Bernoulli}(d(w^\top M))

    The memory's prior is :math:`\mathcal{MN}(R_0, u_0 I, I)` with :math:`R_0, u_0` learned. The bound of an episode of
    T images samples w and M and counts both divergences in full:

    .. math:: -\tfrac1T \log p(X) \le \tfrac1T \sum_t \big(-\mathbb E \log p(x_t | w_t, M) + \mathrm{KL}_{w,t}\big)
        + \tfrac1T \mathrm{KL}(q(M|X) \,\|\, p(M))

    :param channels: of the image.
    :param size: height and width, 28 or 32 pixels.
    :param code_size: columns C of the memory.
    :param rows: rows K of the memory.
    :param width: channels of the first convolution.
    :param noise_std: :math:`\sigma` of a code given its address.
    :param address_std: :math:`\sigma_w` of the prior of an address.
    :param bias: first value of the decoder's logits.
    :raises ValueError: for a size without a network.

    Source: Wu et al., "Learning attractor dynamics for generative memory", 2018, sections 2 and 3. The paper's s is one
    number for all; here the encoder gives it for each image and row, as a VAE's encoder does.

    >>> machine = DynamicKanervaMachine(code_size=4, rows=2, width=4)
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
        width: int = 16,
        noise_std: float = 1.0,
        address_std: float = 1.0,
        bias: float = -2.0,
    ) -> None:
        sizes = {"channels": channels, "code_size": code_size, "rows": rows, "width": width}
        check.positive_integers(**sizes)
        check_size(size)
        check.number("noise_std", noise_std, above=0)
        check.number("address_std", address_std, above=0)
        check.number("bias", bias)
        super().__init__()
        self.channels, self.size, self.code_size, self.rows = channels, size, code_size, rows
        self.noise_var, self.address_std = noise_std**2, address_std
        self._kwargs = {**sizes, "size": size, "noise_std": noise_std, "address_std": address_std, "bias": bias}
        self.encoder = ConvEncoder(channels=channels, size=size, features=code_size + rows, width=width)
        self.decoder = ConvDecoder(code_size=code_size, channels=channels, size=size, width=width, bias=bias)
        self.prior_mean = nn.Parameter(torch.randn(rows, code_size))
        self.prior_log_var = nn.Parameter(torch.zeros(()))
        self.log_scale = nn.Parameter(torch.full((rows,), math.log(0.3)))

    @property
    def ridge(self) -> float:
        """Noise variance over the variance of an address, in the least squares."""
        return self.noise_var / self.address_std**2

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes ``(B, C)`` and log-scales of their addresses ``(B, K)`` for images ``(B, C, H, W)`` in [0, 1]."""
        self._check_images("x", x)
        code, log_scale = self.encoder(x).split((self.code_size, self.rows), -1)
        return code, log_scale + self.log_scale

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``(B, code_size)``."""
        return self.features(x)[0]

    def write(self, code: Tensor, *, sequential: bool = False) -> tuple[Tensor, Tensor]:
        """The memory after writing codes ``(..., T, C)`` into the prior: ``(..., K, C)`` and ``(..., K, K)``.

        :param sequential: each item at its address under what the earlier ones left; else all at once at their
            addresses under the prior, which is many times faster.
        """
        check.rows("code", code, (self.code_size,), "...")
        if code.ndim < 2:
            raise ValueError(f"code: expected (..., T, {self.code_size}), got {tuple(code.shape)}")
        check.flag("sequential", sequential)
        mean, row_cov = self.prior()
        mean, row_cov = (part.expand(*code.shape[:-2], *part.shape) for part in (mean, row_cov))
        if sequential:
            mean, row_cov, _ = kanerva_dynamic_write(mean, row_cov, code, noise_var=self.noise_var, ridge=self.ridge)
            return mean, row_cov
        address = kanerva_address(mean, code, ridge=self.ridge)
        return kanerva_posterior(mean, row_cov, address, code, noise_var=self.noise_var)

    def written(self, x: Tensor, *, sequential: bool = False) -> tuple[Tensor, Tensor]:
        """The memory after writing episodes ``(E, T, C, H, W)``: ``(E, K, C)``, ``(E, K, K)``."""
        self._check_images("x", x, "E, T")
        return self.write(episodic(self.encode(x.flatten(0, 1)), x.shape[:2]), sequential=sequential)

    def bound(
        self,
        x: Tensor,
        *,
        sequential: bool = False,
        sample_memory: bool = True,
        generator: torch.Generator | None = None,
    ) -> EpisodeBound:
        """Negative bound of episodes, one sample of addresses and memory each.

        :param x: episodes ``(E, T, C, H, W)`` of images in [0, 1].
        :param sequential: as in :meth:`write`.
        :param sample_memory: False: read at the memory's posterior mean, as the released code does. What it costs
            to know the memory then bounds nothing: ``conditional`` holds given that mean, ``total`` is no bound.
        :param generator: for the samples; torch's own if None.
        """
        self._check_images("x", x, "E, T")
        check.flags(sequential=sequential, sample_memory=sample_memory)
        check.generator("generator", generator)
        episodes, items = x.shape[:2]
        code, log_scale = (episodic(part, (episodes, items)) for part in self.features(x.flatten(0, 1)))
        mean, row_cov = self.write(code, sequential=sequential)
        address = kanerva_address(mean, code, ridge=self.ridge)
        shape = (episodes, items, self.rows + self.code_size)
        noise = torch.randn(shape, dtype=x.dtype, device=x.device, generator=generator)
        drawn = address + log_scale.exp() * noise[..., : self.rows]
        # wᵀM for M of the posterior: one draw for each item, of the right marginal.
        spread = ((drawn @ row_cov) * drawn).sum(-1, keepdim=True).clamp_min(0).sqrt()
        recalled = drawn @ mean
        if sample_memory:
            recalled = recalled + spread * noise[..., self.rows :]
        log_prior = torch.tensor(2 * math.log(self.address_std), dtype=torch.float64)
        kl = kl_diagonal_normals(address, 2 * log_scale, torch.zeros(()), log_prior)
        return self._episode_bound(x, recalled, code, kl, mean, row_cov)

    def read(self, mean: Tensor, cue: Tensor, *, steps: int = 1) -> list[Tensor]:
        """Iterative reading: what each step makes of a distorted cue, logits ``(E, T, C, H, W)`` a step.

        :param mean: of the memory, ``(E, K, C)``.
        :param cue: images ``(E, T, C, H, W)`` in [0, 1].
        :param steps: reads, >= 1; each starts from the image that the one before gave.
        """
        return self._read(mean, cue, steps, self._recalled)

    def _recalled(self, mean: Tensor, seen: Tensor) -> Tensor:
        code = episodic(self.encode(seen.flatten(0, 1)), seen.shape[:2])
        return kanerva_address(mean, code, ridge=self.ridge) @ mean
