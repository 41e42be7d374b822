"""What the strategies share that train nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn
from torch.nn import CrossEntropyLoss
from torch.optim import SGD

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories import GaussianMemory
from avalanche_memplugins.plugins import MemoryPredictionPlugin
from avalanche_memplugins.strategies._ready import check_template


class Blank(nn.Module):
    """Outputs of zeros, one a class, for a memory's answers to take their place."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = check.integer("num_classes", classes, least=1, most=2**31 - 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, classes)`` of rows ``(B, *shape)``."""
        return torch.zeros(len(x), self.classes, device=x.device)


class Untrained(SupervisedTemplate):  # type: ignore[misc]
    """Shows the stream to its plugins, once, and trains nothing: a memory answers.

    :param memory: with ``write`` and ``predict``.
    :param num_classes: outputs.
    :param options: of ``memory.predict``.
    """

    def __init__(
        self,
        *,
        memory: Any,
        num_classes: int,
        options: dict[str, Any] | None = None,
        train_mb_size: int,
        eval_mb_size: int | None,
        device: str | torch.device,
        plugins: Sequence[SupervisedPlugin] | None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] | None,
        eval_every: int,
        **base_kwargs: Any,
    ) -> None:
        model, nothing = Blank(num_classes), nn.Parameter(torch.zeros(1))
        common = {
            "model": model,
            "optimizer": SGD([nothing], lr=1.0),
            "criterion": CrossEntropyLoss(),
            "train_mb_size": train_mb_size,
            "train_epochs": 1,
            "eval_mb_size": eval_mb_size,
            "device": device,
            "plugins": plugins,
            "evaluator": evaluator,
            "eval_every": eval_every,
        }
        check_template(**common)
        prediction = MemoryPredictionPlugin(memory, writes=True, options=options)
        super().__init__(**{**common, "plugins": [*(plugins or ()), prediction]}, **base_kwargs)
        self.memory = memory

    def make_optimizer(self, **kwargs: Any) -> None:
        """There is nothing to optimise."""

    def training_epoch(self, **kwargs: Any) -> None:
        """Every batch, as far as plugins look at it before it would be trained on."""
        for batch in self.dataloader:
            if self._stop_training:
                break
            self.mbatch = batch
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            # Metrics of training look at these; they say nothing here.
            self.mb_output = self.forward()
            self.loss = self.criterion()
            self._after_training_iteration(**kwargs)


def gaussians(model: nn.Module | None, **options: Any) -> GaussianMemory:
    """A memory of Gaussians over what ``model`` makes of rows, or over the rows."""
    if model is not None:
        check.instance("model", model, nn.Module, "a module that makes vectors of rows, or None")
    return GaussianMemory(embedding=model, **options)
