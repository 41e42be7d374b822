"""Replay from a Kanerva memory as a strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from avalanche.training.templates import SupervisedTemplate

from avalanche_memplugins.memories import DynamicKanervaMemory
from avalanche_memplugins.plugins import MemoryReplayPlugin
from avalanche_memplugins.strategies._ready import Template, beside, ready_made

if TYPE_CHECKING:
    from typing_extensions import Unpack


@ready_made
class KanervaReplay(SupervisedTemplate):  # type: ignore[misc]
    """A posterior over memory rows is kept of every class, and what is read from it is replayed.

    Fine-tuning with one :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin` over a
    :class:`~avalanche_memplugins.memories.DynamicKanervaMemory`. No row of the stream is kept.

    :param rows: of a memory matrix.
    :param share: a matrix for each ``"class"``, or one for ``"all"``.
    :param balance: draw every ``"class"`` as often as the others, or in proportion to the ``"count"`` of its rows.
    :param codec: a :class:`~avalanche_memplugins.codecs.LatentCodec`, whose codes are modelled; None: rows as they are.
    :param replay_size: rows to replay each iteration; None: as many as the stream's batch has.
    :param replay_weight: of the replayed rows' loss, see :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin`.
    :param seed: of memory and plugin. None: drawn from torch's global generator.

    Source: Wu et al., "Learning attractor dynamics for generative memory", 2018.

    >>> import torch
    >>> net = torch.nn.Linear(8, 4)
    >>> strategy = KanervaReplay(model=net, optimizer=torch.optim.SGD(net.parameters(), 0.1), rows=3, evaluator=None)
    >>> strategy.memory
    DynamicKanervaMemory(rows=3, share='class', codec=None)
    """

    def __init__(
        self,
        *,
        rows: int = 32,
        share: Literal["class", "all"] = "class",
        balance: Literal["class", "count"] = "class",
        codec: Any | None = None,
        replay_size: int | None = None,
        replay_weight: float | Literal["growing"] | None = None,
        seed: int | None = None,
        **template: Unpack[Template],
    ) -> None:
        memory = DynamicKanervaMemory(rows=rows, share=share, balance=balance, codec=codec, seed=seed)
        replay = MemoryReplayPlugin(memory, replay_size=replay_size, replay_weight=replay_weight, seed=seed)
        super().__init__(**beside(template, replay))
        self.memory = memory
