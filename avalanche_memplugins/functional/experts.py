"""Several classifiers as one: products of their probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check

_PULL = 1e-3  # towards weights of 1, so that rows which all are right leave the weights finite


def product_of_experts(log_probabilities: Tensor, weights: Tensor) -> Tensor:
    r"""Log probabilities of a product of experts.

    .. math:: \log p(c \mid x) = \sum_e w_e \log p_e(c \mid x) - \log Z(x)

    :param log_probabilities: of E experts, ``(E, B, C)``, finite.
    :param weights: w, ``(E,)``, >= 0; 1 / w is the expert's temperature.
    :returns: ``(B, C)``.

    Source: Hinton, "Products of experts", 1999.

    >>> product_of_experts(torch.tensor([[[0.5, 0.5]], [[0.8, 0.2]]]).log(), torch.ones(2)).exp()
    tensor([[0.8000, 0.2000]])
    """
    check.shaped(log_probabilities=(log_probabilities, "E B C"), weights=(weights, "E"))
    return torch.einsum("e,ebc->bc", weights, log_probabilities).log_softmax(1)


def fit_experts(log_probabilities: Tensor, y: Tensor, *, steps: int = 50) -> Tensor:
    r"""Weights under which :func:`product_of_experts` explains labels best.

    .. math:: w = \arg\min_{w \ge 0} -\tfrac1B \sum_b \log p(y_b \mid x_b) + 5 \cdot 10^{-4} \|w - 1\|^2

    The loss is convex; Newton's method finds its minimum.

    :param log_probabilities: ``(E, B, C)``, finite, B >= 1.
    :param y: classes ``(B,)``.
    :param steps: of Newton's method, at most.
    :returns: ``(E,)``.

    >>> sure, unsure = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log(), torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    >>> fit_experts(torch.stack([unsure, sure]), torch.tensor([0, 1])).argmax().item()
    1
    """
    check.floats(log_probabilities=log_probabilities)
    if log_probabilities.ndim != 3 or 0 in log_probabilities.shape:
        raise ValueError(f"log_probabilities: expected (E, B, C), none of them 0, got {tuple(log_probabilities.shape)}")
    check.finite("log_probabilities", log_probabilities)
    check.labels("y", y, log_probabilities.shape[1])
    check.label_range("y", y, log_probabilities.shape[2] - 1)
    check.positive_integer("steps", steps)
    experts = log_probabilities.double()
    right = experts.gather(2, y.long().to(experts.device).expand(len(experts), -1)[..., None])[..., 0]  # (E, B)
    weights = torch.ones(len(experts), dtype=torch.float64, device=experts.device)

    def loss(w: Tensor) -> Tensor:
        joint = torch.einsum("e,ebc->bc", w, experts)
        return (joint.logsumexp(1) - w @ right).mean() + 0.5 * _PULL * (w - 1).square().sum()

    eye = torch.eye(len(experts), dtype=torch.float64, device=experts.device)
    for _ in range(steps):
        p = torch.einsum("e,ebc->bc", weights, experts).softmax(1)
        mean = torch.einsum("bc,ebc->eb", p, experts)
        gradient = (mean - right).mean(1) + _PULL * (weights - 1)
        second = torch.einsum("bc,ebc,fbc->ef", p, experts, experts) / p.shape[0] - mean @ mean.mT / p.shape[0]
        free = (weights > 0) | (gradient < 0)  # the others stay at 0
        second = (second + _PULL * eye) * free[:, None] * free[None] + torch.diag((~free).double())
        step = torch.linalg.solve(second, gradient * free)
        now, size = loss(weights), 1.0
        while size > 1e-6 and loss((weights - size * step).clamp_min(0)) > now:
            size /= 2
        new = (weights - size * step).clamp_min(0)
        if bool((new - weights).abs().max() < 1e-9):
            break
        weights = new
    return weights.to(log_probabilities.dtype)
