"""MbPA as a strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor
from torch.nn import CrossEntropyLoss, Module
from torch.optim import Optimizer

from avalanche_memplugins import _checks as check
from avalanche_memplugins._words import OF_A_STRATEGY, POLICIES, names_ours, renamed
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.memories.episodic_memory import EpisodicMemory
from avalanche_memplugins.memories.policies import WritePolicy
from avalanche_memplugins.plugins.local_adaptation import LocalAdaptationPlugin
from avalanche_memplugins.plugins.memory_replay import MemoryReplayPlugin
from avalanche_memplugins.strategies._arguments import check_template


@names_ours(OF_A_STRATEGY)
class MbPA(SupervisedTemplate):  # type: ignore[misc]
    """Memory-based parameter adaptation.

    Fine-tuning that writes to an :class:`~avalanche_memplugins.memories.EpisodicMemory`, and a
    :class:`~avalanche_memplugins.plugins.LocalAdaptationPlugin` that adapts the last layers to every evaluated
    row's neighbours. With ``replay`` the same memory is rehearsed, too: RMA + MbPA.

    :param model: PyTorch model.
    :param optimizer: PyTorch optimizer.
    :param criterion: loss function.
    :param mem_size: rows held at most.
    :param write_policy: write policy of the memory.
    :param codec: how rows are stored.
    :param write_every: steps from one write to the next.
    :param replay: train on a random batch of the memory at every step.
    :param neighbours: K, rows that a query is adapted to.
    :param steps: T, gradient steps a query.
    :param lr: local rate.
    :param beta: pull back to the trained parameters, 0 to 1.
    :param kernel: weights of the neighbours, see the plugin.
    :param adapt: the last so many linear layers, or names of modules.
    :param key: name of a module of the model whose output is the key; None: the input.
    :param max_bytes: working memory of search and adaptation.
    :param seed: of the memory. None: drawn from torch's global generator.
    :param train_mb_size: mini-batch size for training.
    :param train_epochs: number of training epochs.
    :param eval_mb_size: mini-batch size for eval; None: that for training. Some hundreds are quickest here.
    :param device: PyTorch device.
    :param plugins: further plugins.
    :param evaluator: for metrics and logging; None for none.
    :param eval_every: frequency of evaluation while training, see Avalanche's ``SupervisedTemplate``.
    :param base_kwargs: further arguments of ``SupervisedTemplate``.

    Source: Sprechmann et al., "Memory-based parameter adaptation", ICLR 2018.
    """

    @renamed(POLICIES)
    def __init__(
        self,
        *,
        model: Module,
        optimizer: Optimizer,
        criterion: Any = CrossEntropyLoss(),  # noqa: B008 - Avalanche's own default; it is never changed
        mem_size: int = 5_000,
        write_policy: str | WritePolicy = "reservoir",
        codec: str | Codec = "raw",
        write_every: int = 1,
        replay: bool = False,
        neighbours: int = 20,
        steps: int = 10,
        lr: float = 0.3,
        beta: float = 0.0,
        kernel: Literal["nearest_relative", "inverse_distance"] | Callable[[Tensor], Tensor] = "nearest_relative",
        adapt: int | str | Sequence[str] = 1,
        key: str | None = None,
        max_bytes: int = 64 << 20,
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
        check.flag("replay", replay)
        memory = EpisodicMemory(mem_size, write_policy=write_policy, codec=codec, seed=seed, max_bytes=max_bytes)
        adaptation = LocalAdaptationPlugin(
            memory,
            neighbours=neighbours,
            steps=steps,
            lr=lr,
            beta=beta,
            kernel=kernel,
            adapt=adapt,
            key=key,
            writes=not replay,
            write_every=write_every,
            max_bytes=max_bytes,
        )
        rehearsal = [MemoryReplayPlugin(memory, write_every=write_every, seed=seed)] if replay else []
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=[*(plugins or ()), *rehearsal, adaptation],
            evaluator=evaluator,
            eval_every=eval_every,
            **base_kwargs,
        )
        self.memory = memory
