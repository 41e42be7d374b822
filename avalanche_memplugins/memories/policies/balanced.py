"""A uniform sample of every group, groups as equal as the stream allows."""

from __future__ import annotations

import heapq
from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories.policies.write import Grouping, Placement


class GroupBalanced:
    r"""Shares the slots among groups; within each group the kept rows are a uniform sample of all it offered.

    Group :math:`g` that has offered :math:`n_g` rows holds :math:`\min(n_g, L)` of them, up to one row, with
    the level :math:`L` such that :math:`\sum_g \min(n_g, L) = C`: rare groups keep everything, and the slots
    they leave serve the others.

    Each row draws a key :math:`u \sim U[0, 1)` when it is offered, and a group keeps the rows with its largest
    keys. As groups appear and grow, :math:`L` only falls, so a group only ever drops its smallest keys, and what
    it holds stays exactly a uniform sample without replacement.

    Source: bottom-k sampling (Cohen & Kaplan 2007); the aim is that of class-balancing reservoir sampling
    (Chrysakis & Moens 2020, algorithm 1), which evicts at random from the largest group.

    :param grouping: ``"class"`` or ``"task"`` (the experience that a row came from).
    """

    def __init__(self, grouping: Grouping) -> None:
        self.grouping: Grouping | None = check.choice("grouping", grouping, ("class", "task"))
        self.start(0)

    def start(self, capacity: int) -> None:
        """Take up work, empty, on ``capacity`` slots."""
        self.capacity = capacity
        self._filled = 0
        self._key = torch.zeros(capacity, dtype=torch.float64)
        self._group = torch.zeros(capacity, dtype=torch.int32)
        self._heaps: dict[int, list[tuple[float, int]]] = {}  # group -> heap of (key, slot)
        self._offered: dict[int, int] = {}
        # (-size, group), with entries of outdated size left in until they come up
        self._largest: list[tuple[int, int]] = []

    @property
    def nbytes(self) -> int:
        """Bytes of keys and groups, one of each a slot."""
        return self._key.nbytes + self._group.nbytes

    def place(self, seen: int, batch: int, groups: list[int] | None, generator: torch.Generator) -> list[Placement]:
        """Slots of the rows that stay, one row at a time."""
        if groups is None:
            raise ValueError("groups: a balanced policy wants the group of every row, got None")
        keys: list[float] = torch.rand(batch, generator=generator, dtype=torch.float64).tolist()
        written: dict[int, int] = {}  # slot -> row; a later row takes the slot from an earlier one
        for row, (key, group) in enumerate(zip(keys, groups, strict=True)):
            slot = self._place_row(key, group)
            if slot >= 0:
                written[slot] = row
        if not written:
            return []
        slots = torch.tensor(list(written))
        rows = torch.tensor(list(written.values()))
        self._key[slots] = torch.tensor(keys, dtype=torch.float64)[rows]
        self._group[slots] = torch.tensor(groups, dtype=torch.int32)[rows]
        return [Placement(rows, slots)]

    def _place_row(self, key: float, group: int) -> int:
        heap = self._heaps.setdefault(group, [])
        offered = self._offered.get(group, 0)
        self._offered[group] = offered + 1
        if self._filled < self.capacity:
            slot = self._filled
            self._filled += 1
            self._push(group, heap, key, slot)
            return slot
        largest = self._find_largest()
        if len(heap) == len(self._heaps[largest]) or len(heap) < offered:
            # The group is at the level, or has dropped rows before: its rows compete among themselves.
            # A full memory of fewer slots than groups may leave a group with none.
            if not heap or key < heap[0][0]:
                return -1
            return heapq.heapreplace(heap, (key, heap[0][1]))[1]
        _, slot = heapq.heappop(self._heaps[largest])
        heapq.heappush(self._largest, (-len(self._heaps[largest]), largest))
        self._push(group, heap, key, slot)
        return slot

    def _push(self, group: int, heap: list[tuple[float, int]], key: float, slot: int) -> None:
        heapq.heappush(heap, (key, slot))
        heapq.heappush(self._largest, (-len(heap), group))

    def _find_largest(self) -> int:
        while -self._largest[0][0] != len(self._heaps[self._largest[0][1]]):
            heapq.heappop(self._largest)
        return self._largest[0][1]

    def state_dict(self) -> dict[str, Any]:
        """Key and group of every filled slot, and what each group has offered."""
        return {
            "key": self._key[: self._filled].clone(),
            "group": self._group[: self._filled].clone(),
            "offered_group": torch.tensor(list(self._offered), dtype=torch.int64),
            "offered": torch.tensor(list(self._offered.values()), dtype=torch.int64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``; the heaps are rebuilt."""
        self.start(self.capacity)
        key: Tensor = state["key"]
        group: Tensor = state["group"]
        self._filled = len(key)
        self._key[: self._filled] = key
        self._group[: self._filled] = group
        offered = zip(state["offered_group"].tolist(), state["offered"].tolist(), strict=True)
        self._offered = dict(offered)
        self._heaps = {g: [] for g in self._offered}
        for slot, (k, g) in enumerate(zip(key.tolist(), group.tolist(), strict=True)):
            self._heaps[g].append((k, slot))
        for g, heap in self._heaps.items():
            heapq.heapify(heap)
            self._largest.append((-len(heap), g))
        heapq.heapify(self._largest)

    def __repr__(self) -> str:
        return f"GroupBalanced({self.grouping!r})"
