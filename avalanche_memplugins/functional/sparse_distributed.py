r"""Sparse distributed memory: bits written into the counters of all hard locations near their address.

Patterns are entries of :math:`\pm 1`; 0 stands for an erased bit. Hard locations :math:`A` ``(L, n)`` are fixed, drawn
once; each has n counters :math:`C` ``(..., L, n)``. Everything here takes any leading batch dimensions of counters and
patterns, which share the locations. Source: Kanerva, "Sparse distributed memory", 1988, chapters 4 and 7.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check


def hard_locations(locations: int, size: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Addresses of hard locations, each bit drawn with even chances.

    :param locations: L, >= 1.
    :param size: n, bits of an address, >= 1.
    :param generator: on the CPU. None: torch's global one.
    :returns: ``(L, n)`` int8, entries 1 and -1.

    >>> hard_locations(2, 4, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([2, 4])
    """
    check.positive_integers(locations=locations, size=size)
    check.generator("generator", generator)
    return torch.randint(2, (locations, size), generator=generator, dtype=torch.int8) * 2 - 1


def activated(addresses: Tensor, cue: Tensor, *, radius: int | None = None, nearest: int | None = None) -> Tensor:
    r"""Which hard locations a cue reaches: those within a Hamming distance, or the nearest ones.

    .. math:: d_l = \tfrac12 \left( n - \sum_i a_{li} s_i \right)

    An erased bit (0) counts as half a difference. Of locations equally near the first ones are taken.

    :param addresses: :math:`a`, ``(L, n)``, entries 1 and -1.
    :param cue: :math:`s`, ``(..., N, n)`` floating point, entries 1, -1 and 0.
    :param radius: largest distance, >= 0. Give this or ``nearest``.
    :param nearest: how many locations, 1 to L.
    :returns: ``(..., N, L)`` bool.
    :raises ValueError: if shapes do not fit, or both ways are given or none.

    >>> addresses = torch.tensor([[1, 1, 1], [1, 1, -1], [-1, -1, -1]], dtype=torch.int8)
    >>> activated(addresses, torch.tensor([[1.0, 1.0, 1.0]]), radius=1)
    tensor([[ True,  True, False]])
    """
    if check.tensor("addresses", addresses).ndim != 2 or not len(addresses):
        raise ValueError(f"addresses: expected (L, n), L at least 1, got {tuple(addresses.shape)}")
    check.shaped(cue=(cue, f"... N {addresses.shape[1]}"))
    if (radius is None) == (nearest is None):
        raise ValueError(f"radius: expected a radius or nearest, not both, got {radius!r} and {nearest!r}")
    products = cue @ addresses.to(cue).mT
    if radius is not None:
        check.integer("radius", radius, least=0)
        return products >= addresses.shape[1] - 2 * radius
    if check.positive_integer("nearest", nearest) > len(addresses):
        raise ValueError(f"nearest: expected 1 to {len(addresses)} locations, got {nearest}")
    first = products.argsort(dim=-1, descending=True, stable=True)[..., :nearest]
    return torch.zeros_like(products, dtype=torch.bool).scatter_(-1, first, True)


