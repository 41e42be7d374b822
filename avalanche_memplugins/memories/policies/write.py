"""Which rows of the stream a memory keeps, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from avalanche_memplugins.functional.reservoir import kept_by_reservoir
from avalanche_memplugins.memories.recall import Recall

Grouping = Literal["class", "task"]
NEEDS = frozenset({"x", "y", "loss", "logits"})
"""What a write policy may ask to know of the rows that it is offered."""


class Placement(NamedTuple):
    """Rows of the batch that are kept, and the slots they go to: two slices, or two index tensors.

    >>> Placement(rows=slice(0, 2), slots=slice(4, 6)).slots
    slice(4, 6, None)
    """

    rows: slice | Tensor
    slots: slice | Tensor


class Offered(NamedTuple):
    """What a write policy learns of a batch beside counts and groups: that which it ``needs``, the rest is None.

    ``x`` ``(B, *shape)`` and ``key`` ``(B, *key_shape)`` (both with ``"x"``; the key is x itself in a memory without
    embedding); ``y`` ``(B,)``; ``loss`` ``(B,)``; ``logits`` ``(B, classes)``. ``held(slots)`` gives rows that the
    memory holds, decoded, and without gradient; call it for slots that hold a row only.

    >>> import torch
    >>> Offered(loss=torch.tensor([0.5, 2.0])).loss
    tensor([0.5000, 2.0000])
    """

    x: Tensor | None = None
    key: Tensor | None = None
    y: Tensor | None = None
    loss: Tensor | None = None
    logits: Tensor | None = None
    held: Callable[[Tensor], Recall] | None = None


class WritePolicy(Protocol):
    """Decides on the host, from counts and random numbers, so that nothing waits for a device.

    Slots fill from 0 upwards: a memory that has kept ``n`` rows holds them in slots ``0..n-1``. By ``repr(policy)`` a
    memory knows whether a saved state belongs to it: it must name all arguments, and nothing that changes.

    A policy may have ``forget(kept, seen)``, so that its memory can: ``kept`` are the slots ``(n,)`` of the rows that
    stay, and ``seen`` the rows offered so far. It gives these slots in the order in which their rows are to lie in
    slots 0 to n - 1 from now on, and how many rows count as offered.

    A policy that must see more has an attribute ``needs``, a frozenset of ``"x"``, ``"y"``, ``"loss"`` and
    ``"logits"``, and gets what it names as fifth argument of ``place``, an :class:`Offered`. Whoever writes to the
    memory must then give it; plugins do.

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> class First(Ring):
    ...     def place(self, seen, batch, groups, generator):
    ...         kept = min(batch, self.capacity - seen)
    ...         return [Placement(slice(0, kept), slice(seen, seen + kept))] if kept > 0 else []
    >>> memory = RandomMemory(6, write_policy=First())
    >>> memory.write(torch.rand(9, 3), torch.arange(9))
    >>> len(memory)
    6
    """

    grouping: Grouping | None  # what the policy must know of a row besides its place in the stream

    def start(self, capacity: int) -> None:
        """Reset to an empty memory of ``capacity`` slots."""

    def place(self, seen: int, batch: int, groups: list[int] | None, generator: torch.Generator) -> list[Placement]:
        """Where the next ``batch`` rows go, ``seen`` rows having been offered before."""

    @property
    def nbytes(self) -> int:
        """Bytes of state that grow with the capacity."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers from which :meth:`load_state_dict` goes on exactly."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""


class Stateless:
    """Base of policies whose whole state is the number of rows offered so far, and of those that have none."""

    grouping: Grouping | None = None
    nbytes = 0
    capacity = 0

    def start(self, capacity: int) -> None:
        """Reset to an empty memory of ``capacity`` slots."""
        self.capacity = capacity

    def state_dict(self) -> dict[str, Any]:
        """There is nothing to save."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is nothing to restore."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Ring(Stateless):
    """Keeps the newest rows: the ``i``-th row of the stream goes to slot ``i mod C``.

    Exact for RMA as published as long as the capacity is a multiple of the batch. A ring smaller than
    what is written to it forgets the oldest tasks altogether; a reservoir does not.

    Source: Zeta36, "Random memory adaptation", 2018.

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> memory = RandomMemory(3, write_policy="ring")
    >>> memory.write(torch.arange(5.0)[:, None], torch.zeros(5, dtype=torch.int64))
    >>> sorted(memory.sample(3).x.flatten().tolist())
    [2.0, 3.0, 4.0]
    """

    def forget(self, kept: Tensor, seen: int) -> tuple[Tensor, int]:
        """The oldest row comes first, and the stream is as long as what is left of it."""
        if seen > self.capacity:
            kept = kept[(kept - seen).remainder(self.capacity).argsort()]
        return kept, len(kept)

    def place(self, seen: int, batch: int, groups: list[int] | None, generator: torch.Generator) -> list[Placement]:
        """One run of slots, or two where the ring closes."""
        capacity = self.capacity
        skip = max(0, batch - capacity)  # of an oversized batch only the newest rows would stay
        start = (seen + skip) % capacity
        first = min(batch - skip, capacity - start)
        runs = [Placement(slice(skip, skip + first), slice(start, start + first))]
        if skip + first < batch:
            runs.append(Placement(slice(skip + first, batch), slice(0, batch - skip - first)))
        return runs


class Reservoir(Stateless):
    """Keeps a uniform sample of the whole stream (:func:`~avalanche_memplugins.functional.reservoir_slots`).

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> memory = RandomMemory(3, write_policy="reservoir", seed=0)
    >>> memory.write(torch.arange(50.0)[:, None], torch.zeros(50, dtype=torch.int64))
    >>> len(memory), memory.seen
    (3, 50)
    """

    def forget(self, kept: Tensor, seen: int) -> tuple[Tensor, int]:
        """The stream without such rows is as long as the share of rows kept tells, if it was longer than the memory."""
        rest = round(seen * len(kept) / self.capacity) if seen > self.capacity else len(kept)
        return kept, rest if rest > self.capacity else len(kept)

    def place(self, seen: int, batch: int, groups: list[int] | None, generator: torch.Generator) -> list[Placement]:
        """Slots drawn by algorithm R."""
        if seen + batch <= self.capacity:
            return [Placement(slice(0, batch), slice(seen, seen + batch))]
        rows, slots = kept_by_reservoir(seen, batch, self.capacity, generator)
        return [Placement(rows, slots)] if rows.shape[0] else []
