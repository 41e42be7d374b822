"""Named tensors with one row a slot, and where they live."""

from __future__ import annotations

import difflib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from torch import Size, Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._drafts import UnwritableError, check_writable, free_bytes, real_place, telling

try:
    import fcntl
except ImportError:  # Windows, which lets nobody remove a file that is mapped
    fcntl = None  # type: ignore[assignment]

# Of smaller rows many share a page, and the pages are soon all in memory.
_SMALLEST_ROW = 1024
_MOVED = 1024  # rows that move at a time


def make_file(path: Path, size: Size, dtype: torch.dtype) -> tuple[Tensor, IO[bytes]]:
    """A tensor of zeros in a new file, and the file, which is locked as long as it is open.

    All its blocks are taken at once: writing to a mapped file for which the disk has no room kills the process.

    :param path: of the file; one that no living process uses is removed.
    :raises ValueError: if another memory uses it.
    :raises UnwritableError: if the file cannot be made; with the bytes wanted and free if there is no room.
    """
    nbytes = size.numel() * torch.empty(0, dtype=dtype).element_size()
    with telling("storage", path):
        _clear(path)
        check_writable("storage", path, nbytes)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("x+b")
        try:
            _lock(file)
            _fill(file, path, nbytes)
            mapped = torch.from_file(str(path), shared=True, size=size.numel(), dtype=dtype).view(size)
        except BaseException:
            drop_file(file)
            raise
    return mapped, file


def drop_file(file: IO[bytes]) -> None:
    """Remove a file; tensors that are mapped to it keep their rows."""
    with suppress(OSError):
        if os.path.samestat(os.fstat(file.fileno()), os.stat(file.name)):
            os.unlink(file.name)
    file.close()


def read_ahead(file: IO[bytes], row: int, slots: Tensor) -> None:
    """Let the reads of the rows in ``slots`` of a memory-mapped file run side by side.

    A gather that meets a page which is not in memory waits for the disk before it goes on to the next row. What
    the system is told beforehand it reads at once. It is a hint: contents do not depend on it.

    :param file: open for reading.
    :param row: bytes of a row.
    :param slots: int64 ``(n,)`` on the CPU.
    """
    if row < _SMALLEST_ROW or not hasattr(os, "posix_fadvise"):
        return
    number = file.fileno()
    for slot in slots.tolist():
        os.posix_fadvise(number, slot * row, row, os.POSIX_FADV_WILLNEED)


def _clear(path: Path) -> None:
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return
    try:
        _lock(file)
    except BlockingIOError:
        file.close()
        raise ValueError(
            f"storage: expected a folder of its own, got {path.parent}, whose file {path.name} another memory uses"
        ) from None
    drop_file(file)


def _lock(file: IO[bytes]) -> None:
    """Lock a file for as long as it is open.

    :raises BlockingIOError: if somebody else has.
    """
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return


def _fill(file: IO[bytes], path: Path, nbytes: int) -> None:
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows: looked at the room beforehand, and must do
        file.truncate(nbytes)
        return
    try:
        os.posix_fallocate(file.fileno(), 0, nbytes)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        os.ftruncate(file.fileno(), 0)
        free = free_bytes(path.parent)
        raise UnwritableError(
            f"storage: expected {nbytes:,} free bytes for {path}, got {'fewer' if free is None else f'{free:,}'}: "
            f"{error.strerror}"
        ) from error


PLACES = ("device", "host")
_NO_FOLDERS = ("", "cpu", "cuda", "disk", "gpu", "memory", "mmap", "ram")

# Rows may be looked at from the thread that fetches ahead.
_SETTLING = threading.Lock()


