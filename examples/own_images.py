"""Your own images, your own method, beside Avalanche's replay and the library's: one comparison.

    python examples/own_images.py                 # draws 250 small images, 10 classes
    python examples/own_images.py --images DIR    # one folder a class, as torchvision's ImageFolder

On the command line this is

    memplugins compare --benchmarks folder:DIR --experiences 10 --image-size 32 --model torchvision:resnet18 \
        --strategies naive replay er er:codec=uint8 examples/own_images.py:newest --memory-size 100 --epochs 5
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from avalanche.training import Naive
from PIL import Image

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.lab import Comparison, compare


def newest(setup: Any, replay_size: int = 32) -> Any:
    """A method of your own: replay of the newest rows only."""
    memory = RandomMemory(setup.rows(), write_policy="ring", seed=setup.spec.seed)
    return Naive(**setup.extended(MemoryReplayPlugin(memory, replay_size=replay_size, seed=setup.spec.seed)))


@dataclass
class Options:
    """What to compare."""

    images: Path | None = None
    """Folder of images; by default some are drawn."""
    size: int = 32
    """Side to which they are scaled."""
    model: str = "torchvision:resnet18"
    seeds: int = 3
    epochs: int = 5
    out: Path = Path("results/own-images")


def draw(folder: Path, classes: int = 10, each: int = 25) -> Path:
    """Small images with a blob whose colour and place tell the class."""
    noise = np.random.default_rng(0)
    for label in range(classes):
        place = folder / f"class-{label}"
        place.mkdir(parents=True)
        for k in range(each):
            pixels = noise.integers(0, 90, (32, 32, 3))
            row, column = 2 + 5 * (label % 5), 4 + 14 * (label // 5)
            pixels[row : row + 8, column : column + 8, label % 3] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{k:03}.png")
    return folder


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory() as drawn:
        folder = options.images or draw(Path(drawn))
        compare(
            Comparison(
                benchmarks=(f"folder:{folder}",),
                experiences=10 if options.images is None else None,
                image_size=options.size,
                model=options.model,
                strategies=("naive", "replay", "er", "er:codec=uint8", f"{Path(__file__)}:newest"),
                memory_size=100,
                seeds=options.seeds,
                epochs=options.epochs,
                out=options.out,
            )
        )
