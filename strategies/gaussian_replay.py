"""Replay from Gaussians of classes as a strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from avalanche.training.templates import SupervisedTemplate

from avalanche_memplugins.memories import GaussianMemory
from avalanche_memplugins.plugins import MemoryReplayPlugin
from avalanche_memplugins.strategies._ready import Template, beside, ready_made

if TYPE_CHECKING:
    from typing_extensions import Unpack


@ready_made
class GaussianReplay(SupervisedTemplate):  # type: ignore[misc]
    """Every class is kept as one Gaussian, or several, and rows drawn from them are replayed.

    Fine-tuning with one :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin` over a
    :class:`~avalanche_memplugins.memories.GaussianMemory`. No row of the stream is kept.

    :param rank: factors of a covariance, see the memory; None: whole matrices.
    :param components: Gaussians a class at most.
    :param precision: of what is kept: ``"float32"``, or 8, 6 or 4 bits, packed at the end of each experience.
    :param balance: draw every ``"class"`` as often as the others, or in proportion to the ``"count"`` of its rows.
    :param codec: a :class:`~avalanche_memplugins.codecs.LatentCodec`, whose codes are modelled; None: rows as they are.
    :param replay_size: rows to replay each iteration; None: as many as the stream's batch has.
    :param replay_weight: of the replayed rows' loss, see :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin`.
    :param seed: of memory and plugin. None: drawn from torch's global generator.

    Source: the plain control of generative replay; PASS, Zhu et al. 2021, draws likewise, in feature space.

    >>> import torch
    >>> net = torch.nn.Linear(8, 4)
    >>> strategy = GaussianReplay(model=net, optimizer=torch.optim.SGD(net.parameters(), 0.1), rank=2, evaluator=None)
    >>> strategy.memory
    GaussianMemory(rank=2, balance='class', codec=None)
    """

    def __init__(
        self,
        *,
        rank: int | None = 16,
        components: int = 1,
        precision: Literal["float32", 4, 6, 8] = "float32",
        balance: Literal["class", "count"] = "class",
        codec: Any | None = None,
        replay_size: int | None = None,
        replay_weight: float | Literal["growing"] | None = None,
        seed: int | None = None,
        **template: Unpack[Template],
    ) -> None:
        memory = GaussianMemory(
            rank=rank, components=components, precision=precision, balance=balance, codec=codec, seed=seed
        )
        replay = MemoryReplayPlugin(memory, replay_size=replay_size, replay_weight=replay_weight, seed=seed)
        super().__init__(**beside(template, replay))
        self.memory = memory
