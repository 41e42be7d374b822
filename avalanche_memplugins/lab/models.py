"""Models by name, all plain: what is compared is the memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module


def mlp(input_shape: tuple[int, ...], n_classes: int, hidden: int) -> Module:
    """Avalanche's ``SimpleMLP`` with two hidden layers of ReLU units and no dropout."""
    from avalanche.models import SimpleMLP

    network: Module = SimpleMLP(
        num_classes=n_classes,
        input_size=math.prod(input_shape),
        hidden_size=hidden,
        hidden_layers=2,
        drop_rate=0.0,
    )
    return network


def linear(input_shape: tuple[int, ...], n_classes: int, hidden: int) -> Module:
    """Softmax regression; ``hidden`` plays no part."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), n_classes))


MODELS: Mapping[str, Callable[[tuple[int, ...], int, int], Module]] = {"mlp": mlp, "linear": linear}
