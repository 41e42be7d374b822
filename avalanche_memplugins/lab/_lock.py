"""A lock between processes that the system lets go of when its holder dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: two commands on one folder may then do a run twice, with equal results
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of that name; waits while another process holds it.

    :param path: the lock's file; made, and removed at the end.
    """
    handle = _acquire(path)
    try:
        yield
    finally:
        # Removed while still held: whoever waits on it sees that the file is gone, and takes a new one.
        with suppress(OSError):
            path.unlink()
        os.close(handle)
        with suppress(OSError):
            path.parent.rmdir()


def _acquire(path: Path) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # another process has just removed the empty folder
        with suppress(OSError):  # file systems without locks
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)
