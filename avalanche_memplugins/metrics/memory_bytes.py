"""Bytes that a strategy's memories hold."""

from __future__ import annotations

from typing import Any

from avalanche_memplugins.metrics._base import EmitAt, MemoryMetric, memories_of


class MemoryBytes(MemoryMetric):
    r"""Bytes that grow with the stream or hold it, summed over the memories of a strategy.

    .. math::
        \sum_{m \in \text{memories}} \text{nbytes}(m)

    A memory is what a plugin calls ``memory`` and what counts its ``nbytes``; one that two plugins share
    counts once. Without any the metric warns once and emits nothing, as what other plugins hold is unknown.
    Its name is ``MemoryBytes_Epoch/train_phase/train_stream/Task000``, or with ``_Exp`` and ``/Exp000``.

    :param emit_at: after each training ``"iteration"``, ``"epoch"`` or ``"experience"``.
    :raises ValueError: for another ``emit_at``.

    >>> import torch
    >>> from avalanche.training import Naive
    >>> from avalanche.training.plugins import EvaluationPlugin
    >>> from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), train_mb_size=32,
    ...                  plugins=[MemoryReplayPlugin(RandomMemory(100))],
    ...                  evaluator=EvaluationPlugin(MemoryBytes(), loggers=[]))
    >>> results = strategy.train(SplitDigits(5).train_stream[0])
    >>> results["MemoryBytes_Exp/train_phase/train_stream/Task000/Exp000"]  # 64 floats, 3 labels and a place a row
    27200
    """

    _name, _what = "MemoryBytes", "nbytes"
    _nothing = "no plugin of the strategy has a memory with nbytes: no bytes to report"

    def __init__(self, emit_at: EmitAt = "experience") -> None:
        super().__init__(None, emit_at, reset_at="never")
        self._bytes = 0

    def _package_result(self, strategy: Any) -> list[Any]:
        memories = memories_of(strategy)
        if not memories:
            self._warn_once()
            return []
        self._bytes = sum(int(getattr(holder, self._what, 0)) for holder in [*memories, *self._others(strategy)])
        return list(super()._package_result(strategy))

    def _others(self, strategy: Any) -> list[Any]:
        return []

    def result(self) -> int:
        """The bytes at the last emission."""
        return self._bytes


class MemoryFixedBytes(MemoryBytes):
    r"""Bytes of what the memories need besides the stream, such as frozen encoders.

    .. math::
        \sum_{m \in \text{memories}} \text{nbytes\_fixed}(m) + \sum_{p \in \text{plugins}} \text{nbytes\_fixed}(p)

    A plugin's own are, for example, those of the old model that labels what is replayed.

    :param emit_at: after each training ``"iteration"``, ``"epoch"`` or ``"experience"``.
    :raises ValueError: for another ``emit_at``.

    >>> import torch
    >>> from avalanche.training import Naive
    >>> from avalanche.training.plugins import EvaluationPlugin
    >>> from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), train_mb_size=32,
    ...                  plugins=[MemoryReplayPlugin(RandomMemory(100))],
    ...                  evaluator=EvaluationPlugin(MemoryFixedBytes(), loggers=[]))
    >>> results = strategy.train(SplitDigits(5).train_stream[0])
    >>> results["MemoryFixedBytes_Exp/train_phase/train_stream/Task000/Exp000"]
    0
    """

    _name, _what = "MemoryFixedBytes", "nbytes_fixed"

    def _others(self, strategy: Any) -> list[Any]:
        return list(strategy.plugins)
