"""Slots by group, in flat arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from avalanche_memplugins import _checks as check

Integers = NDArray[np.int64]

ROOM = 16
"""Groups that there is room for from the start, and by how many the room grows."""


class SlotGroups:
    """Which slots each group holds: one array with the slots of a group side by side, groups in ascending order.

    Rows enter and leave a whole batch at a time. Only groups whose size changes, and those that lie between them in
    the array, have slots moved, as many as the change; so the cost does not depend on how many slots there are.

    :param capacity: slots.
    :param find: keep the place of every slot, too, so that slots can be replaced, not just places.
    :param count: count what every group has offered.
    """

    def __init__(self, capacity: int, *, find: bool, count: bool) -> None:
        check.room("capacity", capacity, 8 if find else 4)
        self.capacity = capacity
        self.filled = 0
        self._order = np.zeros(capacity, dtype=np.int32)  # slots, group by group
        self._place = np.full(capacity if find else 0, -1, dtype=np.int32)  # of every slot in _order
        self._columns = 4 if count else 3
        self._smallest: int | None = None
        self._table = np.zeros((self._columns, ROOM), dtype=np.int64)
        self._look(0)

    def __getstate__(self) -> dict[str, Any]:
        views = ("groups", "sizes", "starts", "offered")
        return {name: value for name, value in vars(self).items() if name not in views} | {"known": len(self.groups)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        known = state.pop("known")
        vars(self).update(state)
        self._look(known)

    def _look(self, groups: int) -> None:
        """Name the parts of the table that are in use."""
        self.groups: Integers = self._table[0, :groups]  # ascending
        self.sizes: Integers = self._table[1, :groups]
        self.starts: Integers = self._table[2, :groups]
        self.offered: Integers = self._table[-1, :groups]  # only if counted

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self._order.nbytes + self._place.nbytes + self._table.nbytes

    def reserve(self, groups: int) -> None:
        """Make room for so many groups."""
        room = -(-max(groups, 1) // ROOM) * ROOM
        if room > self._table.shape[1]:
            check.room("classes", room, 8 * self._columns)
            table = np.zeros((self._columns, room), dtype=np.int64)
            known = len(self.groups)
            table[:, :known] = self._table[:, :known]
            self._table = table
            self._look(known)

    def ranks(self, groups: ArrayLike) -> Integers:
        """Place in the table of each group; new ones are entered."""
        wanted = np.array(groups, dtype=np.int64)
        if len(self.groups):
            ranks = self.groups.searchsorted(wanted)
            if (self.groups.take(ranks, mode="clip") == wanted).all():
                return ranks
        new = np.setdiff1d(wanted, self.groups)
        if len(new):
            self._enter(new)
        return self.groups.searchsorted(wanted)

    def _enter(self, new: Integers) -> None:
        known = len(self.groups)
        self.reserve(known + len(new))
        order = np.concatenate([self.groups, new]).argsort(kind="stable")
        columns = np.zeros((self._columns, known + len(new)), dtype=np.int64)
        columns[:, :known] = self._table[:, :known]
        columns[0, known:] = new
        self._table[:, : known + len(new)] = columns[:, order]
        self._look(known + len(new))
        self._start()

    def drop_empty(self) -> None:
        """Forget groups that hold no slot."""
        if self.sizes.all():
            return
        kept = self._table[:, : len(self.groups)][:, self.sizes > 0]
        self._table[:, : kept.shape[1]] = kept
        self._look(kept.shape[1])
        self._smallest = None

    def _start(self) -> None:
        self._smallest = None
        self.starts[:] = self.sizes.cumsum() - self.sizes

    def slots(self, places: Integers) -> Integers:
        """What lies in the given places."""
        return self._order[places].astype(np.int64)

    def _put(self, places: Integers, slots: NDArray[Any]) -> None:
        self._order[places] = slots
        if len(self._place):
            self._place[slots] = places

    def groups_of(self, slots: Integers) -> tuple[Integers, Integers]:
        """Places of slots, -1 of those that are in no group; and the ranks of their groups."""
        places: Integers = self._place[slots].astype(np.int64)
        # Of groups that start in the same place the last is the one that is not empty.
        return places, self.starts.searchsorted(places, side="right") - 1

    def change(self, leaving: Integers, slots: Integers, ranks: Integers) -> None:
        """Take slots out, and put others in.

        :param leaving: different places, of what goes.
        :param slots: what comes, different from each other and from what stays.
        :param ranks: of the groups that they come to.
        """
        starts = self.starts.copy()
        by_group = ranks.argsort(kind="stable")
        won = np.bincount(ranks, minlength=len(starts))
        staying = self.sizes.copy()
        if len(leaving):
            leaving = np.sort(leaving)
            lost = np.bincount(starts.searchsorted(leaving, side="right") - 1, minlength=len(starts))
            staying -= lost
            # The last slots of a group move into its gaps: both ascend, and there are as many in every group.
            ends = (starts + staying).repeat(lost)
            tail = ends + numbers_within(lost)
            stays = leaving.take(leaving.searchsorted(tail), mode="clip") != tail
            if stays.any():
                self._put(leaving[leaving < ends], self._order[tail[stays]])
        self.sizes[:] = staying + won
        self._start()
        self.filled += len(slots) - len(leaving)
        # A group that shifts by d has d slots moved from one of its ends to the other, or all it has.
        shift = self.starts - starts
        moved = np.minimum(np.abs(shift), staying)
        if moved.any():
            inner = staying - moved
            left = shift < 0
            within = numbers_within(moved)
            source = (starts + inner * left).repeat(moved) + within
            target = (self.starts + inner * ~left).repeat(moved) + within
            self._put(target, self._order[source])
        self._put((self.starts + staying).repeat(won) + numbers_within(won), slots[by_group])

    @property
    def smallest(self) -> int:
        """Slots of the smallest group."""
        if self._smallest is None:
            self._smallest = int(self.sizes.min())
        return self._smallest

    def draw(self, ranks: Integers, generator: torch.Generator, *, replacement: bool = False) -> Integers:
        """Places drawn at random, one of each of the groups ``ranks``.

        :param ranks: ``(n,)``; without replacement none comes more often than its group has slots.
        :param generator: on the CPU.
        :param replacement: draw independently; otherwise no place comes twice.
        """
        starts, sizes = self.starts[ranks], self.sizes[ranks]
        places = starts + _below(sizes, generator)
        if replacement or len(set(places.tolist())) == len(places):
            return places
        wanted = np.bincount(ranks, minlength=len(self.sizes))
        large = 3 * wanted > self.sizes
        if large.any():
            # Of groups that give a large part of what they have: those with the smallest of random numbers.
            whole = np.where(large, self.sizes, 0)
            group, number = np.arange(len(whole)).repeat(whole), numbers_within(whole)
            order = np.lexsort((_uniform(len(group), generator), group))
            chosen = (self.starts[group] + number)[order][number < wanted[group]]
            theirs = np.flatnonzero(large[ranks])
            places[theirs[ranks[theirs].argsort(kind="stable")]] = chosen
        # Dropping repeats of independent draws leaves a uniform draw without replacement.
        while again := _repeats(places.tolist()):
            places[again] = starts[again] + _below(sizes[again], generator)
        return places

    def state(self) -> tuple[Integers, Integers]:
        """Group of every slot (-1: none), and its place within the group; ``(capacity,)`` each."""
        group, place = np.full(self.capacity, -1, dtype=np.int64), np.zeros(self.capacity, dtype=np.int64)
        slots = self._order[: self.filled]
        group[slots] = self.groups.repeat(self.sizes)
        place[slots] = numbers_within(self.sizes)
        return group, place

    def restore(self, group: Integers, place: Integers | None) -> None:
        """Take up what :meth:`state` gave.

        :param place: None: any.
        """
        slots = np.flatnonzero(group >= 0)
        order = slots[np.lexsort((slots if place is None else place[slots], group[slots]))]
        self.filled = len(order)
        self._order[: self.filled] = order
        if len(self._place):
            self._place[:] = -1
            self._place[order] = np.arange(len(order))
        groups, sizes = np.unique(group[slots], return_counts=True)
        self._look(0)
        self._enter(groups)
        self.sizes[:] = sizes
        self._start()


def water_level(limits: Integers, total: int) -> tuple[int, int]:
    r"""Share ``total`` among those that take up to ``limits`` each, as evenly as can be.

    :return: level L and rest r with :math:`\sum_g \min(l_g, L) + r` = total (or the sum of the limits, if that is
        less); r of those with :math:`l_g > L` take one more.
    """
    if limits.sum() <= total:
        return int(limits.max(initial=0)), 0
    ascending = np.sort(limits)
    # Level at which the first i are full and the others share the rest.
    full = np.concatenate([[0], ascending.cumsum()[:-1]])
    levels = (total - full) // np.arange(len(limits), 0, -1)
    first = int((levels < ascending).argmax())
    level = int(levels[first])
    return level, int(total - full[first] - level * (len(limits) - first))


def fair_shares(wanted: Integers, total: int) -> Integers:
    """:func:`water_level` as a share for each; of those above the level the last ones take the rest."""
    level, rest = water_level(wanted, total)
    shares: Integers = np.minimum(wanted, level)
    shares[np.flatnonzero(wanted > level)[::-1][:rest]] += 1
    return shares


def numbers_within(lengths: Integers) -> Integers:
    """``0, 1, ..., length - 1`` of every length, one after the other."""
    ends = lengths.cumsum()
    starts = (ends - lengths).repeat(lengths)
    return np.arange(len(starts)) - starts


def column(state: Mapping[str, Any], name: str, rows: int | None = None, *, least: int = 0) -> Integers:
    """A vector of integers out of a saved state.

    :param rows: how many; None: any number.
    :raises ValueError: for anything else.
    """
    found = state.get(name)
    if not isinstance(found, Tensor) or found.ndim != 1 or len(found) != (len(found) if rows is None else rows):
        raise ValueError(f"state: expected {name} of {'some' if rows is None else rows} rows, got {check.show(found)}")
    values: Integers = found.cpu().long().numpy().copy()
    if found.is_floating_point() or found.is_complex() or values.min(initial=least) < least:
        raise ValueError(f"state: expected {name} of integers >= {least}, got {check.show(found)}")
    return values


def _uniform(count: int, generator: torch.Generator) -> NDArray[np.float64]:
    drawn: NDArray[np.float64] = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
    return drawn


def _below(bounds: Integers, generator: torch.Generator) -> Integers:
    # In float64 exact enough for bounds of up to 2**53.
    return (_uniform(len(bounds), generator) * bounds).astype(np.int64)


def _repeats(values: list[int]) -> list[int]:
    """Where a value stands that stood before."""
    seen: set[int] = set()
    again = []
    for i, value in enumerate(values):
        if value in seen:
            again.append(i)
        seen.add(value)
    return again
