"""A uniform sample of every group, groups as equal as the stream allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories.policies._slot_groups import (
    Integers,
    SlotGroups,
    column,
    fair_shares,
    numbers_within,
)
from avalanche_memplugins.memories.policies.write import Grouping, Placement


class GroupBalanced:
    r"""Shares the slots among groups; within each group the kept rows are a uniform sample of all it offered.

    Group :math:`g` that has offered :math:`n_g` rows holds :math:`\min(n_g, L)` of them, up to one row, with
    the level :math:`L` such that :math:`\sum_g \min(n_g, L) = C`: rare groups keep everything, and the slots
    they leave serve the others.

    As groups appear and grow, :math:`L` only falls. A group above it drops rows drawn at random; one that has dropped
    rows goes on as a reservoir of the size it has: its :math:`n`-th row takes the place of one of its :math:`m` rows
    with probability :math:`m / n`. Both leave it a uniform sample without replacement. A whole batch is placed at
    once, and what that costs depends on the batch and the number of groups, not on the capacity.

    Source: class-balancing reservoir sampling (Chrysakis & Moens 2020, algorithm 1); within a group Vitter's
    algorithm R (1985).

    :param grouping: ``"class"`` or ``"task"`` (the experience that a row came from).
    :raises ValueError: for another grouping.

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> memory = RandomMemory(10, write_policy=GroupBalanced("class"))
    >>> memory.write(torch.rand(100, 3), (torch.arange(100) > 96).long())  # 97 rows of class 0, 3 of class 1
    >>> memory.summary().per_class
    {0: 7, 1: 3}
    """

    def __init__(self, grouping: Grouping) -> None:
        self.grouping: Grouping | None = check.choice("grouping", grouping, ("class", "task"))
        self.start(0)

    def start(self, capacity: int) -> None:
        """Reset to an empty memory of ``capacity`` slots."""
        self.capacity = capacity
        self._held = SlotGroups(capacity, find=False, count=True)

    def reserve(self, groups: int) -> None:
        """Make room for groups now, instead of when they come.

        :param groups: how many, 0 to 2**31 - 1.
        """
        self._held.reserve(check.integer("groups", groups, least=0, most=2**31 - 1))

    @property
    def nbytes(self) -> int:
        """Bytes of the slots in their order, and of the table of groups."""
        return self._held.nbytes

    def place(self, seen: int, batch: int, groups: list[int] | None, generator: torch.Generator) -> list[Placement]:
        """Slots of the rows that stay."""
        if groups is None:
            raise ValueError("groups: expected the group of every row, which a balanced policy needs, got None")
        held = self._held
        ranks = held.ranks(groups)
        come = np.bincount(ranks, minlength=len(held.groups))
        # A group that has dropped a row never grows again: which rows it would have to take back is not known.
        whole = held.sizes == held.offered
        number = np.empty(batch, dtype=np.int64)  # of a row within its group
        number[ranks.argsort(kind="stable")] = numbers_within(come)
        number += held.offered[ranks]
        held.offered += come
        if held.filled == self.capacity and not come[whole].any():
            rows, slots = self._over(ranks, number, generator)
        else:
            growth = fair_shares(held.sizes + come * whole, self.capacity) - held.sizes
            joins = number < (held.sizes + growth)[ranks]
            joins &= whole[ranks]
            rows = np.flatnonzero(joins)
            slots = self._free(growth, generator, ranks[rows])
            if len(rows) < batch:
                others = np.flatnonzero(~joins)
                over, places = self._over(ranks[others], number[others], generator)
                # A later row takes the slot from an earlier one.
                rows, slots = np.concatenate([rows, others[over]]), np.concatenate([slots, places])
        if len(set(slot := slots.tolist())) == len(slot):
            return [Placement(torch.from_numpy(rows), torch.from_numpy(slots))] if slot else []
        written = dict(zip(slot, rows.tolist(), strict=True))
        return [Placement(torch.tensor(list(written.values())), torch.tensor(list(written)))]

    def _over(self, ranks: Integers, number: Integers, generator: torch.Generator) -> tuple[Integers, Integers]:
        """Rows that take the place of one of their group, and the slots of these: algorithm R."""
        held = self._held
        draw = torch.rand(len(ranks), generator=generator, dtype=torch.float64).numpy()
        place = (draw * (number + 1)).astype(np.int64)
        rows = np.flatnonzero(place < held.sizes[ranks])
        return rows, held.slots(held.starts[ranks[rows]] + place[rows])

    def _free(self, growth: Integers, generator: torch.Generator, ranks: Integers) -> Integers:
        """Slots for rows of groups ``ranks`` that join: unused ones, and those of rows that are dropped."""
        held = self._held
        slots = np.arange(held.filled, min(held.filled + len(ranks), self.capacity))
        dropped = np.zeros(0, dtype=np.int64)
        if (growth < 0).any():
            dropped = held.draw(np.arange(len(growth)).repeat(np.maximum(-growth, 0)), generator)
            slots = np.concatenate([slots, held.slots(dropped)])
        held.change(dropped, slots, ranks)
        return slots

    def forget(self, kept: Tensor, seen: int) -> tuple[Tensor, int]:
        """What a group has offered falls in proportion to what it holds, and with all its rows the group goes."""
        state = self.state_dict()
        group, slots = state["group"].long(), kept.long()
        before, after = group.bincount(), group[slots].bincount(minlength=int(group.max()) + 1)
        offered = {}
        for number, count in zip(state["offered_group"].tolist(), state["offered"].tolist(), strict=True):
            held = int(before[number]) if number < len(before) else 0
            left = int(after[number]) if held else 0
            if left or not held:
                # A group that has dropped no row holds all that it has offered.
                offered[number] = count if left == held else max(left, round(count * left / held))
        place = state["place"][slots]
        order = np.lexsort((place.numpy(), group[slots].numpy()))
        numbers = torch.empty(len(slots), dtype=torch.int32)
        numbers[torch.from_numpy(order)] = torch.from_numpy(
            numbers_within(np.unique(group[slots].numpy(), return_counts=True)[1])
        ).int()
        fresh = {
            "group": group[slots].int(),
            "place": numbers,
            "offered_group": torch.tensor(list(offered), dtype=torch.int64),
            "offered": torch.tensor(list(offered.values()), dtype=torch.int64),
        }
        self.load_state_dict(fresh)
        return kept, sum(offered.values())

    def state_dict(self) -> dict[str, Any]:
        """Group of every filled slot, its place within the group, and what each group has offered."""
        held = self._held
        group, place = held.state()
        return {
            "group": torch.from_numpy(group[: held.filled]).int(),
            "place": torch.from_numpy(place[: held.filled]).int(),
            "offered_group": torch.from_numpy(held.groups.copy()),
            "offered": torch.from_numpy(held.offered.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``; nothing changes if an error is raised.

        States of earlier versions, with a random key of every slot in the stead of its place, are taken up, too.

        :raises ValueError: if the state does not fit the capacity, or contradicts itself.
        """
        group, groups, offered = (column(state, name) for name in ("group", "offered_group", "offered"))
        place = column(state, "place") if "place" in state else None
        if len(group) > self.capacity:
            raise ValueError(f"state: expected the groups of at most {self.capacity} slots and what they offered")
        held, sizes = np.unique(group, return_counts=True)
        known = dict(zip(groups.tolist(), offered.tolist(), strict=True)) if len(groups) == len(offered) else {}
        if len(known) != len(groups) or any(known.get(g, -1) < n for g, n in zip(held.tolist(), sizes, strict=True)):
            raise ValueError("state: expected of every group that it has offered at least what it holds")
        if place is not None and not _numbered(group, place):
            raise ValueError("state: expected the places 0, 1, ... in every group")
        whole = np.full(self.capacity, -1, dtype=np.int64)
        whole[: len(group)] = group
        fresh = SlotGroups(self.capacity, find=False, count=True)
        fresh.restore(whole, place)
        ranks = fresh.ranks(groups)
        fresh.offered[ranks] = offered
        self._held = fresh

    def __repr__(self) -> str:
        return f"GroupBalanced({self.grouping!r})"


def _numbered(group: Integers, place: Integers) -> bool:
    """Whether the slots of every group have the places 0, 1, ... in some order."""
    if len(group) != len(place):
        return False
    sizes = np.unique(group, return_counts=True)[1]
    return bool((place[np.lexsort((place, group))] == numbers_within(sizes)).all())
