"""Checks of arguments, each naming the argument, what it got and what it wants."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from avalanche_memplugins._seeds import seed as seed

T = TypeVar("T")
LARGEST = torch.iinfo(torch.int32).max


def positive_integer(name: str, value: int) -> int:
    """``value`` if it is an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: wants an integer >= 1, got {value!r}")
    return value


def made(name: str, value: T) -> T:
    """``value`` if it is not a class that somebody forgot to call."""
    if isinstance(value, type):
        raise TypeError(f"{name}: wants an instance, got the class {value.__name__}; call it: {value.__name__}(...)")
    return value


def choice(name: str, value: T, choices: Collection[T]) -> T:
    """``value`` if it is one of ``choices``."""
    if value not in choices:
        near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name}: wants one of {', '.join(map(repr, choices))}, got {value!r}{hint}")
    return value


def one_of(name: str, value: str, table: Mapping[str, T]) -> T:
    """The entry of ``table`` under ``value``."""
    return table[choice(name, value, table)]


def rows_of(x: Tensor) -> int:
    """Number of rows of a batch ``(B, *shape)``."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x: wants a tensor (B, *shape), got {type(x).__name__}")
    if x.ndim < 2:
        raise ValueError(f"x: wants a batch (B, *shape) of at least two dimensions, got {tuple(x.shape)}")
    return len(x)


def label(name: str, value: Tensor | int, rows: int, largest: int = LARGEST) -> None:
    """Raise unless ``value`` is an integer from 0 to ``largest`` or an integer tensor ``(rows,)``."""
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise ValueError(f"{name}: wants integers, got {value.dtype}")
        if value.shape != (rows,):
            raise ValueError(f"{name}: wants shape ({rows},), one label a row of x, got {tuple(value.shape)}")
    elif isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: wants an integer or an integer tensor, got {type(value).__name__}")
    elif not 0 <= value <= largest:
        raise _out_of_range(name, largest, value)


def label_range(name: str, value: Tensor | int, largest: int = LARGEST) -> None:
    """Raise unless the values of a tensor of labels lie from 0 to ``largest``."""
    if isinstance(value, Tensor) and value.numel():
        low, high = (int(end) for end in value.aminmax())
        if low < 0 or high > largest:
            raise _out_of_range(name, largest, low if low < 0 else high)


def label_ranges(stacked: Tensor, labels: Mapping[str, Tensor | int], largest: int = LARGEST) -> None:
    """:func:`label_range` for several columns of labels, looked at all at once.

    :param stacked: int64 ``(B, columns)``, the values of ``labels``.
    """
    low, high = (end.item() for end in stacked.aminmax())
    if low < 0 or high > largest:
        for name, value in labels.items():
            label_range(name, value, largest)


def _out_of_range(name: str, largest: int, got: int) -> ValueError:
    limit = "2**31 - 1" if largest == LARGEST else f"{largest}, the largest that this memory's labels hold"
    return ValueError(f"{name}: wants integers from 0 to {limit}, got {got}")


def storable(codec: Any, x: Tensor) -> Tensor | None:
    """Raise what ``codec.check`` raises; gives the code if the codec works it out on the way."""
    if hasattr(codec, "check_and_encode"):
        code: Tensor = codec.check_and_encode(x)
        return code
    codec.check(x)
    return None


def finite(name: str, value: Tensor) -> None:
    """Raise unless all values are finite."""
    # One pass over the sum tells most of the time; it may itself overflow.
    if value.is_floating_point() and not math.isfinite(value.sum().item()):
        bad = int((~value.isfinite()).sum())
        if bad:
            raise ValueError(f"{name}: wants finite values, got {bad} that are NaN or infinite")
