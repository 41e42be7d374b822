"""Files that tensors are mapped to: as large as they will get from the start, and one process's alone."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

import torch
from torch import Size, Tensor

from avalanche_memplugins._drafts import UnwritableError, check_writable, free_bytes, telling

try:
    import fcntl
except ImportError:  # Windows, which lets nobody remove a file that is mapped
    fcntl = None  # type: ignore[assignment]

# Of smaller rows many share a page, and the pages are soon all in memory.
_SMALLEST_ROW = 1024


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
