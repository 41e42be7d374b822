"""The rows whose mean is nearest to that of their class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories.policies._slot_groups import ROOM, Integers, column, fair_shares
from avalanche_memplugins.memories.policies.write import Grouping, Offered, Placement


def herd(features: Tensor, mean: Tensor, count: int) -> Tensor:
    r"""Rows chosen one after the other such that their mean stays as near to ``mean`` as it can be.

    .. math:: p_k = \arg\min_i \Big\| \mu - \tfrac{1}{k} \Big(h_i + \sum_{j < k} h_{p_j}\Big) \Big\|

    over the rows that have not been chosen yet; of equal ones the first.

    :param features: ``(n, F)``.
    :param mean: :math:`\mu`, ``(F,)``.
    :param count: rows wanted, 0 to n.
    :return: int64 ``(count,)``.

    Source: Rebuffi et al., "iCaRL", CVPR 2017, algorithm 4.

    >>> import torch
    >>> herd(torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.tensor([3.0]), 2).tolist()
    [1, 2]
    """
    chosen: list[int] = []
    total = torch.zeros_like(mean)
    left = torch.ones(len(features), dtype=torch.bool)
    for k in range(1, count + 1):
        distance = (mean - (features + total) / k).square().sum(1)
        best = int(distance.masked_fill(~left, torch.inf).argmin())
        chosen.append(best)
        left[best] = False
        total = total + features[best]
    return torch.tensor(chosen, dtype=torch.int64)


class Herding:
    r"""Keeps of every class the rows whose running mean is nearest to the mean of the class, as iCaRL does.

    A row's features are its key :math:`h = f(x)` in a memory with an ``embedding`` f, and x itself without. Classes
    share the slots as equally as the stream allows; one that must give slots back drops those that it chose last.
    The mean of a class is that of all rows it has offered, whether they are held or not.

    Every write chooses anew (:func:`herd`) among the rows that a class holds and those that come. If a class comes in
    one write, its choice is iCaRL's own. If it comes in several, as from a plugin with ``write_at="experience"``, the
    mean at the end is exactly that of the class, but a row that an earlier batch has dropped is not looked at again.
    Without an embedding, features of held rows are those of what is stored: a codec that loses something moves them.
    iCaRL scales features to length 1; let the embedding do that.

    A write costs time in proportion to the rows held of its classes, times their share. So this policy is for writes at
    the end of an experience rather than in every iteration.

    Source: Rebuffi et al., "iCaRL", CVPR 2017, algorithms 4 and 5.

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> memory = RandomMemory(2, write_policy="herding")
    >>> memory.write(torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.zeros(4, dtype=torch.int64))
    >>> sorted(memory.sample(2).x.flatten().tolist())
    [1.0, 5.0]
    """

    grouping: Grouping | None = "class"
    needs = frozenset({"x"})

    def __init__(self) -> None:
        self.start(0)

    def start(self, capacity: int) -> None:
        """Reset to an empty memory of ``capacity`` slots."""
        check.room("capacity", capacity, 8)
        self.capacity = capacity
        self.filled = 0
        self._group = np.zeros(capacity, dtype=np.int32)
        self._rank = np.zeros(capacity, dtype=np.int32)  # of a slot within its class, in the order chosen
        self._classes = np.zeros(0, dtype=np.int64)  # ascending, and what each has offered
        self._offered = np.zeros(0, dtype=np.int64)
        self._sums = torch.zeros(0, 0, dtype=torch.float64)
        self._room = ROOM

    def reserve(self, groups: int) -> None:
        """Count the bytes of so many classes now, instead of when they come.

        :param groups: how many, 0 to 2**31 - 1.
        """
        self._room = max(self._room, check.integer("groups", groups, least=0, most=2**31 - 1))

    @property
    def nbytes(self) -> int:
        """Bytes of class and rank of every slot, and of the classes' sums, whose width the first write tells."""
        return 8 * self.capacity + (16 + 8 * self._sums.shape[1]) * max(self._room, len(self._classes))

    def place(
        self,
        seen: int,
        batch: int,
        groups: list[int] | None,
        generator: torch.Generator,
        offered: Offered = Offered(),  # noqa: B008 - cannot change
    ) -> list[Placement]:
        """Slots of the rows that are chosen; needs ``offered.key`` and ``offered.held``."""
        if offered.key is None or offered.held is None or groups is None:
            raise ValueError("x: expected rows and their classes, which the policy 'herding' needs, got None")
        features = _features(offered.key)
        if len(self._classes) and features.shape[1] != self._sums.shape[1]:
            raise ValueError(f"x: expected {self._sums.shape[1]} features a row, got {features.shape[1]}")
        of_row = np.array(groups)
        self._enter(np.setdiff1d(of_row, self._classes), features.shape[1])
        ranks = self._classes.searchsorted(of_row)
        self._sums.index_add_(0, torch.from_numpy(ranks), features)
        come = np.bincount(ranks, minlength=len(self._classes))
        self._offered += come
        held = np.bincount(self._classes.searchsorted(self._group[: self.filled]), minlength=len(self._classes))
        shares = fair_shares(held + come, self.capacity)
        free: list[int] = []
        kept: list[tuple[int, int]] = []  # row, and its place in the order chosen
        for number in np.flatnonzero((come > 0) | (shares < held)).tolist():
            slots = np.flatnonzero(self._group[: self.filled] == self._classes[number])
            slots = slots[self._rank[slots].argsort(kind="stable")]
            if not come[number]:
                free += slots[shares[number] :].tolist()
                continue
            rows = np.flatnonzero(ranks == number)
            pool = features[rows]
            if len(slots):
                recall = offered.held(torch.from_numpy(slots))
                pool = torch.cat([_features(recall.x if recall.key is None else recall.key), pool])
            order = herd(pool, self._sums[number] / int(self._offered[number]), int(shares[number])).tolist()
            for rank, place in enumerate(order):
                if place < len(slots):
                    self._rank[slots[place]] = rank
                else:
                    kept.append((int(rows[place - len(slots)]), rank))
            free += slots[np.setdiff1d(np.arange(len(slots)), order)].tolist()
        kept.sort()
        unused = range(self.filled, self.filled + len(kept) - len(free))
        self.filled += len(unused)
        taken = [*unused, *sorted(free)]
        for (row, rank), slot in zip(kept, taken, strict=True):
            self._group[slot], self._rank[slot] = groups[row], rank
        return [Placement(torch.tensor([row for row, _ in kept]), torch.tensor(taken))] if kept else []

    def _enter(self, new: Integers, width: int) -> None:
        if not len(new):
            return
        classes = np.concatenate([self._classes, new])
        order = classes.argsort()
        self._classes = classes[order]
        self._offered = np.concatenate([self._offered, np.zeros(len(new), dtype=np.int64)])[order]
        held = self._sums if len(self._sums) else self._sums.new_zeros(0, width)
        self._sums = torch.cat([held, held.new_zeros(len(new), width)])[torch.from_numpy(order)]

    def state_dict(self) -> dict[str, Any]:
        """Class and rank of every filled slot; of every class what it has offered, and the sum of that."""
        return {
            "group": torch.from_numpy(self._group[: self.filled].copy()),
            "rank": torch.from_numpy(self._rank[: self.filled].copy()),
            "offered_group": torch.from_numpy(self._classes.copy()),
            "offered": torch.from_numpy(self._offered.copy()),
            "sums": self._sums.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``; nothing changes if an error is raised.

        :raises ValueError: if the state does not fit the capacity, or contradicts itself.
        """
        group, rank, classes, offered = (column(state, name) for name in ("group", "rank", "offered_group", "offered"))
        sums = state.get("sums")
        if len(group) != len(rank) or len(group) > self.capacity:
            raise ValueError(f"state: expected class and rank of at most {self.capacity} slots")
        if not isinstance(sums, Tensor) or sums.ndim != 2 or not len(sums) == len(classes) == len(offered):
            raise ValueError("state: expected what every class has offered, and the sum of that")
        sizes = np.bincount(classes.searchsorted(group), minlength=len(classes))
        if (np.diff(classes) <= 0).any() or not np.isin(group, classes).all() or (sizes > offered).any():
            raise ValueError("state: expected of every class that it has offered at least what it holds")
        check.finite("state: sums", sums)
        self.filled = len(group)
        self._group[: self.filled], self._rank[: self.filled] = group, rank
        self._classes, self._offered, self._sums = classes, offered, sums.to("cpu", torch.float64, copy=True)

    def __repr__(self) -> str:
        return "Herding()"


def _features(key: Tensor) -> Tensor:
    return key.detach().flatten(1).to("cpu", torch.float64)
