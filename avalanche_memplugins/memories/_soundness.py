"""Whether a memory of rows that was just loaded is one that might have been written."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Size, Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._structure import mapped
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.memories.policies.given import identity
from avalanche_memplugins.memories.row_store import RowStore

if TYPE_CHECKING:
    from avalanche_memplugins.memories.random_memory import RandomMemory

_ROWS = 4


@torch.no_grad()
def check_rows_sound(memory: RandomMemory) -> None:
    """Raise unless an empty memory of the same arguments takes this one's rows, and this one works.

    Rows are drawn and written as by its user, into a store that looks at what comes and keeps nothing.

    :param memory: just loaded, with as many rows as it holds or as many as it has slots; it changes.
    :raises ValueError: saying what is wrong; or whatever reading and writing raise.
    """
    held = _check_numbers(memory)
    sizes = {name: len(rows) for name, rows in memory.store.named_buffers()}
    if set(sizes.values()) - {held, memory.capacity} or len(set(sizes.values())) > 1:
        raise ValueError(f"state: expected {held} rows of each tensor, got {sizes}")
    if not held:
        return
    for leaf in memory.leaves:
        codes, (shape, dtype) = memory.store[leaf.name], leaf.stored
        if codes.shape[1:] != shape or codes.dtype != dtype:
            raise ValueError(
                f"state: expected {leaf.name} of shape {tuple(shape)} and {dtype} for rows of {tuple(leaf.shape)} and "
                f"{leaf.dtype}, got {tuple(codes.shape[1:])} and {codes.dtype}"
            )
    slots = memory.slots()
    dense = int(slots[-1]) == held - 1
    if memory.validate == "always" or (memory.validate == "auto" and memory.device.type != "cuda"):
        for name in memory.store.state_dict().keys() & {*(leaf.name for leaf in memory.leaves), "logits"}:
            check.finite(f"state: {name}", memory.store[name][:held] if dense else memory.store[name][slots])
    y, t, origin = memory.labels_of(slots)
    classes = memory.classes_of(slots)
    columns = {"class": y if classes is None and isinstance(y, Tensor) else classes, "t": t, "task": origin}
    labels = {name: column for name, column in columns.items() if column is not None}
    _check_policies(memory, slots, labels)
    rows = memory.rows(slots[_telling_rows(list(labels.values()), held)])
    store = _Looking(memory.store, {leaf.name for leaf in memory.leaves if leaf.codec is not None})
    kept: dict[int, Any] = {id(memory.store): store, id(memory.embedding): memory.embedding}
    kept |= {id(leaf.codec): _AsTheyAre(leaf.codec) for leaf in memory.leaves if leaf.codec is not None}
    trial: Any = copy.deepcopy(memory, kept)
    # What is not looked at may hold anything.
    trial.validate = "first"
    if trial.keep == "key":
        trial.embedding = None
    if trial.group is not None:
        # What it gives of rows as they come back may be something else.
        groups = memory.classes_of(slots[_telling_rows(list(labels.values()), held)])
        trial.group = lambda x, y: groups

    def write() -> None:
        logits = None if rows.logits is None else rows.logits.nan_to_num()
        if logits is None and "logits" in trial.needs:
            found = rows.y if isinstance(rows.y, Tensor) else torch.zeros(1, 1)
            number = int(found.max()) + 1 if found.ndim == 1 and not found.is_floating_point() else 1
            logits = torch.zeros(len(rows.t), number)
        loss = torch.zeros(len(rows.t)) if "loss" in trial.needs else None
        x = mapped(lambda leaf: leaf.nan_to_num() if leaf.is_floating_point() else leaf, rows.x)
        trial.write(x, rows.y, rows.t, origin=rows.origin.clamp_min(0), logits=logits, loss=loss)

    trial.sample(min(_ROWS, held))
    write()
    trial.write_policy.start(memory.capacity)
    trial.read_policy.start(memory.capacity)
    trial.seen = 0
    store.put_names.clear()
    write()
    # A policy of the user's own may take none of these rows.
    if store.put_names and (strange := sorted(sizes.keys() - store.put_names)):
        raise ValueError(f"state: has rows {strange}, which this memory does not keep")


def _check_numbers(memory: RandomMemory) -> int:
    if isinstance(memory.seen, bool) or not isinstance(memory.seen, int) or not 0 <= memory.seen < 2**62:
        raise ValueError(f"state: expected an integer >= 0 as seen, got {memory.seen!r}")
    for leaf in memory.leaves:
        if any(length < 0 for length in leaf.shape):
            raise ValueError(f"state: expected a shape of a row, got {tuple(leaf.shape)}")
    return len(memory)


def _check_policies(memory: RandomMemory, slots: Tensor, labels: dict[str, Tensor]) -> None:
    """Raise unless balanced policies know the groups of the rows, and how many of each were offered."""
    for policy in (memory.write_policy, memory.read_policy):
        state = policy.state_dict()
        wanted = labels.get(policy.grouping or "")
        if (
            wanted is None
            or wanted.ndim != 1
            or wanted.is_floating_point()
            or not isinstance(state.get("group"), Tensor)
        ):
            continue
        wanted, group = wanted.cpu().long(), state["group"].long()
        if policy.grouping == "task" and not memory.store_tasks:
            wanted = group[slots]  # of which the rows know nothing
        known = len(group) > int(slots[-1]) and torch.equal(group[slots], wanted)
        if not known or int((group >= 0).sum()) > len(slots):
            raise ValueError(f"state: its policy {identity(policy)} has the rows in other groups than their labels say")
        groups, sizes = wanted.unique(return_counts=True)
        if "offered" in state:
            offered = dict(zip(state["offered_group"].tolist(), state["offered"].tolist(), strict=True))
            few = any(offered.get(g, 0) < n for g, n in zip(groups.tolist(), sizes.tolist(), strict=True))
            if few or sum(offered.values()) != memory.seen or len(offered) != len(state["offered"]):
                raise ValueError(f"state: its policy {identity(policy)} counts other rows than were offered")


def _telling_rows(labels: Sequence[Tensor], held: int) -> Tensor:
    """A few of the rows, those with the least and the largest labels among them."""
    ends = [
        int(place) for column in labels if column.ndim == 1 for place in (column.min(0).indices, column.max(0).indices)
    ]
    few = torch.linspace(0, held - 1, min(_ROWS, held)).long().tolist()
    return torch.tensor(sorted({*few, *ends}))


class _Looking(RowStore):
    """Gives the rows of a store, and checks that those put would fit."""

    def __init__(self, store: RowStore, coded: set[str]) -> None:
        super().__init__(store.capacity)
        self.coded = coded
        self.device = store.device
        self._buffers.update(store.named_buffers())
        self.put_names: set[str] = set()

    def allocate(self, name: str, shape: Size, dtype: torch.dtype) -> None:
        raise ValueError(f"state: lacks rows {name!r} of shape {tuple(shape)} and {dtype}")

    def put(self, name: str, slots: slice | Tensor, rows: Tensor) -> None:
        index = torch.arange(slots.start, slots.stop) if isinstance(slots, slice) else slots
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.capacity:
            raise ValueError(f"state: its write policy writes to slots {index.tolist()} of {self.capacity}")
        held = self[name]
        # Outputs and keys keep the type that autocast gave the first of them.
        same = held.dtype == rows.dtype or (held.is_floating_point() and rows.is_floating_point())
        if name not in self.coded and (held.shape[1:] != rows.shape[1:] or not same):
            raise ValueError(
                f"state: expected {name} of shape {tuple(rows.shape[1:])} and {rows.dtype}, got "
                f"{tuple(held.shape[1:])} and {held.dtype}"
            )
        self.put_names.add(name)


class _AsTheyAre:
    """Takes any rows: the codec's own part has been looked at, and what it decodes it may not take again."""

    fits = 1

    def __init__(self, codec: Codec) -> None:
        self.decode = codec.decode

    def check(self, x: Tensor) -> None:
        """Nothing is wrong."""

    def encode(self, x: Tensor) -> Tensor:
        return x
