"""Which rows a memory gives back."""

from __future__ import annotations

from array import array
from bisect import insort
from typing import Any, Protocol

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional import distinct_integers
from avalanche_memplugins.memories.policies.write import Grouping


class ReadPolicy(Protocol):
    """Chooses slots on the host; its cost depends on how many are wanted, not on how many there are."""

    grouping: Grouping | None

    def start(self, capacity: int) -> None:
        """Take up work, empty, on ``capacity`` slots."""

    def assign(self, slots: list[int], groups: list[int]) -> None:
        """Learn that ``slots`` now hold rows of ``groups``; called only if ``grouping`` is set."""

    def choose(self, count: int, filled: int, generator: torch.Generator) -> Tensor:
        """Slots of ``count`` rows out of ``filled``, int64 ``(n,)`` on the CPU.

        May bind attributes of the policy anew, but not change their values in place: a draw made ahead works
        on a shallow copy.
        """

    @property
    def nbytes(self) -> int:
        """Bytes of state that grow with the capacity."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers from which :meth:`load_state_dict` goes on exactly."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""


class Uniform:
    """Every row equally likely.

    :param replacement: draw rows independently; otherwise each at most once, and no more than there are.
    """

    grouping: Grouping | None = None
    nbytes = 0

    def __init__(self, *, replacement: bool = False) -> None:
        self.replacement = check.flag("replacement", replacement)

    def start(self, capacity: int) -> None:
        """There is nothing to prepare."""

    def assign(self, slots: list[int], groups: list[int]) -> None:
        """Groups do not matter here."""

    def choose(self, count: int, filled: int, generator: torch.Generator) -> Tensor:
        """Uniform draws."""
        if self.replacement:
            check.room("n", count, 8)
            return torch.randint(filled, (count,), generator=generator)
        return distinct_integers(filled, min(count, filled), generator=generator)

    def state_dict(self) -> dict[str, Any]:
        """There is nothing to save."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is nothing to restore."""

    def __repr__(self) -> str:
        return f"Uniform(replacement={self.replacement})"


class Balanced:
    """An equal share of rows from every group; within a group every row equally likely.

    Of ``count`` rows each of the ``G`` groups gives ``count // G``, and ``count % G`` groups drawn at random
    one more, so every group is represented equally in expectation ("a random equal proportion from every
    memory", RMA's future work).

    :param grouping: ``"class"`` or ``"task"`` (the experience that a row came from).
    :param replacement: draw rows of a group independently; otherwise each at most once, so that a group
        smaller than its share gives all it has, and fewer than ``count`` rows come back.
    """

    def __init__(self, grouping: Grouping, *, replacement: bool = False) -> None:
        self.grouping: Grouping | None = check.choice("grouping", grouping, ("class", "task"))
        self.replacement = check.flag("replacement", replacement)
        self.start(0)

    def start(self, capacity: int) -> None:
        """Take up work, empty, on ``capacity`` slots."""
        # array, not tensor: single entries are read and written one at a time
        self._group = array("i", [-1]) * capacity
        self._position = array("i", [0]) * capacity
        self._members: dict[int, list[int]] = {}
        self._groups: list[int] = []  # the keys of _members, ascending: one order, however they came

    @property
    def nbytes(self) -> int:
        """Bytes of the group and place of every slot, and of the lists of members."""
        return (4 + 4 + 8) * len(self._group)

    def assign(self, slots: list[int], groups: list[int]) -> None:
        """Move ``slots`` to the lists of their new groups, O(1) each."""
        for slot, group in zip(slots, groups, strict=True):
            old = self._group[slot]
            if old == group:
                continue
            if old >= 0:
                self._remove(slot, old)
            if group not in self._members:
                self._members[group] = []
                insort(self._groups, group)
            members = self._members[group]
            self._group[slot] = group
            self._position[slot] = len(members)
            members.append(slot)

    def _remove(self, slot: int, group: int) -> None:
        members = self._members[group]
        last = members.pop()
        if last != slot:
            place = self._position[slot]
            members[place] = last
            self._position[last] = place
        if not members:
            del self._members[group]
            self._groups.remove(group)

    def choose(self, count: int, filled: int, generator: torch.Generator) -> Tensor:
        """Equal draws from every group."""
        if self.replacement:
            check.room("n", count, 8)
        groups = self._groups
        share, extra = divmod(count, len(groups))
        if share == 0:  # more groups than rows: no need to look at each
            lucky = distinct_integers(len(groups), extra, generator=generator).tolist()
            wanted = [(groups[g], 1) for g in lucky]
        else:
            more = set(distinct_integers(len(groups), extra, generator=generator).tolist())
            wanted = [(group, share + (i in more)) for i, group in enumerate(groups)]
        slots: list[int] = []
        for group, size in wanted:
            members = self._members[group]
            if self.replacement:
                picks = torch.randint(len(members), (size,), generator=generator)
            else:
                picks = distinct_integers(len(members), min(size, len(members)), generator=generator)
            slots += [members[i] for i in picks.tolist()]
        return torch.tensor(slots, dtype=torch.int64)

    def state_dict(self) -> dict[str, Any]:
        """Group and place in its list of every slot."""
        return {
            "group": torch.tensor(self._group, dtype=torch.int32),
            "position": torch.tensor(self._position, dtype=torch.int32),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``; the lists are rebuilt in their order."""
        self._group = array("i", state["group"].tolist())
        self._position = array("i", state["position"].tolist())
        order = sorted(
            (group, place, slot)
            for slot, (group, place) in enumerate(zip(self._group, self._position, strict=True))
            if group >= 0
        )
        self._members = {}
        for group, _, slot in order:
            self._members.setdefault(group, []).append(slot)
        self._groups = list(self._members)

    def __repr__(self) -> str:
        return f"Balanced({self.grouping!r}, replacement={self.replacement})"
