"""Which rows a memory gives back."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional import distinct_integers
from avalanche_memplugins.memories.policies._slot_groups import SlotGroups, column, numbers_within, water_level
from avalanche_memplugins.memories.policies.write import Grouping, Stateless


class ReadPolicy(Protocol):
    """Chooses slots on the host; its cost depends on how many are wanted, not on how many there are.

    A policy may have ``forget(kept)``, so that its memory can: the row in slot ``kept[i]`` lies in slot i from now on,
    and no others are held.

    By ``repr(policy)`` a memory knows whether a saved state belongs to it: it must name all arguments, and nothing that
    changes.

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> class Newest(Uniform):
    ...     def choose(self, count, filled, generator):
    ...         return torch.arange(filled)[-count:]
    >>> memory = RandomMemory(6, read_policy=Newest())
    >>> memory.write(torch.rand(6, 3), torch.arange(6))
    >>> memory.sample(2).y
    tensor([4, 5])
    """

    grouping: Grouping | None

    def start(self, capacity: int) -> None:
        """Reset to an empty memory of ``capacity`` slots."""

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


class Uniform(Stateless):
    """Every row equally likely.

    :param replacement: draw rows independently; otherwise each at most once, and no more than there are.

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> memory = RandomMemory(6, read_policy=Uniform(replacement=True))
    >>> memory.write(torch.rand(6, 3), torch.arange(6))
    >>> len(memory.sample(20).y)
    20
    """

    def __init__(self, *, replacement: bool = False) -> None:
        self.replacement = check.flag("replacement", replacement)

    def assign(self, slots: list[int], groups: list[int]) -> None:
        """Groups do not matter here."""

    def forget(self, kept: Tensor) -> None:
        """There is nothing to forget."""

    def choose(self, count: int, filled: int, generator: torch.Generator) -> Tensor:
        """Uniform draws."""
        if self.replacement:
            check.room("n", count, 8)
            return torch.randint(filled, (count,), generator=generator)
        return distinct_integers(filled, min(count, filled), generator=generator)

    def __repr__(self) -> str:
        return f"Uniform(replacement={self.replacement})"


class Cycle:
    """Every row once a pass, passes in random order: what a shuffling data loader over the memory does.

    Each single draw is uniform, as with :class:`~avalanche_memplugins.memories.policies.Uniform`, but no row waits
    long and none comes again soon. A pass covers the rows that were there when it began; rows too few for another
    batch are left out of it. Shuffling costs as much as the pass is long, so a draw's cost does not depend on how
    many rows there are, on average.

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> memory = RandomMemory(6, read_policy="cycle")
    >>> memory.write(torch.arange(6.0)[:, None], torch.zeros(6, dtype=torch.int64))
    >>> sorted(torch.cat([memory.sample(3).x, memory.sample(3).x]).flatten().tolist())
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """

    grouping: Grouping | None = None

    def __init__(self) -> None:
        self.start(0)

    def start(self, capacity: int) -> None:
        """Reset to an empty memory of ``capacity`` slots."""
        self.capacity = capacity
        self._pass = torch.zeros(0, dtype=torch.int32)
        self._read = 0  # of it

    @property
    def nbytes(self) -> int:
        """Bytes of a pass over all slots."""
        return 4 * self.capacity

    def assign(self, slots: list[int], groups: list[int]) -> None:
        """Groups do not matter here."""

    def forget(self, kept: Tensor) -> None:
        """The pass goes on without the rows that are gone."""
        now = torch.full((self.capacity,), -1, dtype=torch.int32)
        now[kept] = torch.arange(len(kept), dtype=torch.int32)
        ahead = now[self._pass[self._read :].long()]
        self._pass, self._read = ahead[ahead >= 0], 0

    def choose(self, count: int, filled: int, generator: torch.Generator) -> Tensor:
        """The next rows of the pass, no more than there are."""
        count = min(count, filled)
        end = self._read + count
        if end > self._pass.shape[0]:
            self._pass, end = torch.randperm(filled, generator=generator, dtype=torch.int32), count
        self._read = end
        return self._pass[end - count : end].long()

    def state_dict(self) -> dict[str, Any]:
        """The rest of the pass."""
        return {"ahead": self._pass[self._read :].clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self._pass, self._read = state["ahead"].to("cpu", torch.int32), 0

    def __repr__(self) -> str:
        return "Cycle()"


class Balanced:
    """An equal share of rows from every group; within a group every row equally likely.

    Of ``count`` rows each of the ``G`` groups gives ``count // G``, and ``count % G`` groups drawn at random
    one more, so every group is represented equally in expectation ("a random equal proportion from every
    memory", RMA's future work).

    :param grouping: ``"class"`` or ``"task"`` (the experience that a row came from).
    :param replacement: draw rows of a group independently; otherwise each at most once: a group smaller than its
        share gives all it has, and the others share the rest, so that ``count`` rows come back if there are as many.
    :raises ValueError: for another grouping.

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> memory = RandomMemory(100, read_policy=Balanced("class"))
    >>> memory.write(torch.rand(100, 3), (torch.arange(100) > 89).long())  # 90 rows of class 0, 10 of class 1
    >>> memory.sample(16).y.bincount()
    tensor([8, 8])
    """

    def __init__(self, grouping: Grouping, *, replacement: bool = False) -> None:
        self.grouping: Grouping | None = check.choice("grouping", grouping, ("class", "task"))
        self.replacement = check.flag("replacement", replacement)
        self.start(0)

    def start(self, capacity: int) -> None:
        """Reset to an empty memory of ``capacity`` slots."""
        self.capacity = capacity
        self._held = SlotGroups(capacity, find=True, count=False)

    def reserve(self, groups: int) -> None:
        """Make room for groups now, instead of when they come.

        :param groups: how many, 0 to 2**31 - 1.
        """
        self._held.reserve(check.integer("groups", groups, least=0, most=2**31 - 1))

    @property
    def nbytes(self) -> int:
        """Bytes of the slots in their order, of the place of each, and of the table of groups."""
        return self._held.nbytes

    def assign(self, slots: list[int], groups: list[int]) -> None:
        """Move ``slots`` to their new groups."""
        held, new = self._held, np.asarray(slots, dtype=np.int64)
        ranks = held.ranks(groups)
        places, old = held.groups_of(new)
        changed = (places < 0) | (old != ranks)
        if changed.any():
            leaving = places[changed & (places >= 0)]
            held.change(leaving, new[changed], ranks[changed])
            held.drop_empty()

    def forget(self, kept: Tensor) -> None:
        """The rows of a group stay in their order."""
        group, place = (numbers[kept.numpy()] for numbers in self._held.state())
        all_groups, places = np.full(self.capacity, -1, dtype=np.int64), np.zeros(self.capacity, dtype=np.int64)
        all_groups[: len(kept)] = group
        order = np.lexsort((place, group))
        places[order] = numbers_within(np.unique(group, return_counts=True)[1])
        fresh = SlotGroups(self.capacity, find=True, count=False)
        fresh.restore(all_groups, places)
        self._held = fresh

    def choose(self, count: int, filled: int, generator: torch.Generator) -> Tensor:
        """Equal draws from every group."""
        if self.replacement:
            check.room("n", count, 8)
        held = self._held
        groups = len(held.sizes)
        if self.replacement or count <= held.smallest * groups:
            # In turn, beginning anew when all groups have had theirs.
            turn = distinct_integers(groups, min(groups, count), generator=generator).numpy()
            ranks = turn.take(np.arange(count), mode="wrap")
        else:
            level, rest = water_level(held.sizes, count)
            ranks = np.arange(groups).repeat(np.minimum(held.sizes, level))
            if rest:
                able = np.flatnonzero(held.sizes > level)
                more = able[distinct_integers(len(able), rest, generator=generator).numpy()]
                ranks = np.concatenate([ranks, more])
        places = held.draw(ranks, generator, replacement=self.replacement)
        return torch.from_numpy(held.slots(places))

    def state_dict(self) -> dict[str, Any]:
        """Group and place in its list of every slot."""
        group, place = self._held.state()
        return {"group": torch.from_numpy(group).int(), "position": torch.from_numpy(place).int()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``; nothing changes if an error is raised.

        :raises ValueError: if the state does not fit the capacity, or contradicts itself.
        """
        group, place = (column(state, name, self.capacity, least=-(2**62)) for name in ("group", "position"))
        there = group >= 0
        sizes = np.unique(group[there], return_counts=True)[1]
        if (place[there][np.lexsort((place[there], group[there]))] != numbers_within(sizes)).any():
            raise ValueError("state: expected the positions 0, 1, ... in every group")
        fresh = SlotGroups(self.capacity, find=True, count=False)
        fresh.restore(group, place)
        self._held = fresh

    def __repr__(self) -> str:
        return f"Balanced({self.grouping!r}, replacement={self.replacement})"
