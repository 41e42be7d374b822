"""RMA as a strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche.training.templates import SupervisedTemplate

from avalanche_memplugins import _checks as check
from avalanche_memplugins._augment import Augment
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.memories.policies import ReadPolicy, WritePolicy
from avalanche_memplugins.plugins import RandomMemoryPlugin
from avalanche_memplugins.plugins.memory_replay import Amount
from avalanche_memplugins.strategies._ready import Template, beside, ready_made

if TYPE_CHECKING:
    from typing_extensions import Unpack


@ready_made
class RMA(SupervisedTemplate):  # type: ignore[misc]
    """Random memory adaptation.

    Fine-tuning with a :class:`~avalanche_memplugins.plugins.RandomMemoryPlugin`: every m steps the batch is
    appended to a ring, at every step a random batch from it is trained on as well.

    :param mem_size: rows held at most.
    :param write_every: steps from one write to the next (m).
    :param replay_size: rows to replay each step, as in :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin`; None:
        as many as the stream's batch has.
    :param write_policy: which rows stay: ``"ring"``, ``"reservoir"``, ``"class_balanced"``, ``"task_balanced"``, ...,
        see :class:`~avalanche_memplugins.memories.RandomMemory`, or an object.
    :param read_policy: which rows come back: ``"uniform"``, ``"cycle"``, ``"class_balanced"``, ``"task_balanced"``,
        or an object.
    :param codec: how rows are stored: ``"raw"``, ``"float16"``, ``"uint8"``, ..., or an object.
    :param augment: random augmentation of the replayed rows, a callable on a batch on the device.
    :param seed: of the memory and of the augmentation. None: drawn from torch's global generator.

    >>> import torch
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> strategy = RMA(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), train_mb_size=32,
    ...                mem_size=200, write_every=2, evaluator=None)
    >>> for experience in SplitDigits(5).train_stream:
    ...     _ = strategy.train(experience)
    >>> len(strategy.memory)
    200

    Source: Zeta36, "Random memory adaptation", 2018.
    """

    def __init__(
        self,
        *,
        mem_size: int = 15_000,
        write_every: int = 10,
        replay_size: Amount = None,
        write_policy: str | WritePolicy = "ring",
        read_policy: str | ReadPolicy = "uniform",
        codec: str | Codec = "raw",
        augment: Augment | None = None,
        seed: int | None = None,
        **template: Unpack[Template],
    ) -> None:
        check.positive_integer("mem_size", mem_size)
        replay = RandomMemoryPlugin(
            mem_size,
            write_every=write_every,
            replay_size=replay_size,
            write_policy=write_policy,
            read_policy=read_policy,
            codec=codec,
            augment=augment,
            seed=seed,
        )
        super().__init__(**beside(template, replay))
        self.memory = replay.memory
