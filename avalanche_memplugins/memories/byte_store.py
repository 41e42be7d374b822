"""Rows of different lengths within a budget of bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._bytes import parse_bytes

_STRIDE = 32  # rows between two stored offsets
_TYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32}
Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]


def _width_of(length: int) -> int:
    """Bytes of a stored length."""
    return 1 if length < 1 << 8 else 2 if length < 1 << 16 else 4


def _bookkeeping(rows: int, width: int) -> int:
    """Bytes beside those of the rows: each one's length, and an offset for every 32."""
    return rows * width + 4 * -(-rows // _STRIDE)


@dataclass(frozen=True)
class _Page:
    """Some rows in order. Never changed, only replaced: so a write can be undone by keeping the pages there were."""

    data: Bytes
    lengths: NDArray[np.unsignedinteger]
    offsets: NDArray[np.uint32]

    @classmethod
    def of(cls, data: Bytes, lengths: Integers, width: int) -> _Page:
        starts = np.cumsum(lengths) - lengths
        return cls(data, lengths.astype(_TYPES[width]), starts[::_STRIDE].astype(np.uint32))

    @property
    def width(self) -> int:
        return int(self.lengths.itemsize)

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + self.lengths.nbytes + self.offsets.nbytes

    def pieces(self, rows: Integers) -> tuple[Integers, Integers]:
        """Starts and lengths of the rows of these numbers."""
        first = rows // _STRIDE * _STRIDE
        if len(rows) * _STRIDE < len(self.lengths):
            near = first[:, None] + np.arange(_STRIDE)
            before = np.where(near < rows[:, None], self.lengths[np.minimum(near, len(self.lengths) - 1)], 0)
            starts = self.offsets[rows // _STRIDE] + before.sum(1, dtype=np.int64)
        else:
            starts = (np.cumsum(self.lengths, dtype=np.int64) - self.lengths)[rows]
        return starts.astype(np.int64), self.lengths[rows].astype(np.int64)

    def without(self, rows: Integers) -> _Page:
        """The page once these rows, ascending, are out."""
        starts, lengths = self.pieces(rows)
        ends = starts + lengths
        kept = [
            self.data[begin:end]
            for begin, end in zip([0, *ends.tolist()], [*starts.tolist(), len(self.data)], strict=True)
        ]
        return _Page.of(np.concatenate(kept), np.delete(self.lengths, rows).astype(np.int64), self.width)

    def joined(self, data: Bytes, lengths: Integers, width: int) -> _Page:
        """The page with more rows at its end."""
        together = np.concatenate([self.lengths.astype(np.int64), lengths])
        return _Page.of(np.concatenate([self.data, data]), together, max(width, self.width))


class ByteStore:
    """Rows of bytes, each of its own length, one after the other: a budget holds as many as fit.

    Beside its bytes a row takes its length, 1 byte below 256, 2 below 65,536, and a 32nd of an offset. Rows are
    numbered in the order they came; when some are taken out, those behind them move up.

    They lie in pages of bounded size without gaps. A write copies the pages it touches, and a read looks within them
    only, so neither grows with the store. No page is changed in place: an error leaves all as it was.

    :param budget_bytes: that :attr:`nbytes` never exceeds, a number or as in ``"2MB"``.
    :param page_bytes: about the largest page, >= 1. A longer row has a page to itself.
    :raises ValueError: for arguments out of range.

    >>> store = ByteStore(100)
    >>> store.replace([], torch.arange(6, dtype=torch.uint8), torch.tensor([4, 2]))
    >>> buffer, starts, lengths = store.read(torch.tensor([1]))
    >>> buffer[starts[0] : starts[0] + lengths[0]].tolist(), store.nbytes
    ([4, 5], 12)
    """

    def __init__(self, budget_bytes: int | str, *, page_bytes: int = 1 << 17) -> None:
        self.budget_bytes = parse_bytes(budget_bytes, "budget_bytes")
        self.page_bytes = check.positive_integer("page_bytes", page_bytes)
        self._pages: list[_Page] = []
        self._ends = np.zeros(0, dtype=np.int64)  # rows up to the end of each page
        self._taken = 0

    def __len__(self) -> int:
        """Rows held."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __bool__(self) -> bool:
        """True even while empty."""
        return True

    @property
    def nbytes(self) -> int:
        """Bytes of rows, lengths and offsets."""
        return self._taken

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The rows of these numbers.

        :param rows: int64 ``(n,)``, any order, repeats allowed.
        :returns: a buffer uint8 ``(N,)`` that is not to be written to; starts and lengths of the rows in it, int64
            ``(n,)``.
        :raises ValueError: for numbers that there are not.
        """
        wanted = self._numbers("rows", rows)
        if len(self._pages) == 1:
            starts, lengths = self._pages[0].pieces(wanted)
            return torch.from_numpy(self._pages[0].data), torch.from_numpy(starts), torch.from_numpy(lengths)
        starts, lengths = np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.int64)
        parts, at = [np.zeros(0, dtype=np.uint8)], 0
        pages, inside = self._located(wanted)
        for page in np.unique(pages).tolist():
            here = np.flatnonzero(pages == page)
            begin, size = self._pages[page].pieces(inside[here])
            new = np.cumsum(size) - size
            parts.append(self._pages[page].data[np.repeat(begin - new, size) + np.arange(size.sum())])
            starts[here], lengths[here] = new + at, size
            at += len(parts[-1])
        return torch.from_numpy(np.concatenate(parts)), torch.from_numpy(starts), torch.from_numpy(lengths)

    def costs(self, rows: Tensor) -> Tensor:
        """Bytes that are free at least once one of these rows is out, int64 ``(n,)``."""
        wanted = self._numbers("rows", rows)
        pages, inside = self._located(wanted)
        found = np.zeros(len(wanted), dtype=np.int64)
        for page in np.unique(pages).tolist():
            here = pages == page
            held = self._pages[page]
            found[here] = held.lengths[inside[here]].astype(np.int64) + held.width
        return torch.from_numpy(found)

    def excess(self, gone: Tensor | list[int], lengths: Tensor) -> int:
        """Bytes that :meth:`replace` would go beyond the budget by; 0 or below if the rows fit.

        :param gone: as for :meth:`replace`, like ``lengths``.
        """
        sizes = self._sizes(lengths)
        pages = self._replaced(gone, np.zeros(int(sizes.sum()), dtype=np.uint8), sizes)
        return sum(page.nbytes for page in pages) - self.budget_bytes

    def replace(self, gone: Tensor | list[int], buffer: Tensor, lengths: Tensor) -> None:
        """Take rows out and put others at the end; nothing changes if an error is raised.

        :param gone: different numbers of rows, int64 ``(n,)``.
        :param buffer: all bytes of the new rows, uint8 ``(N,)``.
        :param lengths: how many each has, int64 ``(B,)``; together N.
        :raises ValueError: if they do not fit together, or would take more bytes than the budget.
        """
        sizes = self._sizes(lengths)
        if check.tensor("buffer", buffer).dtype != torch.uint8 or buffer.shape != (int(sizes.sum()),):
            raise ValueError(
                f"buffer: expected uint8 ({int(sizes.sum())},), as the lengths say, got {buffer.dtype} "
                f"{tuple(buffer.shape)}"
            )
        pages = self._replaced(gone, buffer.cpu().numpy(), sizes)
        taken = sum(page.nbytes for page in pages)
        if taken > self.budget_bytes:
            raise ValueError(f"buffer: expected rows that fit into {self.budget_bytes} bytes, got {taken} in all")
        self._take(pages)

    def copy(self) -> ByteStore:
        """Another store of the same rows; it shares their bytes, which neither changes."""
        store = ByteStore(self.budget_bytes, page_bytes=self.page_bytes)
        store._take(self._pages)
        return store

    # ---------------------------------------------------------------- state

    def state(self) -> dict[str, Tensor]:
        """All rows as tensors: their bytes, their lengths, and ``(rows, bytes of a length)`` of each page."""
        data = np.concatenate([np.zeros(0, dtype=np.uint8), *(page.data for page in self._pages)])
        lengths = np.concatenate(
            [np.zeros(0, dtype=np.int64), *(page.lengths.astype(np.int64) for page in self._pages)]
        )
        pages = np.array([(len(page.lengths), page.width) for page in self._pages], dtype=np.int64).reshape(-1, 2)
        return {
            name: torch.from_numpy(value) for name, value in (("data", data), ("lengths", lengths), ("pages", pages))
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up what :meth:`state` gave.

        :raises ValueError: if it is damaged or exceeds the budget; nothing has changed then.
        """
        data, pages = state["data"].cpu().numpy(), state["pages"].cpu().numpy()
        sizes = self._sizes(state["lengths"].cpu())
        if data.dtype != np.uint8 or data.shape != (sizes.sum(),) or pages.ndim != 2 or pages.shape[1] != 2:
            raise ValueError(f"state: expected {int(sizes.sum())} bytes of rows, got {data.dtype} {data.shape}")
        if pages[:, 0].sum() != len(sizes) or (pages[:, 0] < 1).any() or not set(pages[:, 1].tolist()) <= set(_TYPES):
            raise ValueError(f"state: expected pages of {len(sizes)} rows in all, got {pages.tolist()[:8]}")
        cuts = np.cumsum(pages[:, 0])[:-1]
        reach = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
        found = [
            _Page.of(part.copy(), own, width)
            for part, own, width in zip(
                np.split(data, reach[cuts]), np.split(sizes, cuts), pages[:, 1].tolist(), strict=True
            )
            if len(own)
        ]
        if any(_width_of(int(page.lengths.max())) > page.width for page in found) or any(
            int(page.lengths.astype(np.int64).sum()) != len(page.data) for page in found
        ):
            raise ValueError("state: expected lengths that fit into their bytes")
        if (taken := sum(page.nbytes for page in found)) > self.budget_bytes:
            raise ValueError(f"state: expected at most {self.budget_bytes} bytes, got {taken}")
        self._take(found)

    # ---------------------------------------------------------------- pages

    def _take(self, pages: list[_Page]) -> None:
        self._pages = list(pages)
        self._ends = np.cumsum([len(page.lengths) for page in pages], dtype=np.int64)
        self._taken = sum(page.nbytes for page in pages)

    def _replaced(self, gone: Tensor | list[int], data: Bytes, sizes: Integers) -> list[_Page]:
        out = np.sort(self._numbers("gone", torch.as_tensor(gone, dtype=torch.int64)))
        if (out[1:] == out[:-1]).any():
            raise ValueError("gone: expected different rows, got one twice")
        pages = self._removed(out)
        return [*pages[:-1], *self._added(data, sizes, pages[-1:])]

    def _removed(self, rows: Integers) -> list[_Page]:
        """The pages without these rows, ascending; those that became small are put together."""
        pages = list(self._pages)
        touched, inside = self._located(rows)
        for page in np.unique(touched).tolist():
            pages[page] = pages[page].without(inside[touched == page])
        if not len(rows):
            return pages
        merged: list[_Page] = []
        for page in pages:
            if not len(page.lengths):
                continue
            last = merged[-1] if merged else None
            if (
                last is not None
                and last.width == page.width
                and min(len(last.data), len(page.data)) < self.page_bytes // 4
                and len(last.data) + len(page.data) <= self.page_bytes
            ):
                merged[-1] = last.joined(page.data, page.lengths.astype(np.int64), page.width)
            else:
                merged.append(page)
        return merged

    def _added(self, data: Bytes, sizes: Integers, pages: list[_Page]) -> list[_Page]:
        """``pages``, the last one or none, with rows at the end."""
        begin = at = 0
        while begin < len(sizes):
            last = pages[-1] if pages else None
            width = _width_of(int(sizes[begin]))
            fits = last is not None and len(last.data) + sizes[begin] <= self.page_bytes and last.width >= width
            room = self.page_bytes - (len(last.data) if fits and last is not None else 0)
            limit = max(1, int(np.searchsorted(np.cumsum(sizes[begin:]), room, side="right")))
            if fits and last is not None:
                # A long row among short ones begins a page, so that the short ones' lengths stay short.
                longer = np.flatnonzero(sizes[begin : begin + limit] >= 1 << (8 * last.width))
                limit = int(longer[0]) if len(longer) else limit
            end = begin + limit
            part = data[at : at + int(sizes[begin:end].sum())].copy()
            if fits and last is not None:
                pages = [*pages[:-1], last.joined(part, sizes[begin:end], last.width)]
            else:
                pages = [*pages, _Page.of(part, sizes[begin:end], _width_of(int(sizes[begin:end].max())))]
            begin, at = end, at + len(part)
        return pages

    def _located(self, rows: Integers) -> tuple[Integers, Integers]:
        """Page of each row, and its number there."""
        pages = np.searchsorted(self._ends, rows, side="right")
        return pages, rows - np.concatenate([np.zeros(1, dtype=np.int64), self._ends])[pages]

    def _numbers(self, name: str, rows: Tensor) -> Integers:
        if check.tensor(name, rows).ndim != 1 or rows.dtype != torch.int64:
            raise ValueError(f"{name}: expected int64 (n,), got {rows.dtype} {tuple(rows.shape)}")
        found = rows.cpu().numpy()
        if len(found) and not 0 <= found.min() <= found.max() < len(self):
            raise ValueError(f"{name}: expected rows from 0 to {len(self) - 1}, got {found.min()} to {found.max()}")
        return found

    @staticmethod
    def _sizes(lengths: Tensor) -> Integers:
        if check.tensor("lengths", lengths).ndim != 1 or lengths.dtype != torch.int64:
            raise ValueError(f"lengths: expected int64 (B,), got {lengths.dtype} {tuple(lengths.shape)}")
        if len(lengths) and not 0 <= int(lengths.min()) <= int(lengths.max()) < 1 << 32:
            raise ValueError(
                f"lengths: expected 0 to 2**32 - 1 bytes, got {int(lengths.min())} to {int(lengths.max())}"
            )
        return lengths.cpu().numpy()
