"""Class, task label and origin of rows, in columns of one small integer type."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from avalanche_memplugins.memories import _checks as check

TYPES = {"int32": torch.int32, "int16": torch.int16, "uint8": torch.uint8}
Given = Mapping[str, Tensor | int]


class LabelColumns:
    """Checks labels ``{"y": ..., "t": ..., "origin": ...}`` and puts the stored ones side by side.

    :param kind: of a column, one of ``TYPES``.
    :param tasks: store all three; otherwise the class alone, and every task label must be 0.
    """

    def __init__(self, kind: str, tasks: bool) -> None:
        self.dtype = TYPES[kind]
        self.largest = torch.iinfo(self.dtype).max
        self.tasks = tasks

    def stored(self, labels: Given) -> Given:
        """Those that get a column."""
        return labels if self.tasks else {"y": labels["y"]}

    def stack(self, labels: Given, like: Tensor) -> Tensor:
        """Stored labels as int64 ``(B, columns)`` beside the rows ``like``."""
        columns = [
            value.to(like.device, torch.int64)
            if isinstance(value, Tensor)
            else torch.full((len(like),), value, dtype=torch.int64, device=like.device)
            for value in self.stored(labels).values()
        ]
        return torch.stack(columns, dim=1)

    def unstack(self, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``y``, ``t`` and ``origin``; of what is not stored 0, and -1 for an origin that is not known."""
        if not self.tasks:
            y = columns[:, 0].long()
            return y, torch.zeros_like(y), torch.full_like(y, -1)
        y, t, origin = columns.long().unbind(1)
        return y, t, origin

    def check_kinds(self, labels: Given, rows: int) -> None:
        """Raise for what can be told from types, shapes and single numbers."""
        stored = self.stored(labels)
        for name, value in labels.items():
            check.label(name, value, rows, self.largest if name in stored else check.LARGEST)
        if not self.tasks and not isinstance(labels["t"], Tensor):
            self._check_no_tasks(labels["t"])

    def check_values(self, labels: Given, columns: Tensor) -> None:
        """Raise for values out of range; on a GPU this waits for them."""
        check.label_ranges(columns, self.stored(labels), self.largest)
        if not self.tasks:
            check.label_range("origin", labels["origin"])
            self._check_no_tasks(labels["t"])

    def guard(self, labels: Given, columns: Tensor) -> None:
        """Let nothing pass that this small type, or the want of a column, would change.

        Nobody has 2**31 classes, but many have 256. On a GPU the device itself stops the program, so that nobody
        waits for it.
        """
        if not columns.is_cuda:
            if self.dtype != torch.int32 or not self.tasks:
                self.check_values(labels, columns)
            return
        if self.dtype != torch.int32:
            torch._assert_async(((columns >= 0) & (columns <= self.largest)).all())
        t = labels["t"]
        if not self.tasks and isinstance(t, Tensor):
            torch._assert_async(~t.any())

    def _check_no_tasks(self, t: Tensor | int) -> None:
        if bool(t.any() if isinstance(t, Tensor) else t):
            raise ValueError("t: a memory with store_tasks=False keeps rows of task label 0 only, got others")
