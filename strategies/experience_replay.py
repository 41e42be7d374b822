"""Experience replay from a reservoir as a strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from torch.nn import CrossEntropyLoss, Module
from torch.optim import Optimizer

from avalanche_memplugins._words import OF_A_STRATEGY, POLICIES, names_ours, renamed
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.memories.policies import ReadPolicy, WritePolicy
from avalanche_memplugins.plugins._augment import Augment
from avalanche_memplugins.strategies.random_memory_adaptation import RMA


@names_ours(OF_A_STRATEGY)
class ExperienceReplay(RMA):
    """Experience replay: every batch is offered to a reservoir, and a random batch from it is replayed.

    :class:`RMA` with other defaults. The reservoir is a uniform sample of the whole stream, whatever its
    length and its experiences; ``write_policy="class_balanced"`` shares the slots among classes instead.

    :param mem_size: rows held at most.
    :param write_every: iterations between writes; here every batch is offered.
    :param write_policy: which rows stay. All other parameters are those of :class:`RMA`.

    Source: Chaudhry et al., "On tiny episodic memories in continual learning", 2019 (ER-reservoir).
    """

    @renamed(POLICIES)
    def __init__(
        self,
        *,
        model: Module,
        optimizer: Optimizer,
        criterion: Any = CrossEntropyLoss(),  # noqa: B008 - Avalanche's own default; it is never changed
        mem_size: int = 200,
        write_every: int = 1,
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
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=criterion,
            mem_size=mem_size,
            write_every=write_every,
            replay_size=replay_size,
            write_policy=write_policy,
            read_policy=read_policy,
            codec=codec,
            augment=augment,
            seed=seed,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
            **base_kwargs,
        )
