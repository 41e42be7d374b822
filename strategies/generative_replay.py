"""Deep generative replay as a strategy."""

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

from avalanche_memplugins import _checks as check
from avalanche_memplugins._words import OF_A_STRATEGY, names_ours
from avalanche_memplugins.memories import VAEMemory
from avalanche_memplugins.networks import ConditionalVAE
from avalanche_memplugins.plugins import MemoryReplayPlugin
from avalanche_memplugins.strategies._arguments import check_template


@names_ours(OF_A_STRATEGY)
class VAEReplay(SupervisedTemplate):  # type: ignore[misc]
    r"""Deep generative replay: a VAE is trained beside the model, and generates the past for both.

    Fine-tuning with one :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin` over a
    :class:`~avalanche_memplugins.memories.VAEMemory`. At the t-th experience the model's loss is

    .. math:: L = \tfrac1t L_\text{current} + (1 - \tfrac1t) L_\text{replay},

    replayed rows being labelled by the model as it was after the experience before. At the end of the experience
    the generator, which has its own Adam, learns it with the same weights. The published setting is the default,
    with ``torch.optim.Adam(model.parameters(), lr=1e-3)`` and 2,000 iterations an experience, but for the codes,
    which are drawn from Gaussians fitted to the classes; ``prior="standard"`` is the published draw.

    :param model: PyTorch model.
    :param optimizer: PyTorch optimizer.
    :param criterion: loss function.
    :param shape: of one row: ``(C, H, W)`` for images in [0, 1] before ``Normalize``, ``(width,)`` for vectors.
    :param network: generator; None: a :class:`~avalanche_memplugins.networks.ConditionalVAE` of 2 x 400 units and
        codes of 100, with weights drawn from ``seed``.
    :param classes: None: a generator that knows no classes; or how many it can be asked for.
    :param labels: of replayed rows: ``"old_model"``; ``"soft"``: its probabilities (distillation); or
        ``"memory"``: the class that was asked for.
    :param prior: where codes are drawn: ``"fitted"`` or ``"standard"``.
    :param steps: of the generator's training after each experience.
    :param batch_size: rows of the experience in such a step, beside as many of its own replay.
    :param lr: of the generator's Adam.
    :param mean: of the user's ``Normalize``.
    :param std: of the user's ``Normalize``.
    :param replay_size: rows to replay each iteration; None: as many as the stream's batch has.
    :param seed: of the memory, its first weights and the order in which it is fed. None: drawn from torch's
        global generator.
    :param train_mb_size: mini-batch size for training.
    :param train_epochs: number of training epochs.
    :param eval_mb_size: mini-batch size for eval; None: that for training.
    :param device: PyTorch device.
    :param plugins: further plugins.
    :param evaluator: for metrics and logging; None for none.
    :param eval_every: frequency of evaluation while training, see Avalanche's ``SupervisedTemplate``.
    :param base_kwargs: further arguments of ``SupervisedTemplate``.

    Sources: Shin et al., "Continual learning with deep generative replay", 2017; van de Ven & Tolias, "Three
    scenarios for continual learning", 2019.
    """

    def __init__(
        self,
        *,
        model: Module,
        optimizer: Optimizer,
        criterion: Any = CrossEntropyLoss(),  # noqa: B008 - Avalanche's own default; it is never changed
        shape: Sequence[int] = (1, 28, 28),
        network: Module | None = None,
        classes: int | None = None,
        labels: Literal["old_model", "soft", "memory"] = "old_model",
        prior: Literal["fitted", "standard"] = "fitted",
        steps: int = 2_000,
        batch_size: int = 128,
        lr: float = 1e-3,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        replay_size: int | None = None,
        seed: int | None = None,
        train_mb_size: int = 128,
        train_epochs: int = 1,
        eval_mb_size: int | None = None,
        device: str | torch.device = "cpu",
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] | None = default_evaluator,
        eval_every: int = -1,
        **base_kwargs: Any,
    ) -> None:
        number = check.seed(seed)
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
        check.integers("shape", shape)
        if network is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(number)
                likelihood: Literal["bernoulli", "gaussian"] = "gaussian" if len(shape) == 1 else "bernoulli"
                network = ConditionalVAE(shape, classes=classes, likelihood=likelihood)
        memory = VAEMemory(
            network, prior=prior, steps=steps, batch_size=batch_size, lr=lr, mean=mean, std=std, seed=number
        )
        replay = MemoryReplayPlugin(memory, replay_size=replay_size, replay_weight="growing", labels=labels, seed=seed)
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
        self.memory = memory
