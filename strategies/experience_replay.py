"""Experience replay from a reservoir as a strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from avalanche.training.templates import SupervisedTemplate

from avalanche_memplugins import _checks as check
from avalanche_memplugins._augment import Augment
from avalanche_memplugins._defaults import REPLAY_WEIGHT
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.memories import RandomMemory
from avalanche_memplugins.memories.policies import ReadPolicy, WritePolicy
from avalanche_memplugins.plugins import MemoryReplayPlugin
from avalanche_memplugins.plugins.memory_replay import Amount
from avalanche_memplugins.strategies._ready import Template, beside, ready_made

if TYPE_CHECKING:
    from typing_extensions import Unpack


@ready_made
class ExperienceReplay(SupervisedTemplate):  # type: ignore[misc]
    r"""Experience replay: a batch from a reservoir of the stream is replayed beside each batch.

    Fine-tuning with a :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin` over a
    :class:`~avalanche_memplugins.memories.RandomMemory`. The reservoir is a uniform sample of the whole stream,
    whatever its length and its experiences. An experience is offered to it when it has ended, so that rows of earlier
    ones are replayed; where the stream comes in pieces, each batch is, as it passes. ``write_at="iteration"`` with
    ``read_policy="uniform"`` is the published method on every stream.

    :param mem_size: rows held at most.
    :param write_every: iterations between writes; more than 1 writes at iterations.
    :param write_at: ``"auto"``, ``"iteration"`` or ``"experience"``, as in
        :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin`.
    :param replay_size: rows to replay each step, as there; None: as many as the stream's batch has.
    :param replay_weight: weight of the replayed rows' loss, as there. ``"auto"``: experiences that bring new classes
        get their share of the classes met, :math:`1/t` for the t-th of equal ones, replayed rows the rest.
    :param write_policy: which rows stay; ``"class_balanced"`` shares the slots among classes instead. See
        :class:`~avalanche_memplugins.memories.RandomMemory`, as for ``read_policy`` and ``codec``.
    :param read_policy: which rows come back.
    :param codec: how rows are stored: ``"raw"``, ``"float16"``, ``"uint8"``, ..., or an object.
    :param augment: random augmentation of the replayed rows, a callable on a batch on the device.
    :param seed: of the memory and of the augmentation. None: drawn from torch's global generator.

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
        write_at: Literal["auto", "iteration", "experience"] = "auto",
        replay_size: Amount = None,
        replay_weight: float | Literal["auto", "growing"] | None = REPLAY_WEIGHT,
        write_policy: str | WritePolicy = "reservoir",
        read_policy: str | ReadPolicy = "auto",
        codec: str | Codec = "raw",
        augment: Augment | None = None,
        seed: int | None = None,
        **template: Unpack[Template],
    ) -> None:
        check.positive_integer("mem_size", mem_size)
        self.memory = RandomMemory(mem_size, write_policy=write_policy, read_policy=read_policy, codec=codec, seed=seed)
        replay = MemoryReplayPlugin(
            self.memory,
            write_every=write_every,
            write_at=write_at,
            replay_size=replay_size,
            replay_weight=replay_weight,
            augment=augment,
            seed=seed,
        )
        super().__init__(**beside(template, replay))
