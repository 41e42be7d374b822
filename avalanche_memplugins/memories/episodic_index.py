"""Nearest rows of a memory, whatever the memory's storage and codec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins.functional.neighbours import Backend, KeyTable, Neighbours, check_backend
from avalanche_memplugins.memories.random_memory import RandomMemory


class EpisodicIndex:
    """Exact nearest-neighbour search over the rows that a memory holds.

    The key of a row is ``key(x)`` if given; otherwise the key stored with it, or x itself. Tables are built on
    first use, one for each task asked for, and kept until the memory is written to or loaded, or :meth:`refresh` is
    called.
    They are working memory beside the memory's ``nbytes``: a float32 copy of the keys, and for the rough pass half as
    much again for many queries at a time, a quarter for few.

    :param memory: where the rows are.
    :param key: embedding of rows ``(n, *shape)``, called in blocks.
    :param backend: see :class:`~avalanche_memplugins.functional.neighbours.KeyTable`.
    :param max_bytes: working memory of a search, and of the rows embedded at a time.
    :raises ValueError: for a backend that is unknown.
    :raises ImportError: backend "faiss" without faiss installed.

    >>> import torch
    >>> memory = RandomMemory(100, write_policy="ring")
    >>> memory.write(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([7, 8, 9]))
    >>> EpisodicIndex(memory, key=lambda x: -x).search(torch.tensor([[-4.0]]), k=1).indices
    tensor([[2]])
    """

    def __init__(
        self,
        memory: RandomMemory,
        *,
        key: Callable[[Tensor], Tensor] | None = None,
        backend: Backend = "torch",
        max_bytes: int = 64 << 20,
    ) -> None:
        self.memory = memory
        self.key = key
        self.backend: Backend = check_backend(backend)
        self.max_bytes = max_bytes
        self._tables: dict[int | None, tuple[KeyTable, Tensor | None]] = {}
        self._built: tuple[object, ...] | None = None

    def refresh(self) -> None:
        """Forget the tables: the embedding, or rows of the memory, have changed."""
        self._tables.clear()
        self._built = self._state_of_memory()

    @torch.no_grad()
    def search(self, queries: Tensor, k: int, *, task: int | None = None) -> Neighbours:
        """The k nearest rows of each query; ``indices`` ``(Q, k)`` hold their slots.

        :param queries: as the keys are, ``(Q, *key_shape)``, on the memory's device.
        :param k: how many; fewer come back if fewer rows are held.
        :param task: search rows of this task label only.
        :raises ValueError: if no row is there to search, or the queries' width is not the keys'.
        """
        if not queries.is_floating_point():
            queries = queries.float()  # such as token ids
        if self._built != self._state_of_memory():
            self.refresh()
        if task not in self._tables:
            self._tables[task] = self._table(task)
        table, slots = self._tables[task]
        found = table.search(queries, k, max_bytes=self.max_bytes)
        return found if slots is None else Neighbours(slots[found.indices], found.distances)

    def _state_of_memory(self) -> tuple[object, ...]:
        # The record of slots is a new one after a load, which may leave the number of rows seen as it was.
        return self.memory.seen, self.memory.device, self.memory._written

    def _table(self, task: int | None) -> tuple[KeyTable, Tensor | None]:
        slots = self.memory.slots()
        if task is not None:
            slots = slots[self.memory.labels_of(slots)[1].cpu() == task]
        if not len(slots):
            raise ValueError(f"memory: expected rows to search{'' if task is None else f' of task {task}'}, got none")
        blocks = torch.split(slots, max(1, self.max_bytes // (16 * self.memory.shape.numel())))
        first = self._keys(blocks[0])
        keys = first.new_empty(len(slots), first.shape[1])
        filled = 0
        for block in blocks:
            keys[filled : filled + len(block)] = first if filled == 0 else self._keys(block)
            filled += len(block)
        return KeyTable(keys, backend=self.backend), None if int(slots[-1]) + 1 == len(slots) else slots.to(keys.device)

    def _keys(self, slots: Tensor) -> Tensor:
        rows = self.memory.rows(slots)
        if self.key is not None:
            return self.key(rows.x).flatten(1).float()
        return (rows.x if rows.key is None else rows.key).flatten(1).float()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}, "_built": None}
