"""A linear classifier from sums over the stream: random features, their Gram matrix, and the ridge solution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.gaussian import unpack_triangle

_BLOCK = 256  # lines of the Gram matrix at a time


def random_features(x: Tensor, projection: Tensor) -> Tensor:
    r"""Features of a network of one layer that is never trained: :math:`h(x) = \max(0, W x)`.

    :param x: rows ``(B, F)``.
    :param projection: W, ``(M, F)``.
    :returns: ``(B, M)``.
    :raises ValueError: for shapes that do not fit.

    Source: RanPAC, McDonnell et al. 2023, arXiv 2307.02251, section 4.

    >>> random_features(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    tensor([[3., 0.]])
    """
    check.shaped(projection=(projection, "M F"), x=(x, "B F"))
    return (x @ projection.mT).relu_()


def add_gram(packed: Tensor, x: Tensor) -> None:
    r"""Add a batch to a Gram matrix :math:`G = \sum_i x_i x_i^T`, in place.

    Half of the products are made, and nothing as large as G besides.

    :param packed: lower triangle of G, ``(M (M + 1) / 2,)``, as :func:`pack_triangle` makes it.
    :param x: rows ``(B, M)``.
    :raises ValueError: for shapes that do not fit.

    >>> gram = torch.zeros(3)
    >>> add_gram(gram, torch.tensor([[1.0, 2.0]]))
    >>> gram
    tensor([1., 2., 4.])
    """
    check.shaped(x=(x, "B M"))
    width = x.shape[1]
    check.shaped(packed=(packed, f"{width * (width + 1) // 2}"))
    for first in range(0, width, _BLOCK):
        last = min(first + _BLOCK, width)
        lines = x[:, first:last].mT @ x[:, :last]
        below = torch.ones_like(lines, dtype=torch.bool).tril_(first)
        packed[first * (first + 1) // 2 : last * (last + 1) // 2] += lines[below]


def ridge_solution(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    r"""Weights of least squares: :math:`V = C (G + \lambda I)^{-1}`, so that :math:`y \approx V h`.

    :param gram: lower triangle of :math:`G = \sum_i h_i h_i^T`, ``(M (M + 1) / 2,)``.
    :param cross: :math:`C = \sum_i y_i h_i^T`, ``(K, M)``.
    :param ridge: :math:`\lambda` >= 0.
    :returns: ``(K, M)``, computed and returned in float64.
    :raises ValueError: if shapes do not fit, or :math:`G + \lambda I` is not positive definite.

    >>> ridge_solution(torch.tensor([3.0]), torch.tensor([[2.0]]), 1.0)  # 2 / (3 + 1)
    tensor([[0.5000]], dtype=torch.float64)
    """
    check.number("ridge", ridge, least=0)
    weights = _solution(*_sums(gram, cross), ridge)
    if weights is None:
        raise ValueError(f"ridge: expected one that makes the Gram matrix positive definite, got {ridge:g}")
    return weights


def best_ridge(gram: Tensor, cross: Tensor, x: Tensor, y: Tensor, ridges: Sequence[float]) -> float:
    r"""The ridge whose solution has the least squared error on rows that are held back.

    The sums are those of all rows. Those of the rows held back are taken out first.

    :param gram: as for :func:`ridge_solution`, like ``cross``.
    :param x: rows held back, ``(B, M)``, B >= 1; they are part of both sums.
    :param y: their targets, ``(B, K)``, such as a one-hot row each.
    :param ridges: to choose from, each >= 0. One under which nothing can be solved is passed over.
    :raises ValueError: if shapes do not fit, or none of the ridges can be solved.

    >>> x, y = torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([[1.0], [1.0], [0.5]])
    >>> gram, cross = torch.zeros(1), y.mT @ x
    >>> add_gram(gram, x)
    >>> best_ridge(gram, cross, x[2:], y[2:], [0.0, 2.0, 100.0])  # 2 / (2 + 2) = 0.5
    2.0
    """
    gram, cross = _sums(gram, cross)
    check.shaped(x=(x, f"B {cross.shape[1]}"), y=(y, f"B {len(cross)}"))
    if not len(x):
        raise ValueError("x: expected at least one row held back, got none")
    if not isinstance(ridges, list | tuple) or not ridges:
        raise ValueError(f"ridges: expected numbers >= 0, got {check.show(ridges)}")
    x, y = x.double(), y.double()
    gram, cross = gram - x.mT @ x, cross - y.mT @ x
    errors: dict[float, float] = {}
    for ridge in ridges:
        weights = _solution(gram, cross, check.number("ridges", ridge, least=0))
        if weights is not None:
            errors[ridge] = float((x @ weights.mT - y).square().sum())
    if not errors:
        raise ValueError(f"ridges: expected one that makes the Gram matrix positive definite, got {list(ridges)}")
    return min(errors, key=errors.__getitem__)


def _sums(gram: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
    """Both whole, in float64."""
    check.shaped(cross=(cross, "K M"))
    width = cross.shape[1]
    check.shaped(gram=(gram, f"{width * (width + 1) // 2}"))
    return unpack_triangle(gram.double(), width), cross.double()


def _solution(gram: Tensor, cross: Tensor, ridge: float) -> Tensor | None:
    factor, info = torch.linalg.cholesky_ex(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    if bool(info) or not bool(factor.isfinite().all()):
        return None
    return torch.cholesky_solve(cross.mT, factor).mT
