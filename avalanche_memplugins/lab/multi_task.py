"""A head for each task, for streams that tell which task a row is of."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.models import MultiTaskModule
from torch import Tensor, nn

# Avalanche's value for units that play no part: finite, so that no loss of logits or probabilities becomes NaN.
OFF = -1000.0


class TaskMasked(MultiTaskModule):  # type: ignore[misc]
    r"""One output layer of which each task has its own units; the others are switched off.

    .. math:: o_c(x, t) = \begin{cases} f_c(x) & c \in C_t \\ -1000 & \text{otherwise} \end{cases}

    :param network: f, from rows to ``(B, classes)``.
    :param classes: ``(tasks, classes)`` bool, which classes each task has.

    Source: van de Ven & Tolias 2019, arXiv 1904.07734, section 3: a multi-headed output layer.
    """

    classes: Tensor

    def __init__(self, network: nn.Module, classes: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("classes", classes)

    def forward(self, x: Tensor, task_labels: Tensor | int | None) -> Any:
        """Outputs ``(B, classes)``.

        :param x: rows ``(B, C, H, W)``.
        :param task_labels: ``(B,)`` or one for all; None: a dictionary of the outputs for every task.
        """
        out = self.network(x)
        if task_labels is None:
            return {t: torch.where(own, out, OFF) for t, own in enumerate(self.classes)}
        return torch.where(self.classes[task_labels], out, OFF)

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        """Outputs ``(B, classes)`` of one task."""
        outputs: Tensor = self(x, task_label)
        return outputs


def task_classes(benchmark: Any, n_classes: int) -> Tensor:
    """``(tasks, classes)`` bool: which classes the rows of each experience have, task k being the k-th experience."""
    own = torch.zeros(len(benchmark.train_stream), n_classes, dtype=torch.bool)
    for k, experience in enumerate(benchmark.train_stream):
        own[k, list(experience.classes_in_this_experience)] = True
    return own
