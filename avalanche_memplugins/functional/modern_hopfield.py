"""The modern Hopfield network: softmax over stored patterns."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check


def modern_hopfield_read(
    patterns: Tensor,
    cue: Tensor,
    *,
    beta: float | Tensor,
    similarity: Literal["dot", "distance"] = "distance",
    known: Tensor | None = None,
    steps: int = 1,
    threshold: float | None = None,
) -> Tensor:
    r"""Replace each cue by a mean of the stored patterns, weighted by how like it they are; again and again.

    .. math:: \xi \leftarrow X^\top \mathrm{softmax}(\beta\, s(X, \xi)), \qquad
        s(x, \xi) = \sum_i m_i x_i \xi_i \quad \text{or} \quad -\sum_i m_i (x_i - \xi_i)^2

    with :math:`m_i = 1` where the cue is known, else 0. Products need patterns of like norm, such as :math:`\pm 1`;
    distances do not. Without the mask an erased entry counts as a difference, and the nearest pattern is often another.

    :param patterns: :math:`X`, ``(..., M, n)``.
    :param cue: :math:`\xi`, ``(..., N, n)``.
    :param beta: :math:`\beta` > 0, inverse temperature.
    :param similarity: ``"dot"`` or ``"distance"``.
    :param known: bool like ``cue``: entries that count. None: all do.
    :param steps: updates, >= 1.
    :param threshold: of the squared distance over the known entries; a cue whose nearest pattern is farther comes back
        as it is: it is of nothing stored. None: every cue is read.
    :returns: like ``cue``.
    :raises ValueError: if shapes or arguments do not fit, or there is nothing stored.

    Source: Ramsauer et al., "Hopfield networks is all you need", 2020, equation 3; distances: Millidge et al.,
    "Universal Hopfield networks", 2022, section 3.

    >>> patterns = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    >>> cue, known = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[True, True, False]])
    >>> modern_hopfield_read(patterns, cue, beta=50.0, known=known).round()
    tensor([[0., 1., 1.]])
    """
    check.shaped(patterns=(patterns, "... M n"), cue=(cue, "... N n"))
    if patterns.shape[-2] == 0:
        raise ValueError(f"patterns: expected (..., M, n) with M >= 1, got {tuple(patterns.shape)}")
    check.positive("beta", beta)
    check.mask("known", known, cue, "cue")
    check.choice("similarity", similarity, ("dot", "distance"))
    check.positive_integer("steps", steps)
    if threshold is not None:
        check.number("threshold", threshold, least=0)
    mask = torch.ones_like(cue) if known is None else known.to(cue.dtype)
    state = cue
    for _ in range(steps):
        if similarity == "dot":
            scores = (mask * state) @ patterns.mT
        else:
            scores = -masked_distances(patterns, state, mask)
        state = (beta * scores).softmax(-1) @ patterns
    if threshold is None:
        return state
    nearest = masked_distances(patterns, cue, mask).amin(-1, keepdim=True)
    return torch.where(nearest <= threshold, state, cue)


def masked_distances(patterns: Tensor, cue: Tensor, mask: Tensor) -> Tensor:
    r"""Squared distances over the entries that count, :math:`\sum_i m_i (x_i - \xi_i)^2`.

    :param patterns: ``(..., M, n)``.
    :param cue: ``(..., N, n)``.
    :param mask: ``(..., N, n)``, 0 or 1.
    :returns: ``(..., N, M)``.
    """
    # Three products instead of a tensor of all differences; they may leave a little less than 0.
    cross = (mask * cue) @ patterns.mT
    own = (mask * cue.square()).sum(-1, keepdim=True)
    return (own - 2 * cross + mask @ patterns.square().mT).clamp_min(0)
