"""RMA as a strategy."""

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
from avalanche_memplugins.memories.policies import ReadPolicy, WritePolicy
from avalanche_memplugins.plugins import RandomMemoryPlugin
from avalanche_memplugins.plugins._augment import Augment
from avalanche_memplugins.strategies._arguments import check_template


@names_ours(OF_A_STRATEGY)
class RMA(SupervisedTemplate):  # type: ignore[misc]
    """Random memory adaptation.

    Fine-tuning with a :class:`~avalanche_memplugins.plugins.RandomMemoryPlugin`: every m steps the batch is
    appended to a ring, at every step a random batch from it is trained on as well.

    :param model: PyTorch model.
    :param optimizer: PyTorch optimizer.
    :param criterion: loss function.
    :param mem_size: rows held at most.
    :param write_every: steps from one write to the next (m).
    :param replay_size: rows to replay each step; None: as many as the stream's batch has.
    :param write_policy: write policy of the memory: ``"ring"``, ``"reservoir"``, ``"class_balanced"``,
        ``"task_balanced"``, or an object.
    :param read_policy: read policy of the memory: ``"uniform"``, ``"cycle"``, ``"class_balanced"``,
        ``"task_balanced"``, or an object.
    :param codec: how rows are stored: ``"raw"``, ``"float16"``, ``"uint8"``, or an object.
    :param augment: random augmentation of the replayed rows, a callable on a batch on the device.
    :param seed: of the memory and of the augmentation. None: drawn from torch's global generator.
    :param train_mb_size: mini-batch size for training.
    :param train_epochs: number of training epochs.
    :param eval_mb_size: mini-batch size for eval; None: that for training.
    :param device: PyTorch device.
    :param plugins: further plugins.
    :param evaluator: for metrics and logging; None for none.
    :param eval_every: frequency of evaluation while training, see Avalanche's ``SupervisedTemplate``.
    :param base_kwargs: further arguments of ``SupervisedTemplate``.

    Source: Zeta36, "Random memory adaptation", 2018.
    """

    @renamed(POLICIES)
    def __init__(
        self,
        *,
        model: Module,
        optimizer: Optimizer,
        criterion: Any = CrossEntropyLoss(),  # noqa: B008 - Avalanche's own default; it is never changed
        mem_size: int = 15_000,
        write_every: int = 10,
        replay_size: int | None = None,
        write_policy: str | WritePolicy = "ring",
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
        memory_plugin = RandomMemoryPlugin(
            mem_size,
            write_every=write_every,
            replay_size=replay_size,
            write_policy=write_policy,
            read_policy=read_policy,
            codec=codec,
            augment=augment,
            seed=seed,
        )
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=[*(plugins or ()), memory_plugin],
            evaluator=evaluator,
            eval_every=eval_every,
            **base_kwargs,
        )
        self.memory = memory_plugin.memory
