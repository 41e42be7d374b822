"""Does a memory know what it has seen?"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from torch import Tensor

from avalanche_memplugins.functional.ranking import auroc
from avalanche_memplugins.metrics._base import memories_of


class MemoryNovelty(PluginMetric[float]):  # type: ignore[misc]
    r"""How well a memory tells rows of classes that it has seen from others, over a whole evaluation.

    .. math::
        \mathrm{AUROC} = P\big(s(x_\text{unseen}) > s(x_\text{seen})\big) + \tfrac12 P(=)

    with the memory's score ``novelty(x)`` ``(B,)``, higher for what is new to it, such as
    :meth:`EnergyMemory.novelty <avalanche_memplugins.memories.EnergyMemory.novelty>`; seen are rows whose class is
    among ``memory.classes``. 0.5 is chance. Emitted at the end of an evaluation over rows of both kinds, under the name
    ``MemoryNovelty_AUROC/eval_phase/test_stream``; the mean score of each experience as
    ``MemoryNovelty_Exp/eval_phase/test_stream/Task000/Exp000``. Without a memory that has scores it warns once.

    >>> import torch
    >>> from avalanche.training import Naive
    >>> from avalanche.training.plugins import EvaluationPlugin
    >>> from avalanche_memplugins import EnergyMemory, MemoryReplayPlugin
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> from avalanche_memplugins.networks.energy import GatedEnergy
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> memory = EnergyMemory(GatedEnergy((1, 8, 8), width=64, writable=16), slots=4, slot_size=4)
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), train_mb_size=32,
    ...                  plugins=[MemoryReplayPlugin(memory)], evaluator=EvaluationPlugin(MemoryNovelty(), loggers=[]))
    >>> benchmark = SplitDigits(5)
    >>> _ = strategy.train(benchmark.train_stream[0])
    >>> 0 <= strategy.eval(benchmark.test_stream)["MemoryNovelty_AUROC/eval_phase/test_stream"] <= 1
    True
    """

    def __init__(self) -> None:
        super().__init__()
        self._scores: list[Tensor] = []
        self._unseen: list[Tensor] = []
        self._here = 0  # batches of this experience
        self._last: float | None = None
        self._warned = False

    def result(self) -> float | None:
        """The area at the end of the last evaluation; None if there was nothing to tell apart."""
        return self._last

    def reset(self) -> None:
        """Forget the rows looked at."""
        self._scores, self._unseen, self._here = [], [], 0

    def before_eval(self, strategy: Any) -> None:
        """Begin with no rows."""
        self.reset()
        self._last = None

    def before_eval_exp(self, strategy: Any) -> None:
        """Begin an experience."""
        self._here = 0

    def after_eval_iteration(self, strategy: Any) -> None:
        """Score a batch."""
        memories = [memory for memory in memories_of(strategy) if callable(getattr(memory, "novelty", None))]
        if not memories:
            if not self._warned:
                warnings.warn("no memory of the strategy has novelty(x): no scores to report", stacklevel=2)
                self._warned = True
            return
        memory = memories[0]
        if not len(memory):
            return
        rows = len(strategy.mb_y)
        self._scores.append(memory.novelty(strategy.mbatch[0][:rows]).cpu())
        self._unseen.append(~torch.isin(strategy.mb_y.cpu(), torch.tensor(memory.classes)))
        self._here += 1

    def after_eval_exp(self, strategy: Any) -> list[MetricValue] | None:
        """Mean score of the experience."""
        if not self._here:
            return None
        scores = torch.cat(self._scores[-self._here :])
        experience = strategy.experience
        task = experience.task_labels[0] if len(experience.task_labels) == 1 else 0
        name = f"MemoryNovelty_Exp/eval_phase/{experience.origin_stream.name}_stream"
        name += f"/Task{task:03}/Exp{experience.current_experience:03}"
        return [MetricValue(self, name, float(scores.mean()), strategy.clock.train_iterations)]

    def after_eval(self, strategy: Any) -> list[MetricValue] | None:
        """The area over all rows."""
        if not self._scores:
            return None
        unseen = torch.cat(self._unseen)
        if not unseen.any() or unseen.all():
            return None
        self._last = auroc(torch.cat(self._scores), unseen)
        name = f"MemoryNovelty_AUROC/eval_phase/{strategy.experience.origin_stream.name}_stream"
        return [MetricValue(self, name, self._last, strategy.clock.train_iterations)]

    def __str__(self) -> str:
        return "MemoryNovelty"
