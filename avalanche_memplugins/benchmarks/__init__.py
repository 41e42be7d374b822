"""Benchmarks from data that is already on the machine: scikit-learn's digits, or files below a data root.

``split_mnist`` and its like are Avalanche's own, with all their options; ``split_mnist_tensors`` and its like give the
same rows, bit for bit, from memory: much faster, in three scenarios, without transforms of one's own.

Names are resolved on first use, so that listing the benchmarks does not import torch or Avalanche.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .digits_data import DigitsData, digits
    from .in_memory import (
        permuted_mnist_tensors,
        split_cifar10_features,
        split_fmnist_tensors,
        split_mnist_tensors,
    )
    from .local import permuted_mnist, split_cifar10, split_fmnist, split_mnist
    from .omniglot import split_omniglot
    from .permuted_digits import PermutedDigits
    from .registry import BENCHMARKS, BenchmarkInfo, get_benchmark
    from .roots import data_root
    from .split_digits import SplitDigits

_HOME = {
    "BENCHMARKS": "registry",
    "BenchmarkInfo": "registry",
    "DigitsData": "digits_data",
    "PermutedDigits": "permuted_digits",
    "SplitDigits": "split_digits",
    "data_root": "roots",
    "digits": "digits_data",
    "get_benchmark": "registry",
    "permuted_mnist": "local",
    "permuted_mnist_tensors": "in_memory",
    "split_cifar10": "local",
    "split_cifar10_features": "in_memory",
    "split_fmnist": "local",
    "split_fmnist_tensors": "in_memory",
    "split_mnist": "local",
    "split_mnist_tensors": "in_memory",
    "split_omniglot": "omniglot",
}

__all__ = [
    "BENCHMARKS",
    "BenchmarkInfo",
    "DigitsData",
    "PermutedDigits",
    "SplitDigits",
    "data_root",
    "digits",
    "get_benchmark",
    "permuted_mnist",
    "permuted_mnist_tensors",
    "split_cifar10",
    "split_cifar10_features",
    "split_fmnist",
    "split_fmnist_tensors",
    "split_mnist",
    "split_mnist_tensors",
    "split_omniglot",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
