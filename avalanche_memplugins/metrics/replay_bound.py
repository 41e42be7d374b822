"""How likely a memory's own model finds what it replays."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from avalanche_memplugins._random import isolated
from avalanche_memplugins.metrics._base import EmitAt, ReplayMetric, RowMean


class ReplayBound(ReplayMetric):
    r"""Negative evidence bound of the replayed rows under the memory's own model, in nats an image.

    .. math::
        \frac{1}{R} \sum_{r = 1}^{R} \mathcal L(x_r), \qquad \mathcal L(x) \ge -\log p(x)

    over the rows replayed in an epoch or experience, with what ``memory.bound(x)`` or, if the memory has none,
    ``memory.codec.bound(x)`` gives: ``(R,)``, or parts with a ``total``. A bound with an argument ``y`` is told the
    memory's classes. Where there is neither the metric warns once
    and emits nothing. Random numbers in the bound come from a generator of the
    metric's own, so that the run is that without it.
    Its name is ``ReplayBound_Epoch/train_phase/train_stream/Task000``, or with ``_Exp`` and ``/Exp000``.

    :param emit_at: after each training ``"iteration"``, ``"epoch"`` or ``"experience"``; the bound is worked out in
        every iteration and fetched only then.
    :raises ValueError: for another ``emit_at``.

    >>> import torch
    >>> from avalanche.training import Naive
    >>> from avalanche.training.plugins import EvaluationPlugin
    >>> from avalanche_memplugins import MemoryReplayPlugin, VAEMemory
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> from avalanche_memplugins.networks import ConditionalVAE
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> memory = VAEMemory(ConditionalVAE((1, 8, 8), hidden=(16,), code_size=4), steps=5)
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), train_mb_size=32,
    ...                  plugins=[MemoryReplayPlugin(memory)], evaluator=EvaluationPlugin(ReplayBound(), loggers=[]))
    >>> for experience in SplitDigits(5).train_stream[:2]:
    ...     results = strategy.train(experience)
    >>> results["ReplayBound_Exp/train_phase/train_stream/Task000/Exp001"] > 0
    True
    """

    _name = "ReplayBound"
    _nothing = "no memory of the strategy, and no codec, has a bound to report"

    def __init__(self, emit_at: EmitAt = "experience") -> None:
        super().__init__(RowMean(), emit_at)
        self._draws = 0

    def _concerns(self, plugin: Any) -> bool:
        """Whether the plugin's memory has a bound."""
        return _bound_of(getattr(plugin, "memory", None)) is not None

    def _count(self, plugin: Any, replay: Any) -> None:
        """Bounds of the rows."""
        bound = _bound_of(plugin.memory)
        self._draws += 1
        with isolated(replay.x.device, self._draws):
            parts = bound(replay.x, replay.label) if _takes_classes(bound) else bound(replay.x)
        values: Tensor = getattr(parts, "total", parts)
        self._metric.update(values)


def _takes_classes(bound: Callable[..., Any]) -> bool:
    return "y" in inspect.signature(bound).parameters


def _bound_of(memory: Any) -> Any:
    bounds = [getattr(owner, "bound", None) for owner in (memory, getattr(memory, "codec", None))]
    return next((bound for bound in bounds if callable(bound)), None)
