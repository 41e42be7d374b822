"""Divergences and log-likelihoods of the distributions that generative memories use, in nats a row."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from avalanche_memplugins import _checks as check


def kl_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    r"""Divergence of diagonal Gaussians from the standard one.

    .. math:: \mathrm{KL}(\mathcal N(\mu, \sigma^2) \,\|\, \mathcal N(0, I))
        = \tfrac12 \sum_c (\mu_c^2 + \sigma_c^2 - 1 - \log \sigma_c^2)

    :param mean: :math:`\mu`, ``(..., C)``.
    :param log_variance: :math:`\log \sigma^2`, ``(..., C)``.
    :returns: ``(...)``, >= 0.

    Source: Kingma & Welling, "Auto-encoding variational Bayes", 2014, appendix B.

    >>> kl_standard_normal(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2))
    tensor([2.5000])
    """
    check.floats(mean=mean, log_variance=log_variance)
    check.broadcast(mean=mean, log_variance=log_variance)
    # expm1 keeps what is left of s - 1 - log s near s = 1.
    return 0.5 * (mean.square() + log_variance.expm1() - log_variance).sum(-1)


def kl_diagonal_normals(mean: Tensor, log_variance: Tensor, prior_mean: Tensor, prior_log_variance: Tensor) -> Tensor:
    r"""Divergence of diagonal Gaussians q from others p.

    .. math:: \mathrm{KL}(q \,\|\, p) = \tfrac12 \sum_c \left( \frac{(\mu_c - m_c)^2 + \sigma_c^2}{s_c^2} - 1
        - \log \frac{\sigma_c^2}{s_c^2} \right)

    :param mean: :math:`\mu` of q, ``(..., C)``.
    :param log_variance: :math:`\log \sigma^2` of q, ``(..., C)``.
    :param prior_mean: :math:`m` of p; broadcasts with q's.
    :param prior_log_variance: :math:`\log s^2` of p; broadcasts with q's.
    :returns: ``(...)``, >= 0.

    >>> mean, log_variance = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)
    >>> kl_diagonal_normals(mean, log_variance, mean - 1, log_variance)
    tensor([1.])
    """
    given = {"mean": mean, "log_variance": log_variance}
    prior = {"prior_mean": prior_mean, "prior_log_variance": prior_log_variance}
    check.floats(**given, **prior)
    check.broadcast(**given, **prior)
    log_ratio = log_variance - prior_log_variance
    distance = (mean - prior_mean).square() * (-prior_log_variance).exp()
    return 0.5 * (distance + log_ratio.expm1() - log_ratio).sum(-1)


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    r"""Cross-entropy of grey pixels, taken as expected bits, under independent Bernoulli pixels.

    .. math:: -\sum_i x_i \log g_i + (1 - x_i) \log(1 - g_i), \qquad g = \mathrm{sigmoid}(\text{logits})

    For grey x its least value is the entropy of x, not 0.

    :param logits: ``(B, *shape)``.
    :param x: ``(B, *shape)`` in [0, 1].
    :returns: ``(B,)``.

    >>> bernoulli_nll(torch.zeros(1, 4), torch.tensor([[0.0, 1.0, 1.0, 0.0]]))  # four times log 2
    tensor([2.7726])
    """
    check.floats(logits=logits, x=x)
    _rows("logits", logits)
    check.like("x", x, logits.shape, "that of logits")
    return binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(-1)


def gaussian_nll(mean: Tensor, log_variance: Tensor, x: Tensor) -> Tensor:
    r"""Negative log-density of rows under diagonal Gaussians.

    .. math:: \tfrac12 \sum_i \log 2 \pi \sigma_i^2 + (x_i - \mu_i)^2 / \sigma_i^2

    :param mean: :math:`\mu`, ``(B, *shape)``.
    :param log_variance: :math:`\log \sigma^2`; broadcasts with ``mean``.
    :param x: ``(B, *shape)``.
    :returns: ``(B,)``.

    >>> gaussian_nll(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[1.0, 1.0]]))  # log(2 pi) + 1
    tensor([2.8379])
    """
    check.floats(mean=mean, log_variance=log_variance, x=x)
    _rows("mean", mean)
    check.broadcast(mean=mean, log_variance=log_variance)
    check.like("x", x, mean.shape, "that of mean")
    terms = math.log(2 * math.pi) + log_variance + (x - mean).square() * torch.exp(-log_variance)
    return 0.5 * terms.flatten(1).sum(-1)


def _rows(name: str, value: Tensor) -> None:
    if value.ndim < 2:
        raise ValueError(f"{name}: expected (B, *shape), got {tuple(value.shape)}")
