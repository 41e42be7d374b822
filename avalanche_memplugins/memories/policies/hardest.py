"""The rows with the largest loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories.policies._slot_groups import ROOM, column, fair_shares
from avalanche_memplugins.memories.policies.write import Grouping, Offered, Placement

_NONE = -1
_CLASS_BYTES = 256  # of a _Class, its numbers and its place in a dict


@dataclass(slots=True)
class _Class:
    root: int = _NONE  # slot of the smallest loss
    size: int = 0
    offered: int = 0


class Hardest:
    r"""Keeps the rows with the largest loss :math:`\ell_i`, as it was when a row was offered.

    After a stream of :math:`n` rows a memory of :math:`C` slots holds the :math:`C` rows of largest :math:`\ell_i`. Of
    equal losses the one in the lower slot stays, and what is held stays before what comes. With a grouping the slots
    are shared as by :class:`~avalanche_memplugins.memories.policies.GroupBalanced`, and every group holds its hardest
    rows.

    Without a grouping, classes that the model knows lose their rows to new ones: replay needs ``"class"``.
    Hard rows are often wrongly labelled, or not typical of their class: of noisy labels the memory keeps the wrong
    ones. Losses are stored as float32, and not renewed as the model learns. Accepting a row takes
    :math:`O(\log C)` steps: the rows of a group lie in a skew heap (Sleator & Tarjan 1986).

    :param grouping: None; ``"class"`` or ``"task"`` (the experience that a row came from).

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> memory = RandomMemory(2, write_policy="hardest")
    >>> loss = torch.tensor([0.1, 3.0, 0.2, 0.9])
    >>> memory.write(torch.arange(4.0)[:, None], torch.zeros(4, dtype=torch.int64), loss=loss)
    >>> sorted(memory.sample(2).x.flatten().tolist())
    [1.0, 3.0]
    """

    needs = frozenset({"loss"})

    def __init__(self, grouping: Grouping | None = None) -> None:
        if grouping is not None:
            check.choice("grouping", grouping, ("class", "task"))
        self.grouping = grouping
        self.start(0)

    def start(self, capacity: int) -> None:
        """Reset to an empty memory of ``capacity`` slots."""
        check.room("capacity", capacity, 12)
        self.capacity = capacity
        self.filled = 0
        self._loss = np.zeros(capacity, dtype=np.float32)
        self._left, self._right = (np.full(capacity, _NONE, dtype=np.int32) for _ in range(2))
        self._classes: dict[int, _Class] = {}
        self._room = 1 if self.grouping is None else ROOM

    def reserve(self, groups: int) -> None:
        """Count the bytes of so many groups now, instead of when they come.

        :param groups: how many, 0 to 2**31 - 1.
        """
        self._room = max(self._room, check.integer("groups", groups, least=0, most=2**31 - 1))

    @property
    def nbytes(self) -> int:
        """Bytes of the losses, of the heaps, and of the table of groups."""
        return 12 * self.capacity + _CLASS_BYTES * max(self._room, len(self._classes))

    def place(
        self,
        seen: int,
        batch: int,
        groups: list[int] | None,
        generator: torch.Generator,
        offered: Offered = Offered(),  # noqa: B008 - cannot change
    ) -> list[Placement]:
        """Slots of the rows that are harder than what is held; needs ``offered.loss``."""
        if offered.loss is None:
            raise ValueError("loss: expected one number a row, which the policy 'hardest' needs, got None")
        loss = offered.loss.detach().to("cpu", torch.float32).numpy()
        rows: dict[int, list[int]] = {}
        for row, group in enumerate([0] * batch if groups is None else groups):
            rows.setdefault(group, []).append(row)
        for group in rows:
            self._classes.setdefault(group, _Class())
        names = sorted(self._classes)
        wanted = []
        for group in names:
            held, come = self._classes[group], len(rows.get(group, ()))
            # One that has dropped a row never grows again: which row it would have to take back is not known.
            wanted.append(held.size + come * (held.size == held.offered))
        shares = fair_shares(np.array(wanted, dtype=np.int64), self.capacity).tolist()
        free: list[int] = []
        kept: list[tuple[int, int]] = []
        for group, share in zip(names, shares, strict=True):
            held = self._classes[group]
            new = sorted(rows.get(group, ()), key=lambda row: (-loss[row], row))
            held.offered += len(new)
            for _ in range(held.size + len(new) - share):
                if new and (not held.size or loss[new[-1]] <= self._loss[held.root]):
                    new.pop()
                else:
                    free.append(self._pop(held))
            kept += [(row, group) for row in new]
        kept.sort()
        unused = range(self.filled, self.filled + len(kept) - len(free))
        self.filled += len(unused)
        slots = [*unused, *sorted(free)]
        for (row, group), slot in zip(kept, slots, strict=True):
            self._push(self._classes[group], slot, loss[row])
        return [Placement(torch.tensor([row for row, _ in kept]), torch.tensor(slots))] if kept else []

    def _push(self, held: _Class, slot: int, loss: np.float32) -> None:
        self._loss[slot] = loss
        self._left[slot] = self._right[slot] = _NONE
        held.root = self._merged(held.root, slot)
        held.size += 1

    def _pop(self, held: _Class) -> int:
        slot = held.root
        held.root = self._merged(int(self._left[slot]), int(self._right[slot]))
        held.size -= 1
        return slot

    def _merged(self, a: int, b: int) -> int:
        """The root of two heaps made one: along the right edges, whose nodes change sides on the way."""
        if a == _NONE or b == _NONE:
            return max(a, b)
        if self._before(b, a):
            a, b = b, a
        root = a
        while (rest := int(self._right[a])) != _NONE:
            if self._before(b, rest):
                rest, b = b, rest
            self._right[a], self._left[a] = self._left[a], rest
            a = rest
        self._right[a], self._left[a] = self._left[a], b
        return root

    def _before(self, a: int, b: int) -> bool:
        # The order of equal losses must not depend on the heap's form, which is not saved.
        one, other = self._loss[a], self._loss[b]
        return bool(one < other or (one == other and a > b))

    def _slots(self, held: _Class) -> Iterator[int]:
        todo = [held.root]
        while todo:
            slot = todo.pop()
            if slot != _NONE:
                yield slot
                todo += [int(self._left[slot]), int(self._right[slot])]

    def state_dict(self) -> dict[str, Any]:
        """Loss and group of every filled slot, and what each group has offered."""
        group = np.zeros(self.filled, dtype=np.int64)
        for name, held in self._classes.items():
            group[list(self._slots(held))] = name
        return {
            "loss": torch.from_numpy(self._loss[: self.filled].copy()),
            "group": torch.from_numpy(group),
            "offered_group": torch.tensor(list(self._classes), dtype=torch.int64),
            "offered": torch.tensor([held.offered for held in self._classes.values()], dtype=torch.int64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``; nothing changes if an error is raised.

        :raises ValueError: if the state does not fit the capacity, or contradicts itself.
        """
        group, names, offered = (column(state, name).tolist() for name in ("group", "offered_group", "offered"))
        loss = state.get("loss")
        if not isinstance(loss, Tensor) or loss.shape != (len(group),) or len(group) > self.capacity:
            raise ValueError(f"state: expected losses and groups of at most {self.capacity} slots")
        check.finite("state: loss", loss)
        fresh = type(self)(self.grouping)
        fresh.start(self.capacity)
        fresh._room = self._room
        if len(names) != len(offered) or len(set(names)) != len(names) or not {*group} <= {*names}:
            raise ValueError("state: expected of every group how many rows it has offered")
        fresh._classes = {name: _Class(offered=count) for name, count in zip(names, offered, strict=True)}
        for slot, (value, name) in enumerate(zip(loss.cpu().float().numpy(), group, strict=True)):
            fresh._push(fresh._classes[name], slot, value)
        if any(held.size > held.offered for held in fresh._classes.values()):
            raise ValueError("state: expected of every group that it has offered at least what it holds")
        fresh.filled = len(loss)
        vars(self).update(vars(fresh))

    def __repr__(self) -> str:
        return f"Hardest({self.grouping!r})"
