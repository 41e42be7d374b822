"""Rows drawn from a memory and decoded."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_memplugins.memories import _checks as check
from avalanche_memplugins.memories._prefetch import Ahead
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
        return self.rows(self.read.choose(n, len(self), self._generator))

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
            self._ahead = Ahead(n, self.read, len(self), self._generator, self.store.gather, self.device)

    @torch.no_grad()
    def rows(self, slots: Tensor) -> Recall:
        """The rows in the given slots, decoded.

        :param slots: int64 ``(n,)`` on the CPU, from 0 to ``len(memory) - 1``.
        """
        check.row_slots(slots, len(self))
        return self._decoded(self.store.gather(slots))

    def _decoded(self, held: dict[str, Tensor]) -> Recall:
        y, t, origin = self._columns.unstack(held["labels"])
        x = self.codec.decode(held["codes"], self.shape, self.dtype)
        key = held.get("keys", None if self.embedding is None else x)
        return Recall(x, y, t, origin, held.get("logits"), key)

    def labels_of(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``y``, ``t`` and ``origin`` of the rows in the given slots, int64 ``(n,)`` each, as in :meth:`rows`."""
        check.row_slots(slots, len(self))
        return self._columns.unstack(self.store.get("labels", slots))
