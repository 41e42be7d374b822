"""Models by name, all plain: what is compared is the memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.nn import Module


def mlp(input_shape: tuple[int, ...], n_classes: int, hidden: int, *, layers: int = 2, dropout: float = 0.0) -> Module:
    """Avalanche's ``SimpleMLP``: ``layers`` hidden layers of ReLU units, with dropout or without."""
    from avalanche.models import SimpleMLP

    network: Module = SimpleMLP(
        num_classes=n_classes,
        input_size=math.prod(input_shape),
        hidden_size=hidden,
        hidden_layers=layers,
        drop_rate=dropout,
    )
    return network


def linear(input_shape: tuple[int, ...], n_classes: int, hidden: int, **unused: Any) -> Module:
    """Softmax regression; ``hidden`` and the mlp's other settings play no part."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), n_classes))


def linear_zero(input_shape: tuple[int, ...], n_classes: int, hidden: int, **unused: Any) -> Module:
    """Softmax regression that starts from zero."""
    from torch import nn

    network = linear(input_shape, n_classes, hidden)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    return network


MODELS: Mapping[str, Callable[..., Module]] = {"mlp": mlp, "linear": linear, "linear-zero": linear_zero}
