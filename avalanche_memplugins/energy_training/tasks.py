"""What energy networks train on: patterns in episodes, and damaged cues."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d, one_hot, pad

from avalanche_memplugins.benchmarks.digits_data import digits
from avalanche_memplugins.benchmarks.roots import data_root
from avalanche_memplugins.codecs import LatentCodec
from avalanche_memplugins.functional.episodes import corrupt_strings, erase_block, image_episodes, string_episodes
from avalanche_memplugins.memories import EnergyMemory

from .options import EnergyTraining

HELD_OUT = 0.1
CODEC = "omniglot28-vae"
THUMBNAIL = 4  # by which a thumbnail's side is smaller


class Task(ABC):
    """A source of episodes: :meth:`episodes` returns patterns ``(E, N, D)``, :meth:`cues` damages them."""

    size: int
    """D, the length of a pattern."""
    images: Tensor | None = None
    """Patterns ``(M, ...)`` whose statistics are used for whitening."""

    @abstractmethod
    def episodes(self, episodes: int, patterns: int, *, generator: torch.Generator) -> Tensor:
        """Patterns ``(E, N, D)`` in [0, 1]."""

    @abstractmethod
    def cues(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """Damaged patterns ``(E, N, D)``."""


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


class Codes(Task):
    """Codes of an auto-encoder, scaled from [-3, 3] standard deviations to [0, 1]; cues are their signs, as 0 or 1."""

    def __init__(self, codes: Tensor) -> None:
        self.codes = (codes / (2 * EnergyMemory.CODE_SPAN) + 0.5).clamp(0, 1)
        self.size = codes.shape[1]

    def episodes(self, episodes: int, patterns: int, *, generator: torch.Generator) -> Tensor:
        """Codes of the pool, none twice in an episode."""
        return image_episodes(self.codes, episodes, patterns, generator=generator)

    def cues(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """Signs only."""
        return (x >= 0.5).to(x)


class Images(Task):
    """Images of a pool; a block of half the side erased to 0, or a thumbnail enlarged.

    :param images: ``(M, 1, S, S)``.
    :param cue: ``"block"``, ``"thumbnail"`` or ``"both"``.
    :param label_bits: classes, drawn at random, to remember with the images: one-hot behind the pixels, 0.5 in cues.
    :param labels: ``(M,)``, classes of the images; needed for ``classes``.
    :param classes: draw each episode's images from so many classes; 0: from all.
    """

    def __init__(
        self, images: Tensor, cue: str, label_bits: int = 0, *, labels: Tensor | None = None, classes: int = 0
    ) -> None:
        self.pool, self.cue, self.label_bits = images, cue, label_bits
        self.classes = classes
        self.rows: list[Tensor] = []
        if classes:
            if labels is None:
                raise ValueError("labels: expected some, since classes are given, got None")
            self.rows = [(labels == label).nonzero()[:, 0] for label in torch.unique(labels)]
            if classes > len(self.rows):
                raise ValueError(f"classes: expected at most the {len(self.rows)} of the images, got {classes}")
        self.side = images.shape[-1]
        self.size = self.side**2 + label_bits
        self.images = images
        if label_bits:
            spread = torch.arange(len(images)) % label_bits
            self.images = torch.cat([images.flatten(1), one_hot(spread, label_bits).to(images)], 1)

    def episodes(self, episodes: int, patterns: int, *, generator: torch.Generator) -> Tensor:
        """Images of the pool, none twice in an episode."""
        if self.classes:
            x = torch.cat([self._of_few(patterns, generator) for _ in range(episodes)])
        else:
            x = image_episodes(self.pool, episodes, patterns, generator=generator)
        if not self.label_bits:
            return x
        drawn = torch.randint(self.label_bits, x.shape[:2], generator=generator)
        return torch.cat([x, one_hot(drawn, self.label_bits).to(x)], -1)

    def _of_few(self, patterns: int, generator: torch.Generator) -> Tensor:
        """An episode of images of some classes drawn."""
        chosen = torch.randperm(len(self.rows), generator=generator)[: self.classes]
        pool = self.pool[torch.cat([self.rows[label] for label in chosen.tolist()])]
        return image_episodes(pool, 1, patterns, generator=generator)

    def cues(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """As the cue says; of both, one episode in two has thumbnails."""
        if self.label_bits:
            pixels = self._damaged(x[..., : -self.label_bits], generator=generator)
            return torch.cat([pixels, torch.full_like(x[..., -self.label_bits :], 0.5)], -1)
        return self._damaged(x, generator=generator)

    def _damaged(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
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
        images, labels = digits().x_train, digits().y_train
    else:
        root = data_root(options.data_root)
        if root is None:
            raise ValueError("data_root: expected the folder of the data sets (or MEMPLUGINS_DATA), got None")
        if options.data == "codes" and options.size != 28:
            raise ValueError(f"size: the codes are those of images of 28 x 28, got {options.size}")
        name = "omniglot" if options.data == "codes" else options.data
        try:
            images, labels = load_images(name, root, size=options.size, train=True)
        except (RuntimeError, OSError) as problem:
            raise ValueError(f"data: {name} cannot be read from {root}: {problem}") from problem
    generator = torch.Generator().manual_seed(0)  # the same images are held out whatever the seed
    if options.classes:
        # Whole classes are held out where an episode is of few.
        known = torch.unique(labels)
        out = torch.isin(labels, known[torch.randperm(len(known), generator=generator)[: held_out_of(len(known))]])
        parted = [(images[~out], labels[~out]), (images[out], labels[out])]
    else:
        order = torch.randperm(len(images), generator=generator)
        cut = held_out_of(len(images))
        parted = [(images[rows], labels[rows]) for rows in (order[cut:], order[:cut])]
    (train, train_labels), (held_out, held_out_labels) = parted
    if options.thicken:
        train = thickened(train, options.thicken, generator, pixels=options.thicken_pixels)
    if options.data == "codes":
        codec = LatentCodec.from_pretrained(CODEC, precision="float32")
        parts = [torch.cat([codec.to_latent(p) for p in torch.split(pool, 1000)]) for pool in (train, held_out)]
        return Codes(parts[0]), Codes(parts[1])
    return (
        Images(train, options.cue, options.label_bits, labels=train_labels, classes=options.classes),
        Images(held_out, options.cue, options.label_bits, labels=held_out_labels, classes=options.classes),
    )


def held_out_of(count: int) -> int:
    """How many of so many are held out."""
    return int(HELD_OUT * count)


def thickened(images: Tensor, share: float, generator: torch.Generator, *, pixels: int = 1) -> Tensor:
    """Images, a share of them with strokes grown by 1 to ``pixels`` pixels to the right and below."""
    draw = torch.rand(len(images), 1, 1, 1, generator=generator)
    out = images
    for pixel in range(1, pixels + 1):
        grown = max_pool2d(pad(images, (pixel, 0, pixel, 0)), pixel + 1, 1)
        out = torch.where((draw >= share * (pixel - 1) / pixels) & (draw < share * pixel / pixels), grown, out)
    return out


def load_images(name: str, root: Path, *, size: int, train: bool) -> tuple[Tensor, Tensor]:
    """Images ``(N, 1, size, size)`` in [0, 1], white on black, reduced by area; and their classes ``(N,)``.

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
        pairs = [(torch.from_numpy(np.array(image.convert("L"), dtype=np.uint8)), label) for image, label in data]
        stack, labels = 255 - torch.stack([picture for picture, _ in pairs]), torch.tensor([y for _, y in pairs])
    else:
        kind = MNIST if name == "mnist" else FashionMNIST
        of = kind(str(root), train=train, download=False)
        stack, labels = of.data, of.targets
    if size > stack.shape[-1]:
        raise ValueError(f"size: expected at most {stack.shape[-1]} for {name}, got {size}")
    parts = [
        interpolate(part.unsqueeze(1).float() / 255, (size, size), mode="area") for part in torch.split(stack, 1000)
    ]
    return torch.cat(parts), labels
