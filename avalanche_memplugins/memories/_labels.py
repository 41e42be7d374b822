"""Class, task label and origin of rows, in columns of one small integer type; targets of other kinds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._structure import Structure, row_count, structure_of

TYPES = {"int32": torch.int32, "int16": torch.int16, "uint8": torch.uint8}
_NUMPY = {"int32": np.int32, "int16": np.int16, "uint8": np.uint8}
Given = Mapping[str, Tensor | int]


class Targets(NamedTuple):
    """What ``y`` is of rows that have no class: shape and type of one row's."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        sizes = ("L" if size < 0 else str(size) for size in self.shape)
        shape = ", ".join(("B", *sizes)) if self.shape else "B,"
        return f"{str(self.dtype).removeprefix('torch.')} ({shape})"


class TargetParts(NamedTuple):
    """What ``y`` is if it is a dict or tuple of tensors: how they are put together, and what each is."""

    structure: Structure
    parts: tuple[Targets, ...]

    def __str__(self) -> str:
        parts = (f"{name}: {part}" for name, part in zip(self.structure.names, self.parts, strict=True))
        return f"a {self.structure.kind} of {', '.join(parts)}"


def targets_of(
    y: Any, rows: int, padded: Collection[str] = (), like: Targets | TargetParts | None = None
) -> Targets | TargetParts | None:
    """Kind of the targets ``y``; None of classes ``(B,)``, whose values are still to be looked at.

    :param padded: names of tensors whose rows differ in length, such as ``"y"`` or ``"y.tokens"``.
    :param like: what is held: a dict's keys may come in another order.
    :raises TypeError: if it is no tensor, and no dict or tuple of tensors.
    :raises ValueError: if it has not one row a row of x, or is of a type that cannot be stored.
    """
    if isinstance(y, Tensor):
        if y.ndim == 1 and y.dtype != torch.bool and not y.is_floating_point():
            check.label("y", y, rows)
            return None
        return _target("y", y, rows, "y" in padded)
    if not isinstance(y, Mapping | tuple | list):
        raise TypeError(
            f"y: expected a tensor with one row a row of x, or a dict or tuple of such, got {check.show(y)}"
        )
    structure = structure_of("y", y)
    if isinstance(like, TargetParts) and like.structure.takes(structure):
        structure = like.structure
    row_count("y", y)
    labels = [f"y.{name}" for name in structure.names]
    parts = zip(labels, structure.leaves("y", y), strict=True)
    return TargetParts(structure, tuple(_target(label, leaf, rows, label in padded) for label, leaf in parts))


def _target(name: str, y: Tensor, rows: int, padded: bool) -> Targets:
    check.computed(name, y)
    if not y.ndim or len(y) != rows:
        raise ValueError(f"{name}: expected {rows} rows, one a row of x, got shape {tuple(y.shape)}")
    shape = tuple(y.shape[1:])
    return Targets((-1, *shape[1:]) if padded and shape else shape, y.dtype)


