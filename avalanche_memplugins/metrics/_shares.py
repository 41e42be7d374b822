"""Sums over rows that are kept on their own device, so that no iteration waits for it."""

from __future__ import annotations

import torch
from avalanche.evaluation import Metric
from torch import Tensor


class RowMean(Metric):  # type: ignore[misc]
    """The mean of one number a row."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.rows = 0

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        total = values.sum()
        self.total = total if self.total is None else self.total.to(total.device) + total
        self.rows += len(values)

    def result(self) -> float | None:
        return None if self.total is None or not self.rows else self.total.item() / self.rows

    def reset(self) -> None:
        self.total, self.rows = None, 0


class Hits(RowMean):
    """The share of right predictions."""

    @torch.no_grad()
    def update(self, output: Tensor, y: Tensor) -> None:  # type: ignore[override]
        """Count rows whose class, or most likely class, is ``y``; rows without a class ``(R,)`` are left out."""
        if y.ndim != 1 or y.is_floating_point():
            return
        super().update((output.argmax(dim=1) if output.ndim > 1 else output) == y)
