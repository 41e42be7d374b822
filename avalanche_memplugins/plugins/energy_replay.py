"""Rehearsal from an energy-based memory as one line."""

from __future__ import annotations

from typing import Any, Literal

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories import EnergyMemory, Recall
from avalanche_memplugins.plugins._step import Step
from avalanche_memplugins.plugins.memory_replay import MemoryReplayPlugin


class EnergyReplayPlugin(MemoryReplayPlugin):
    """Writes a share of every experience into an energy-based memory when it has ended, and rehearses what it reads.

    A :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin` over an
    :class:`~avalanche_memplugins.memories.EnergyMemory`. What it is good for, and what rehearses better at equal bytes,
    is in docs/energy.md, with numbers.

    :param memory: the memory.
    :param cue: what replay reads from: ``"stored"``: the cues kept with the patterns, or noise if none are;
        ``"current"``: the rows of the running batch, again and again if there are fewer than are replayed.
    :param kwargs: the other arguments of :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin`.
    :raises TypeError: for another memory.
    :raises ValueError: for ``cue="current"`` with a memory in which rows read from them have no class.

    >>> import torch
    >>> from avalanche.training import Naive
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> from avalanche_memplugins.networks.energy import GatedEnergy
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> memory = EnergyMemory(GatedEnergy((1, 8, 8), width=64, writable=16), slots=2, slot_size=4, seed=0)
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...                  plugins=[EnergyReplayPlugin(memory)], train_mb_size=32, evaluator=None)
    >>> _ = strategy.train(SplitDigits(5).train_stream[0])
    >>> len(memory)
    8
    """

    memory: EnergyMemory

    def __init__(self, memory: EnergyMemory, *, cue: Literal["stored", "current"] = "stored", **kwargs: Any) -> None:
        if not isinstance(check.made("memory", memory), EnergyMemory):
            raise TypeError(f"memory: expected an EnergyMemory, got {type(memory).__name__}")
        self.cue = check.choice("cue", cue, ("stored", "current"))
        if cue == "current" and not (memory.by_class or memory.label_bits):
            raise ValueError(
                "cue: what is read from rows of the stream has the class of its slot or the one read with it, so "
                "'current' expected a memory made with by_class=True or label_bits"
            )
        super().__init__(memory, **kwargs)

    def _draw(self, strategy: Any, step: Step) -> Recall:
        if self.cue == "stored":
            return super()._draw(strategy, step)
        x, rows = step.stream[0], step.wanted
        return self.memory.sample(rows, cue=x.repeat(-(-rows // len(x)), *[1] * (x.ndim - 1))[:rows])
