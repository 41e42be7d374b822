r"""The Hopfield network: three rules that store patterns of :math:`\pm 1` in symmetric weights, and recall by signs.

Everything here takes any leading batch dimensions, one network each. Sources: Hopfield, "Neural networks and physical
systems with emergent collective computational abilities", 1982; Storkey, "Increasing the capacity of a Hopfield network
without sacrificing functionality", 1997; Personnaz, Guyon & Dreyfus, "Collective computational properties of neural
networks: new learning mechanisms", 1986.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check

# Of a pattern's length: what float32 weights leave of a pattern already stored is smaller, anything new is larger.
_NEW = 1e-4


def hebb_rule(weights: Tensor, patterns: Tensor) -> Tensor:
    r"""Weights with patterns added, all at once.

    .. math:: W' = W + X^\top X

    The usual factor 1/n changes no sign, and whole numbers keep fields of zero exact.

    :param weights: :math:`W`, ``(..., n, n)``; zeros for an empty network.
    :param patterns: :math:`X`, ``(..., N, n)``, each entry 1 or -1.
    :returns: ``(..., n, n)``, the diagonal included.

    Source: Hopfield 1982, equation 2.

    >>> hebb_rule(torch.zeros(3, 3), torch.tensor([[1.0, -1.0, 1.0]]))
    tensor([[ 1., -1.,  1.],
            [-1.,  1., -1.],
            [ 1., -1.,  1.]])
    """
    _check(weights, patterns)
    return weights + patterns.mT @ patterns


def storkey_rule(weights: Tensor, patterns: Tensor, *, whole_field: bool = False) -> Tensor:
    r"""Weights with patterns added, one after the other.

    .. math::
        w'_{ij} = w_{ij} + \tfrac{1}{n} \left( x_i x_j - x_i h_{ji} - h_{ij} x_j \right), \qquad
        h_{ij} = \sum_{k \ne i, j} w_{ik} x_k

    With :math:`h_i = \sum_{k \ne i} w_{ik} x_k` that is, for :math:`i \ne j`,
    :math:`w'_{ij} = (1 + \tfrac{2}{n}) w_{ij} + \tfrac{1}{n} (x_i x_j - x_i h_j - h_i x_j)`: O(n²) a pattern. No entry
    outside the diagonal depends on the diagonal, so zeroing it now or after the last pattern is the same.

    :param weights: :math:`W`, ``(..., n, n)``; zeros for an empty network.
    :param patterns: ``(..., N, n)``, each entry 1 or -1.
    :param whole_field: take :math:`h_{ij} = h_i = \sum_k w_{ik} x_k` and keep the diagonal zero, a common shortcut that
        stores less; EBMM's published row for Storkey's rule looks like it (bench/RESULTS.md).
    :returns: ``(..., n, n)``, the diagonal included.

    Source: Storkey 1997, section 3.

    >>> weights = storkey_rule(torch.zeros(4, 4), torch.tensor([[1.0, -1.0, 1.0, 1.0]]))
    >>> hopfield_recall(weights, torch.tensor([[1.0, -1.0, 0.0, 0.0]]))
    tensor([[ 1., -1.,  1.,  1.]])
    """
    check.flag("whole_field", whole_field)
    _check(weights, patterns)
    size = weights.shape[-1]
    if whole_field:
        return _storkey_whole(weights, patterns)
    diagonal = weights.diagonal(dim1=-2, dim2=-1)
    off = weights - torch.diag_embed(diagonal)
    for x in patterns.unbind(-2):
        field = (off @ x.unsqueeze(-1)).squeeze(-1)
        cross = _outer(x, field)
        off = (1 + 2 / size) * off + (_outer(x, x) - cross - cross.mT) / size
        step = (1 - 2 * x * field) / size
        off = off - torch.diag_embed(off.diagonal(dim1=-2, dim2=-1))
        diagonal = diagonal + step
    return off + torch.diag_embed(diagonal)


def _storkey_whole(weights: Tensor, patterns: Tensor) -> Tensor:
    off = weights - torch.diag_embed(weights.diagonal(dim1=-2, dim2=-1))
    for x in patterns.unbind(-2):
        cross = _outer(x, (off @ x.unsqueeze(-1)).squeeze(-1))
        off = off + (_outer(x, x) - cross - cross.mT) / weights.shape[-1]
        off = off - torch.diag_embed(off.diagonal(dim1=-2, dim2=-1))
    return off


def pseudo_inverse_rule(weights: Tensor, patterns: Tensor) -> Tensor:
    r"""Projection onto the span of the patterns stored and those added.

    .. math:: W' = W + R^+ R, \qquad R = X - X W

    From zero weights that is :math:`W = X^+ X`; later patterns extend the span, so the order does not matter. What
    lies in the span already (a repeated pattern) adds nothing. Worked out in float64.

    :param weights: :math:`W`, ``(..., n, n)``, a projection that this rule made, its diagonal included; zeros for an
        empty network.
    :param patterns: :math:`X`, ``(..., N, n)``, each entry 1 or -1.
    :returns: ``(..., n, n)``, the diagonal included.

    Source: Personnaz et al. 1986.

    >>> patterns = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, -1.0, -1.0]])
    >>> weights = pseudo_inverse_rule(torch.zeros(4, 4), patterns)
    >>> torch.allclose(patterns @ weights, patterns)
    True
    """
    _check(weights, patterns)
    projection, x = weights.double(), patterns.double()
    _, values, directions = torch.linalg.svd(x - x @ projection, full_matrices=False)
    new = directions * (values > _NEW * weights.shape[-1] ** 0.5).unsqueeze(-1)
    extended: Tensor = projection + new.mT @ new
    return extended.to(weights.dtype)


def hopfield_recall(
    weights: Tensor,
    cue: Tensor,
    *,
    known: Tensor | None = None,
    update: Literal["asynchronous", "synchronous"] = "asynchronous",
    keep_diagonal: bool = False,
    sweeps: int = 20,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Update the entries of states until none changes.

    .. math:: s_i \leftarrow \mathrm{sign} \sum_j w_{ij} s_j

    A field of exactly zero leaves the entry as it is. Asynchronous updates go through the entries one by one, each
    seeing those before it; with a zero diagonal they never raise the energy :math:`-s^\top W s / 2`, so they settle.
    Synchronous updates change all entries at once and may end in a cycle of two.

    :param weights: :math:`W`, ``(..., n, n)``, symmetric.
    :param cue: where to start, ``(..., N, n)``: 1, -1, or 0 for an erased entry.
    :param known: bool like ``cue``: entries that are clamped, never updated. None: all are updated.
    :param update: ``"asynchronous"`` or ``"synchronous"``.
    :param keep_diagonal: let an entry's own weight count; else it is taken for 0.
    :param sweeps: passes over all entries at most, >= 1.
    :param generator: of the order of asynchronous updates, a new one each sweep, the same for all states; on the CPU.
        None: from the first entry to the last.
    :returns: states like ``cue``.
    :raises ValueError: if shapes or arguments do not fit.

    >>> pattern = torch.tensor([[1.0, -1.0, 1.0, 1.0]])
    >>> weights = hebb_rule(torch.zeros(4, 4), pattern)
    >>> hopfield_recall(weights, torch.tensor([[1.0, -1.0, 0.0, 0.0]]))
    tensor([[ 1., -1.,  1.,  1.]])
    """
    _check(weights, cue, "cue")
    check.mask("known", known, cue, "cue")
    check.choice("update", update, ("asynchronous", "synchronous"))
    check.flag("keep_diagonal", keep_diagonal)
    check.positive_integer("sweeps", sweeps)
    check.generator("generator", generator)
    if not keep_diagonal:
        weights = weights - torch.diag_embed(weights.diagonal(dim1=-2, dim2=-1))
    free = None if known is None else ~known
    state = cue
    for _ in range(sweeps):
        if update == "synchronous":
            after = _signs(state @ weights, state, free)
        else:
            size = cue.shape[-1]
            order = range(size) if generator is None else torch.randperm(size, generator=generator).tolist()
            after = _one_by_one(weights, state, free, order)
        if torch.equal(after, state):
            break
        state = after
    return state


def _one_by_one(weights: Tensor, state: Tensor, free: Tensor | None, order: range | list[int]) -> Tensor:
    state, field = state.clone(), state @ weights
    for i in order:
        after = _signs(field[..., i], state[..., i], None if free is None else free[..., i])
        change = after - state[..., i]
        # Few entries change once a state has nearly settled: only their fields are brought up to date.
        moved = change.nonzero(as_tuple=True)
        if len(moved[0]):
            row: tuple[Tensor | int, ...] = (*moved[:-1], i)
            field[moved] += change[moved].unsqueeze(-1) * weights[row]
            state[..., i] = after
    return state


def _signs(field: Tensor, state: Tensor, free: Tensor | None) -> Tensor:
    changes = field != 0 if free is None else free & (field != 0)
    return torch.where(changes, field.sign(), state)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(-1) * b.unsqueeze(-2)


def _check(weights: Tensor, patterns: Tensor, name: str = "patterns") -> None:
    check.shaped(**{"weights": (weights, "... n n"), name: (patterns, "... N n")})
