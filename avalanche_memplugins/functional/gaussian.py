"""Gaussians fitted to a stream, batch by batch and many at once: moments, low-rank covariance, draws."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check


def merge_moments(count: Tensor, mean: Tensor, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Counts and means with a batch taken in, and the rows by which the scatter grows.

    With earlier count n and mean :math:`\mu`, and a batch of m rows with mean :math:`\bar x`,

    .. math:: \mu' = \mu + \tfrac{m}{n + m} \delta, \quad S' = S + A^T A, \quad \delta = \bar x - \mu, \quad
        A = \left[ x_1 - \bar x; \dots; x_m - \bar x; \sqrt{\tfrac{n m}{n + m}} \, \delta \right],

    where :math:`S = \sum_i (x_i - \mu)(x_i - \mu)^T`. No large numbers are subtracted, so it stays exact
    where sums of squares would not.

    :param count: n, ``(K,)``, >= 0: one Gaussian a class.
    :param mean: :math:`\mu`, ``(K, C)``.
    :param x: batches ``(K, m, C)``; rows after the first ``rows[k]`` of class k are ignored.
    :param rows: how many rows of each class there are, ``(K,)``, from 1 to m.
    :returns: n', :math:`\mu'`, and A ``(K, m + 1, C)``, whose ignored rows are zero.

    Source: Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979.

    >>> count, mean, x = torch.tensor([1]), torch.tensor([[0.0]]), torch.tensor([[[2.0], [4.0]]])
    >>> count, mean, growth = merge_moments(count, mean, x, torch.tensor([2]))
    >>> count, mean, growth.square().sum(1)  # rows 0, 2, 4: mean 2, scatter 8
    (tensor([3]), tensor([[2.]]), tensor([[8.]]))
    """
    check.tensors(count=count, rows=rows)
    check.shaped(x=(x, "K m C"), mean=(mean, "K C"))
    for name, value in (("count", count), ("rows", rows)):
        check.like(name, value, x.shape[:1], "one number a class")
    valid = torch.arange(x.shape[1], device=x.device) < rows[:, None]
    x = x * valid[..., None]
    old, new = count.to(x.dtype), rows.to(x.dtype)
    batch_mean = x.sum(1) / new[:, None]
    delta = batch_mean - mean
    total = old + new
    centred = (x - batch_mean[:, None]) * valid[..., None]
    shift = (old * new / total).sqrt()[:, None] * delta
    return count + rows, mean + (new / total)[:, None] * delta, torch.cat([centred, shift[:, None]], 1)


def merge_low_rank(factors: Tensor, residual: Tensor, growth: Tensor) -> tuple[Tensor, Tensor]:
    r"""The scatter :math:`F^T F + \mathrm{diag}(d)` with rows A taken in, kept at its rank.

    .. math:: [F; A]^T [F; A] = V \Lambda V^T, \qquad F' = \Lambda_r^{1/2} V_r^T, \qquad
        d' = d + \mathrm{diag}\left( V_{>r} \Lambda_{>r} V_{>r}^T \right)

    The diagonal of the scatter is exact whatever the rank; the whole of it is as long as the rank of the
    data does not exceed r.

    :param factors: F, ``(K, r, C)``, r >= 0.
    :param residual: d, ``(K, C)``, >= 0.
    :param growth: A, ``(K, m, C)``, as from :func:`merge_moments`.
    :returns: F' and d'.

    Source: incremental PCA, Ross et al., "Incremental learning for robust visual tracking", 2008.

    >>> factors, residual = torch.zeros(1, 1, 2), torch.zeros(1, 2)
    >>> factors, residual = merge_low_rank(factors, residual, torch.tensor([[[3.0, 4.0]]]))
    >>> (factors.mT @ factors + residual.diag_embed()).round()
    tensor([[[ 9., 12.],
             [12., 16.]]])
    """
    check.shaped(factors=(factors, "K r C"), residual=(residual, "K C"), growth=(growth, "K m C"))
    rank = factors.shape[1]
    stacked = torch.cat([factors, growth], 1)
    if rank == 0:
        return factors, residual + growth.square().sum(1)
    rows, width = stacked.shape[1:]
    if rows <= rank:
        raise ValueError(f"growth: expected at least one row, got {tuple(growth.shape)}")
    if rows <= width:
        _, vectors = torch.linalg.eigh(stacked @ stacked.mT)
        turned = vectors.flip(-1).mT @ stacked
    else:
        values, vectors = torch.linalg.eigh(stacked.mT @ stacked)
        turned = values.flip(-1).clamp_min(0).sqrt()[..., None] * vectors.flip(-1).mT
    kept = turned[:, :rank]
    if kept.shape[1] < rank:  # more factors asked for than dimensions there are
        kept = torch.cat([kept, kept.new_zeros(len(kept), rank - kept.shape[1], width)], 1)
    return kept, residual + turned[:, rank:].square().sum(1)


