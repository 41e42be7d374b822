"""Rows that are fetched on a thread of their own while the program does something else."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from avalanche_memplugins.memories.policies import ReadPolicy

T = TypeVar("T")
_pool: ThreadPoolExecutor | None = None


def in_background(work: Callable[[], T]) -> Future[T]:
    """Do some work on the thread for that."""
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(1, thread_name_prefix="memplugins-prefetch")
    return _pool.submit(work)


def _forget_pool() -> None:
    global _pool
    _pool = None


# A forked process inherits the pool, but not its thread: work given to it would wait for ever.
os.register_at_fork(after_in_child=_forget_pool)


class Ahead:
    """A draw made ahead of its time, on copies of what a draw changes: until it is used nothing has happened.

    On CUDA the copy runs on a stream of its own beside the computation, which waits for it on the device.

    :param n: rows wanted.
    :param read: the memory's read policy. Its ``choose`` may bind attributes anew, but not change their values.
    :param filled: rows that the memory holds.
    :param generator: the memory's.
    :param gather: gives the rows in the slots that are drawn.
    :param device: where they are wanted.
    """

    def __init__(
        self,
        n: int,
        read: ReadPolicy,
        filled: int,
        generator: torch.Generator,
        gather: Callable[[Tensor], dict[str, Tensor]],
        device: torch.device,
    ) -> None:
        self.n, self.device = n, device
        self._read = copy.copy(read)
        self._generator = torch.Generator()
        self._generator.set_state(generator.get_state())
        self._gather, self._slots = gather, self._read.choose(n, filled, self._generator)
        self._event: torch.cuda.Event | None = None
        self._stream = _side_stream(device) if device.type == "cuda" else None
        self._rows = in_background(self._fetched)

    def _fetched(self) -> dict[str, Tensor]:
        if self._stream is None:
            return self._gather(self._slots)
        with torch.cuda.stream(self._stream):
            rows = self._gather(self._slots)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(self._stream)
        return rows

    def use(self, read: ReadPolicy, generator: torch.Generator) -> dict[str, Tensor]:
        """The rows; ``read`` and ``generator`` are from now on as after the draw."""
        vars(read).update(vars(self._read))
        generator.set_state(self._generator.get_state())
        rows = self._rows.result()
        if self._event is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(self._event)
            for tensor in rows.values():
                tensor.record_stream(current)
        return rows


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return _streams[device]
