"""Checks of tensors, and of what codecs are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins._checks._values import integers, number, show

_UNSIGNED = {torch.uint16, torch.uint32, torch.uint64}  # that torch stores, but hardly computes with
_NUMBERS = {
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, *_UNSIGNED,
}  # fmt: skip


def tensor(name: str, value: Any) -> Tensor:
    """``value`` if it is a tensor of real numbers that are there: dense, not on the device "meta".

    Looks at the type and layout only, so that it costs nothing and waits for no GPU.

    :raises TypeError: if it is no tensor.
    :raises ValueError: if it is complex, sparse, nested, quantised or without data.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {show(value)}")
    if value.layout is not torch.strided or value.dtype not in _NUMBERS or value.is_meta or value.is_nested:
        raise ValueError(f"{name}: expected a dense tensor of real numbers, got {_unfit(value)}")
    return value


def computed(name: str, value: Any) -> Tensor:
    """:func:`tensor` of a type that torch can do arithmetic with: no unsigned integers of more than a byte.

    :raises TypeError: if it is no tensor.
    :raises ValueError: as :func:`tensor`, or for another type.
    """
    if tensor(name, value).dtype in _UNSIGNED:
        raise ValueError(f"{name}: expected a type that torch computes with, got {value.dtype}; x.long() is one")
    return value  # type: ignore[no-any-return]


def _unfit(value: Tensor) -> str:
    shape = tuple(value.shape) if not value.is_nested else "of several shapes"
    if value.is_meta:
        return f"a tensor {shape} on the device 'meta', which has no data"
    if value.is_nested:
        return "a nested tensor"
    if value.dtype not in _NUMBERS:
        return f"one of {value.dtype}"
    return f"the layout {value.layout}; x.to_dense() makes it dense"


def tensors(**values: Any) -> None:
    """:func:`tensor` for several, by name."""
    for name, value in values.items():
        tensor(name, value)


def floats(**values: Any) -> None:
    """:func:`tensor` for several, by name, and that they hold floating-point numbers.

    :raises ValueError: for integers and bools.
    """
    for name, value in values.items():
        if not tensor(name, value).is_floating_point():
            raise ValueError(f"{name}: expected floating-point numbers, got {value.dtype}")


def like(name: str, value: Tensor, shape: Sequence[int], wanted: str = "") -> None:
    """Raise unless a tensor has a shape.

    :param wanted: why, in words.
    :raises ValueError: naming both.
    """
    if tuple(value.shape) != tuple(shape):
        why = f", {wanted}" if wanted else ""
        raise ValueError(f"{name}: expected shape {tuple(shape)}{why}, got {tuple(value.shape)}")


def shaped(**values: tuple[Any, str]) -> None:
    """Raise unless floating-point tensors have the shapes that their forms say, and fit each other.

    A form names the dimensions: ``shaped(mean=(mean, "K C"), factors=(factors, "K r C"))``. A name stands for the same
    size wherever it occurs, ``"8"`` for that size, and ``"..."`` at the beginning for any dimensions before.

    :raises TypeError: if one is no tensor.
    :raises ValueError: naming the first that does not fit.
    """
    sizes: dict[str, int] = {}
    for name, (value, form) in values.items():
        floats(**{name: value})
        known, names, given = dict(sizes), form.removeprefix("...").split(), tuple(value.shape)
        open_ended = form.startswith("...")
        tail = given[-len(names) :] if open_ended else given
        fits = len(tail) == len(names)
        for part, size in zip(names, tail, strict=False):
            fits &= size == (int(part) if part.isdigit() else sizes.setdefault(part, size))
        if not fits:
            said = [*["..."] * open_ended, *(str(known.get(part, part)) for part in names)]
            raise ValueError(f"{name}: expected ({', '.join(said)}{',' * (len(said) == 1)}), got {given}")


def mask(name: str, value: Any, like: Tensor, of: str) -> None:
    """Raise unless ``value`` is a tensor of bools of the shape of another, or None.

    :param of: name of the other.
    """
    if value is not None and (tensor(name, value).dtype != torch.bool or value.shape != like.shape):
        raise ValueError(f"{name}: expected bool {tuple(like.shape)} like {of}, got {value.dtype} {tuple(value.shape)}")