def pack_triangle(matrix: Tensor) -> Tensor:
    """Lower triangles ``(..., C (C + 1) / 2)`` of symmetric matrices ``(..., C, C)``, row by row.

    >>> pack_triangle(torch.tensor([[1.0, 2.0], [2.0, 3.0]]))
    tensor([1., 2., 3.])
    """
    if check.tensor("matrix", matrix).ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"matrix: expected (..., C, C), got {tuple(matrix.shape)}")
    rows, columns = _triangle(matrix.shape[-1], matrix.device)
    return matrix[..., rows, columns]


def unpack_triangle(packed: Tensor, width: int) -> Tensor:
    """Symmetric matrices ``(..., C, C)`` of width C from their packed triangles.

    :raises ValueError: if the triangle is not that of such a matrix.

    >>> unpack_triangle(torch.tensor([1.0, 2.0, 3.0]), 2)
    tensor([[1., 2.],
            [2., 3.]])
    """
    check.tensor("packed", packed)
    check.positive_integer("width", width)
    numbers = width * (width + 1) // 2
    if not packed.ndim or packed.shape[-1] != numbers:
        got = packed.shape[-1] if packed.ndim else "a single number"
        raise ValueError(f"packed: expected {numbers} numbers for width {width}, got {got}")
    rows, columns = _triangle(width, packed.device)
    matrix = packed.new_empty(*packed.shape[:-1], width, width)
    matrix[..., rows, columns] = packed
    matrix[..., columns, rows] = packed
    return matrix


def symmetric_factors(scatter: Tensor) -> Tensor:
    r"""Factors F ``(..., C, C)`` with :math:`F^T F = S`, for semi-definite S ``(..., C, C)``.

    Eigenvalues that rounding made negative count as 0, so any number of rows, one included, will do.

    >>> scatter = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> factors = symmetric_factors(scatter)
    >>> torch.allclose(factors.mT @ factors, scatter)
    True
    """
    check.shaped(scatter=(scatter, "... C C"))
    values, vectors = torch.linalg.eigh(scatter)
    factors: Tensor = values.clamp_min(0).sqrt()[..., None] * vectors.mT
    return factors


def draw_low_rank(
    mean: Tensor, factors: Tensor, residual: Tensor | None, noise: Tensor, diagonal_noise: Tensor | None
) -> Tensor:
    r"""Rows of :math:`\mathcal N(\mu, F^T F + \mathrm{diag}(d))`, without forming the covariance.

    .. math:: z = \mu + F^T \epsilon + \sqrt d \odot \epsilon'

    :param mean: :math:`\mu`, ``(K, C)``.
    :param factors: F, ``(K, r, C)``.
    :param residual: d, ``(K, C)``; None for zero.
    :param noise: :math:`\epsilon` ``(K, n, r)``, standard normal.
    :param diagonal_noise: :math:`\epsilon'` ``(K, n, C)``, standard normal; needed with ``residual``.
    :returns: ``(K, n, C)``.

    >>> mean, factors = torch.tensor([[1.0, 1.0]]), torch.tensor([[[2.0, 0.0]]])
    >>> draw_low_rank(mean, factors, None, torch.tensor([[[1.0], [-1.0]]]), None)
    tensor([[[ 3.,  1.],
             [-1.,  1.]]])
    """
    shapes: dict[str, tuple[Tensor | None, str]] = {
        "mean": (mean, "K C"),
        "factors": (factors, "K r C"),
        "noise": (noise, "K n r"),
    }
    if residual is not None:
        shapes |= {"residual": (residual, "K C"), "diagonal_noise": (diagonal_noise, "K n C")}
    check.shaped(**shapes)
    rows = torch.baddbmm(mean[:, None], noise, factors)
    if residual is None or diagonal_noise is None:
        return rows
    return rows + residual.sqrt()[:, None] * diagonal_noise


def _triangle(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    rows, columns = torch.tril_indices(width, width, device=device)
    return rows, columns
