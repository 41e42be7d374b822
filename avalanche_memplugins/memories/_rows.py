"""What memories ask of rows: which slots hold one, how many fit into a budget, what shape and keys they have."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Size, Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._modes import eval_mode


class WrittenSlots:
    """The slots that have been written; no more than their number as long as they are the first ones.

    :param capacity: slots.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        # Only where a write policy leaves gaps: slots in the order they were first written, and which these are.
        self._order: Tensor | None = None
        self._mask: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that gaps cost."""
        return sum(part.nbytes for part in (self._order, self._mask) if part is not None)

    @property
    def has_gaps(self) -> bool:
        """Whether the slots are others than the first ones."""
        return self._order is not None

    def add(self, slots: slice | Tensor) -> None:
        """Take note of a write.

        :param slots: as in a placement; a slice counts up by ones.
        """
        if self.count == self.capacity:
            return
        if isinstance(slots, slice):
            if not self.has_gaps and slots.start <= self.count:
                self.count = max(self.count, slots.stop)
                return
            slots = torch.arange(slots.start, slots.stop)
        if not self.has_gaps:
            new = slots[slots >= self.count]
            if not len(new):
                return
            end = int(new.max()) + 1
            if end - self.count == len(new):
                self.count = end
                return
        self._note(slots)

    def _note(self, slots: Tensor) -> None:
        if self._order is None or self._mask is None:
            self._order = torch.arange(self.capacity, dtype=torch.int32)
            self._mask = torch.arange(self.capacity) < self.count
        new = slots[~self._mask[slots]]
        self._mask[new] = True
        self._order[self.count : self.count + len(new)] = new.int()
        self.count += len(new)
        if self.count == self.capacity:
            self._order = self._mask = None

    def all(self) -> Tensor:
        """All of them, int64 ascending."""
        return torch.arange(self.count) if self._mask is None else self._mask.nonzero()[:, 0]

    def by_number(self, numbers: Tensor) -> Tensor:
        """The slots that were the first, second, ... to be written, int64.

        :param numbers: int64 ``(n,)`` below :attr:`count`.
        """
        return numbers if self._order is None else self._order[numbers].long()

    def check(self, slots: Tensor, name: str = "slots") -> Tensor:
        """The slots as int64, if all of them hold a row.

        :param slots: integers ``(n,)``.
        :raises TypeError: if they are no integer tensor.
        :raises ValueError: if not, naming one that does not.
        """
        if not isinstance(slots, Tensor) or not _integers(slots):
            got = slots.dtype if isinstance(slots, Tensor) else type(slots).__name__
            raise TypeError(f"{name}: expected an integer tensor (n,), got {got}")
        if slots.ndim != 1:
            raise ValueError(f"{name}: expected shape (n,), got {tuple(slots.shape)}")
        if slots.is_meta:
            raise ValueError(f"{name}: expected slots with data, got a tensor on the device 'meta'")
        slots = slots.long()
        if not len(slots):
            return slots
        low, high = (int(end) for end in slots.aminmax())
        if low < 0 or high >= (self.capacity if self._mask is not None else self.count):
            wrong = low if low < 0 else high
        elif self._mask is not None and not self._mask[slots.cpu()].all():
            wrong = int(slots[~self._mask[slots.cpu()]][0])
        else:
            return slots
        dense = self._mask is None and self.count
        held = f"from 0 to {self.count - 1}" if dense else f"{self.count} of {self.capacity}"
        raise ValueError(f"{name}: expected slots that hold a row ({held}), got {wrong}")

    def state(self) -> dict[str, object]:
        """Their number, and with gaps the slots in the order they were first written."""
        slots = {} if self._order is None else {"slots": self._order[: self.count].clone()}
        return {"held": self.count, **slots}

    def restored(self, state: dict[str, object], seen: int) -> WrittenSlots:
        """What :meth:`state` gave, made anew; an earlier version saved neither.

        :raises ValueError: if it does not fit the capacity.
        """
        fresh = WrittenSlots(self.capacity)
        held, slots = state.get("held", min(seen, self.capacity)), state.get("slots")
        if isinstance(held, bool) or not isinstance(held, int) or not 0 <= held <= min(seen, self.capacity):
            raise ValueError(f"state: expected 0 to {min(seen, self.capacity)} rows held, got {held!r}")
        if slots is None:
            fresh.count = held
            return fresh
        if not isinstance(slots, Tensor) or slots.shape != (held,) or slots.dtype != torch.int32:
            raise ValueError(f"state: expected {held} slots that hold a row")
        slots = slots.cpu().long()
        if held and (len(set(slots.tolist())) != held or int(slots.min()) < 0 or int(slots.max()) >= self.capacity):
            raise ValueError(f"state: expected different slots below {self.capacity}")
        fresh._note(slots)
        return fresh


def _integers(numbers: Tensor) -> bool:
    return not (numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool)


def one_row(shape: Any, dtype: Any, target_shape: Any, target_dtype: Any) -> tuple[Tensor, Tensor]:
    """A batch of one row x of zeros, and its y.

    :param target_shape: of a row of y; None: it is a class.
    :raises TypeError: for what is no type.
    :raises ValueError: for shapes and types that no memory can hold.
    """
    shape = check.row_shape(shape)
    for name, value in (("dtype", dtype), ("target_dtype", target_dtype)):
        check.dtype_of(name, value)
        check.computed(name, torch.empty(0, dtype=value))
    check.room("shape", shape.numel(), dtype.itemsize)
    if target_shape is None:
        target_shape, target_dtype = (), torch.int64
    elif target_shape != ():
        target_shape = check.integers("target_shape", target_shape, least=0)
        check.room("target_shape", math.prod(target_shape), target_dtype.itemsize)
    return torch.zeros(1, *shape, dtype=dtype), torch.zeros(1, *target_shape, dtype=target_dtype)


def rows_within(nbytes: int, takes: Callable[[int], int]) -> int:
    """The most rows that a budget holds.

    :param takes: bytes of a memory of so many rows: a part that is always the same, and as much again for each row.
    :raises ValueError: if not a single row fits.
    """
    row = takes(2) - takes(1)
    shared = takes(1) - row
    if nbytes - shared < row:
        beside = f", beside {shared} of the codec and the policies" if shared else ""
        raise ValueError(f"nbytes: expected at least the {row} bytes that one row takes{beside}, got {nbytes}")
    return (nbytes - shared) // row


def most_within(nbytes: int, takes: Callable[[int], int], what: str) -> int:
    """The largest number from 1 on of which ``takes``, which grows with it, stays within a budget.

    :param what: takes the bytes of one, for the error.
    :raises ValueError: if not even one fits.
    """
    if takes(1) > nbytes:
        raise ValueError(f"nbytes: expected at least the {takes(1)} bytes that {what}, got {nbytes}")
    most, above = 1, 2
    while takes(above) <= nbytes:
        most, above = above, 2 * above
    while above - most > 1:
        middle = (most + above) // 2
        most, above = (middle, above) if takes(middle) <= nbytes else (most, middle)
    return most


def check_draw(n: int, held: int) -> None:
    """Raise unless ``n`` rows can be drawn of a memory that holds so many."""
    check.positive_integer("n", n)
    if not held:
        raise ValueError("n: nothing has been written to this memory yet, so there is nothing to sample")


def check_same_kind(x: Tensor, shape: Size, dtype: torch.dtype) -> None:
    """Raise unless rows are of the shape and type that a memory holds."""
    if x.shape[1:] != shape or x.dtype != dtype:
        raise ValueError(
            f"x: expected {dtype} rows of shape {tuple(shape)}, as this memory holds, got {x.dtype} rows of "
            f"{tuple(x.shape[1:])}"
        )


def columns_of(classes: int | None, largest: int) -> int:
    """How many columns an answer has: as many as asked for, or as the largest class held needs.

    :raises ValueError: if that class has no column.
    """
    columns = largest + 1 if classes is None else check.positive_integer("classes", classes)
    if largest >= columns:
        raise ValueError(f"classes: expected more than {largest}, the largest class held, got {columns}")
    return columns


def embed(network: nn.Module, x: Tensor, like: Tensor | None) -> Tensor:
    """Keys ``(B, *key_shape)`` of the rows ``x``, by the network in eval mode.

    :param like: keys that are held, whose shape and type these must have.
    :raises ValueError: if the network does not take the rows, or gives no such keys.
    """
    with eval_mode(network):
        try:
            key = network(x)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            line = (str(error).splitlines() or [""])[0]
            raise ValueError(f"x: expected rows that the embedding takes, got {check.show(x)}: {line}") from error
    if not isinstance(key, Tensor) or key.ndim < 2 or len(key) != len(x) or 0 in key.shape:
        raise ValueError(f"embedding: expected a key for each of {len(x)} rows, (B, F), got {check.show(key)}")
    check.computed("embedding", key)
    if like is not None and (key.shape[1:] != like.shape[1:] or key.dtype != like.dtype):
        raise ValueError(
            f"embedding: expected {like.dtype} keys of {tuple(like.shape[1:])}, as this memory holds, got "
            f"{key.dtype} keys of {tuple(key.shape[1:])}"
        )
    return key
