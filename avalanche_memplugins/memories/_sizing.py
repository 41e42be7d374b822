"""How many rows fit into a budget of bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check


def one_row(shape: Any, dtype: Any, target_shape: Any, target_dtype: Any) -> tuple[Tensor, Tensor]:
    """A batch of one row x of zeros, and its y.

    :param target_shape: of a row of y; None: it is a class.
    :raises TypeError: for what is no type.
    :raises ValueError: for shapes and types that no memory can hold.
    """
    shape = check.row_shape(shape)
    for name, value in (("dtype", dtype), ("target_dtype", target_dtype)):
        check.dtype_of(name, value)
        check.computed(name, torch.empty(0, dtype=value))
    check.room("shape", shape.numel(), dtype.itemsize)
    if target_shape is None:
        target_shape, target_dtype = (), torch.int64
    elif target_shape != ():
        target_shape = check.integers("target_shape", target_shape, least=0)
        check.room("target_shape", math.prod(target_shape), target_dtype.itemsize)
    return torch.zeros(1, *shape, dtype=dtype), torch.zeros(1, *target_shape, dtype=target_dtype)


def rows_within(nbytes: int, takes: Callable[[int], int]) -> int:
    """The most rows that a budget holds.

    :param takes: bytes of a memory of so many rows: a part that is always the same, and as much again for each row.
    :raises ValueError: if not a single row fits.
    """
    row = takes(2) - takes(1)
    shared = takes(1) - row
    if nbytes - shared < row:
        beside = f", beside {shared} of the codec and the policies" if shared else ""
        raise ValueError(f"nbytes: expected at least the {row} bytes that one row takes{beside}, got {nbytes}")
    return (nbytes - shared) // row
