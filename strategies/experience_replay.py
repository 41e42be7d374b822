"""Experience replay from a reservoir as a strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_memplugins._augment import Augment
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.memories.policies import ReadPolicy, WritePolicy
from avalanche_memplugins.plugins.memory_replay import Amount
from avalanche_memplugins.strategies._ready import Template, ready_made
from avalanche_memplugins.strategies.random_memory_adaptation import RMA

if TYPE_CHECKING:
    from typing_extensions import Unpack


@ready_made
class ExperienceReplay(RMA):
    """Experience replay: every batch is offered to a reservoir, and a random batch from it is replayed.

    :class:`RMA` with other defaults. The reservoir is a uniform sample of the whole stream, whatever its
    length and its experiences; ``write_policy="class_balanced"`` shares the slots among classes instead.

    :param mem_size: rows held at most.
    :param write_every: iterations between writes; here every batch is offered.
    :param write_policy: which rows stay. All other parameters are those of :class:`RMA`.

    >>> import torch
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> strategy = ExperienceReplay(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...                             train_mb_size=32, mem_size=100, seed=0, evaluator=None)
    >>> for experience in SplitDigits(5, seed=0).train_stream:
    ...     _ = strategy.train(experience)
    >>> len(strategy.memory), len(strategy.memory.summary().per_class)
    (100, 10)

    Source: Chaudhry et al., "On tiny episodic memories in continual learning", 2019 (ER-reservoir).
    """

    def __init__(
        self,
        *,
        mem_size: int = 200,
        write_every: int = 1,
        replay_size: Amount = None,
        write_policy: str | WritePolicy = "reservoir",
        read_policy: str | ReadPolicy = "uniform",
        codec: str | Codec = "raw",
        augment: Augment | None = None,
        seed: int | None = None,
        **template: Unpack[Template],
    ) -> None:
        super().__init__(
            mem_size=mem_size,
            write_every=write_every,
            replay_size=replay_size,
            write_policy=write_policy,
            read_policy=read_policy,
            codec=codec,
            augment=augment,
            seed=seed,
            **template,
        )
