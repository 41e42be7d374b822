"""Centres of groups."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check


def k_means(rows: Tensor, count: int, *, steps: int = 25, generator: torch.Generator | None = None) -> Tensor:
    r"""Centres ``(count, F)`` that rows are near to, float32: Lloyd's algorithm.

    .. math:: \min_\mu \sum_b \min_i \lVert x_b - \mu_i \rVert^2

    It begins with rows drawn far apart (k-means++), and stops early once nothing moves. A centre with no rows takes the
    place of the row that is farthest from its own.

    :param rows: floating-point ``(B, F)``, finite.
    :param count: of the centres, 1 to B.
    :param steps: at most, >= 1.
    :param generator: source of random numbers, on the CPU.
    :raises ValueError: for other shapes, or more centres than rows.

    Source: Lloyd 1982; Arthur and Vassilvitskii, "k-means++", 2007.

    >>> rows = torch.tensor([[0.0], [1.0], [9.0], [11.0]])
    >>> k_means(rows, 2, generator=torch.Generator().manual_seed(0)).sort(0).values
    tensor([[ 0.5000],
            [10.0000]])
    """
    check.floats(rows=rows)
    if rows.ndim != 2 or not rows.shape[1]:
        raise ValueError(f"rows: expected (B, F), got {tuple(rows.shape)}")
    check.integer("count", count, least=1)
    check.integer("steps", steps, least=1)
    check.generator("generator", generator)
    if count > len(rows):
        raise ValueError(f"count: expected at most {len(rows)}, one a row, got {count}")
    rows = rows.float()
    centres = _far_apart(rows, count, generator)
    for _ in range(steps):
        distances, nearest = torch.cdist(rows, centres).min(1)
        sizes = torch.bincount(nearest, minlength=count)
        means = torch.zeros_like(centres).index_add_(0, nearest, rows) / sizes.clamp_min(1)[:, None]
        empty = torch.nonzero(sizes == 0).flatten()
        means[empty] = rows[distances.topk(len(empty)).indices]
        if torch.equal(means, centres):
            break
        centres = means
    return centres


def _far_apart(rows: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Rows drawn one after the other, each by its squared distance from those drawn before."""
    chosen = torch.randint(len(rows), (1,), generator=generator).to(rows.device)
    nearest = (rows - rows[chosen]).square().sum(1)
    for uniform in torch.rand(count - 1, generator=generator, dtype=torch.float64).tolist():
        reach = nearest.double().cumsum(0)
        found = torch.searchsorted(reach, reach[-1:] * uniform, right=True).clamp_max(len(rows) - 1)
        chosen = torch.cat([chosen, found])
        nearest = torch.minimum(nearest, (rows - rows[found]).square().sum(1))
    return rows[chosen].clone()
