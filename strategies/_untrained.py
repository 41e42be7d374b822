"""What the strategies share that train nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn
from torch.nn import CrossEntropyLoss
from torch.optim import SGD

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories.memory import AnsweringMemory
from avalanche_memplugins.plugins import MemoryPredictionPlugin
from avalanche_memplugins.strategies._ready import Shared, beside

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Blank(nn.Module):
    """Outputs of zeros, one a class, for a memory's answers to take their place."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = check.integer("num_classes", classes, least=1, most=2**31 - 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, classes)`` of rows ``(B, *shape)``."""
        return torch.zeros(len(x), self.classes, device=x.device)


def vectors(model: nn.Module | None) -> nn.Module | None:
    """``model``, which makes the vectors that a memory holds of rows; None: rows as they are."""
    if model is not None:
        check.instance("model", model, nn.Module, "a module that makes vectors of rows, or None")
    return model


class Untrained(SupervisedTemplate):  # type: ignore[misc]
    """Shows the stream to a memory, once, and trains nothing: the memory answers.

    :param num_classes: outputs.
    :param memory: with ``write`` and ``predict``.
    :param template: of ``SupervisedTemplate``.
    """

    brings: ClassVar[frozenset[str]] = frozenset({"model", "optimizer", "criterion", "train_epochs", "fast"})

    def __init__(self, *, num_classes: int, memory: AnsweringMemory, **template: Unpack[Shared]) -> None:
        self.memory = memory
        super().__init__(
            model=Blank(num_classes),
            optimizer=SGD([nn.Parameter(torch.zeros(1))], lr=1.0),
            criterion=CrossEntropyLoss(),
            **beside(template, MemoryPredictionPlugin(memory, writes=True)),
        )

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