class LabelColumns:
    """Checks labels ``{"y": ..., "t": ..., "origin": ...}`` and puts the stored ones side by side.

    :param kind: of a column, one of ``TYPES``.
    :param tasks: store task label and origin; otherwise every task label must be 0.
    :param targets: kind of the targets that stand for classes, and are stored elsewhere.
    :param grouped: each row comes with a group, which stands for its class in the policies.
    """

    def __init__(
        self, kind: str, tasks: bool, targets: Targets | TargetParts | None = None, *, grouped: bool = False
    ) -> None:
        self.kind = kind
        self.dtype = TYPES[kind]
        self.largest = torch.iinfo(self.dtype).max
        self.tasks = tasks
        self.targets = targets
        self.grouped = grouped
        self.names = (
            *(("y",) if targets is None else ()),
            *(("group",) if grouped else ()),
            *(("t", "origin") if tasks else ()),
        )

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
            for place, name in enumerate(self.names):
                value = labels[name]
                table[:, place] = value.cpu().numpy()[take.numpy()] if isinstance(value, Tensor) else value
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
        if len(self.names) == 3 and not self.grouped:
            y, t, origin = columns.long().unbind(1)
            return y, t, origin
        found = dict(zip(self.names, columns.long().unbind(1), strict=True))
        zeros = columns.new_zeros(len(columns), dtype=torch.int64)
        return found.get("y"), found.get("t", zeros), found.get("origin", zeros - 1)

    def classes(self, columns: Tensor) -> Tensor | None:
        """What the policies take for the class of each row, int64; None if there is no such thing."""
        name = "group" if self.grouped else "y"
        return columns[:, self.names.index(name)].long() if name in self.names else None

    def taking(
        self,
        y: Any,
        t: Tensor | int,
        origin: Tensor | int,
        rows: int,
        *,
        first: bool,
        group: Tensor | None = None,
        padded: Collection[str] = (),
    ) -> tuple[Given, LabelColumns]:
        """Labels by name, if they fit by type and shape, and the columns for them.

        :param rows: of x.
        :param first: nothing is held, so that targets may be of another kind.
        :param group: of each row, if they come with one.
        :param padded: as for :func:`targets_of`.
        :raises TypeError: if one is of a wrong kind.
        :raises ValueError: if shape or type do not fit.
        """
        targets, columns = targets_of(y, rows, padded, self.targets), self
        if targets != self.targets:
            if not first:
                held, got = ("integer classes (B,)" if kind is None else str(kind) for kind in (self.targets, targets))
                raise ValueError(f"y: expected {held}, as first written, got {got}")
            columns = LabelColumns(self.kind, self.tasks, targets, grouped=self.grouped)
        largest = self.largest if self.tasks else check.LARGEST
        check.label("t", t, rows, largest)
        check.label("origin", origin, rows, largest)
        if not self.tasks and not isinstance(t, Tensor):
            self._check_no_tasks(t)
        labels: dict[str, Any] = {"y": y, "t": t, "origin": origin}
        if self.grouped:
            if not isinstance(group, Tensor):
                raise TypeError(f"group: expected a function that gives integers ({rows},), got {check.show(group)}")
            check.label("group", group, rows)
            labels["group"] = group
        return labels, columns

    def groups(self, grouping: str | None, labels: Given, rows: int) -> list[int] | None:
        """The group of every row; None if nobody asks for it.

        :param grouping: ``"class"`` or ``"task"`` (the experience that a row came from), or None.
        """
        if grouping is None:
            return None
        value = labels[("group" if self.grouped else "y") if grouping == "class" else "origin"]
        return value.tolist() if isinstance(value, Tensor) else [value] * rows

    def check_values(self, labels: Given) -> None:
        """Raise for values out of range, or targets that are not finite; on a GPU this waits for them."""
        self._check_ranges(labels)
        if isinstance(self.targets, Targets) and isinstance(y := labels["y"], Tensor):
            check.finite("y", y)
        elif isinstance(self.targets, TargetParts):
            structure = self.targets.structure
            for name, leaf in zip(structure.names, structure.leaves("y", labels["y"]), strict=True):
                check.finite(f"y.{name}", leaf)

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
        if isinstance(self.targets, TargetParts):
            parts = [_state_of(part) for part in self.targets.parts]
            return {"targets": {"structure": self.targets.structure.state(), "parts": parts}}
        return {"targets": _state_of(self.targets)}

    def _check_no_tasks(self, t: Tensor | int) -> None:
        if bool(t.any() if isinstance(t, Tensor) else t):
            raise ValueError("t: a memory with store_tasks=False keeps rows of task label 0 only, got others")


def rows_in(column: Tensor, take: slice | Tensor) -> Tensor:
    """Rows of a column: a slice of them, or those of an index that lies beside it."""
    return column[take] if isinstance(take, slice) else column.index_select(0, take)


def _state_of(targets: Targets) -> dict[str, Any]:
    return {"shape": list(targets.shape), "dtype": str(targets.dtype).removeprefix("torch.")}


def targets_in(state: Mapping[str, Any]) -> Targets | TargetParts | None:
    """What :meth:`LabelColumns.state` wrote.

    :raises ValueError: if it is damaged.
    """
    found = state.get("targets")
    if found is None:
        return None
    if not isinstance(found, Mapping) or "structure" not in found:
        return _targets_in(found)
    structure, parts = Structure.of_state(found["structure"]), found.get("parts")
    if not isinstance(parts, list) or len(parts) != len(structure.names):
        raise ValueError(f"state: expected shape and type of the targets, got {found!r}")
    return TargetParts(structure, tuple(_targets_in(part) for part in parts))


def _targets_in(found: Any) -> Targets:
    try:
        dtype = getattr(torch, found["dtype"])
        shape = tuple(int(size) for size in found["shape"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"state: expected shape and type of the targets, got {found!r}") from error
    if not isinstance(dtype, torch.dtype) or min(shape[1:], default=0) < 0 or min(shape, default=0) < -1:
        raise ValueError(f"state: expected shape and type of the targets, got {found!r}")
    return Targets(shape, dtype)
