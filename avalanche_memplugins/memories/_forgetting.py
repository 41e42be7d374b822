"""Which rows of a memory are to be forgotten."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories.recall import Recall

Where: TypeAlias = Tensor | Callable[[Recall], Tensor] | None
_CHUNK = 256


def to_forget(
    memory: Any,
    classes: Collection[int] | None,
    origins: Collection[int] | None,
    labels: Collection[int] | None,
    where: Where,
) -> Tensor:
    """Which of the rows in ``memory.slots()`` all that is asked for names, bool ``(n,)`` on the CPU.

    :param memory: with ``slots``, ``rows`` and ``labels_of``, and ``classes_of`` if its rows may have no class.
    :raises TypeError: if one is of a wrong kind.
    :raises ValueError: if nothing is asked for, or the memory does not know what is.
    """
    asked = {"classes": classes, "origins": origins, "labels": labels}
    for name, given in asked.items():
        if given is not None and (isinstance(given, str | int | Tensor) or not isinstance(given, Collection)):
            raise TypeError(f"{name}: expected a collection of integers, such as [3], got {check.show(given)}")
    if where is None and all(given is None for given in asked.values()):
        raise ValueError("forget: expected classes, origins, labels or where, got none of them")
    slots = memory.slots()
    gone = torch.ones(len(slots), dtype=torch.bool)
    if not len(slots):
        return gone
    y, t, origin = memory.labels_of(slots)
    found = memory.classes_of(slots) if hasattr(memory, "classes_of") else y
    for name, column in (("classes", found), ("origins", origin), ("labels", t)):
        wanted = asked[name]
        if wanted is None:
            continue
        if column is None:
            raise ValueError("classes: expected a memory of rows that have classes or groups, got one of other targets")
        if name == "origins" and bool((column < 0).any()):
            raise ValueError("origins: expected a memory that knows them, got one made with store_tasks=False")
        numbers = torch.tensor([check.integer(name, number, least=0) for number in wanted], dtype=torch.int64)
        gone &= torch.isin(column.cpu(), numbers)
    if where is None:
        return gone
    if isinstance(where, Tensor):
        return gone & _mask(where, len(slots))
    check.function("where", where, "a function of rows, or bools, one for each of slots()")
    told = [_mask(where(memory.rows(some)), len(some)) for some in slots.split(_CHUNK)]
    return gone & torch.cat(told)


def _mask(value: Any, rows: int) -> Tensor:
    if not isinstance(value, Tensor) or value.dtype != torch.bool or value.shape != (rows,):
        raise ValueError(f"where: expected bools ({rows},), one for each row, got {check.show(value)}")
    return value.cpu()
