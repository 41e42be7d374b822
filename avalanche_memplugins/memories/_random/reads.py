"""Rows drawn from a memory and decoded."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories._prefetch import Ahead
from avalanche_memplugins.memories._random.names import READ_KINDS
from avalanche_memplugins.memories._random.own import chosen, unchanged_if_it_fails
from avalanche_memplugins.memories._random.state import RowState
from avalanche_memplugins.memories.recall import Recall


class RowReads(RowState):
    """Rows by the read policy, or by their slots."""

    def sample(self, n: int) -> Recall:
        """``n`` rows drawn by the read policy; without replacement, no more than the memory holds.

        :param n: rows wanted, >= 1.
        :raises ValueError: if ``n`` is not positive or the memory is empty.
        """
        check.positive_integer("n", n)
        if not len(self):
            raise ValueError("n: nothing has been written to this memory yet, so there is nothing to sample")
        ahead = self._drop_ahead()
        if ahead is not None and ahead.n == n and ahead.device == self.device:
            with torch.no_grad():
                return self._decoded(ahead.use(self.read, self._generator))
        if type(self.read) in READ_KINDS:
            return self._gathered(self._located(self.read.choose(n, len(self), self._generator)))
        with unchanged_if_it_fails(self.read, self._generator):
            slots = self._located(self.read.choose(n, len(self), self._generator))
        return self._gathered(slots)

    def _located(self, numbers: Tensor) -> Tensor:
        """Slots of the rows that the read policy chose."""
        counts_rows = self.read.grouping is None  # one that is told of no slot
        if type(self.read) not in READ_KINDS:
            numbers = chosen(numbers, len(self) if counts_rows else self.capacity)
            if not counts_rows:
                self._written.check(numbers, "read")
        return self._written.by_number(numbers) if counts_rows else numbers

    def _drop_ahead(self) -> Ahead | None:
        ahead = self._ahead
        # Setting an attribute of a module takes microseconds.
        if ahead is not None:
            self._ahead = None
        return ahead

    def prefetch(self, n: int) -> None:
        """Begin to fetch, on another thread, the rows that the next ``sample(n)`` will give.

        For rows that travel from host memory or files to a GPU; otherwise there is nothing to gain, and nothing
        is done. It changes no result: the draw counts only once it is sampled. A write, or a sample of another
        size, in between discards it, and what is saved is the state before it.

        :param n: rows wanted, >= 1.
        """
        check.positive_integer("n", n)
        if len(self) and self.store.is_apart and self._ahead is None:
            self._ahead = Ahead(n, self.read, len(self), self._generator, self._ahead_of, self.device)

    def _ahead_of(self, numbers: Tensor) -> dict[str, Tensor]:
        return self.store.gather(self._located(numbers))

    def slots(self) -> Tensor:
        """Slots that hold a row, int64 ascending on the CPU: the first ones, unless the write policy leaves gaps."""
        return self._written.all()

    @torch.no_grad()
    def rows(self, slots: Tensor) -> Recall:
        """The rows in the given slots, decoded.

        :param slots: int64 ``(n,)`` on the CPU, from 0 to ``len(memory) - 1``; if the write policy leaves gaps, those
            that :meth:`slots` gives.
        :raises TypeError: if they are no integer tensor.
        :raises ValueError: if nothing has been written to one of them.
        """
        return self._gathered(self._written.check(slots))

    @torch.no_grad()
    def _gathered(self, slots: Tensor) -> Recall:
        return self._decoded(self.store.gather(slots))

    def _decoded(self, held: dict[str, Tensor]) -> Recall:
        y, t, origin = self._labels_in(held)
        x = self.codec.decode(held["codes"], self.shape, self.dtype)
        key = held.get("keys", None if self.embedding is None else x)
        return Recall(x, y, t, origin, held.get("logits"), key)

    def labels_of(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``y``, ``t`` and ``origin`` of the rows in the given slots, as in :meth:`rows`.

        :param slots: as for :meth:`rows`.
        """
        slots = self._written.check(slots)
        found = {name: self.store.get(name, slots) for name in ("labels", "targets") if name in self.store}
        return self._labels_in(found or {"codes": self.store.get("codes", slots)})

    def _labels_in(self, held: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        labels = held.get("labels")
        if labels is None:
            some = next(iter(held.values()))
            labels = some.new_zeros(len(some), 0)
        y, t, origin = self._columns.unstack(labels)
        return held["targets"] if y is None else y, t, origin
