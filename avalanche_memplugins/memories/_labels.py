"""Class, task label and origin of rows, in columns of one small integer type; targets of other kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from avalanche_memplugins import _checks as check

TYPES = {"int32": torch.int32, "int16": torch.int16, "uint8": torch.uint8}
_NUMPY = {"int32": np.int32, "int16": np.int16, "uint8": np.uint8}
Given = Mapping[str, Tensor | int]


class Targets(NamedTuple):
    """What ``y`` is of rows that have no class: shape and type of one row's."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        shape = ", ".join(("B", *map(str, self.shape))) if self.shape else "B,"
        return f"{str(self.dtype).removeprefix('torch.')} ({shape})"


def targets_of(y: Tensor, rows: int) -> Targets | None:
    """Kind of the targets ``y``; None of classes ``(B,)``, whose values are still to be looked at.

    :raises TypeError: if it is no tensor.
    :raises ValueError: if it has not one row a row of x, or is of a type that cannot be stored.
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"y: expected a tensor with one row a row of x, got {type(y).__name__}")
    if y.ndim == 1 and y.dtype != torch.bool and not y.is_floating_point():
        check.label("y", y, rows)
        return None
    check.computed("y", y)
    if not y.ndim or len(y) != rows:
        raise ValueError(f"y: expected {rows} rows, one a row of x, got shape {tuple(y.shape)}")
    return Targets(tuple(y.shape[1:]), y.dtype)


class LabelColumns:
    """Checks labels ``{"y": ..., "t": ..., "origin": ...}`` and puts the stored ones side by side.

    :param kind: of a column, one of ``TYPES``.
    :param tasks: store task label and origin; otherwise every task label must be 0.
    :param targets: kind of the targets that stand for classes, and are stored elsewhere.
    """

    def __init__(self, kind: str, tasks: bool, targets: Targets | None = None) -> None:
        self.kind = kind
        self.dtype = TYPES[kind]
        self.largest = torch.iinfo(self.dtype).max
        self.tasks = tasks
        self.targets = targets
        self.names = (*(("y",) if targets is None else ()), *(("t", "origin") if tasks else ()))

    def stack(self, labels: Given, like: Tensor) -> Tensor:
        """Stored labels ``(B, columns)``, of the small type, beside the rows ``like``."""
        return self.stack_some(labels, slice(None), like.shape[0], like.device)

    def stack_some(self, labels: Given, take: slice | Tensor, count: int, device: torch.device) -> Tensor:
        """:meth:`stack` of some rows.

        :param take: which; an index lies on the device.
        :param count: how many.
        :param device: where they come to lie.
        """
        if device.type == "cpu" and isinstance(take, Tensor):
            # Few rows as a rule, for which torch's calls cost more than their work.
            table = np.empty((count, len(self.names)), dtype=_NUMPY[self.kind])
            for column, name in enumerate(self.names):
                value = labels[name]
                table[:, column] = value.cpu().numpy()[take.numpy()] if isinstance(value, Tensor) else value
            return torch.from_numpy(table)
        stacked = torch.empty(count, len(self.names), dtype=self.dtype, device=device)
        for name, column in zip(self.names, stacked.unbind(1), strict=True):
            value = labels[name]
            if isinstance(value, Tensor):
                column.copy_(rows_in(value.to(device), take))
            else:
                column.fill_(value)
        return stacked

    def unstack(self, columns: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """``y``, ``t`` and ``origin``; of what is not stored None, 0, and -1 for an origin that is not known."""
        if len(self.names) == 3:
            y, t, origin = columns.long().unbind(1)
            return y, t, origin
        found = dict(zip(self.names, columns.long().unbind(1), strict=True))
        zeros = columns.new_zeros(len(columns), dtype=torch.int64)
        return found.get("y"), found.get("t", zeros), found.get("origin", zeros - 1)

    def taking(
        self, y: Tensor, t: Tensor | int, origin: Tensor | int, rows: int, *, first: bool
    ) -> tuple[Given, LabelColumns]:
        """Labels by name, if they fit by type and shape, and the columns for them.

        :param rows: of x.
        :param first: nothing is held, so that targets may be of another kind.
        :raises TypeError: if one is of a wrong kind.
        :raises ValueError: if shape or type do not fit.
        """
        targets, columns = targets_of(y, rows), self
        if targets != self.targets:
            if not first:
                held, got = ("integer classes (B,)" if kind is None else str(kind) for kind in (self.targets, targets))
                raise ValueError(f"y: expected {held}, as first written, got {got}")
            columns = LabelColumns(self.kind, self.tasks, targets)
        largest = self.largest if self.tasks else check.LARGEST
        check.label("t", t, rows, largest)
        check.label("origin", origin, rows, largest)
        if not self.tasks and not isinstance(t, Tensor):
            self._check_no_tasks(t)
        return {"y": y, "t": t, "origin": origin}, columns

    def groups(self, grouping: str | None, labels: Given, rows: int) -> list[int] | None:
        """The group of every row; None if nobody asks for it.

        :param grouping: ``"class"`` or ``"task"`` (the experience that a row came from), or None.
        """
        if grouping is None:
            return None
        value = labels["y" if grouping == "class" else "origin"]
        return value.tolist() if isinstance(value, Tensor) else [value] * rows

    def check_values(self, labels: Given) -> None:
        """Raise for values out of range, or targets that are not finite; on a GPU this waits for them."""
        self._check_ranges(labels)
        if self.targets is not None and isinstance(y := labels["y"], Tensor):
            check.finite("y", y)

    def _check_ranges(self, labels: Given) -> None:
        if not self.tasks:
            self._check_no_tasks(labels["t"])
        for name, value in labels.items():
            if isinstance(value, Tensor) and (name != "y" or self.targets is None):
                check.label_range(name, value, self.largest if name in self.names else check.LARGEST)

    def guard(self, labels: Given) -> None:
        """Let nothing pass that this small type, or the want of a column, would change.

        Nobody has 2**31 classes, but many have 256. On a GPU the device itself stops the program, so that nobody
        waits for it.
        """
        for name, value in labels.items():
            if not isinstance(value, Tensor):
                continue
            if not value.is_cuda:
                if self.dtype != torch.int32 or not self.tasks:
                    self._check_ranges({"t": 0, name: value})
            elif name in self.names and self.dtype != torch.int32:
                value = value.long()
                torch._assert_async(((value >= 0) & (value <= self.largest)).all())
            elif name == "t" and not self.tasks:
                torch._assert_async(~value.any())

    @property
    def take_all(self) -> bool:
        """Whether all labels from 0 to 2**31 - 1 can be stored."""
        return self.tasks and self.dtype == torch.int32

    def state(self) -> dict[str, Any]:
        """The kind of targets, if these are no classes."""
        if self.targets is None:
            return {}
        return {"targets": {"shape": list(self.targets.shape), "dtype": str(self.targets.dtype).removeprefix("torch.")}}

    def _check_no_tasks(self, t: Tensor | int) -> None:
        if bool(t.any() if isinstance(t, Tensor) else t):
            raise ValueError("t: a memory with store_tasks=False keeps rows of task label 0 only, got others")


def rows_in(column: Tensor, take: slice | Tensor) -> Tensor:
    """Rows of a column: a slice of them, or those of an index that lies beside it."""
    return column[take] if isinstance(take, slice) else column.index_select(0, take)


def targets_in(state: Mapping[str, Any]) -> Targets | None:
    """What :meth:`LabelColumns.state` wrote.

    :raises ValueError: if it is damaged.
    """
    found = state.get("targets")
    if found is None:
        return None
    try:
        dtype = getattr(torch, found["dtype"])
        shape = tuple(int(size) for size in found["shape"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"state: expected shape and type of the targets, got {found!r}") from error
    if not isinstance(dtype, torch.dtype) or min(shape, default=0) < 0:
        raise ValueError(f"state: expected shape and type of the targets, got {found!r}")
    return Targets(shape, dtype)
