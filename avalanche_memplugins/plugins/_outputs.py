"""A model's output of any structure: a tensor, or a tuple, list, named tuple, dict or data class of such."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def main_output(output: Any) -> Tensor:
    """The tensor of an output that holds the logits.

    It is the output itself; the entry or attribute ``logits``; or the first tensor of a tuple or list.

    :raises ValueError: if there is none.
    """
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if found is None and isinstance(output, tuple | list):
        found = next((part for part in output if isinstance(part, Tensor)), None)
    if not isinstance(found, Tensor):
        raise ValueError(
            "model: expected an output that is a tensor, a tuple whose first tensor is the logits, or a dict or object "
            f"with 'logits', got {_described(output)}"
        )
    return found


def parted(output: Any, rows: int, replayed: int) -> tuple[Any, Any]:
    """The output of the first ``rows`` rows and that of the ``replayed`` rows behind them.

    Numbers, tensors without dimensions and other objects are in both.

    :raises ValueError: if a tensor has not one row for each row of the batch.
    """
    total = rows + replayed

    def check(leaf: Tensor) -> Tensor:
        if leaf.ndim and len(leaf) != total:
            raise ValueError(
                f"model: expected an output with one row for each of the {total} rows of the batch ({rows} of the "
                f"stream, {replayed} replayed), got a tensor {tuple(leaf.shape)}"
            )
        return leaf

    return (
        _map(lambda leaf: check(leaf)[:rows] if leaf.ndim else leaf, output),
        _map(lambda leaf: leaf[rows:] if leaf.ndim else leaf, output),
    )


def rows_of(output: Any, index: slice | Tensor) -> Any:
    """Some rows of an output."""
    return _map(lambda leaf: leaf[index] if leaf.ndim else leaf, output)


def joined(first: Any, second: Any) -> Any:
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


def _map(function: Callable[[Tensor], Tensor], output: Any) -> Any:
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


def _described(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with the keys {list(output)}"
    return f"a {type(output).__name__}"
