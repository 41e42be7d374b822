"""Small stand-ins for the data sets that the tensor loader knows, and a reader that goes Avalanche's way."""

from __future__ import annotations

import numpy as np
import torch
from avalanche.benchmarks import benchmark_from_datasets, nc_benchmark
from avalanche.benchmarks.classic.cmnist import PixelsPermutation
from avalanche.benchmarks.datasets.external_datasets.mnist import TensorMNIST
from avalanche.benchmarks.utils import (
    AvalancheDataset,
    DefaultTransformGroups,
    _make_taskaware_classification_dataset,
    as_classification_dataset,
    make_avalanche_dataset,
)
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets
from torchvision import transforms as v1


def images(kind, n=60, classes=4, seed=0):
    """Fill a torchvision data set with random images, without files."""
    generator = np.random.default_rng(seed)
    data = kind.__new__(kind)
    data.transform = data.target_transform = None
    labels = np.arange(n) % classes
    if issubclass(kind, datasets.CIFAR10):
        data.data = generator.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
        data.targets = labels.tolist()
    elif kind is datasets.SVHN:
        data.data = generator.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8)
        data.labels = labels
        data.targets = labels.tolist()
    else:
        data.data = torch.from_numpy(generator.integers(0, 256, (n, 8, 8), dtype=np.uint8))
        data.targets = torch.from_numpy(labels)
    return data


def colours(n=60, classes=4, seed=0):
    """Give a TensorDataset with labels, as users make them."""
    generator = torch.Generator().manual_seed(seed)
    data = TensorDataset(torch.rand(n, 3, 4, 4, generator=generator), torch.arange(n) % classes)
    data.targets = data.tensors[1].tolist()
    return data


def split(data, transform=None, *, experiences=2, task_labels=False, **kw):
    """Split by classes, train and test stream alike: batches are [x, y, t]."""
    return nc_benchmark(
        data, data, experiences, task_labels, seed=1, train_transform=transform, eval_transform=transform, **kw
    )


def permuted(n=40):
    """Build PermutedMNIST's tree of transforms over one tiny data set."""
    generator = torch.Generator().manual_seed(3)
    raw = images(TensorMNIST, n)
    parts = [
        make_avalanche_dataset(
            _make_taskaware_classification_dataset(raw),
            frozen_transform_groups=DefaultTransformGroups(
                (PixelsPermutation(torch.randperm(64, generator=generator)), None)
            ),
        )
        for _ in range(3)
    ]
    return nc_benchmark(
        parts,
        parts,
        3,
        False,
        shuffle=False,
        class_ids_from_zero_in_each_exp=True,
        one_dataset_per_exp=True,
        train_transform=v1.Normalize((0.13,), (0.3,)),
        eval_transform=v1.Normalize((0.13,), (0.3,)),
    )


def without_tasks(data=None, experiences=2):
    """Build a benchmark from plain classification data sets: batches are [x, y]."""
    parts = [as_classification_dataset(data or colours(seed=n)) for n in range(experiences)]
    return benchmark_from_datasets(train=parts, test=parts)


def plain(dataset: AvalancheDataset):
    """Read a data set through a plain DataLoader, in order, whole."""
    loader = DataLoader(dataset, batch_size=7, collate_fn=dataset.collate_fn)
    return [torch.cat(column) for column in zip(*loader, strict=True)]


def naive(model=None, plugins=(), size=8, epochs=1, lr=0.1, **kw):
    torch.manual_seed(0)
    model = model or torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(4))
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr),
        train_mb_size=size,
        eval_mb_size=size,
        train_epochs=epochs,
        plugins=list(plugins),
        evaluator=kw.pop("evaluator", None) or EvaluationPlugin(accuracy_metrics(stream=True)),
        **kw,
    )