def positive(name: str, value: Any) -> None:
    """Raise unless ``value`` is a number above 0, or a tensor of floating-point numbers, which is not looked at."""
    if isinstance(value, Tensor):
        floats(**{name: value})
    else:
        number(name, value, above=0)


def broadcast(**values: Tensor) -> None:
    """Raise unless tensors go together in arithmetic.

    :raises ValueError: naming the first that does not.
    """
    shape: torch.Size | None = None
    for name, value in values.items():
        try:
            shape = value.shape if shape is None else torch.broadcast_shapes(shape, value.shape)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise ValueError(
                f"{name}: expected a shape that broadcasts with {tuple(shape or ())}, got {tuple(value.shape)}"
            ) from error


def channels(name: str, value: Any, *, above: float | None = None) -> Tensor:
    """A number, or one a channel, as float32 ``(C,)``: the mean or std of a ``Normalize``.

    :param above: a limit that all lie above.
    :raises ValueError: for anything else.
    """
    try:
        found = torch.as_tensor(value)
        found = torch.empty(0) if found.is_complex() or found.dtype == torch.bool else found.float()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = torch.empty(0)
    limit = "" if above is None else f" > {above:g}"
    if (
        isinstance(value, bool)
        or found.ndim > 1
        or not found.numel()
        or not bool(found.isfinite().all())
        or (above is not None and not bool((found > above).all()))
    ):
        raise ValueError(f"{name}: expected a finite number{limit}, or one a channel, got {show(value)}")
    return found.detach().reshape(-1)


def rows(name: str, value: Any, shape: Sequence[int], lead: str = "B") -> None:
    """Raise unless ``value`` is a floating-point tensor ``(*lead, *shape)``.

    :param lead: names of the dimensions before, such as ``"E, T"``; ``"..."``: any number of them.
    :raises TypeError: if it is no tensor.
    :raises ValueError: for another shape or type.
    """
    floats(**{name: value})
    size, given = len(shape), tuple(value.shape)
    fits = lead == "..." or len(given) == size + lead.count(",") + 1
    if not fits or len(given) < size or given[len(given) - size :] != tuple(shape):
        raise ValueError(f"{name}: expected ({lead}, {', '.join(map(str, shape))}), got {given}")


def sized(name: str, value: Any, width: int) -> None:
    """Raise unless ``value`` is a floating-point tensor of rows of ``width`` numbers, of any shape.

    :raises TypeError: if it is no tensor.
    :raises ValueError: for another size or type.
    """
    floats(**{name: value})
    if value.ndim < 2 or value.shape[1:].numel() != width:
        raise ValueError(f"{name}: expected (B, *shape) of {width} numbers a row, got {tuple(value.shape)}")


# ---------------------------------------------------------------- codecs


def coded(code: Any, shape: Any, dtype: Any) -> None:
    """Raise unless these are what a codec decodes: a tensor, the shape of a row, its type."""
    tensor("code", code)
    if code.ndim < 2:
        raise ValueError(f"code: expected (B, *code_shape), got {tuple(code.shape)}")
    if not isinstance(shape, tuple) or (shape and type(shape[0]) is not int) or 0 in shape:
        raise TypeError(f"shape: expected the shape of a row, a torch.Size, got {show(shape)}")
    dtype_of("dtype", dtype)


def coding(shape: Any, dtype: Any) -> torch.Size:
    """Raise unless these are the shape and type of rows that a codec may be asked about; gives the shape."""
    dtype_of("dtype", dtype)
    return torch.Size(integers("shape", shape))


def dtype_of(name: str, value: Any) -> None:
    """Raise unless ``value`` is one of torch's types.

    :raises TypeError: naming what it is instead.
    """
    if not isinstance(value, torch.dtype):
        raise TypeError(f"{name}: expected a torch.dtype, got {show(value)}")


def batch(name: str, value: Any) -> Tensor:
    """``value`` if it is a tensor ``(B, *shape)``; see :func:`tensor`."""
    rows = tensor(name, value)
    if rows.ndim < 2:
        raise ValueError(f"{name}: expected a batch (B, *shape), got {tuple(rows.shape)}")
    return rows
