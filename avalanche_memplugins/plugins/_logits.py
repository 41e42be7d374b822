"""The logits in what a model gives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def find_logits(output: Any, rows: int) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The logits ``(B, classes)`` in a model's output, and a function that gives the output with others in their place.

    :param output: a tensor; or a tuple, named tuple, list or mapping with an entry called ``logits`` or with exactly
        one floating-point tensor ``(B, classes)``.
    :param rows: B.
    :raises ValueError: for any other output.
    """
    if isinstance(output, Tensor):
        if not _fits(output, rows):
            raise ValueError(f"model: expected logits ({rows}, classes) from it, got {_told(output)}")
        return output, lambda logits: logits
    names = list(output) if isinstance(output, Mapping) else list(getattr(output, "_fields", ()))
    entries: dict[Any, Any] = {}
    if isinstance(output, Mapping):
        entries = dict(output)
    elif isinstance(output, list | tuple):
        entries = dict(enumerate(output))
    key = names.index("logits") if "logits" in names and not isinstance(output, Mapping) else "logits"
    fit = [each for each, value in entries.items() if _fits(value, rows)]
    if key not in fit:
        if len(fit) != 1:
            told = ", ".join(f"{each!r}: {_told(value)}" for each, value in entries.items()) or _told(output)
            raise ValueError(
                f"model: expected logits ({rows}, classes) from it, or a tuple or dict that holds just one tensor of "
                f"this shape or one called 'logits', got {told}"
            )
        key = fit[0]

    def replaced(logits: Tensor) -> Any:
        if isinstance(output, Mapping):
            other: Any = copy.copy(output)
            other[key] = logits
            return other
        values = [logits if each == key else value for each, value in entries.items()]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)

    logits: Tensor = entries[key]
    return logits, replaced


def _fits(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and len(value) == rows and value.is_floating_point()


def _told(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
