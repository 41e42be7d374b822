r"""The restricted Boltzmann machine on bits of -1 and 1: mean-field reads, and steps of contrastive divergence.

.. math:: E(v, h) = -v^\top W h - b^\top v - c^\top h, \qquad v \in \{\pm 1\}^n, \; h \in \{\pm 1\}^m

Given one layer, the means of the other are a tanh of its field. All takes any leading batch dimensions of patterns and
weights. Sources: Smolensky 1986; Hinton, "Training products of experts by minimizing contrastive divergence", 2002.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check


def mean_field_read(
    weight: Tensor,
    visible_bias: Tensor,
    hidden_bias: Tensor,
    cue: Tensor,
    *,
    known: Tensor | None = None,
    steps: int = 1,
) -> Tensor:
    r"""Means of the visible units, layer by layer.

    .. math:: h \leftarrow \tanh(c + W^\top v), \qquad v \leftarrow \tanh(b + W h)

    :param weight: :math:`W`, ``(..., n, m)``.
    :param visible_bias: :math:`b`, ``(..., n)``.
    :param hidden_bias: :math:`c`, ``(..., m)``.
    :param cue: :math:`v` to start from, ``(..., N, n)`` in [-1, 1]; 0 is an erased bit.
    :param known: bool like ``cue``: entries that stay as they are. None: all may change.
    :param steps: up and down so many times, >= 1.
    :returns: like ``cue``.
    :raises ValueError: if shapes do not fit.

    >>> weight = torch.tensor([[5.0], [5.0], [-5.0]])  # stores 1, 1, -1 and its opposite
    >>> cue = torch.tensor([[1.0, 0.0, 0.0]])
    >>> mean_field_read(weight, torch.zeros(3), torch.zeros(1), cue, steps=2).round()
    tensor([[ 1.,  1., -1.]])
    """
    _check(weight, visible_bias, hidden_bias, cue=cue)
    check.mask("known", known, cue, "cue")
    check.positive_integer("steps", steps)
    state = cue
    for _ in range(steps):
        hidden = (state @ weight + hidden_bias.unsqueeze(-2)).tanh()
        after = (hidden @ weight.mT + visible_bias.unsqueeze(-2)).tanh()
        state = after if known is None else torch.where(known, cue, after)
    return state


def contrastive_divergence(
    weight: Tensor,
    visible_bias: Tensor,
    hidden_bias: Tensor,
    patterns: Tensor,
    *,
    known: Tensor | None = None,
    rounds: int = 1,
    uniform: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Direction of one step of contrastive divergence.

    .. math::
        \Delta W = \overline{v^+ h^{+\top}} - \overline{v^- h^{-\top}}, \quad
        \Delta b = \overline{v^+ - v^-}, \quad \Delta c = \overline{h^+ - h^-}

    The positive phase is a pattern. The negative phase is the pattern after some rounds of :func:`mean_field_read`
    (CD-k). With ``known`` it starts where only these entries are known, the others at 0, and they stay during the
    rounds: the machine then learns to complete cues rather than to be a good density.

    :param weight: :math:`W`, ``(..., n, m)``.
    :param visible_bias: :math:`b`, ``(..., n)``.
    :param hidden_bias: :math:`c`, ``(..., m)``.
    :param patterns: :math:`v^+`, ``(..., N, n)`` in [-1, 1]. Bars are means over the N.
    :param known: bool like ``patterns``; None: plain CD.
    :param rounds: k >= 1.
    :param uniform: numbers in [0, 1), ``(..., N, m)``: the hidden units of the first round are drawn with them, as
        Hinton's CD does, which keeps the machine from copying its input. None: means in all rounds.
    :returns: what to add to the three, times a rate.
    :raises ValueError: if shapes do not fit.

    >>> weight, zeros = torch.zeros(2, 1), (torch.zeros(2), torch.zeros(1))
    >>> contrastive_divergence(weight, *zeros, torch.tensor([[1.0, -1.0]]))[1]  # toward the pattern
    tensor([ 1., -1.])
    """
    _check(weight, visible_bias, hidden_bias, patterns=patterns)
    check.mask("known", known, patterns, "patterns")
    check.positive_integer("rounds", rounds)
    start = patterns if known is None else torch.where(known, patterns, torch.zeros_like(patterns))
    if uniform is not None:
        check.shaped(uniform=(uniform, "... N m"))
        hidden = torch.where(2 * uniform - 1 < (start @ weight + hidden_bias.unsqueeze(-2)).tanh(), 1.0, -1.0)
        fresh = (hidden.to(weight) @ weight.mT + visible_bias.unsqueeze(-2)).tanh()
        start, rounds = fresh if known is None else torch.where(known, start, fresh), rounds - 1
    negative = start
    if rounds:
        negative = mean_field_read(weight, visible_bias, hidden_bias, start, known=known, steps=rounds)
    up, down = ((v @ weight + hidden_bias.unsqueeze(-2)).tanh() for v in (patterns, negative))
    count = patterns.shape[-2]
    return (
        (patterns.mT @ up - negative.mT @ down) / count,
        (patterns - negative).mean(-2),
        (up - down).mean(-2),
    )


def _check(weight: Tensor, visible_bias: Tensor, hidden_bias: Tensor, **rows: Tensor) -> None:
    forms = {name: (value, "... N n") for name, value in rows.items()}
    check.shaped(
        weight=(weight, "... n m"), visible_bias=(visible_bias, "... n"), hidden_bias=(hidden_bias, "... m"), **forms
    )
