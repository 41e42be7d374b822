"""Which slots of a memory hold a row."""

from __future__ import annotations

import torch
from torch import Tensor


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
