"""Policies of the user's own: what they give is looked at, and what they break stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories._random.written import counts
from avalanche_memplugins.memories.policies import Placement, ReadPolicy, WritePolicy


def check_grouping(name: str, grouping: Any) -> None:
    """Raise unless a policy asks for groups that there are.

    :param name: of the policy's argument.
    :raises ValueError: naming it.
    """
    if grouping is not None and not (isinstance(grouping, str) and grouping in ("class", "task")):
        raise ValueError(f"{name}: expected a grouping of None, 'class' or 'task', got {check.show(grouping)}")


def part(name: str, policy: Any, wanted: str) -> Any:
    """An attribute of a policy.

    :param name: of the policy's argument.
    :raises TypeError: if it has none of that name.
    """
    check.having(name, policy, (wanted,), "a policy as its protocol says")
    return getattr(policy, wanted)


@contextmanager
def unchanged_if_it_fails(policy: WritePolicy | ReadPolicy, generator: torch.Generator) -> Iterator[None]:
    """Put policy and generator back as they were if an error is raised."""
    saves = hasattr(policy, "state_dict") and hasattr(policy, "load_state_dict")
    before = copy.deepcopy(policy.state_dict()) if saves else {}
    drawn = generator.get_state()
    try:
        yield
    except BaseException:
        generator.set_state(drawn)
        if saves:
            policy.load_state_dict(before)
        raise


def checked(placements: Any, batch: int, capacity: int) -> list[Placement]:
    """What a write policy gives, as pairs of int64 index tensors on the CPU.

    :raises ValueError: if it does not fit the batch or the memory.
    """
    if isinstance(placements, str) or not isinstance(placements, Iterable):
        raise ValueError(f"policy: expected a list of pairs of rows and slots, got {check.show(placements)}")
    return [_checked(placement, batch, capacity) for placement in placements]


def _checked(placement: Any, batch: int, capacity: int) -> Placement:
    if not isinstance(placement, tuple | list) or len(placement) != 2:
        raise ValueError(f"policy: expected pairs of rows and slots, got {check.show(placement)}")
    found = []
    for name, value, size in zip(("rows", "slots"), placement, (batch, capacity), strict=True):
        indices = _indices(value, size)
        if indices is None:
            raise ValueError(f"policy: expected {name} as integers (n,), got {check.show(value)}")
        low, high = (int(indices.min()), int(indices.max())) if len(indices) else (0, 0)
        if low < 0 or high >= size:
            raise ValueError(f"policy: expected {name} from 0 to {size - 1}, got {low} to {high}")
        found.append(indices)
    rows, slots = found
    if len(rows) != len(slots) or len(set(slots.tolist())) != len(slots):
        raise ValueError(f"policy: expected one row for each of different slots, got {len(rows)} for {slots.tolist()}")
    return Placement(rows, slots)


def chosen(value: Any, end: int) -> Tensor:
    """What a read policy chose, as int64 ``(n,)`` on the CPU.

    :param end: what all are below.
    :raises ValueError: if they are not.
    """
    indices = None if isinstance(value, slice) else _indices(value, end)
    if indices is None:
        raise ValueError(f"read: expected integers (n,), got {check.show(value)}")
    low, high = (int(indices.min()), int(indices.max())) if len(indices) else (0, 0)
    if low < 0 or high >= end:
        raise ValueError(f"read: expected rows from 0 to {end - 1}, got {low} to {high}")
    return indices


def _indices(value: Any, size: int) -> Tensor | None:
    """Integers ``(n,)``, whether given as a tensor, an array, a sequence, one number or a slice; None for others."""
    if isinstance(value, slice):
        try:
            return torch.tensor(range(*value.indices(size)), dtype=torch.int64)
        except (TypeError, ValueError):
            return None
    try:
        found = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
        found = found.detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return None
    if not found.numel():  # an empty list is one of floats
        return torch.zeros(0, dtype=torch.int64)
    return found.long().reshape(-1) if found.ndim < 2 and counts(found) else None
