"""RMA as one line."""

from __future__ import annotations

import warnings
from typing import Any

from avalanche_memplugins import _checks as check
from avalanche_memplugins._words import OF_REPLAY, POLICIES, names_ours, renamed
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.memories import RandomMemory
from avalanche_memplugins.memories.policies import ReadPolicy, Ring, WritePolicy
from avalanche_memplugins.plugins._writing import When
from avalanche_memplugins.plugins.memory_replay import MemoryReplayPlugin
from avalanche_memplugins.rehearsal import Amount


@names_ours(OF_REPLAY)
class RandomMemoryPlugin(MemoryReplayPlugin):
    r"""Random memory adaptation: every m steps append the batch, at every step replay a random batch.

    A :class:`~avalanche_memplugins.memories.RandomMemory` on a
    :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin`, with the source's choices as defaults: a
    ring, rows drawn uniformly without replacement, as many as the stream's batch has. The ring keeps
    :math:`C / B` newest writes of :math:`B` rows; when the stream brings more, the oldest task is overwritten and
    forgotten, and a warning says so, once. ``write_policy="reservoir"`` has no such limit.

    :param mem_size: rows held at most; 15,000 in the source.
    :param write_every: steps from one write to the next (m); 1,000 in the source, with 10,000 steps a task.
    :param write_policy: see :class:`~avalanche_memplugins.memories.RandomMemory`, as are ``read_policy``, ``codec`` and
        ``seed``. ``"task_balanced"`` with ``read_policy="task_balanced"`` is the source's future work: an
        independent memory for every task, each giving an equal share.
    :param write_at: as published, ``"iteration"``.
    :param replay_size: see :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin`, as are all others.

    >>> import torch
    >>> from avalanche.training import Naive
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> replay = RandomMemoryPlugin(100, write_every=2, codec="int8")
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...                  plugins=[replay], train_mb_size=32, evaluator=None)
    >>> _ = strategy.train(SplitDigits(5).train_stream[0])
    >>> len(replay.memory), replay.write_every
    (100, 2)

    Source: Zeta36, "Random memory adaptation", 2018.
    """

    memory: RandomMemory

    @renamed(POLICIES)
    def __init__(
        self,
        mem_size: int = 15_000,
        *,
        write_every: int = 10,
        write_at: When = "iteration",
        replay_size: Amount = None,
        write_policy: str | WritePolicy = "ring",
        read_policy: str | ReadPolicy = "uniform",
        codec: str | Codec = "raw",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        check.positive_integer("mem_size", mem_size)
        memory = RandomMemory(mem_size, write_policy=write_policy, read_policy=read_policy, codec=codec, seed=seed)
        super().__init__(
            memory, write_every=write_every, write_at=write_at, replay_size=replay_size, seed=seed, **kwargs
        )
        self._warned_short = False

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Tell of a ring that has begun to forget the stream."""
        super().after_training_exp(strategy, **kwargs)
        memory = self.memory
        if isinstance(memory.write_policy, Ring) and memory.seen > memory.capacity and not self._warned_short:
            self._warned_short = True
            warnings.warn(
                f"{type(self).__name__}: the ring is shorter than the stream so far: of {memory.seen:,} rows written "
                f"it holds the last {memory.capacity:,}, and what the others taught will be forgotten; expected a "
                f"larger mem_size, a larger write_every than {self.write_every}, or write_policy='reservoir'",
                stacklevel=2,
            )
