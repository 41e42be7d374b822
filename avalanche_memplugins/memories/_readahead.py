"""Asks the system for scattered rows of a file all at once."""

from __future__ import annotations

import os
from typing import IO

from torch import Tensor

# Of smaller rows many share a page, and the pages are soon all in memory.
_SMALLEST_ROW = 1024


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
