r"""How neural memories with slots find a slot to read and one to write: MANN's LRUA and the DNC's addressing.

Slots are rows of :math:`M` ``(..., S, W)``; weights over slots are ``(..., S)``, one-hot if they are sharp. All can be
differentiated through but for the choice of the least used slot. Sources: Santoro et al., "One-shot learning with
memory-augmented neural networks", 2016, section 3.2; Graves et al., "Hybrid computing using a neural network with
dynamic external memory", 2016, methods.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from avalanche_memplugins import _checks as check

_EMPTY = 0.1


def content_weights(slots: Tensor, key: Tensor, sharpness: Tensor | float) -> Tensor:
    r"""Weights by likeness, :math:`\mathrm{softmax}_s(\beta \cos(k, M_s))`.

    Norms below 0.1 count as 0.1, so an empty slot has a cosine near 0, even if a blurred write has left a trace in it;
    its direction would otherwise be that of the key.

    :param slots: :math:`M`, ``(..., S, W)``.
    :param key: :math:`k`, ``(..., Q, W)``.
    :param sharpness: :math:`\beta` > 0, a number or ``(..., Q, 1)``.
    :returns: ``(..., Q, S)``, summing to 1.

    >>> content_weights(torch.eye(2), torch.tensor([[3.0, 0.0]]), 50.0).round()
    tensor([[1., 0.]])
    """
    check.shaped(slots=(slots, "... S W"), key=(key, "... Q W"))
    cosine = normalize(key, dim=-1, eps=_EMPTY) @ normalize(slots, dim=-1, eps=_EMPTY).mT
    return (sharpness * cosine).softmax(-1)


def least_used(usage: Tensor) -> Tensor:
    """One-hot weights ``(..., S)`` of the slot of least usage ``(..., S)``; of equal ones the first.

    >>> least_used(torch.tensor([0.5, 0.1, 0.1]))
    tensor([0., 1., 0.])
    """
    check.floats(usage=usage)
    # Exactly one slot: "all that are no more used than the least" would be every slot of an empty memory.
    return torch.zeros_like(usage).scatter_(-1, usage.argmin(-1, keepdim=True), 1.0)


def lrua_write_weights(usage: Tensor, last_read: Tensor, gate: Tensor) -> Tensor:
    r"""LRUA: write to what was read last, or to the least used slot, :math:`g w^r_{t-1} + (1 - g) w^{lu}_{t-1}`.

    :param usage: ``(..., S)``.
    :param last_read: :math:`w^r_{t-1}`, ``(..., S)``.
    :param gate: :math:`g` in [0, 1], ``(..., 1)``.

    >>> lrua_write_weights(torch.tensor([0.9, 0.1]), torch.tensor([1.0, 0.0]), torch.tensor([0.25]))
    tensor([0.2500, 0.7500])
    """
    check.shaped(usage=(usage, "... S"), last_read=(last_read, "... S"))
    return gate * last_read + (1 - gate) * least_used(usage)


def lrua_usage(usage: Tensor, read: Tensor, write: Tensor, *, decay: float) -> Tensor:
    r"""LRUA's usage, :math:`w^u_t = \gamma w^u_{t-1} + w^r_t + w^w_t`, of three ``(..., S)``.

    >>> lrua_usage(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.5]), torch.tensor([0.0, 1.0]), decay=0.5)
    tensor([0.5000, 1.5000])
    """
    check.shaped(usage=(usage, "... S"), read=(read, "... S"), write=(write, "... S"))
    check.number("decay", decay, least=0, most=1)
    return decay * usage + read + write


def dnc_usage(usage: Tensor, write: Tensor, read: Tensor, free: Tensor | float) -> Tensor:
    r"""DNC's usage, :math:`u_t = (u_{t-1} + w^w - u_{t-1} w^w)(1 - f w^r)`: raised by writes, cleared by freed reads.

    :param usage: :math:`u_{t-1}` in [0, 1], ``(..., S)``.
    :param write: :math:`w^w` of the write since, ``(..., S)``.
    :param read: :math:`w^r` of the read since, ``(..., S)``.
    :param free: the free gate :math:`f` in [0, 1], ``(..., 1)`` or a number; 0 frees nothing.

    >>> dnc_usage(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), 1.0)
    tensor([0., 0.])
    """
    check.shaped(usage=(usage, "... S"), write=(write, "... S"), read=(read, "... S"))
    return (usage + write - usage * write) * (1 - free * read)


def allocation_weights(usage: Tensor) -> Tensor:
    r"""DNC's weights of free slots, :math:`a_{\phi_j} = (1 - u_{\phi_j}) \prod_{i < j} u_{\phi_i}`, least used first.

    :param usage: :math:`u` in [0, 1], ``(..., S)``. It is pulled a little off 0 and 1, where the product has no slope.
    :returns: ``(..., S)``, summing to 1 at most.

    >>> allocation_weights(torch.tensor([1.0, 0.0, 0.0])).round()
    tensor([0., 1., 0.])
    """
    check.floats(usage=usage)
    ordered, order = (usage * 0.999 + 0.0005).sort(dim=-1, stable=True)
    before = torch.cat([torch.ones_like(ordered[..., :1]), ordered.cumprod(-1)[..., :-1]], -1)
    return torch.zeros_like(ordered).scatter(-1, order, (1 - ordered) * before)


def link_slots(link: Tensor, precedence: Tensor, write: Tensor) -> tuple[Tensor, Tensor]:
    r"""DNC's temporal links: :math:`L_{ij}` says how far slot i was written right after slot j.

    .. math::
        L_{ij} \leftarrow (1 - w_i - w_j) L_{ij} + w_i p_j, \quad L_{ii} = 0, \qquad
        p \leftarrow (1 - \textstyle\sum_i w_i) p + w

    A read follows them forwards by :math:`L w^r` and backwards by :math:`L^\top w^r`.

    :param link: :math:`L`, ``(..., S, S)``.
    :param precedence: :math:`p`, ``(..., S)``.
    :param write: :math:`w`, ``(..., S)``.
    :returns: both after the write.

    >>> link, precedence = torch.zeros(2, 2), torch.tensor([1.0, 0.0])  # slot 0 was written last
    >>> link_slots(link, precedence, torch.tensor([0.0, 1.0]))[0]
    tensor([[0., 0.],
            [1., 0.]])
    """
    check.shaped(link=(link, "... S S"), precedence=(precedence, "... S"), write=(write, "... S"))
    row, column = write.unsqueeze(-1), write.unsqueeze(-2)
    new = (1 - row - column) * link + row * precedence.unsqueeze(-2)
    new = new * (1 - torch.eye(write.shape[-1], dtype=new.dtype, device=new.device))
    return new, (1 - write.sum(-1, keepdim=True)) * precedence + write


def slots_in_use(slots: Tensor) -> Tensor:
    r"""How many slots hold something: :math:`(\sum_s e_s)^2 / \sum_s e_s^2` of the energies :math:`e_s = \|M_s\|^2`.

    S slots of equal norm count S, one alone 1, none 0.

    :param slots: ``(..., S, W)``.
    :returns: ``(...)``.

    >>> slots_in_use(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    tensor(2.)
    """
    check.shaped(slots=(slots, "... S W"))
    energy = slots.square().sum(-1)
    return energy.sum(-1).square() / energy.square().sum(-1).clamp_min(torch.finfo(energy.dtype).tiny)


def project_completions(projection: Tensor, slots: Tensor, cue: Tensor, known: Tensor, *, ridge: float) -> Tensor:
    r"""Complete cues from slots that hold projections of patterns, by ridge regression for each slot.

    .. math:: \min_{i, u} \; \| m_i - Q_K^\top k - Q_U^\top u \|^2 + \lambda \| u \|^2

    :param projection: :math:`Q`, ``(n, W)``, shared.
    :param slots: :math:`m_i = Q^\top x_i`, ``(E, S, W)``.
    :param cue: ``(E, N, n)``; entries that are not known count nothing.
    :param known: bool like ``cue``.
    :param ridge: :math:`\lambda` > 0.
    :returns: ``(E, N, n)``: known entries as they are, the others those of the slot with the least sum.
    :raises ValueError: if shapes do not fit.

    >>> projection = torch.tensor([[1.0], [1.0]])  # a slot holds the sum of two entries
    >>> slots = torch.tensor([[[3.0]]])
    >>> cue, known = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[True, False]]])
    >>> project_completions(projection, slots, cue, known, ridge=1e-6).round()
    tensor([[[1., 2.]]])
    """
    check.shaped(projection=(projection, "n W"), slots=(slots, "E S W"), cue=(cue, "E N n"))
    check.mask("known", known, cue, "cue")
    check.number("ridge", ridge, above=0)
    told = torch.where(known, cue, torch.zeros_like(cue))
    eye = ridge * torch.eye(projection.shape[1], dtype=projection.dtype, device=projection.device)
    out = []
    # One episode at a time: a system (N, W, W) for each.
    for own, given, free in zip(slots, told, ~known, strict=True):
        unknown = projection * free.unsqueeze(-1)  # (N, n, W)
        factor = torch.linalg.cholesky(unknown.mT @ unknown + eye)
        missing = (own.unsqueeze(0) - (given @ projection).unsqueeze(1)).mT  # (N, W, S)
        # (Q_U'Q_U + lambda) a = missing gives u = Q_U a, and lambda missing'a is what its least squares leave.
        dual = torch.cholesky_solve(missing, factor)
        best = (missing * dual).sum(1).argmin(-1)  # (N,)
        chosen = dual.gather(2, best.view(-1, 1, 1).expand(-1, dual.shape[1], 1))
        out.append(given + (unknown @ chosen).squeeze(-1))
    return torch.stack(out)
