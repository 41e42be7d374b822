"""What the metrics of memories share: which memories there are, sums on the device, one warning if there is nothing."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, Literal

import torch
from avalanche.evaluation import GenericPluginMetric, Metric
from torch import Tensor

from avalanche_memplugins import _checks as check

EmitAt = Literal["iteration", "epoch", "experience"]
# What Avalanche ends the names of its own metrics with.
_SUFFIX = {"iteration": "MB", "epoch": "Epoch", "experience": "Exp"}


class MemoryMetric(GenericPluginMetric):  # type: ignore[misc]
    """A metric of training that is emitted with one of Avalanche's suffixes, or warns once that it has nothing to say.

    :param metric: what is reset and asked for its result; None: the plugin metric itself.
    :param reset_at: as Avalanche has it; None: when it is emitted.
    """

    _name = ""
    _nothing = ""

    def __init__(self, metric: Any, emit_at: EmitAt, *, reset_at: str | None = None) -> None:
        check.choice("emit_at", emit_at, tuple(_SUFFIX))
        super().__init__(metric, reset_at=reset_at or emit_at, emit_at=emit_at, mode="train")
        self._warned = False

    def _warn_once(self) -> None:
        """Say that there is nothing to report."""
        if not self._warned:
            warnings.warn(self._nothing, stacklevel=2)
            self._warned = True

    def __str__(self) -> str:
        return f"{self._name}_{_SUFFIX[self._emit_at]}"


class ReplayMetric(MemoryMetric):
    """A mean over the rows that plugins have replayed; where nothing was replayed, nothing is emitted."""

    @torch.no_grad()
    def update(self, strategy: Any) -> None:
        """Count what the plugins replayed in this iteration."""
        replaying = [plugin for plugin in strategy.plugins if self._concerns(plugin)]
        for plugin in replaying:
            if getattr(plugin, "last_replay", None) is not None:
                self._count(plugin, plugin.last_replay)
        if not replaying:
            self._warn_once()

    def _concerns(self, plugin: Any) -> bool:
        """Whether there may be something to count."""
        return hasattr(plugin, "last_replay")

    @abstractmethod
    def _count(self, plugin: Any, replay: Any) -> None:
        """Take a plugin's replayed rows into the mean."""

    def _package_result(self, strategy: Any) -> list[Any]:
        return [] if self.result() is None else list(super()._package_result(strategy))


def memories_of(strategy: Any) -> list[Any]:
    """Each memory among the plugins once: what is called ``memory`` and counts its ``nbytes``."""
    found = [getattr(plugin, "memory", None) for plugin in strategy.plugins]
    return list({id(memory): memory for memory in found if hasattr(memory, "nbytes")}.values())


class RowMean(Metric):  # type: ignore[misc]
    """The mean of one number a row, kept on the rows' own device, so that no iteration waits for it."""

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
