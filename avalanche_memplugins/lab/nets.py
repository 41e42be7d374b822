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


class WithHead(nn.Module):
    """A classifier whose last linear layer is new, with a backbone that is trained or frozen.

    :param network: of images ``(B, 3, H, W)``; it is changed.
    :param n_classes: outputs of the new layer.
    :param frozen: train this layer only. The rest then stays in evaluation mode, so that no statistics move.
    :raises ValueError: if the network has no linear layer.

    >>> network = WithHead(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), 2, frozen=True)
    >>> network(torch.zeros(4, 1, 2, 2)).shape
    torch.Size([4, 2])
    """

    def __init__(self, network: nn.Module, n_classes: int, *, frozen: bool = False) -> None:
        super().__init__()
        layers = [(name, layer.in_features) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
        if not layers or not layers[-1][0]:
            raise ValueError(f"network: expected one with a linear layer at its end, got {type(network).__name__}")
        (self.head, width), self.frozen = layers[-1], frozen
        if frozen:
            network.requires_grad_(False)
        parent, _, last = self.head.rpartition(".")
        setattr(network.get_submodule(parent), last, nn.Linear(width, n_classes))
        self.network = network

    def train(self, mode: bool = True) -> WithHead:
        """Set the mode of what is trained."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
            self.network.get_submodule(self.head).train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``(B, n_classes)`` of images ``(B, C, H, W)``, C 1 or 3."""
        out: Tensor = self.network(x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x)
        return out