class RowStore(nn.Module):
    """Preallocated tensors ``(capacity, *shape)`` by name, written and read by slot.

    Samples come out on :attr:`device`, which follows ``.to(device)``; the tensors follow it only if they
    are stored there. Types never change: ``.half()`` leaves rows alone.

    :param capacity: slots.
    :param storage: ``"device"``; ``"host"``: main memory, page-locked if there is a CUDA device, so that
        rows travel without anybody waiting; or a folder for memory-mapped files, which may be larger
        than main memory; one without a path separator, as a string, must not be near to the other two. The
        files are working memory: they are this process's alone, and what an earlier one left is written over.
    :raises TypeError: if it is no string or path.
    :raises ValueError: for a name that is likely no folder, saying how to name one.

    >>> import torch
    >>> store = RowStore(4)
    >>> store.allocate("codes", torch.Size([2]), torch.uint8)
    >>> store.put("codes", slice(1, 2), torch.tensor([[7, 8]], dtype=torch.uint8))
    >>> store.get("codes", torch.tensor([1, 0])).tolist(), store.nbytes
    ([[7, 8], [0, 0]], 8)
    """

    def __init__(self, capacity: int, storage: str | Path = "device") -> None:
        super().__init__()
        self.capacity = capacity
        self.storage = _place(storage)
        self.device = torch.device("cpu")
        self._files: dict[str, IO[bytes]] = {}
        # Rows on their way from a GPU to the host: the copy, whether it is done, and what is then to do.
        self._arriving: list[tuple[torch.cuda.Event, Callable[[], object]]] = []

    def __contains__(self, name: str) -> bool:
        return name in self._buffers

    def __getitem__(self, name: str) -> Tensor:
        self._settle()
        buffer = self._buffers[name]
        if buffer is None:
            raise KeyError(name)
        return buffer

    @property
    def nbytes(self) -> int:
        """Bytes of all slots, filled or not."""
        return sum(t.nbytes for t in self.buffers())

    @property
    def is_apart(self) -> bool:
        """Whether rows lie in the host's memory or files and are wanted on a GPU."""
        return self.storage != "device" and self.device.type == "cuda"

    def allocate(self, name: str, shape: Size, dtype: torch.dtype) -> None:
        """Make the tensor ``name``; one that is there already must be narrower, and its rows are kept.

        :param shape: of one row.
        :raises ValueError: if another memory uses the file that it takes in the folder of a memory-mapped store, or
            there is no room for it.
        """
        self._settle()
        new, file = self._made(name, shape, dtype)
        old = self._buffers.get(name)
        if old is not None:
            new[:, : old.shape[1]] = old
        self._replace(name, new, file)

    def allocate_all(self, rows: Mapping[str, tuple[Size, torch.dtype]], *, first: bool) -> None:
        """:meth:`allocate` several tensors.

        :param rows: shape and type of a row, by name.
        :param first: nothing is held, so that none is left if one cannot be made.
        """
        try:
            for name, (shape, dtype) in rows.items():
                self.allocate(name, shape, dtype)
        except BaseException:
            if first:
                for name in rows:
                    self.drop(name)
            raise

    def _made(self, name: str, shape: Size, dtype: torch.dtype) -> tuple[Tensor, IO[bytes] | None]:
        size = Size((self.capacity, *shape))
        if self.storage == "host" or (self.storage == "device" and self.device.type == "cpu"):
            check.room("capacity", self.capacity, shape.numel() * dtype.itemsize)
        if self.storage == "device":
            return torch.zeros(size, dtype=dtype, device=self.device), None
        if self.storage == "host" or not size.numel():
            return torch.zeros(size, dtype=dtype, pin_memory=torch.cuda.is_available()), None
        # The shape is part of the name: a tensor that grows wider needs a file beside the old one.
        path = real_place("storage", self.storage) / f"{name}-{'x'.join(map(str, size))}.bin"
        mine = self._files.get(name)
        if mine is not None and Path(mine.name) == path:
            path.unlink(missing_ok=True)  # of another type; its rows stay where they are mapped
        return make_file(path, size, dtype)

    def _replace(self, name: str, new: Tensor, file: IO[bytes] | None) -> None:
        self.drop(name)
        self.register_buffer(name, new)
        if file is not None:
            self._files[name] = file

    def drop(self, name: str) -> None:
        """Let go of the tensor ``name`` and its file."""
        self._buffers.pop(name, None)
        file = self._files.pop(name, None)
        if file is not None:
            drop_file(file)

    def put(self, name: str, slots: slice | Tensor, rows: Tensor) -> None:
        """Write ``rows`` into ``slots`` (a slice, or different indices on the CPU)."""
        buffer = self._buffers[name]
        if buffer is None:
            raise KeyError(name)
        if rows.is_cuda and not buffer.is_cuda:
            # The copy into page-locked memory returns before it is done: the rows are put down when next somebody
            # looks, in the order they were written, so that the step that brings them waits for nothing.
            here = rows.to(buffer.device, buffer.dtype, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(rows.device))
            self._settle(wait=False)
            self._arriving.append((event, lambda: _put(buffer, slots, here)))
            return
        if self._arriving:
            self._settle()
        if rows.dtype != buffer.dtype or rows.device != buffer.device:
            rows = rows.to(buffer.device, buffer.dtype, non_blocking=True)
        _put(buffer, slots, rows)

    def _settle(self, wait: bool = True) -> None:
        """Put down the rows that were on their way, in their order; without waiting, those that have arrived."""
        if not self._arriving:
            return
        with _SETTLING:
            while self._arriving and (wait or self._arriving[0][0].query()):  # type: ignore[no-untyped-call]
                event, put = self._arriving[0]
                if wait:
                    event.synchronize()
                put()
                del self._arriving[0]

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        """As ``nn.Module``'s, with all rows in place."""
        self._settle()
        return super().named_buffers(*args, **kwargs)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._settle()
        super()._save_to_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        # A copy has its rows in memory.
        return {**self.__dict__, "_files": {}}

    def get(self, name: str, slots: Tensor) -> Tensor:
        """Rows in ``slots`` (indices on the CPU), on :attr:`device`."""
        buffer = self[name]
        rows = buffer.index_select(0, to_device(slots, buffer.device))
        return rows if buffer.device == self.device else to_device(rows, self.device)

    def gather(self, slots: Tensor, into: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Rows in ``slots`` of every tensor, as :meth:`get` gives them.

        :param into: by name, where rows may come to lie, if they are of its kind.
        """
        if self._arriving:
            self._settle()
        found: dict[str, Tensor] = {}
        here, index = None, slots
        for name, buffer in self._buffers.items():
            if buffer is not None:
                if buffer.device != here:
                    here, index = buffer.device, to_device(slots, buffer.device)
                if name in self._files:
                    read_ahead(self._files[name], buffer.nbytes // self.capacity, slots)
                place = into.get(name) if into else None
                if place is not None and _is_room_for(place, slots.shape[0], buffer):
                    place = place[: slots.shape[0]]
                    found[name] = torch.index_select(buffer, 0, index, out=place)
                    continue
                rows = buffer.index_select(0, index)
                found[name] = rows if here == self.device else to_device(rows, self.device)
        return found

    def load(self, rows: Mapping[str, Tensor], slots: Tensor | None = None) -> None:
        """Hold these tensors and no others, with these rows in the given slots (None: the first ones).

        :raises ValueError: if there are too many, or there is no room for them; nothing has changed then.
        """
        self._settle()
        for name, value in rows.items():
            if value.ndim < 1 or len(value) > self.capacity:
                raise ValueError(
                    f"state: expected at most {self.capacity} rows of {name!r}, got shape {tuple(value.shape)}"
                )
        made: dict[str, tuple[Tensor, IO[bytes] | None]] = {}
        try:
            for name, value in rows.items():
                held = self._buffers.get(name)
                if held is None or held.shape[1:] != value.shape[1:] or held.dtype != value.dtype:
                    made[name] = self._made(name, value.shape[1:], value.dtype)
        except BaseException:
            for _, file in made.values():
                if file is not None:
                    drop_file(file)
            raise
        for name in self._buffers.keys() - rows.keys():
            self.drop(name)
        for name, (new, file) in made.items():
            self._replace(name, new, file)
        for name, value in rows.items():
            self.put(name, slice(0, len(value)) if slots is None else slots, value)

    def keep(self, slots: Tensor, held: int) -> None:
        """Move the rows in some slots to the first ones, in this order; what else was held becomes zeros.

        :param slots: int64 ``(n,)`` on the CPU.
        :param held: end of the slots that hold rows.
        """
        self._settle()
        ascending = bool((slots.diff() > 0).all())
        for buffer in self._buffers.values():
            if buffer is not None:
                index = to_device(slots, buffer.device)
                # In ascending order no row is overwritten before it has moved.
                for i, some in enumerate(torch.split(index, _MOVED) if ascending else [index]):
                    buffer[i * _MOVED : i * _MOVED + len(some)] = buffer.index_select(0, some)
                buffer[len(slots) : held] = 0

    def borrower(self) -> RowStore:
        """An empty store to try a state on: it takes over tensors that it is given instead of copying them."""
        return _Borrower(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RowStore:
        self._settle()
        self.device = fn(torch.empty(0, device=self.device)).device
        if self.storage == "device":
            for name, buffer in self._buffers.items():
                if buffer is not None and buffer.device != self.device:
                    self._buffers[name] = buffer.to(self.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Buffers come with the first write: make those that the state has, drop those that it lacks.
        incoming = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
        for name, value in incoming.items():
            if not isinstance(value, Tensor) or value.shape[:1] != (self.capacity,):
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"state: expected {self.capacity} rows of {name!r}, got {got}")
        self.load(incoming)


class _Borrower(RowStore):
    def __init__(self, store: RowStore) -> None:
        super().__init__(store.capacity)
        self.device = store.device

    def load(self, rows: Mapping[str, Tensor], slots: Tensor | None = None) -> None:
        if slots is not None:  # with gaps between them they cannot be taken as they are
            super().load(rows, slots)
            return
        self._buffers.clear()
        self._buffers.update(rows)


def _place(storage: str | Path) -> str | Path:
    """One of ``PLACES``, or a folder."""
    if not isinstance(storage, str | Path):
        raise TypeError(f"storage: expected 'device', 'host' or a folder, got {type(storage).__name__}")
    if storage in PLACES:
        return storage
    if isinstance(storage, str) and not {"/", os.sep} & set(storage):
        name = storage.lower()
        near = difflib.get_close_matches(name, PLACES, n=1, cutoff=0.7)
        if near or name.partition(":")[0] in _NO_FOLDERS:
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"storage: expected 'device', 'host' or a folder, got {storage!r}{hint}; a folder of that name is "
                f"{'./' + storage!r}"
            )
    return Path(storage)


def _is_room_for(place: Tensor, rows: int, buffer: Tensor) -> bool:
    return (
        place.shape[1:] == buffer.shape[1:]
        and place.shape[0] >= rows
        and place.dtype == buffer.dtype
        and place.device == buffer.device
        and place.is_contiguous()
    )


def _put(buffer: Tensor, slots: slice | Tensor, rows: Tensor) -> None:
    if isinstance(slots, slice):
        buffer[slots] = rows
    else:
        buffer.index_copy_(0, to_device(slots, buffer.device), rows)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` from the host on ``device``, without waiting for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
