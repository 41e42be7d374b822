"""Dark experience replay as a strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch.nn import CrossEntropyLoss, Module
from torch.optim import Optimizer

from avalanche_memplugins import _checks as check
from avalanche_memplugins._words import OF_A_STRATEGY, POLICIES, names_ours, renamed
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.memories import RandomMemory
from avalanche_memplugins.memories.policies import ReadPolicy, WritePolicy
from avalanche_memplugins.plugins import DarkReplayPlugin
from avalanche_memplugins.plugins._augment import Augment
from avalanche_memplugins.strategies._arguments import check_template


@names_ours(OF_A_STRATEGY)
class DarkExperienceReplay(SupervisedTemplate):  # type: ignore[misc]
    r"""DER++, or DER with ``beta=0``: rows are replayed with the outputs that the model gave when they passed.

    Fine-tuning with a :class:`~avalanche_memplugins.plugins.DarkReplayPlugin` over a reservoir,

    .. math:: L = L_B + \alpha \, \mathrm{mean} (o - o')^2 + \beta L_R.

    :param model: PyTorch model.
    :param optimizer: PyTorch optimizer.
    :param criterion: loss function.
    :param mem_size: rows held at most, each with its outputs (4 bytes a class).
    :param alpha: weight of the outputs' mean square, >= 0.
    :param beta: weight of the stored classes' loss, >= 0.
    :param replay_size: rows of each of the two draws a step; None: as many as the stream's batch has.
    :param write_policy: write policy of the memory, see :class:`~avalanche_memplugins.memories.RandomMemory`.
    :param read_policy: its read policy.
    :param codec: how rows are stored; outputs are float32.
    :param seed: of the memory and of the augmentation. None: drawn from torch's global generator.
    :param augment: random augmentation of the replayed rows, a callable on a batch on the device.
    :param train_mb_size: mini-batch size for training.
    :param train_epochs: number of training epochs.
    :param eval_mb_size: mini-batch size for eval; None: that for training.
    :param device: PyTorch device.
    :param plugins: further plugins.
    :param evaluator: for metrics and logging; None for none.
    :param eval_every: frequency of evaluation while training, see Avalanche's ``SupervisedTemplate``.
    :param base_kwargs: further arguments of ``SupervisedTemplate``.
    :raises ValueError: for weights out of range.

    Source: Buzzega et al., "Dark experience for general continual learning", 2020, arXiv 2004.07211.
    """

    @renamed(POLICIES)
    def __init__(
        self,
        *,
        model: Module,
        optimizer: Optimizer,
        criterion: Any = CrossEntropyLoss(),  # noqa: B008 - Avalanche's own default; it is never changed
        mem_size: int = 200,
        alpha: float = 0.1,
        beta: float = 0.5,
        replay_size: int | None = None,
        write_policy: str | WritePolicy = "reservoir",
        read_policy: str | ReadPolicy = "uniform",
        codec: str | Codec = "raw",
        augment: Augment | None = None,
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
        check_template(
            model=model,
            optimizer=optimizer,
            criterion=criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
        )
        check.positive_integer("mem_size", mem_size)
        self.memory = RandomMemory(
            mem_size, write_policy=write_policy, read_policy=read_policy, codec=codec, store_logits=True, seed=seed
        )
        replay = DarkReplayPlugin(
            self.memory, alpha=alpha, beta=beta, replay_size=replay_size, augment=augment, seed=seed
        )
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=[*(plugins or ()), replay],
            evaluator=evaluator,
            eval_every=eval_every,
            **base_kwargs,
        )
