"""Dark experience replay as a strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche.training.templates import SupervisedTemplate

from avalanche_memplugins import _checks as check
from avalanche_memplugins._augment import Augment
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.memories import RandomMemory
from avalanche_memplugins.memories.policies import ReadPolicy, WritePolicy
from avalanche_memplugins.plugins import DarkReplayPlugin
from avalanche_memplugins.plugins.memory_replay import Amount
from avalanche_memplugins.strategies._ready import Template, beside, ready_made

if TYPE_CHECKING:
    from typing_extensions import Unpack


@ready_made
class DarkExperienceReplay(SupervisedTemplate):  # type: ignore[misc]
    r"""DER++, or DER with ``beta=0``: rows are replayed with the outputs that the model gave when they passed.

    Fine-tuning with a :class:`~avalanche_memplugins.plugins.DarkReplayPlugin` over a reservoir,

    .. math:: L = L_B + \alpha \, \mathrm{mean} (o - o')^2 + \beta L_R.

    :param mem_size: rows held at most, each with its outputs (4 bytes a class).
    :param alpha: weight of the outputs' mean square, >= 0.
    :param beta: weight of the stored classes' loss, >= 0.
    :param replay_size: rows of each of the two draws a step; None: as many as the stream's batch has.
    :param write_policy: which rows stay, see :class:`~avalanche_memplugins.memories.RandomMemory`.
    :param read_policy: which rows come back.
    :param codec: how rows are stored; outputs are float32.
    :param augment: random augmentation of the replayed rows, a callable on a batch on the device.
    :param seed: of the memory and of the augmentation. None: drawn from torch's global generator.
    :raises ValueError: for weights out of range.

    >>> import torch
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> strategy = DarkExperienceReplay(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...                                 train_mb_size=32, mem_size=100, evaluator=None)
    >>> _ = strategy.train(SplitDigits(5).train_stream[0])
    >>> strategy.memory.sample(4).logits.shape
    torch.Size([4, 10])

    Source: Buzzega et al., "Dark experience for general continual learning", 2020, arXiv 2004.07211.
    """

    def __init__(
        self,
        *,
        mem_size: int = 200,
        alpha: float = 0.1,
        beta: float = 0.5,
        replay_size: Amount = None,
        write_policy: str | WritePolicy = "reservoir",
        read_policy: str | ReadPolicy = "uniform",
        codec: str | Codec = "raw",
        augment: Augment | None = None,
        seed: int | None = None,
        **template: Unpack[Template],
    ) -> None:
        check.positive_integer("mem_size", mem_size)
        self.memory = RandomMemory(
            mem_size, write_policy=write_policy, read_policy=read_policy, codec=codec, store_logits=True, seed=seed
        )
        replay = DarkReplayPlugin(
            self.memory, alpha=alpha, beta=beta, replay_size=replay_size, augment=augment, seed=seed
        )
        super().__init__(**beside(template, replay))
