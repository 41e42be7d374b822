"""Hold materialised rows on a device, within a limit of bytes."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import torch
from avalanche.benchmarks.utils.data import AvalancheDataset
from torch import Tensor

from .known import why_unknown
from .read import CHUNK, Reader, lies_in_tensors
from .resolve import Part, Source, Unsupported, attributes_of, resolve

SAMPLE = 64
SMALL = 256
PATIENCE = 16
RECENT = 16


class Rows(NamedTuple):
    """A data set, ready to be indexed: sample i is row ``order[i]`` of each column, then the attributes."""

    columns: list[Tensor]  # on the device, (rows, ...) each
    order: Tensor  # (n,) int64 on the CPU
    attributes: list[Tensor]  # (n, ...) on the CPU: what Avalanche appends to each sample
    finite: bool  # whether it is known that the first column holds finite numbers only


class Block:
    """Columns with room for a fixed number of rows, filled as rows are asked for, one after the other.

    :param example: a few rows of each column, to learn shapes and types from.
    :param rows: how many rows there is room for.
    :param device: where the columns lie.
    :param owners: where the rows come from.
    :param looks: see whether the numbers of the first column are finite.
    """

    def __init__(
        self, example: list[Tensor], rows: int, device: torch.device, owners: list[Source], looks: bool
    ) -> None:
        # Rows are packed in the order they come, so what is not asked for costs nothing on a CPU, and writing runs
        # through memory once.
        self.columns = [_room((rows, *c.shape[1:]), c.dtype, device) for c in example]
        self.slot = torch.full((rows,), -1)  # of each row in the columns; -1: not read yet
        self.used = 0
        self.owners = owners
        self.finite = looks and device.type == "cpu"  # on a GPU, looking means waiting
        self.small_reads = 0

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns)

    def next_rows(self, rows: int) -> Tensor:
        """Where the first column of the next rows will lie."""
        return self.columns[0][self.used : self.used + rows]

    def put(self, rows: Tensor, columns: list[Tensor]) -> None:
        """Take up rows that are not there yet, each once."""
        slots = slice(self.used, self.used + len(rows))
        if len(columns) != len(self.columns):
            raise Unsupported(f"its samples hold {len(columns)} elements after {len(self.columns)}")
        for mine, new in zip(self.columns, columns, strict=True):
            if mine.shape[1:] != new.shape[1:] or mine.dtype != new.dtype:
                raise Unsupported(
                    f"its samples differ in shape or type ({tuple(new.shape[1:])} {new.dtype} after "
                    f"{tuple(mine.shape[1:])} {mine.dtype})"
                )
            if new.data_ptr() != mine[slots].data_ptr():  # it may lie there already
                mine[slots] = new
        # At once, as long as the processor still has them at hand.
        self.finite = self.finite and _is_finite(self.columns[0][slots])
        self.slot[rows] = torch.arange(slots.start, slots.stop)
        self.used = slots.stop


def _room(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor whose memory a CPU does not provide before it is written."""
    if device.type != "cpu" or not math.prod(size):
        return torch.empty(size, dtype=dtype, device=device)
    # NumPy asks the system for large pages, of which far fewer have to be provided one by one.
    return torch.from_numpy(np.empty(math.prod(size) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(size)


def _is_finite(x: Tensor) -> bool:
    return not x.is_floating_point() or math.isfinite(x.sum().item()) or bool(x.isfinite().all())


class TensorCache:
    """Materialises data sets and keeps what it made, the least recently used going first.

    One block serves all experiences that view the same underlying data set through the same transforms.
    Where such a block would not fit, an experience gets one of its own size.

    :param max_bytes: the most that all blocks may take together.
    :param assume_deterministic: take data sets and transforms that are not known for such as give the same every time.
    :param vectorised: take only what is read in one vectorised pass.
    :param looks: tell whether the rows are finite.
    """

    def __init__(
        self, max_bytes: int, assume_deterministic: bool = False, vectorised: bool = False, looks: bool = False
    ) -> None:
        self.max_bytes = max_bytes
        self.vectorised = vectorised
        self.looks = looks
        self.assume_deterministic = assume_deterministic
        self._blocks: OrderedDict[Any, Block] = OrderedDict()
        self._readers: OrderedDict[Any, Reader] = OrderedDict()
        self._verdicts: dict[Any, str | None] = {}
        self._pinned: set[Any] = set()

    @property
    def nbytes(self) -> int:
        """Bytes that the blocks take, rows not yet read included."""
        return sum(block.nbytes for block in self._blocks.values())

    def clear(self) -> None:
        """Forget everything."""
        self._blocks.clear()
        self._readers.clear()
        self._verdicts.clear()
        self._pinned.clear()

    def release(self) -> None:
        """Let blocks that were fetched with ``pin`` be evicted again."""
        self._pinned.clear()

    def drop_changeable(self) -> None:
        """Drop the blocks of data that could be changed in place without notice, such as NumPy arrays."""
        for key, block in list(self._blocks.items()):
            if not all(lies_in_tensors(source.data) for source in block.owners):
                del self._blocks[key]
                self._pinned.discard(key)

    def fetch(self, dataset: AvalancheDataset, device: torch.device, *, pin: bool = False) -> Rows:
        """Materialise a data set, or find it.

        :param dataset: not empty, in the transform group that it is to be read in.
        :param device: where the tensors must lie.
        :param pin: do not evict it before :meth:`release`.
        :raises Unsupported: if it is not known to stay the same, does not fit, or is not made of tensors.
        """
        parts = resolve(dataset)
        for part in parts:
            self._refuse_unknown(part)
            if self.vectorised and not self._reader(part).is_vectorised(part.rows):
                raise Unsupported("it has to be read sample by sample")
        key, block, rows = self._serve(parts, len(dataset), device)
        self._blocks.move_to_end(key)
        if pin:
            self._pinned.add(key)
        return Rows(block.columns, block.slot[rows], attributes_of(dataset), block.finite)

    def _refuse_unknown(self, part: Part) -> None:
        if self.assume_deterministic:
            return
        key = part.source.key
        self._reader(part)
        if key not in self._verdicts:
            self._verdicts[key] = why_unknown(part.source.data, part.source.chain)
        verdict = self._verdicts[key]
        if verdict is not None:
            raise Unsupported(verdict)

    def _reader(self, part: Part) -> Reader:
        # Keys and readers keep their sources alive. A stream that makes its data sets as it goes must not be kept
        # whole by that: only as many are held as blocks need, and a few.
        key = part.source.key
        if key not in self._readers:
            self._readers[key] = Reader(part.source)
            while len(self._readers) > RECENT + sum(len(block.owners) for block in self._blocks.values()):
                oldest, _ = self._readers.popitem(last=False)
                self._verdicts.pop(oldest, None)
        self._readers.move_to_end(key)
        return self._readers[key]

    def _serve(self, parts: list[Part], size: int, device: torch.device) -> tuple[Any, Block, Tensor]:
        if len(parts) == 1:
            part = parts[0]
            key: Any = (part.source.key, device)
            block = self._blocks.get(key)
            if block is None:
                example = self._reader(part).read(part.rows[:SAMPLE])
                block = self._make(key, example, len(part.source.data), device, [part.source])
            if block is not None:
                self._fill(block, part, part.rows)
                return key, block, part.rows

        digest = hashlib.blake2b(digest_size=16)
        for part in parts:
            digest.update(part.rows.numpy().tobytes())
            if part.slots is not None:
                digest.update(part.slots.numpy().tobytes())
        key = (tuple(part.source.key for part in parts), digest.digest(), device)
        block = self._blocks.get(key)
        if block is None:
            example = self._reader(parts[0]).read(parts[0].rows[:SAMPLE])
            block = self._make(key, example, size, device, [part.source for part in parts])
        if block is None:
            need = size * sum(column[0].nbytes for column in example)
            raise Unsupported(
                f"its {size} samples take {need:,} bytes and max_bytes={self.max_bytes:,} leaves "
                f"{self.max_bytes - self._held_fast():,}"
            )
        for part in parts:
            self._fill(block, part, torch.arange(size) if part.slots is None else part.slots)
        return key, block, torch.arange(size)

    def _make(
        self, key: Any, example: list[Tensor], rows: int, device: torch.device, owners: list[Source]
    ) -> Block | None:
        need = rows * sum(column[0].nbytes for column in example)
        if need > self.max_bytes - self._held_fast():
            return None
        for old in [k for k in self._blocks if k not in self._pinned]:
            if self.nbytes + need <= self.max_bytes:
                break
            del self._blocks[old]
        self._blocks[key] = Block(example, rows, device, owners, self.looks)
        return self._blocks[key]

    def _held_fast(self) -> int:
        return sum(self._blocks[key].nbytes for key in self._pinned)

    def _fill(self, block: Block, part: Part, places: Tensor) -> None:
        whole = places is part.rows
        missing = block.slot[places] < 0
        if not bool(missing.any()):
            return
        rows, places = part.rows[missing], places[missing]
        if whole:
            rows = places = torch.unique(rows)
        reader = self._reader(part)
        block.small_reads += len(rows) < SMALL
        if whole and reader.vectorised is not None and block.small_reads > PATIENCE:
            # An online stream reads the whole data set in crumbs: one pass over the rest costs far less.
            rows = places = (block.slot < 0).nonzero().squeeze(1)
        for some, at in zip(torch.split(rows, CHUNK), torch.split(places, CHUNK), strict=True):
            block.put(at, reader.read(some, block.next_rows(len(some))))
