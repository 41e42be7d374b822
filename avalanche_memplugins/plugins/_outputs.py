"""A model's output of any structure: a tensor, or a tuple, list, named tuple, dict or data class of such."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def main_output(output: object) -> Tensor:
    """The tensor of an output that holds the logits: see :func:`find_logits`; a tensor is one of any shape.

    :raises ValueError: if there is none.
    """
    return output if isinstance(output, Tensor) else find_logits(output)[0]


def find_logits(output: object, rows: int | None = None) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The logits ``(B, classes)`` in a model's output, and a function that gives the output with others in their place.

    :param output: a tensor; a mapping or object with ``logits``, or a mapping with just one floating-point tensor
        ``(B, classes)``; or a tuple or list, of which it is the field ``logits`` or the first such tensor.
    :param rows: B, if known.
    :raises ValueError: for any other output.
    """
    parts, put = _entries(output)
    fit = [key for key, value in parts.items() if _is_logits(value, rows)]
    key = "logits" if "logits" in fit or not fit else fit[0]
    if key not in fit or (isinstance(output, Mapping) and key != "logits" and len(fit) > 1):
        size = "B" if rows is None else rows
        told = ", ".join(f"{name!r}: {_described(value)}" for name, value in parts.items()) or _described(output)
        raise ValueError(
            f"model: expected logits ({size}, classes), alone, under the name 'logits', or first in a tuple, got {told}"
        )
    logits: Tensor = parts[key]
    return logits, lambda other: put(key, other)


def _entries(output: object) -> tuple[dict[Any, Any], Callable[[Any, Tensor], Any]]:
    """The parts of an output by name, and a function that gives the output with another tensor in a part's place."""
    if isinstance(output, Tensor):
        return {"logits": output}, lambda key, other: other
    if isinstance(output, Mapping):
        return dict(output), lambda key, other: _with_entry(output, key, other)
    if isinstance(output, tuple | list):
        names = getattr(output, "_fields", range(len(output)))
        parts = dict(zip(names, output, strict=True))
        make = type(output)._make if hasattr(output, "_make") else type(output)
        return parts, lambda key, other: make([other if name == key else part for name, part in parts.items()])
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        parts = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
        return parts, lambda key, other: dataclasses.replace(output, **{key: other})
    return {}, lambda key, other: output


def _with_entry(output: Any, key: Any, value: Tensor) -> Any:
    other = copy.copy(output)
    other[key] = value
    return other


def _is_logits(value: object, rows: int | None) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and value.is_floating_point() and rows in (None, len(value))


def parted(output: object, rows: int, replayed: int) -> tuple[Any, Any]:
    """The output of the first ``rows`` rows and that of the ``replayed`` rows behind them.

    Numbers, tensors without dimensions and other objects are in both.

    :raises ValueError: if a tensor has not one row for each row of the batch.
    """
    total = rows + replayed
    if isinstance(output, Tensor) and output.ndim and output.shape[0] == total:  # as a rule
        return output[:rows], output[rows:]
    parts = f" ({rows} of the stream, {replayed} replayed)" if replayed else ""

    def check(leaf: Tensor) -> Tensor:
        if leaf.ndim and len(leaf) != total:
            raise ValueError(
                f"model: expected an output with one row for each of the {total} rows of the batch{parts}, got a "
                f"tensor {tuple(leaf.shape)}"
            )
        return leaf

    return (
        _map(lambda leaf: check(leaf)[:rows] if leaf.ndim else leaf, output),
        _map(lambda leaf: leaf[rows:] if leaf.ndim else leaf, output),
    )


def rows_of(output: object, index: slice | Tensor) -> Any:
    """Some rows of an output."""
    if isinstance(output, Tensor) and output.ndim:  # as a rule
        return output[index]
    return _map(lambda leaf: leaf[index] if leaf.ndim else leaf, output)


def joined(first: object, second: object) -> Any:
    """Two outputs of one structure, one behind the other."""
    leaves: list[Tensor] = []

    def collect(leaf: Tensor) -> Tensor:
        leaves.append(leaf)
        return leaf

    def followed(leaf: Tensor) -> Tensor:
        other = next(others)
        return torch.cat([leaf, other]) if leaf.ndim else leaf

    _map(collect, second)
    others = iter(leaves)
    return _map(followed, first)


def _map(function: Callable[[Tensor], Tensor], output: object) -> Any:
    if isinstance(output, Tensor):
        return function(output)
    if isinstance(output, Mapping):
        # A Hugging Face output is an OrderedDict and a data class, and is made from keywords.
        parts = {key: _map(function, value) for key, value in output.items()}
        return type(output)(**parts) if dataclasses.is_dataclass(output) else type(output)(parts)  # type: ignore[call-arg]
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(_map(function, value) for value in output))
    if isinstance(output, tuple | list):
        return type(output)(_map(function, value) for value in output)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        fields = {f.name: _map(function, getattr(output, f.name)) for f in dataclasses.fields(output) if f.init}
        return dataclasses.replace(output, **fields)
    return output


def _described(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
