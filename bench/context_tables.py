"""Count the pixel contexts of Omniglot and of photographs in grey: the tables that ``EntropyCoded`` comes with.

    python bench/context_tables.py --data DIR --out avalanche_memplugins/pretrained/contexts/tables.safetensors

With Omniglot and CIFAR-10 below DIR. A minute on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from _common import DataOptions, launch
from _images import omniglot
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate

from avalanche_memplugins.functional import count_contexts, fit_probabilities
from avalanche_memplugins.functional.context_model import round_probabilities

SIDES = {1: (28,), 2: (14, 28), 4: (14, 28)}
"""Of the images that are counted, by bits a pixel: 1-bit images are kept whole, others are mostly reduced."""


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """Where the tables go."""

    out: Path = Path("results/contexts.safetensors")
    photographs: int = 20_000


def grey_photographs(root: Path, count: int) -> Tensor:
    """CIFAR-10's first training images in grey, ``(N, 1, 32, 32)`` in [0, 1]."""
    from torchvision.datasets import CIFAR10

    colour = torch.from_numpy(CIFAR10(str(root), train=True).data[:count]).float() / 255
    return (colour @ torch.tensor([0.299, 0.587, 0.114]))[:, None]


def counted(images: Tensor, bits: int, side: int) -> Tensor:
    """How often contexts were followed by 0 and by 1, ``(contexts, 2)``."""
    top = (1 << bits) - 1
    small = interpolate(images, (side, side), mode="area") if images.shape[-1] != side else images
    return count_contexts((small * top + 0.5).floor().clamp(0, top).to(torch.uint8), bits)


def main(options: Options) -> None:
    """Count, and write levels of probabilities as uint8, one tensor a table and number of bits."""
    strokes, _ = omniglot(options.data, background=True)
    strokes = strokes[: options.least(len(strokes), 100)]
    photographs = grey_photographs(options.data, options.least(options.photographs, 100))
    tables = {}
    for bits, sides in SIDES.items():
        lines, greys = (sum(counted(x, bits, side) for side in sides) for x in (strokes, photographs))
        for name, counts in (("omniglot", lines), ("grey", greys), ("mixed", lines + greys)):
            tables[f"{name}-{bits}"] = round_probabilities(fit_probabilities(counts))
    if not options.quick:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        save_file(tables, options.out)
    print(f"{options.out}: {sum(table.nbytes for table in tables.values())} bytes of tables")


if __name__ == "__main__":
    launch(main, Options, __doc__)
