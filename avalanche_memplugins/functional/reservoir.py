"""Reservoir sampling for batches, as a function of counts and random numbers alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from avalanche_memplugins import _checks as check


def reservoir_slots(seen: int, batch: int, capacity: int, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Slots that the next ``batch`` rows of a stream take in a reservoir, for the whole batch at once.

    Row :math:`i` of the stream (counted from 0) takes

    .. math:: s_i = i \text{ if } i < C, \quad \lfloor u_i (i + 1) \rfloor \text{ otherwise}, \quad u_i \sim U[0, 1)

    and is kept if :math:`s_i < C`. After :math:`n` rows each of them is held with probability
    :math:`\min(1, C / n)`, whatever the sizes of the batches, because the draw of a row depends on its
    place in the stream only. Within a batch the later of two rows with the same slot wins
    (:func:`last_write_wins`), as it would one row at a time.

    :param seen: rows of the stream before this batch, >= 0.
    :param batch: rows in this batch, >= 0; may be larger than ``capacity``.
    :param capacity: slots of the reservoir, >= 1.
    :param generator: source of random numbers, on the CPU.
    :return: int64 ``(batch,)`` on the CPU; -1 for a row that is not kept.

    Source: Vitter, "Random sampling with a reservoir", 1985, algorithm R.

    >>> reservoir_slots(0, 3, 4)  # as long as there is room
    tensor([0, 1, 2])
    >>> slots = reservoir_slots(1_000, 50, 10, generator=torch.Generator().manual_seed(0))
    >>> slots.shape, int((slots < 0).sum()) > 40  # few of many are kept
    (torch.Size([50]), True)
    """
    for name, value, least in (("seen", seen, 0), ("batch", batch, 0), ("capacity", capacity, 1)):
        check.integer(name, value, least=least)
    check.room("batch", batch, 8)
    check.generator("generator", generator)
    if seen + batch <= capacity:
        return torch.arange(seen, seen + batch)
    slots = _drawn(seen, batch, capacity, generator)
    slots[slots >= capacity] = -1
    return torch.from_numpy(slots)


def _drawn(seen: int, batch: int, capacity: int, generator: torch.Generator | None) -> np.ndarray[Any, Any]:
    # NumPy, since a batch is small, and torch's calls cost more than their work. In float64 the product is exact enough
    # for streams of up to 2**53 rows.
    draw = torch.rand(batch, generator=generator, dtype=torch.float64).numpy()
    slots: np.ndarray[Any, Any] = (draw * np.arange(seen + 1, seen + batch + 1)).astype(np.int64)
    if seen < capacity:
        slots[: capacity - seen] = np.arange(seen, capacity)
    return slots


def kept_by_reservoir(seen: int, batch: int, capacity: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """:func:`last_write_wins` of :func:`reservoir_slots`, for arguments that the caller has checked."""
    slots = _drawn(seen, batch, capacity, generator)
    rows = np.flatnonzero(slots < capacity)
    winner = dict(zip(slots[rows].tolist(), rows.tolist(), strict=True))
    return torch.from_numpy(np.array([*winner.values()], np.int64)), torch.from_numpy(np.array([*winner], np.int64))


def last_write_wins(slots: Tensor) -> tuple[Tensor, Tensor]:
    """Rows to write and the slots they go to, each slot once, the latest row of the batch winning.

    A tensor assignment with repeated indices leaves open which of the values stays; one row at a time
    it is the last.

    :param slots: int64 ``(B,)`` on the CPU; negative for a row that is not written.
    :return: ``rows`` and ``slots``, int64 ``(k,)`` both.

    >>> last_write_wins(torch.tensor([2, 0, 2, -1]))
    (tensor([2, 1]), tensor([2, 0]))
    """
    if check.tensor("slots", slots).ndim != 1 or slots.is_floating_point() or slots.dtype == torch.bool:
        raise ValueError(f"slots: expected integers (B,), got {slots.dtype} {tuple(slots.shape)}")
    winner = {slot: row for row, slot in enumerate(slots.tolist()) if slot >= 0}
    return torch.from_numpy(np.array([*winner.values()], np.int64)), torch.from_numpy(np.array([*winner], np.int64))


def distinct_integers(bound: int, count: int, *, generator: torch.Generator | None = None) -> Tensor:
    """``count`` different integers below ``bound``, every ordered choice equally likely.

    Repeats of independent draws are dropped, which leaves a uniform sample without replacement; the
    cost depends on ``count`` alone, unless a large part of the range is drawn.

    :param bound: exclusive upper end of the range, >= ``count``.
    :param count: how many, >= 0.
    :param generator: source of random numbers, on the CPU.
    :raises ValueError: if ``count`` exceeds ``bound``.
    :return: int64 ``(count,)`` on the CPU.

    >>> drawn = distinct_integers(100, 10, generator=torch.Generator().manual_seed(0))
    >>> len(set(drawn.tolist()))
    10
    """
    check.integer("bound", bound, least=0)
    check.integer("count", count, least=0)
    check.generator("generator", generator)
    if count > bound:
        raise ValueError(f"count: expected at most {bound}, as no more different integers lie below it, got {count}")
    if 3 * count > bound:
        return torch.randperm(bound, generator=generator)[:count]
    draws = torch.randint(bound, (count,), generator=generator)
    found = dict.fromkeys(draws.tolist())
    if len(found) == count:
        return draws
    while len(found) < count:
        found.update(dict.fromkeys(torch.randint(bound, (count,), generator=generator).tolist()))
    return torch.from_numpy(np.array(list(found)[:count], np.int64))
