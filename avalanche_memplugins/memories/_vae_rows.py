"""Rows of an experience as a generator learns them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check

Batches: TypeAlias = Iterable[tuple[Tensor, Tensor, Tensor | int]]
Coded: TypeAlias = tuple[Tensor, Tensor]
"""Codes ``(B, *code)`` and indices ``(B,)`` of their classes, on the memory's device."""


class ExperienceRows:
    """Codes of an experience, pass after pass, in batches of the same size: iterating never ends.

    Making one is a first pass, in which every batch is looked at. Rows that take no more than ``cache_bytes`` are kept,
    and shuffled for every pass; more are read anew each pass, in the order they come.

    :param batches: ``(x, y, t)``; every iteration over it is a fresh pass.
    :param look: called for each batch in the first pass. Returns its codes and indices, or None for an empty batch;
        raises what is wrong with it.
    :param encode: codes and indices of rows and classes that were looked at.
    :param batch_size: rows of a batch; of an experience that has fewer: all of them.
    :param cache_bytes: of codes, >= 0.
    :param generator: shuffles; on the CPU.
    :raises ValueError: if there are no rows.
    """

    def __init__(
        self,
        batches: Batches,
        look: Callable[[Tensor, Tensor, Tensor | int], Coded | None],
        encode: Callable[[Tensor, Tensor], Coded],
        *,
        batch_size: int,
        cache_bytes: int,
        generator: torch.Generator,
    ) -> None:
        self._batches, self._encode = batches, encode
        self._batch_size, self._generator = batch_size, generator
        self._cache: Coded | None = None
        self.count = 0
        kept: list[Coded] | None = []
        held = 0
        for batch in check.experience(batches):
            coded = look(*batch)
            if coded is None:
                continue
            self.count += len(coded[0])
            held += coded[0].nbytes
            if held > cache_bytes:
                kept = None
            if kept is not None:
                kept.append(coded)
        if not self.count:
            raise ValueError("batches: expected the rows of an experience, got none")
        if kept is not None:
            self._cache = torch.cat([codes for codes, _ in kept]), torch.cat([index for _, index in kept])

    def __iter__(self) -> Iterator[Coded]:
        while True:
            yield from self._read_anew() if self._cache is None else self._shuffled(*self._cache)

    def _shuffled(self, codes: Tensor, index: Tensor) -> Iterator[Coded]:
        order = torch.randperm(len(codes), generator=self._generator).to(codes.device)
        whole = max(1, len(order) // self._batch_size) * self._batch_size
        for part in order[:whole].split(self._batch_size):  # type: ignore[no-untyped-call]
            yield codes[part], index[part]

    def _read_anew(self) -> Iterator[Coded]:
        rest: Coded | None = None
        for x, y, _ in self._batches:
            codes, index = self._encode(x, y)
            if rest is not None:
                codes, index = torch.cat([rest[0], codes]), torch.cat([rest[1], index])
            whole = len(codes) // self._batch_size * self._batch_size
            for first in range(0, whole, self._batch_size):
                part = slice(first, first + self._batch_size)
                yield codes[part], index[part]
            rest = codes[whole:], index[whole:]
        if rest is not None and len(rest[0]):
            yield rest