def sparse_distributed_write(counters: Tensor, active: Tensor, patterns: Tensor, *, limit: int) -> Tensor:
    r"""Counters with patterns added, one after the other, at the locations that each reaches.

    .. math:: c_{li} \leftarrow \mathrm{clip}(c_{li} + x_i,\ -m,\ m)

    :param counters: :math:`c`, ``(..., L, n)`` integers of a signed type; zeros for an empty memory.
    :param active: ``(..., N, L)`` bool, of :func:`activated`.
    :param patterns: :math:`x`, ``(..., N, n)``, entries 1 and -1.
    :param limit: :math:`m` >= 1, at which a counter stays.
    :returns: like ``counters``.
    :raises ValueError: if shapes do not fit.

    >>> counters, active = torch.zeros(2, 3, dtype=torch.int8), torch.tensor([[True, False], [True, True]])
    >>> sparse_distributed_write(counters, active, torch.tensor([[1, 1, -1], [1, -1, -1]]), limit=1)
    tensor([[ 1,  0, -1],
            [ 1, -1, -1]], dtype=torch.int8)
    """
    _check_counters(counters, active)
    check.positive_integer("limit", limit)
    if check.tensor("patterns", patterns).shape != (*active.shape[:-1], counters.shape[-1]):
        wanted = (*active.shape[:-1], counters.shape[-1])
        raise ValueError(f"patterns: expected {wanted} like active, got {tuple(patterns.shape)}")
    # Wide enough for one more than the limit.
    new = counters.to(torch.int16 if limit < 2**15 - 1 else torch.int64, copy=True)
    for here, x in zip(active.unbind(-2), patterns.to(new.dtype).unbind(-2), strict=True):
        new += here.unsqueeze(-1) * x.unsqueeze(-2)
        new.clamp_(-limit, limit)
    return new.to(counters.dtype)


def sparse_distributed_read(counters: Tensor, active: Tensor) -> Tensor:
    r"""Sums of the counters that a cue reaches; the sign of each is the bit that is read.

    .. math:: h_i = \sum_{l \text{ active}} c_{li}

    :param counters: :math:`c`, ``(..., L, n)`` integers.
    :param active: ``(..., N, L)`` bool, of :func:`activated`.
    :returns: ``(..., N, n)`` float32.
    :raises ValueError: if shapes do not fit.

    >>> sparse_distributed_read(torch.tensor([[1, 2], [3, -4]]), torch.tensor([[True, True]]))
    tensor([[ 4., -2.]])
    """
    _check_counters(counters, active)
    return active.float() @ counters.float()


def sparse_distributed_recall(
    addresses: Tensor,
    counters: Tensor,
    cue: Tensor,
    *,
    radius: int | None = None,
    nearest: int | None = None,
    known: Tensor | None = None,
    steps: int = 1,
) -> Tensor:
    """Read a cue, take what was read for the next cue, and so on until nothing changes.

    A sum of exactly zero leaves the bit as it is.

    :param addresses: ``(L, n)``.
    :param counters: ``(..., L, n)``.
    :param cue: where to start, ``(..., N, n)`` floating point, entries 1, -1 and 0.
    :param radius: as in :func:`activated`, like ``nearest``.
    :param known: bool like ``cue``: bits that are right and stay. None: all may change.
    :param steps: reads at most, >= 1.
    :returns: like ``cue``.
    :raises ValueError: if shapes or arguments do not fit.

    >>> addresses = torch.tensor([[1, 1, 1, 1], [-1, -1, -1, -1]], dtype=torch.int8)
    >>> counters = torch.tensor([[1, 1, -1, 1], [0, 0, 0, 0]])
    >>> sparse_distributed_recall(addresses, counters, torch.tensor([[1.0, 1.0, 0.0, 0.0]]), nearest=1)
    tensor([[ 1.,  1., -1.,  1.]])
    """
    check.mask("known", known, cue, "cue")
    check.positive_integer("steps", steps)
    state = cue
    for _ in range(steps):
        sums = sparse_distributed_read(counters, activated(addresses, state, radius=radius, nearest=nearest)).to(cue)
        after = torch.where(sums != 0, sums.sign(), state)
        after = after if known is None else torch.where(known, cue, after)
        if torch.equal(after, state):
            break
        state = after
    return state


def _check_counters(counters: Tensor, active: Tensor) -> None:
    if check.tensor("counters", counters).ndim < 2:
        raise ValueError(f"counters: expected (..., L, n), got {tuple(counters.shape)}")
    if check.tensor("active", active).dtype != torch.bool:
        raise ValueError(f"active: expected bool, got {active.dtype}")
    if active.ndim < 2 or active.shape[-1] != counters.shape[-2]:
        raise ValueError(f"active: expected (..., N, {counters.shape[-2]}), got {tuple(active.shape)}")
