"""How well scores tell two groups apart."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check


def auroc(scores: Tensor, positive: Tensor) -> float:
    r"""Area under the ROC curve: :math:`P(s_+ > s_-) + \tfrac12 P(s_+ = s_-)` for scores drawn from each group.

    :param scores: ``(B,)``, higher for what is thought positive.
    :param positive: ``(B,)`` bool.
    :returns: 0 to 1; 0.5 is chance.
    :raises ValueError: if shapes do not fit, scores are NaN, or a group is empty.

    Source: Mann and Whitney 1947, by mid-ranks.

    >>> auroc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True]))
    0.75
    """
    check.tensors(scores=scores, positive=positive)
    if scores.ndim != 1:
        raise ValueError(f"scores: expected shape (B,), got {tuple(scores.shape)}")
    check.like("positive", positive, scores.shape, "that of scores")
    count = int(positive.sum())
    others = len(scores) - count
    if not count or not others:
        raise ValueError(f"positive: expected rows of both kinds, got {count} of {len(scores)}")
    if bool(scores.isnan().any()):
        raise ValueError("scores: expected numbers, got NaN")
    _, place, ties = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks = (ties.cumsum(0) - (ties - 1) / 2.0).double()[place]
    return float((ranks[positive.bool()].sum() - count * (count + 1) / 2) / (count * others))
