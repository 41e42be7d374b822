"""Replay from Gaussians of classes as a strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch.nn import CrossEntropyLoss, Module
from torch.optim import Optimizer

from avalanche_memplugins._words import OF_A_STRATEGY, names_ours
from avalanche_memplugins.memories import GaussianMemory
from avalanche_memplugins.plugins import MemoryReplayPlugin
from avalanche_memplugins.strategies._arguments import check_template


@names_ours(OF_A_STRATEGY)
class GaussianReplay(SupervisedTemplate):  # type: ignore[misc]
    """Every class is kept as one Gaussian, or several, and rows drawn from them are replayed.

    Fine-tuning with one :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin` over a
    :class:`~avalanche_memplugins.memories.GaussianMemory`. No row of the stream is kept.

    :param model: PyTorch model.
    :param optimizer: PyTorch optimizer.
    :param criterion: loss function.
    :param rank: factors of a covariance, see the memory; None: whole matrices.
    :param components: Gaussians a class at most.
    :param precision: of what is kept: ``"float32"``, or 8, 6 or 4 bits, packed at the end of each experience.
    :param balance: draw every ``"class"`` as often as the others, or in proportion to the ``"count"`` of its rows.
    :param codec: a :class:`~avalanche_memplugins.codecs.LatentCodec`, whose codes are modelled; None: rows as they are.
    :param replay_size: rows to replay each iteration; None: as many as the stream's batch has.
    :param replay_weight: of the replayed rows' loss, see :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin`.
    :param seed: of memory and plugin. None: drawn from torch's global generator.
    :param train_mb_size: mini-batch size for training.
    :param train_epochs: number of training epochs.
    :param eval_mb_size: mini-batch size for eval; None: that for training.
    :param device: PyTorch device.
    :param plugins: further plugins.
    :param evaluator: for metrics and logging; None for none.
    :param eval_every: frequency of evaluation while training, see Avalanche's ``SupervisedTemplate``.
    :param base_kwargs: further arguments of ``SupervisedTemplate``.

    Source: the plain control of generative replay; PASS, Zhu et al. 2021, draws likewise, in feature space.

    >>> net = torch.nn.Linear(8, 4)
    >>> strategy = GaussianReplay(model=net, optimizer=torch.optim.SGD(net.parameters(), 0.1), rank=2, evaluator=None)
    >>> strategy.memory
    GaussianMemory(rank=2, balance='class', codec=None)
    """

    def __init__(
        self,
        *,
        model: Module,
        optimizer: Optimizer,
        criterion: Any = CrossEntropyLoss(),  # noqa: B008 - Avalanche's own default; it is never changed
        rank: int | None = 16,
        components: int = 1,
        precision: Literal["float32", 4, 6, 8] = "float32",
        balance: Literal["class", "count"] = "class",
        codec: Any | None = None,
        replay_size: int | None = None,
        replay_weight: float | Literal["growing"] | None = None,
        seed: int | None = None,
        train_mb_size: int = 1,
        train_epochs: int = 1,
        eval_mb_size: int | None = None,
        device: str | torch.device = "cpu",
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] | None = default_evaluator,
        eval_every: int = -1,
        **base_kwargs: Any,
    ) -> None:
        common = {
            "model": model,
            "optimizer": optimizer,
            "criterion": criterion,
            "train_mb_size": train_mb_size,
            "train_epochs": train_epochs,
            "eval_mb_size": eval_mb_size,
            "device": device,
            "plugins": plugins,
            "evaluator": evaluator,
            "eval_every": eval_every,
        }
        check_template(**common)
        memory = GaussianMemory(
            rank=rank, components=components, precision=precision, balance=balance, codec=codec, seed=seed
        )
        replay = MemoryReplayPlugin(memory, replay_size=replay_size, replay_weight=replay_weight, seed=seed)
        super().__init__(**{**common, "plugins": [*(plugins or ()), replay]}, **base_kwargs)
        self.memory = memory
