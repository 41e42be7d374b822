"""The linear discriminant as a strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from torch.nn import Module

from avalanche_memplugins._words import OF_A_STRATEGY, names_ours
from avalanche_memplugins.strategies._untrained import Untrained, gaussians


@names_ours(OF_A_STRATEGY)
class StreamingLDA(Untrained):
    r"""Gaussians of one shared covariance: mean and count a class, and one matrix (LDA).

    .. math:: p(c \mid x) \propto \mathcal N(f(x); \mu_c, C + r \bar v I)

    One pass, in any order; nothing is trained. Avalanche has a strategy of the same name, which takes rows one by one
    and keeps float32; this one takes batches, packs what it keeps, and needs no ``input_size``. Import it from where
    you mean: ``avalanche_memplugins.strategies`` or ``avalanche.training.supervised``.


    :param num_classes: classes in the whole stream.
    :param model: makes vectors ``(B, C)`` of rows, such as a frozen network or
        :class:`~avalanche_memplugins.networks.Scattering`; it is copied and runs in eval mode. None: rows as they are.
    :param precision: of what is kept: ``"float32"``, or 8, 6 or 4 bits, packed at the end of each experience.
    :param ridge: r, added to the diagonal, as a share of the mean variance.
    :param train_mb_size: mini-batch size for training.
    :param eval_mb_size: mini-batch size for eval; None: that for training.
    :param device: PyTorch device.
    :param plugins: further plugins; they see each batch before it would be trained on, and after.
    :param evaluator: for metrics and logging; None for none.
    :param eval_every: frequency of evaluation while training, see Avalanche's ``SupervisedTemplate``.
    :param base_kwargs: further arguments of ``SupervisedTemplate``.

    Source: Hayes & Kanan, "Lifelong machine learning with deep streaming linear discriminant analysis", 2020.

    >>> strategy = StreamingLDA(num_classes=10, evaluator=None)
    >>> strategy.memory.predict  # doctest: +ELLIPSIS
    <bound method GaussianMemory.predict of ...>
    """

    def __init__(
        self,
        *,
        num_classes: int,
        model: Module | None = None,
        precision: Literal["float32", 4, 6, 8] = "float32",
        ridge: float = 3e-3,
        train_mb_size: int = 64,
        eval_mb_size: int | None = None,
        device: str | torch.device = "cpu",
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] | None = default_evaluator,
        eval_every: int = -1,
        **base_kwargs: Any,
    ) -> None:
        super().__init__(
            memory=gaussians(model, tied=True, rank=0, precision=precision, ridge=ridge),
            num_classes=num_classes,
            train_mb_size=train_mb_size,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
            **base_kwargs,
        )
