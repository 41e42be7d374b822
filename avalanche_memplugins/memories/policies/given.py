"""Policies as a user gives them: by name, or of the user's own, whose answers are looked at before they count."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories._rows import WrittenSlots
from avalanche_memplugins.memories.policies.balanced import GroupBalanced
from avalanche_memplugins.memories.policies.gss import GSS, check_offered
from avalanche_memplugins.memories.policies.hardest import Hardest
from avalanche_memplugins.memories.policies.herding import Herding
from avalanche_memplugins.memories.policies.read import Balanced, Cycle, ReadPolicy, Uniform
from avalanche_memplugins.memories.policies.write import NEEDS, Offered, Placement, Reservoir, Ring, WritePolicy

WRITE_POLICIES: dict[str, Callable[[], WritePolicy]] = {
    "ring": Ring,
    "reservoir": Reservoir,
    "class_balanced": lambda: GroupBalanced("class"),
    "task_balanced": lambda: GroupBalanced("task"),
    "hardest": Hardest,
    "herding": Herding,
    "gss": GSS,
}
READ_POLICIES: dict[str, Callable[[bool], ReadPolicy]] = {
    "uniform": lambda replacement: Uniform(replacement=replacement),
    "cycle": lambda replacement: _cycle(replacement),
    "class_balanced": lambda replacement: Balanced("class", replacement=replacement),
    "task_balanced": lambda replacement: Balanced("task", replacement=replacement),
}
# Their answers need no looking at, and they check all before they change anything.
_OURS = (Ring, Reservoir, GroupBalanced, Hardest, GSS, Uniform, Cycle, Balanced)
Policy = TypeVar("Policy", WritePolicy, ReadPolicy)
_STATE = ("nbytes", "state_dict", "load_state_dict")


def write_policy_of(given: str | WritePolicy, capacity: int) -> WritePolicy:
    """The policy of that name, or a copy of the given one, at work on ``capacity`` slots.

    :raises TypeError: for a class instead of its instance, or if a part is missing.
    :raises ValueError: for an unknown name, or if it asks for what a memory cannot tell.
    """
    name = "write_policy"
    policy = check.one_of(name, given, WRITE_POLICIES)() if isinstance(given, str) else _copied(name, given, "place")
    needs = needs_of(policy)
    if not isinstance(needs, frozenset | set) or not needs <= NEEDS:
        raise ValueError(f"{name}: expected needs of {', '.join(sorted(NEEDS))}, got {check.show(needs)}")
    return _started(name, policy, capacity)


def read_policy_of(given: str | ReadPolicy, replacement: bool, capacity: int) -> ReadPolicy:
    """The policy of that name, or a copy of the given one, at work on ``capacity`` slots.

    :raises TypeError: for a class instead of its instance, or if a part is missing.
    :raises ValueError: for an unknown name, or if it asks for what a memory cannot tell.
    """
    name = "read_policy"
    if isinstance(given, str):
        return _started(name, check.one_of(name, given, READ_POLICIES)(replacement), capacity)
    return _started(name, _copied(name, given, "choose"), capacity)


def needs_of(policy: WritePolicy) -> frozenset[str]:
    """What a write policy must know of the rows; those of version 0.1 have no such attribute."""
    needs: frozenset[str] = getattr(policy, "needs", frozenset())
    return needs


def name_of(policy: WritePolicy) -> str:
    """The name by which a memory can be given such a policy, or else what it says itself."""
    made = identity(policy)
    return next((name for name, make in WRITE_POLICIES.items() if identity(make()) == made), made)


def identity(part: object) -> str:
    """What a policy or codec is made with, as it says itself; one that says nothing is known by its class."""
    says_nothing = getattr(type(part), "__repr__", None) is object.__repr__
    return f"{type(part).__name__}()" if says_nothing else repr(part)


def check_outputs(
    policy: WritePolicy, stores_logits: bool, logits: Tensor | None, loss: Tensor | None, batch: int
) -> None:
    """Raise unless a memory is given the logits that it stores, and what else its write policy needs.

    :raises TypeError: if one is no tensor.
    :raises ValueError: if one is missing, or does not fit.
    """
    needs = needs_of(policy)
    if logits is None and stores_logits:
        raise ValueError("logits: expected the outputs of every row, as store_logits=True, got None")
    for name, value in (("logits", logits), ("loss", loss)):
        if value is None and name in needs:
            raise ValueError(f"{name}: expected that of every row, which {name_of(policy)!r} needs, got None")
    if logits is not None:
        if not stores_logits and "logits" not in needs:
            raise ValueError("logits: expected None, as this memory keeps none without store_logits=True, got some")
        check.floats(logits=logits)
        if logits.ndim < 2 or len(logits) != batch or 0 in logits.shape[1:]:
            raise ValueError(f"logits: expected shape ({batch}, classes), got {tuple(logits.shape)}")
    if loss is not None and "loss" in needs:
        check.floats(loss=loss)
        check.like("loss", loss, (batch,), "one number a row of x")
        check.finite("loss", loss)


def placements(
    policy: WritePolicy,
    counts: tuple[int, int, int],
    groups: list[int] | None,
    generator: torch.Generator,
    offered: Offered | None,
    make_room: Callable[[], None],
) -> list[Placement]:
    """Where a write policy puts a batch; nothing has changed if an error is raised.

    :param counts: rows offered before, of the batch, and slots.
    :param offered: what the policy needs to know, if that is anything.
    :param make_room: makes the tensors that the rows go to.
    :raises ValueError: if a policy of the user's own gives what does not fit the batch or the memory.
    """
    seen, batch, capacity = counts
    arguments = (seen, batch, groups, generator, *(() if offered is None else (offered,)))
    if type(policy) in _OURS:
        if isinstance(policy, GSS) and offered is not None:
            check_offered(offered)
        make_room()
        return policy.place(*arguments)
    with _unchanged_if_it_fails(policy, generator):
        found: Any = policy.place(*arguments)
        if isinstance(found, str) or not isinstance(found, Iterable):
            raise ValueError(f"write_policy: expected a list of pairs of rows and slots, got {check.show(found)}")
        checked = [_placed(placement, batch, capacity) for placement in found]
        make_room()
    return checked


def rows_at_once(policy: WritePolicy, seen: int, rows: int, batch_size: int) -> int:
    """How many of the next ``rows`` may be placed at once, with the outcome and the draws of batches one by one."""
    if type(policy) is Ring:
        return rows
    if type(policy) is not Reservoir:
        return batch_size
    # As long as there is room for a batch nothing is drawn; from then on a number for each row.
    room = policy.capacity - seen
    if rows <= room or room < batch_size:
        return rows
    return room - room % batch_size


def chosen_slots(policy: ReadPolicy, n: int, written: WrittenSlots, generator: torch.Generator) -> Tensor:
    """Slots of ``n`` rows that a read policy chooses; nothing has changed if an error is raised."""
    if type(policy) in _OURS:
        return slots_of(policy, policy.choose(n, written.count, generator), written)
    with _unchanged_if_it_fails(policy, generator):
        return slots_of(policy, policy.choose(n, written.count, generator), written)


def slots_of(policy: ReadPolicy, numbers: Any, written: WrittenSlots) -> Tensor:
    """Slots of the rows that a read policy has chosen, int64 ``(n,)`` on the CPU.

    :raises ValueError: if a policy of the user's own gives what is no row.
    """
    counts_rows = policy.grouping is None  # one that is told of no slot
    if type(policy) not in _OURS:
        numbers = _chosen(numbers, written.count if counts_rows else written.capacity)
        if not counts_rows:
            written.check(numbers, "read_policy")
    found: Tensor = written.by_number(numbers) if counts_rows else numbers
    return found


@contextmanager
def _unchanged_if_it_fails(policy: WritePolicy | ReadPolicy, generator: torch.Generator) -> Iterator[None]:
    before = copy.deepcopy(policy.state_dict())
    drawn = generator.get_state()
    try:
        yield
    except BaseException:
        generator.set_state(drawn)
        policy.load_state_dict(before)
        raise


def _copied(name: str, given: Policy, method: str) -> Policy:
    check.having(name, given, ("grouping", "start", method), f"a name or a {name.title().replace('_', '')}")
    return copy.deepcopy(given)


def _started(name: str, policy: Policy, capacity: int) -> Policy:
    grouping = policy.grouping
    if grouping is not None and not (isinstance(grouping, str) and grouping in ("class", "task")):
        raise ValueError(f"{name}: expected a grouping of None, 'class' or 'task', got {check.show(grouping)}")
    policy.start(capacity)
    check.having(name, policy, _STATE, "a policy as its protocol says")
    return policy


def _cycle(replacement: bool) -> Cycle:
    if replacement:
        raise ValueError(
            "replacement: expected False for read_policy='cycle', which gives every row once a pass, got True"
        )
    return Cycle()


def _chosen(value: Any, end: int) -> Tensor:
    if isinstance(value, slice):
        raise ValueError(f"read_policy: expected integers (n,), got {check.show(value)}")
    return _within("read_policy", "rows", value, end)


def _placed(placement: Any, batch: int, capacity: int) -> Placement:
    if not isinstance(placement, tuple | list) or len(placement) != 2:
        raise ValueError(f"write_policy: expected pairs of rows and slots, got {check.show(placement)}")
    rows, slots = (
        _within("write_policy", name, value, size)
        for name, value, size in zip(("rows", "slots"), placement, (batch, capacity), strict=True)
    )
    if len(rows) != len(slots) or len(set(slots.tolist())) != len(slots):
        raise ValueError(
            f"write_policy: expected one row for each of different slots, got {len(rows)} for {slots.tolist()}"
        )
    return Placement(rows, slots)


def _within(policy: str, name: str, value: Any, end: int) -> Tensor:
    """What a policy of the user's own gave as ``name``, int64 ``(n,)`` from 0 to below ``end``."""
    indices = _indices(value, end)
    if indices is None:
        raise ValueError(f"{policy}: expected {name} as integers (n,), got {check.show(value)}")
    low, high = (int(indices.min()), int(indices.max())) if len(indices) else (0, 0)
    if low < 0 or high >= end:
        raise ValueError(f"{policy}: expected {name} from 0 to {end - 1}, got {low} to {high}")
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
    whole = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
    return found.long().reshape(-1) if found.ndim < 2 and whole else None
