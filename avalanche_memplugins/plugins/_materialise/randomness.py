"""Tell whether a source yields the same sample every time: a list of known transforms first, else a probe."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.classic.cmnist import PixelsPermutation
from avalanche.benchmarks.datasets.external_datasets.mnist import TensorMNIST
from avalanche.benchmarks.utils.classification_dataset import _TensorClassificationDataset, lookup
from avalanche.benchmarks.utils.transforms import (
    MultiParamCompose,
    MultiParamTransformCallable,
    TupleTransform,
)
from torch.utils.data import TensorDataset
from torchvision import datasets
from torchvision import transforms as v1
from torchvision.transforms import v2

from .resolve import Source

PROBES = 8

PLAIN_DATA = (
    TensorMNIST,
    TensorDataset,
    _TensorClassificationDataset,
    datasets.MNIST,
    datasets.FashionMNIST,
    datasets.KMNIST,
    datasets.EMNIST,
    datasets.CIFAR10,
    datasets.CIFAR100,
    datasets.SVHN,
    datasets.Omniglot,
)
"""Data sets whose own ``__getitem__`` only looks up; a subclass may do more, so the exact type counts."""

DETERMINISTIC = (
    PixelsPermutation,
    torch.nn.Identity,
    torch.nn.Flatten,
    v1.ToTensor,
    v1.PILToTensor,
    v1.ToPILImage,
    v1.ConvertImageDtype,
    v1.Normalize,
    v1.Resize,
    v1.CenterCrop,
    v1.Pad,
    v1.Grayscale,
    v2.ToTensor,
    v2.PILToTensor,
    v2.ToPILImage,
    v2.ToImage,
    v2.ToDtype,
    v2.ToPureTensor,
    v2.ConvertImageDtype,
    v2.Normalize,
    v2.Resize,
    v2.CenterCrop,
    v2.Pad,
    v2.Grayscale,
    v2.RGB,
    v2.Identity,
)
"""Transforms that depend on their input alone; exact types, as above."""


def flatten(step: Any) -> list[Any]:
    """Take wrappers off a transform: Avalanche's tuples and compositions, others' sequences."""
    if step is None:
        return []
    if isinstance(step, TupleTransform | MultiParamCompose) or type(step) in (v1.Compose, v2.Compose):
        return [atom for inner in step.transforms for atom in flatten(inner)]
    if type(step) is torch.nn.Sequential:
        return [atom for inner in step for atom in flatten(inner)]
    if type(step) is MultiParamTransformCallable:
        return flatten(step.transform)
    return [step]


def is_known(atom: Any) -> bool:
    """Say whether one transform is known to be deterministic."""
    if isinstance(atom, functools.partial):
        return atom.func is lookup
    if type(atom) in (v1.RandomRotation, v2.RandomRotation):
        return bool(atom.degrees[0] == atom.degrees[1] and not isinstance(atom.fill, dict))
    return type(atom) in DETERMINISTIC and not getattr(atom, "inplace", False)


def why_random(source: Source) -> str | None:
    """Explain why a source must not be read once and kept; None if it may be.

    Transforms and data sets that are not on the list are probed: some samples are read twice under
    different states of Python's, numpy's and torch's generators. They must agree, and must not have drawn a
    single random number.

    :param source: what to judge; a few of its samples may be read.
    :returns: a clause that completes "... because", or None.
    """
    unknown = [atom for atom in atoms_of(source) if not is_known(atom)]
    if type(source.data) not in PLAIN_DATA:
        unknown.append(source.data)
    if not unknown or not len(source.data):
        return None
    names = ", ".join(sorted({_name(atom) for atom in unknown}))
    size = len(source.data)
    with frozen_generators():
        for number in range(min(PROBES, size)):
            row = number * size // min(PROBES, size)
            first, drew_first = _read(source, row, seed=2 * number)
            second, drew_second = _read(source, row, seed=2 * number + 1)
            if drew_first or drew_second:
                return f"reading a sample drew random numbers ({names})"
            if not _same(first, second):
                return f"reading a sample twice gave two results ({names})"
    return None


def atoms_of(source: Source) -> list[Any]:
    """List every single transform that a source's samples pass, the data set's own included."""
    own = [getattr(source.data, name, None) for name in ("transform", "target_transform")]
    return [atom for step in (*own, *source.chain) for atom in flatten(step)]


@contextmanager
def frozen_generators() -> Iterator[None]:
    """Leave Python's, numpy's and torch's generators as they were found.

    Materialising happens once, or not at all where the tensors are at hand already: neither may shift a
    run's numbers.
    """
    state = _states()
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])  # noqa: NPY002 - transforms use the global generator
        torch.set_rng_state(state[2])


def _states() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def _read(source: Source, row: int, seed: int) -> tuple[list[Any], bool]:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    before = _states()
    sample = copy.deepcopy(source.sample(row))  # may be a view of data that a transform changes in place
    after = _states()
    return sample, not all(_same(old, new) for old, new in zip(before, after, strict=True))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    try:
        return bool(np.array_equal(np.asarray(a), np.asarray(b)))
    except (TypeError, ValueError):
        return bool(a == b)


def _name(atom: Any) -> str:
    if isinstance(atom, functools.partial):
        return _name(atom.func)
    return getattr(atom, "__qualname__", None) or type(atom).__name__
