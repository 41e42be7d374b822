"""How much each neighbour counts, from its squared distance."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check


def inverse_distance(squared: Tensor, *, eps: float = 1e-3) -> Tensor:
    r"""MbPA's and NEC's kernel, normalised over the neighbours.

    .. math:: w_k \propto \frac{1}{\epsilon + d_k^2}

    :param squared: squared distances ``(..., K)``, >= 0.
    :param eps: > 0; bounds the weight of a neighbour at distance 0.
    :return: weights ``(..., K)`` that sum to one.
    :raises ValueError: for ``eps`` not above 0.

    Source: Sprechmann et al. 2018, section 2; Pritzel et al. 2017, equation 5.

    >>> inverse_distance(torch.tensor([0.0, 1.0]), eps=1.0)
    tensor([0.6667, 0.3333])
    """
    check.shaped(squared=(squared, "... K"))
    check.number("eps", eps, above=0)
    weights = 1 / (eps + squared)
    return weights / weights.sum(-1, keepdim=True)


def nearest_relative(squared: Tensor, *, width: float = 0.15, eps: float = 1e-3) -> Tensor:
    r"""A Gaussian kernel whose scale is the distance of the nearest neighbour.

    .. math:: w_k \propto \exp\left(-\frac{d_k^2 - d_1^2}{h \max(d_1^2, \epsilon)}\right)

    In many dimensions all distances are alike and :math:`1/(\epsilon + d^2)` is nearly uniform; measured
    against the nearest one they differ, whatever the unit of the keys.

    :param squared: squared distances ``(..., K)``, >= 0.
    :param width: h, > 0; a neighbour at ``(1 + h) d_1^2`` counts 1/e of the nearest.
    :param eps: > 0; the least scale, for a query that is itself a key.
    :return: weights ``(..., K)`` that sum to one.
    :raises ValueError: for ``width`` or ``eps`` not above 0.

    >>> nearest_relative(torch.tensor([1.0, 1.15]), width=0.15)  # 1 and 1/e
    tensor([0.7311, 0.2689])
    """
    check.shaped(squared=(squared, "... K"))
    check.number("width", width, above=0)
    check.number("eps", eps, above=0)
    nearest = squared.amin(-1, keepdim=True)
    return torch.softmax((nearest - squared) / (width * nearest.clamp(min=eps)), -1)
