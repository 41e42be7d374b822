"""A strategy's batch as rows, targets and task labels, whether it is a list or a dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from avalanche_memplugins._structure import first_leaf, joined_rows, mapped, row_count, rows_in

TASKS = "targets_task_labels"  # as Avalanche calls them
_TARGETS = ("y", "labels", "label", "targets", "target")


class Keys(NamedTuple):
    """Where a dict batch has its targets and task labels; all other entries are x.

    :param y: key of the targets.
    :param t: key of the task labels; None: there are none.
    """

    y: str
    t: str | None

    def columns(self, batch: Mapping[str, Any]) -> list[Any]:
        """``[x, y]`` or ``[x, y, t]`` of a batch."""
        x = {key: value for key, value in batch.items() if key not in self}
        return [x, batch[self.y], *([] if self.t is None else [batch[self.t]])]

    def batch(self, columns: list[Any]) -> dict[str, Any]:
        """The batch of some columns."""
        named = {self.y: columns[1]} if self.t is None else {self.y: columns[1], self.t: columns[2]}
        return {**columns[0], **named}


def keys_of(strategy: Any) -> Keys | None:
    """The keys of the strategy's batch; None of one that is a list.

    :raises ValueError: if the batch does not tell its targets, or has entries that cannot be replayed.
    """
    batch = strategy.mbatch
    if not isinstance(batch, Mapping):
        return None
    y = _key(batch, lambda: strategy.mb_y)
    if y is None:
        y = next((name for name in _TARGETS if name in batch), None)
    if y is None or len(batch) < 2:
        raise ValueError(
            f"mbatch: expected a dict with the targets under the key that strategy.mb_y reads, or under one of "
            f"{', '.join(map(repr, _TARGETS))}, got the keys {list(batch)}"
        )
    t = TASKS if TASKS in batch else _key(batch, lambda: strategy.mb_task_id)
    if t is not None and (not isinstance(batch[t], Tensor) or batch[t].ndim != 1 or batch[t].is_floating_point()):
        raise ValueError(f"mbatch: expected integer task labels (B,) under {t!r}, got {type(batch[t]).__name__}")
    try:
        row_count("mbatch", dict(batch))
    except TypeError as error:
        raise ValueError(f"{error}; leave out of the batch what is no tensor") from error
    return Keys(y, None if t == y else t)


def _key(batch: Mapping[str, Any], read: Callable[[], Any]) -> str | None:
    """The key of the entry that a property of the strategy gives."""
    try:
        value = read()
    except (AttributeError, AssertionError, KeyError, IndexError, TypeError):
        return None
    return next((key for key, entry in batch.items() if entry is value), None)


def rows_of_batch(batch: Any) -> int:
    """How many rows a batch has."""
    return len(first_leaf(batch[0] if isinstance(batch, list | tuple) else batch))


def some_rows(batch: Any, index: slice | Tensor) -> Any:
    """Some of the rows of a batch."""
    if isinstance(batch, list | tuple):
        return [rows_in(column, index) for column in batch]
    return {key: rows_in(column, index) for key, column in batch.items()}


def on_device(column: Any, device: torch.device) -> Any:
    """A column of a batch on a device."""
    return column.to(device) if hasattr(column, "to") else mapped(lambda leaf: leaf.to(device), column)


def joined_column(name: str, values: list[Any], memory: object) -> Any:
    """A column of the stream with that of the replayed rows behind it; padded as the memory pads its rows.

    :param name: ``"x"`` or ``"y"``.
    """
    if all(isinstance(value, Tensor) for value in values) and not getattr(memory, "pad", None):
        return torch.cat(values)
    return joined_rows(name, values, getattr(memory, "pad_of", None))
