"""Whether what is replayed looks like what its label says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from avalanche.models import avalanche_forward
from torch import Tensor, nn

from avalanche_memplugins._modes import eval_mode
from avalanche_memplugins.metrics._base import EmitAt, Hits, ReplayMetric
from avalanche_memplugins.plugins import Replayed

Judge = Callable[[Tensor], Tensor]


class ReplayAgreement(ReplayMetric):
    r"""Share of the replayed rows in which a judge sees the class that the memory gives them.

    .. math::
        \frac{1}{R} \sum_{r = 1}^{R} [\arg\max_c J(x_r)_c = y_r]

    over the :math:`R` rows that all memory plugins replayed in an epoch or experience, with the memory's own
    classes :math:`y`. With a classifier trained on all of the data as judge :math:`J` it says how well a memory that
    generates its rows knows what it generates. Where nothing was replayed nothing is emitted.
    Its name is ``ReplayAgreement_Epoch/train_phase/train_stream/Task000``, or with ``_Exp`` and ``/Exp000``.

    :param judge: gives outputs ``(R, classes)`` or classes ``(R,)`` for rows ``(R, *shape)`` as the model got them:
        images, or codes under latent replay. A module is run in eval mode, a multi-task one with the rows' task
        labels. None: the outputs of the strategy's own model in training, before the update, which is no
        independent judge.
    :param emit_at: after each training ``"iteration"``, ``"epoch"`` or ``"experience"``. The judge runs in every
        iteration. Hits are counted on the device and fetched only when emitted.
    :raises ValueError: for another ``emit_at``.
    :raises TypeError: for a judge that cannot be called.

    >>> import torch
    >>> from avalanche.training import Naive
    >>> from avalanche.training.plugins import EvaluationPlugin
    >>> from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), train_mb_size=32,
    ...                  plugins=[MemoryReplayPlugin(RandomMemory(100))],
    ...                  evaluator=EvaluationPlugin(ReplayAgreement(lambda x: x.flatten(1)[:, :10]), loggers=[]))
    >>> results = strategy.train(SplitDigits(5).train_stream[:2])  # in the first there is nothing to replay
    >>> 0 <= results["ReplayAgreement_Exp/train_phase/train_stream/Task000/Exp001"] <= 1
    True
    """

    _name = "ReplayAgreement"
    _nothing = "no plugin of the strategy replays from a memory: nothing to agree with"

    def __init__(self, judge: Judge | None = None, *, emit_at: EmitAt = "experience") -> None:
        if judge is not None and not callable(judge):
            raise TypeError(f"judge: expected a callable on a batch, or None, got {type(judge).__name__}")
        super().__init__(Hits(), emit_at)
        self.judge = judge

    def _count(self, plugin: Any, replay: Any) -> None:
        """Hits of the judge's outputs."""
        output = replay.output if self.judge is None else _judged(self.judge, replay)
        self._metric.update(output, getattr(replay, "label", replay.y))


def _judged(judge: Judge, replay: Replayed) -> Tensor:
    if not isinstance(judge, nn.Module):
        return judge(replay.x)
    with eval_mode(judge):
        output: Tensor = avalanche_forward(judge, replay.x, replay.t)
    return output
