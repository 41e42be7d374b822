"""Split MNIST whose test is a tenth of the training images, on which nothing is trained: to choose settings on.

    memplugins reproduce bench/presets/vae-variants.yaml --data-root DIR

From the root of the repository.
"""

from __future__ import annotations

from typing import Any

import torch
from avalanche.benchmarks import nc_benchmark
from torch.utils.data import TensorDataset
from torchvision.datasets import MNIST

from avalanche_memplugins.benchmarks.roots import data_root


def split_mnist(n_experiences: int = 5, *, seed: int) -> Any:
    """Digits in their order, pixels in [0, 1]; the same images are held out for every seed."""
    train = MNIST(str(data_root()), train=True)
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))
    parts = []
    for rows in (order[6_000:], order[:6_000]):
        data = TensorDataset(train.data[rows, None] / 255.0, train.targets[rows])
        data.targets = train.targets[rows].tolist()
        parts.append(data)
    return nc_benchmark(*parts, n_experiences, task_labels=False, fixed_class_order=list(range(10)))
