"""What energy networks train on: patterns in episodes, and damaged cues."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from avalanche_memplugins.benchmarks.digits_data import digits
from avalanche_memplugins.benchmarks.roots import data_root
from avalanche_memplugins.functional.episodes import corrupt_strings, erase_block, image_episodes, string_episodes

from .options import EnergyTraining

HELD_OUT = 0.1
THUMBNAIL = 4  # by which a thumbnail's side is smaller


class Task:
    """Episodes of one kind: :meth:`episodes` gives patterns ``(E, N, D)``, :meth:`cues` damages them."""

    size: int
    """D, numbers a pattern."""
    images: Tensor | None = None
    """``(M, 1, S, S)`` that the patterns are drawn from."""

    def episodes(self, episodes: int, patterns: int, *, generator: torch.Generator) -> Tensor:
        """Patterns ``(E, N, D)`` in [0, 1]."""
        raise NotImplementedError

    def cues(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """Damaged patterns ``(E, N, D)``."""
        raise NotImplementedError


@dataclass
class Strings(Task):
    """Random bits, half of them erased to 0.5."""

    size: int

    def episodes(self, episodes: int, patterns: int, *, generator: torch.Generator) -> Tensor:
        """Fair random bits."""
        return string_episodes(episodes, patterns, self.size, generator=generator)

    def cues(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """Half of the bits erased."""
        return corrupt_strings(x, self.size // 2, generator=generator)[0]


class Images(Task):
    """Images of a pool; a block of half the side erased to 0, or a thumbnail enlarged."""

    def __init__(self, images: Tensor, cue: str) -> None:
        self.images, self.cue = images, cue
        self.side = images.shape[-1]
        self.size = self.side**2

    def episodes(self, episodes: int, patterns: int, *, generator: torch.Generator) -> Tensor:
        """Images of the pool, none twice in an episode."""
        assert self.images is not None
        return image_episodes(self.images, episodes, patterns, generator=generator)

    def cues(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """As the cue says; of both, one episode in two has thumbnails."""
        if self.cue == "thumbnail":
            return thumbnails(x, self.side)
        erased, _ = erase_block(x, self.side, self.side // 2, generator=generator)
        if self.cue == "block":
            return erased
        small = torch.rand(len(x), 1, 1, generator=generator) < 0.5
        return torch.where(small, thumbnails(x, self.side), erased)


def thumbnails(x: Tensor, side: int) -> Tensor:
    """Images ``(..., side * side)`` reduced by area to a quarter of their side and enlarged bilinearly."""
    flat = x.reshape(-1, 1, side, side)
    small = interpolate(flat, scale_factor=1 / THUMBNAIL, mode="area", recompute_scale_factor=False)
    return interpolate(small, size=(side, side), mode="bilinear", align_corners=False).view_as(x)


def tasks(options: EnergyTraining) -> tuple[Task, Task]:
    """To train on and to validate on: other strings, a tenth of the images held out."""
    if options.data == "strings":
        return Strings(options.bits), Strings(options.bits)
    if options.data == "digits":
        images = digits().x_train
    else:
        root = data_root(options.data_root)
        if root is None:
            raise ValueError("data_root: wants the folder of the data sets (or MEMPLUGINS_DATA), got None")
        images = load_images(options.data, root, size=options.size, train=True)
    generator = torch.Generator().manual_seed(0)  # the same images are held out whatever the seed
    order = torch.randperm(len(images), generator=generator)
    cut = int(HELD_OUT * len(images))
    train, held_out = images[order[cut:]], images[order[:cut]]
    if options.thicken:
        train = thickened(train, options.thicken, generator)
    return Images(train, options.cue), Images(held_out, options.cue)


def thickened(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Images, a share of them with strokes grown by a pixel to the right and below."""
    grown = max_pool2d(torch.nn.functional.pad(images, (1, 0, 1, 0)), 2, 1)
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator) < share
    return torch.where(chosen, grown, images)


def load_images(name: str, root: Path, *, size: int, train: bool) -> Tensor:
    """Images ``(N, 1, size, size)`` in [0, 1], white on black, reduced by area.

    :param name: omniglot (background characters to train, evaluation characters else), mnist or fashion.
    :param root: folder of the data sets.
    :raises ValueError: for a size larger than the images.
    """
    from torchvision.datasets import MNIST, FashionMNIST, Omniglot

    if name == "omniglot":

        class Unpacked(Omniglot):  # type: ignore[misc]
            def _check_integrity(self) -> bool:
                # torchvision looks at the zip's checksum only; pictures unpacked by other means count too.
                return any(Path(self.root, self._get_target_folder()).glob("*/*/*.png"))

        data = Unpacked(str(root), background=train)
        pictures = [torch.from_numpy(np.array(image.convert("L"), dtype=np.uint8)) for image, _ in data]
        stack = 255 - torch.stack(pictures)
    else:
        kind = MNIST if name == "mnist" else FashionMNIST
        stack = kind(str(root), train=train, download=False).data
    if size > stack.shape[-1]:
        raise ValueError(f"size: wants at most {stack.shape[-1]} for {name}, got {size}")
    parts = [
        interpolate(part.unsqueeze(1).float() / 255, (size, size), mode="area") for part in torch.split(stack, 1000)
    ]
    return torch.cat(parts)
