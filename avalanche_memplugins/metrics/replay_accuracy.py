"""Accuracy on what is replayed."""

from __future__ import annotations

from typing import Any

from avalanche_memplugins.metrics._base import EmitAt, Hits, ReplayMetric


class ReplayAccuracy(ReplayMetric):
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
    >>> results = strategy.train(SplitDigits(5).train_stream[:2])  # in the first there is nothing to replay
    >>> 0 <= results["Top1_ReplayAcc_Exp/train_phase/train_stream/Task000/Exp001"] <= 1
    True
    """

    _name = "Top1_ReplayAcc"
    _nothing = "no plugin of the strategy replays from a memory: no replay accuracy to report"

    def __init__(self, emit_at: EmitAt = "experience") -> None:
        super().__init__(Hits(), emit_at)

    def _count(self, plugin: Any, replay: Any) -> None:
        """Hits of the model's outputs."""
        self._metric.update(replay.output, replay.y)
