"""Avalanche's classic benchmarks, opened from a folder of this machine.

Nothing is downloaded when the files are there; when they are not, torchvision downloads them into the folder.

Rows go through PIL and transforms each time they are read. Where the transforms are the usual ones,
``split_mnist_tensors`` and its like (:mod:`.in_memory`) give the same rows, bit for bit, without either, and in all
three scenarios.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avalanche.benchmarks import NCScenario
from avalanche.benchmarks.classic import PermutedMNIST, SplitCIFAR10, SplitFMNIST, SplitMNIST

from .roots import data_root as find_root


def split_mnist(n_experiences: int = 5, *, data_root: str | Path | None = None, **options: Any) -> NCScenario:
    """Avalanche's ``SplitMNIST``: 60,000 + 10,000 images ``(1, 28, 28)``, mean 0.1307 and std 0.3081 taken out.

    :param n_experiences: number of experiences, a divisor of 10.
    :param data_root: folder with ``MNIST/raw``; see :func:`.data_root`.
    :param options: further keywords of Avalanche's function: ``seed``, ``return_task_id``, ...
    :raises ValueError: if the folder does not exist.

    >>> benchmark = split_mnist(5, seed=0)  # from the folder that MEMPLUGINS_DATA names
    >>> len(benchmark.train_stream)
    5
    """
    return SplitMNIST(n_experiences, dataset_root=find_root(data_root), **options)


def permuted_mnist(n_experiences: int = 10, *, data_root: str | Path | None = None, **options: Any) -> NCScenario:
    """Avalanche's ``PermutedMNIST``: all ten classes in each experience, under a permutation of the pixels.

    :param n_experiences: number of permutations.
    :param data_root: folder with ``MNIST/raw``; see :func:`.data_root`.
    :param options: further keywords of Avalanche's function: ``seed``, ``return_task_id``, ...
    :raises ValueError: if the folder does not exist.

    >>> benchmark = permuted_mnist(2, seed=0)  # from the folder that MEMPLUGINS_DATA names
    >>> len(benchmark.train_stream)
    2
    """
    return PermutedMNIST(n_experiences, dataset_root=find_root(data_root), **options)


def split_fmnist(n_experiences: int = 5, *, data_root: str | Path | None = None, **options: Any) -> NCScenario:
    """Avalanche's ``SplitFMNIST``: 60,000 + 10,000 images ``(1, 28, 28)``, mean 0.2860 and std 0.3530 taken out.

    :param n_experiences: number of experiences, a divisor of 10.
    :param data_root: folder with ``FashionMNIST/raw``; see :func:`.data_root`.
    :param options: further keywords of Avalanche's function: ``seed``, ``return_task_id``, ...
    :raises ValueError: if the folder does not exist.

    >>> benchmark = split_fmnist(5, seed=0)  # from the folder that MEMPLUGINS_DATA names
    >>> len(benchmark.train_stream)
    5
    """
    return SplitFMNIST(n_experiences, dataset_root=find_root(data_root), **options)


def split_cifar10(n_experiences: int = 5, *, data_root: str | Path | None = None, **options: Any) -> NCScenario:
    """Avalanche's ``SplitCIFAR10``: 50,000 + 10,000 images ``(3, 32, 32)``; training crops and flips at random.

    :param n_experiences: number of experiences, a divisor of 10.
    :param data_root: folder with ``cifar-10-batches-py``; see :func:`.data_root`.
    :param options: further keywords of Avalanche's function: ``seed``, ``return_task_id``, ...
    :raises ValueError: if the folder does not exist.

    >>> split_cifar10(5, data_root="not there")
    Traceback (most recent call last):
    ValueError: data_root: ...
    """
    return SplitCIFAR10(n_experiences, dataset_root=find_root(data_root), **options)
