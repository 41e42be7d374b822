"""Checks of batches of rows and of their labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins._checks._tensors import computed, tensor
from avalanche_memplugins._checks._values import having, integers, show

LARGEST = torch.iinfo(torch.int32).max


def rows_of(x: Tensor) -> int:
    """Number of rows of a batch ``(B, *shape)``."""
    computed("x", x)
    if x.ndim < 2:
        raise ValueError(f"x: expected a batch (B, *shape) of at least two dimensions, got {tuple(x.shape)}")
    if 0 in x.shape[1:]:
        raise ValueError(f"x: expected rows of at least one number, got {tuple(x.shape)}")
    return len(x)


def label(name: str, value: Tensor | int, rows: int, largest: int = LARGEST) -> None:
    """Raise unless ``value`` is an integer from 0 to ``largest`` or an integer tensor ``(rows,)``."""
    if isinstance(value, Tensor):
        tensor(name, value)
        if value.is_floating_point() or value.dtype == torch.bool:
            raise ValueError(f"{name}: expected integers, got {value.dtype}")
        if value.shape != (rows,):
            raise ValueError(f"{name}: expected shape ({rows},), one label a row of x, got {tuple(value.shape)}")
    elif isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an integer or an integer tensor, got {type(value).__name__}")
    elif not 0 <= value <= largest:
        raise _out_of_range(name, largest, value)


def label_range(name: str, value: Tensor | int, largest: int = LARGEST) -> None:
    """Raise unless the values of a tensor of labels lie from 0 to ``largest``."""
    if isinstance(value, Tensor) and value.numel():
        # Of unsigned types torch knows no extremes; what is too large for int64 becomes negative.
        low, high = (int(end) for end in value.long().aminmax())
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
    return ValueError(f"{name}: expected integers from 0 to {limit}, got {got}")


def storable(codec: Any, x: Tensor) -> Tensor | None:
    """Raise what ``codec.check`` raises; gives the code if the codec works it out on the way."""
    if hasattr(codec, "check_and_encode"):
        code: Tensor = codec.check_and_encode(x)
        return code
    codec.check(x)
    return None


def unchecked(codec: Any, name: str) -> Any:
    """``codec.encode`` or ``codec.decode`` for what was checked: without checks, if the codec has that.

    :param name: ``"encode"`` or ``"decode"``. One that a subclass replaces by its own is called as it is.
    """
    method, quick = getattr(codec, name), getattr(codec, f"{name}_checked", None)
    if quick is None or getattr(method, "__module__", "") != "avalanche_memplugins.codecs._stored":
        return method
    return quick


def finite(name: str, value: Tensor) -> None:
    """Raise unless all values are finite."""
    # One pass over the sum tells most of the time; it may itself overflow.
    if value.is_floating_point() and not math.isfinite(value.sum().item()):
        bad = int((~value.isfinite()).sum())
        if bad:
            raise ValueError(f"{name}: expected finite values, got {bad} that are NaN or infinite")


def labels(name: str, value: Tensor, rows: int) -> None:
    """Raise unless ``value`` is an integer tensor ``(rows,)``: no number stands for all classes."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected an integer tensor ({rows},), one class a row of x, got {show(value)}")
    label(name, value, rows)


def row_slots(value: Tensor, held: int) -> Tensor:
    """``value`` if it is an integer tensor ``(n,)`` of places below ``held``; looked at on the CPU only."""
    if tensor("slots", value).ndim != 1 or value.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"slots: expected integers (n,), got {value.dtype} {tuple(value.shape)}")
    if value.numel() and not value.is_cuda:
        low, high = (int(end) for end in value.aminmax())
        if low < 0 or high >= held:
            raise ValueError(f"slots: expected places from 0 to {held - 1}, got {low} to {high}")
    return value


def row_shape(value: Any) -> torch.Size:
    """``value`` as the shape of a row, if it is one."""
    return torch.Size(integers("shape", value))


def latent_codec(value: Any) -> None:
    """Raise unless ``value`` is a learned codec, whose codes can be modelled, or None."""
    if value is not None:
        having("codec", value, ("to_latent", "from_latent", "code_size", "check"), "a learned codec, or None")


def experience(batches: Any) -> Iterator[Any]:
    """One pass over ``batches``, each of which is three columns.

    :raises TypeError: if they are not batches ``(x, y, t)``.
    """
    if isinstance(batches, str) or not isinstance(batches, Iterable):
        raise TypeError(f"batches: expected batches (x, y, t) to iterate over, got {show(batches)}")
    for each in batches:
        if not isinstance(each, tuple | list) or len(each) != 3:
            raise TypeError(f"batches: expected batches (x, y, t), got {show(each)}")
        yield each
