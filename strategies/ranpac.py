"""Ridge regression over random features as a strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from torch.nn import Module

from avalanche_memplugins import _checks as check
from avalanche_memplugins._words import OF_A_STRATEGY, names_ours
from avalanche_memplugins.memories import RandomProjectionMemory
from avalanche_memplugins.strategies._untrained import Untrained


@names_ours(OF_A_STRATEGY)
class RanPAC(Untrained):
    r"""Least squares over random features of a frozen network, from sums over the stream.

    .. math:: o(x) = C (G + \lambda I)^{-1} h, \qquad h = \max(0, W f(x))

    One pass, in any order; nothing is trained. It is Avalanche's loop around a
    :class:`~avalanche_memplugins.memories.RandomProjectionMemory`, which says what is kept.

    :param num_classes: classes in the whole stream.
    :param model: f, makes vectors ``(B, F)`` of rows; it is copied and runs in eval mode. None: rows as they are.
    :param width: numbers in h. The paper takes 10,000; bytes grow with its square.
    :param ridge: :math:`\lambda`, or ``"auto"``: chosen on rows held back.
    :param seed: of W and of the rows held back. None: drawn from torch's global generator.
    :param train_mb_size: mini-batch size for training.
    :param eval_mb_size: mini-batch size for eval; None: that for training.
    :param device: PyTorch device.
    :param plugins: further plugins; they see each batch before it would be trained on, and after.
    :param evaluator: for metrics and logging; None for none.
    :param eval_every: frequency of evaluation while training, see Avalanche's ``SupervisedTemplate``.
    :param base_kwargs: further arguments of ``SupervisedTemplate``.

    Source: McDonnell et al., "RanPAC: random projections and pre-trained models for continual learning", 2023,
    arXiv 2307.02251, without its optional first training of adapters.

    >>> strategy = RanPAC(num_classes=10, width=500, evaluator=None)
    >>> strategy.memory.width
    500
    """

    def __init__(
        self,
        *,
        num_classes: int,
        model: Module | None = None,
        width: int = 1_000,
        ridge: float | Literal["auto"] = "auto",
        seed: int | None = None,
        train_mb_size: int = 64,
        eval_mb_size: int | None = None,
        device: str | torch.device = "cpu",
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] | None = default_evaluator,
        eval_every: int = -1,
        **base_kwargs: Any,
    ) -> None:
        if model is not None:
            check.instance("model", model, Module, "a module that makes vectors of rows, or None")
        super().__init__(
            memory=RandomProjectionMemory(model, width, ridge=ridge, seed=seed),
            num_classes=num_classes,
            train_mb_size=train_mb_size,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
            **base_kwargs,
        )
