"""Models by name, all plain: what is compared is the memory. Imports nothing heavy by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from avalanche_memplugins.benchmarks.names import look_up
from avalanche_memplugins.lab import doors
from avalanche_memplugins.lab.strategies.recipe import with_defaults

if TYPE_CHECKING:
    from torch.nn import Module

TORCHVISION = "torchvision:"


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model of the lab.

    :param name: as on the command line.
    :param summary: one line for a reader.
    :param make: from the shape of a row, the number of classes and the model's options.
    :param options: its own settings by name, with their defaults.
    :param fields: fields of a run that it takes, too: ``hidden``, ``hidden_layers``, ``dropout``.
    :param open_options: whether it takes settings that are not in ``options``.

    >>> MODELS["cnn"].options
    {'channels': 32}
    """

    name: str
    summary: str
    make: Callable[..., Module]
    options: Mapping[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    open_options: bool = False

    def with_defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options, those given and the others at their defaults.

        :raises ValueError: for one that the model does not have, or of another kind than the default.
        """
        return with_defaults(self.name, options, self.options, more=self.open_options, field="model_options")


def mlp(
    input_shape: tuple[int, ...], n_classes: int, *, hidden: int = 256, hidden_layers: int = 2, dropout: float = 0.0
) -> Module:
    """Avalanche's ``SimpleMLP``: hidden layers of ReLU units, with dropout or without."""
    from avalanche.models import SimpleMLP

    network: Module = SimpleMLP(
        num_classes=n_classes,
        input_size=math.prod(input_shape),
        hidden_size=hidden,
        hidden_layers=hidden_layers,
        drop_rate=dropout,
    )
    return network


def linear(input_shape: tuple[int, ...], n_classes: int) -> Module:
    """Softmax regression.

    >>> sum(weights.numel() for weights in linear((1, 8, 8), 10).parameters())
    650
    """
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), n_classes))


def linear_zero(input_shape: tuple[int, ...], n_classes: int) -> Module:
    """Softmax regression that starts from zero."""
    from torch import nn

    network = linear(input_shape, n_classes)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    return network


def cnn(input_shape: tuple[int, ...], n_classes: int, *, hidden: int = 256, channels: int = 32) -> Module:
    """A small convolutional network for images of any size: two convolutions with pooling, one hidden layer.

    :param input_shape: ``(C, H, W)``, H and W >= 4.
    :param n_classes: outputs.
    :param hidden: units of the hidden layer.
    :param channels: of the first convolution, twice as many of the second.

    >>> import torch
    >>> cnn((3, 37, 64), 7)(torch.zeros(2, 3, 37, 64)).shape
    torch.Size([2, 7])
    """
    from torch import nn

    if len(input_shape) != 3 or min(input_shape[1:]) < 4:
        raise ValueError(f"model: cnn expected images (C, H, W) of at least 4 x 4, got rows of {input_shape}")
    return nn.Sequential(
        nn.Conv2d(input_shape[0], channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(2 * channels * 16, hidden),
        nn.ReLU(),
        nn.Linear(hidden, n_classes),
    )


def slim_resnet18(input_shape: tuple[int, ...], n_classes: int) -> Module:
    """Avalanche's ``SlimResNet18``, for 3 x 32 x 32 images."""
    from avalanche.models import SlimResNet18

    if tuple(input_shape) != (3, 32, 32):
        raise ValueError(
            f"model: slim-resnet18 expected images of (3, 32, 32), got rows of {input_shape}; "
            "torchvision:resnet18 takes any size"
        )
    network: Module = SlimResNet18(n_classes)
    return network


def torchvision_model(
    name: str, input_shape: tuple[int, ...], n_classes: int, *, weights: str = "", freeze_backbone: bool = False
) -> Module:
    """A classifier of torchvision with a head for the stream's classes.

    :param name: as torchvision has it, such as ``"resnet18"``.
    :param input_shape: ``(C, H, W)``; grey images are given as three equal channels.
    :param n_classes: outputs of the last linear layer, which is new.
    :param weights: of torchvision's, such as ``"DEFAULT"``, downloaded if they are not there; empty: random ones.
    :param freeze_backbone: train the last layer only; the rest stays in evaluation mode.
    :raises ValueError: if there is no such model, or it has no linear layer.
    """
    import torchvision

    from avalanche_memplugins.lab.nets import WithHead

    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise ValueError(f"model: {TORCHVISION}{name} expected images of 1 or 3 channels, got rows of {input_shape}")
    known = torchvision.models.list_models(module=torchvision.models)
    look_up("model", name, dict.fromkeys(known))
    return WithHead(torchvision.models.get_model(name, weights=weights or None), n_classes, frozen=freeze_backbone)


MODELS: Mapping[str, ModelInfo] = {
    info.name: info
    for info in (
        ModelInfo(
            name="mlp",
            summary="Avalanche's SimpleMLP; hidden units, hidden layers and dropout as the run says",
            make=mlp,
            fields=("hidden", "hidden_layers", "dropout"),
        ),
        ModelInfo(name="linear", summary="softmax regression", make=linear),
        ModelInfo(name="linear-zero", summary="softmax regression that starts from zero", make=linear_zero),
        ModelInfo(
            name="cnn",
            summary="two convolutions with pooling, one hidden layer; images of any size",
            make=cnn,
            options={"channels": 32},
            fields=("hidden",),
        ),
        ModelInfo(name="slim-resnet18", summary="Avalanche's SlimResNet18, for 3 x 32 x 32 images", make=slim_resnet18),
    )
}


def find_model(name: str) -> ModelInfo:
    """The model of that name: ours, torchvision's as ``torchvision:NAME``, or the user's own.

    :raises ValueError: if there is none, or it cannot be called as :class:`.ModelFactory` says.

    >>> find_model("torchvision:resnet18").options
    {'weights': '', 'freeze_backbone': False}
    """
    if name in MODELS:
        return MODELS[name]
    if isinstance(name, str) and name.startswith(TORCHVISION):
        own = name.removeprefix(TORCHVISION)

        def make(*args: Any, **options: Any) -> Module:
            return torchvision_model(own, *args, **options)

        settings = {"weights": "", "freeze_backbone": False}
        return ModelInfo(name=name, summary=f"torchvision's {own}", make=make, options=settings)
    function = doors.load("model", name, MODELS)
    options, more = doors.options_of("model", function)

    def checked(*args: Any, **options: Any) -> Module:
        module: Module = doors.make("model", name, MODELS, *args, **options)
        return module

    return ModelInfo(name=name, summary=doors.summary_of(function), make=checked, options=options, open_options=more)
