"""Accuracy on what is replayed."""

from __future__ import annotations

import warnings
from typing import Any, Literal

from avalanche.evaluation import GenericPluginMetric

from avalanche_memplugins.metrics._plugins import SUFFIX, check_emit_at
from avalanche_memplugins.metrics._shares import Hits


class ReplayAccuracy(GenericPluginMetric):  # type: ignore[misc]
    r"""Top-1 accuracy on the replayed rows, as the model predicts them in training.

    .. math::
        \frac{1}{R} \sum_{r = 1}^{R} [\arg\max_c o_{rc} = y_r]

    over the :math:`R` rows that all memory plugins replayed in an epoch or experience, with outputs
    :math:`o` before the update of their iteration. It tells how well the model still knows what it rehearses;
    the metrics of Avalanche see the rows of the stream only. Where nothing was replayed, as before the memory
    holds anything, nothing is emitted.
    Its name is ``Top1_ReplayAcc_Epoch/train_phase/train_stream/Task000``, or with ``_Exp`` and ``/Exp000``.

    :param emit_at: after each training ``"iteration"``, ``"epoch"`` or ``"experience"``. Hits are counted on
        the device and fetched only then: on a GPU, ``"iteration"`` makes each iteration wait for it.
    :raises ValueError: for another ``emit_at``.

    >>> import torch
    >>> from avalanche.training import Naive
    >>> from avalanche.training.plugins import EvaluationPlugin
    >>> from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), train_mb_size=32,
    ...                  plugins=[MemoryReplayPlugin(RandomMemory(100))],
    ...                  evaluator=EvaluationPlugin(ReplayAccuracy(), loggers=[]))
    >>> results = strategy.train(SplitDigits(5).train_stream[0])
    >>> 0 <= results["Top1_ReplayAcc_Exp/train_phase/train_stream/Task000/Exp000"] <= 1
    True
    """

    def __init__(self, emit_at: Literal["iteration", "epoch", "experience"] = "experience") -> None:
        super().__init__(Hits(), reset_at=check_emit_at(emit_at), emit_at=emit_at, mode="train")
        self._warned = False

    def update(self, strategy: Any) -> None:
        """Count what the plugins replayed in this iteration."""
        replaying = [plugin for plugin in strategy.plugins if hasattr(plugin, "last_replay")]
        for plugin in replaying:
            if plugin.last_replay is not None:
                self._metric.update(plugin.last_replay.output, plugin.last_replay.y)
        if not replaying and not self._warned:
            warnings.warn("no plugin of the strategy replays from a memory: no replay accuracy to report", stacklevel=2)
            self._warned = True

    def _package_result(self, strategy: Any) -> list[Any]:
        return [] if self.result() is None else list(super()._package_result(strategy))

    def __str__(self) -> str:
        return f"Top1_ReplayAcc_{SUFFIX[self._emit_at]}"
