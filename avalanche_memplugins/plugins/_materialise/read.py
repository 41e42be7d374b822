"""Read rows of a source into tensors: one vectorised pass where the source is known, else one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.benchmarks.classic.cmnist import PixelsPermutation
from avalanche.benchmarks.datasets.external_datasets.mnist import TensorMNIST
from avalanche.benchmarks.utils.classification_dataset import _TensorClassificationDataset
from avalanche.benchmarks.utils.transforms import TupleTransform
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate
from torchvision import datasets
from torchvision import transforms as v1
from torchvision.transforms import v2

from avalanche_memplugins._random import frozen_generators

from .known import code_of, flatten
from .resolve import Source, Unsupported

CHUNK = 512
CHECKED = 4

MNIST_LIKE = (datasets.MNIST, datasets.FashionMNIST, datasets.KMNIST, datasets.EMNIST)
CIFAR_LIKE = (datasets.CIFAR10, datasets.CIFAR100)
TENSOR_DATA = (TensorDataset, _TensorClassificationDataset)
TO_TENSOR = (v1.ToTensor, v2.ToTensor)
TO_BYTES = (v1.PILToTensor, v2.PILToTensor, v2.ToImage)
BATCHED = (
    v1.ConvertImageDtype,
    v1.Normalize,
    v2.ConvertImageDtype,
    v2.Identity,
    v2.Normalize,
    v2.ToDtype,
    v2.ToPureTensor,
    torch.nn.Identity,
)
"""Transforms whose result on a batch is their result on each image: arithmetic on single numbers."""


@dataclass
class Images:
    """A batch of what torchvision would have made PIL images of: uint8 ``(B, H, W, C)``."""

    bytes: Tensor


class Reader:
    """Reads rows of one source.

    The vectorised pass is trusted only after it gave, bit by bit, what the plain route gives on a few rows.

    :param source: where to read; its samples are the same each time.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.vectorised = _plan(source)
        self._checked = False

    def read(self, rows: Tensor, into: Tensor | None = None) -> list[Tensor]:
        """Read rows in order.

        :param rows: ``(n,)`` int64, ``n >= 1``; at most ``CHUNK`` keep the working memory small.
        :param into: where the first column is wanted; it comes to lie there only if that saves a copy.
        :returns: one tensor ``(n, ...)`` per element of a sample, as ``default_collate`` would make it.
        :raises Unsupported: if the samples do not collate to tensors of one shape.
        """
        if self.is_vectorised(rows) and self.vectorised is not None:
            return self.vectorised(rows, into)
        with frozen_generators():
            return _one_by_one(self.source, rows)

    def is_vectorised(self, rows: Tensor) -> bool:
        """Whether there is a vectorised pass, and it agrees with the plain route on the first of these rows."""
        if self.vectorised is not None and not self._checked:
            with frozen_generators():
                self._check(rows[:CHECKED])
        return self.vectorised is not None

    def _check(self, rows: Tensor) -> None:
        self._checked = True
        plain = _one_by_one(self.source, rows)
        try:
            agrees = self.vectorised is not None and _equal(self.vectorised(rows, None), plain)
        except (Unsupported, RuntimeError, TypeError, ValueError, IndexError):
            agrees = False
        if not agrees:
            self.vectorised = None


def _one_by_one(source: Source, rows: Tensor) -> list[Tensor]:
    samples = [source.sample(row) for row in rows.tolist()]
    try:
        columns = default_collate(samples)
    except (RuntimeError, TypeError) as error:
        raise Unsupported(f"its samples do not collate into tensors ({_first_line(error)})") from error
    for column in columns:
        if not isinstance(column, Tensor):
            raise Unsupported(f"its samples hold {type(column).__name__}, not only tensors and numbers")
    return list(columns)


def _plan(source: Source) -> Callable[[Tensor, Tensor | None], list[Tensor]] | None:
    """Build the vectorised pass for a known data set with known transforms; None for any other."""
    kind = code_of(source.data)
    inputs = flatten(getattr(source.data, "transform", None)) if kind not in TENSOR_DATA else []
    labels = flatten(getattr(source.data, "target_transform", None)) if kind not in TENSOR_DATA else []
    for step in source.chain:
        if type(step) is not TupleTransform or len(step.transforms) > 2:
            return None
        inputs += flatten(step.transforms[0])
        labels += flatten(step.transforms[1]) if len(step.transforms) > 1 else []
    look_up = _look_up(source.data)
    if look_up is None:
        return None
    if not all(type(atom) in (*TO_TENSOR, *TO_BYTES, *BATCHED, PixelsPermutation) for atom in inputs):
        return None

    def read(rows: Tensor, into: Tensor | None) -> list[Tensor]:
        x, y = look_up(rows, into)
        for atom in inputs:
            x = _apply(atom, x, into)
        if isinstance(x, Images):
            raise Unsupported("its samples hold PIL images")
        return [x, _label(y, labels, as_tensors=kind is TensorDataset) if labels else y]

    return read


def _look_up(data: Any) -> Callable[[Tensor, Tensor | None], tuple[Tensor | Images, Tensor]] | None:
    """A function that copies rows out of a known data set, so that what follows may work in place."""
    kind = code_of(data)
    if kind in TENSOR_DATA and len(data.tensors) == 2:
        x, y = data.tensors
        if kind is not TensorDataset and y.is_floating_point():
            return None
        labels = y if kind is TensorDataset else y.long()
        return lambda rows, into: (x.index_select(0, rows), labels.index_select(0, rows))
    if kind not in (TensorMNIST, *MNIST_LIKE, *CIFAR_LIKE, datasets.SVHN):
        return None
    pixels = torch.as_tensor(data.data)
    labels = torch.as_tensor(data.labels if kind is datasets.SVHN else data.targets).long()

    # index_select copies whole rows; indexing bytes with [] goes one by one and takes 18 times as long.
    def look_up(rows: Tensor, into: Tensor | None) -> tuple[Tensor | Images, Tensor]:
        x, y = pixels.index_select(0, rows), labels.index_select(0, rows)
        if kind is TensorMNIST:
            return _floats(x.unsqueeze(1), torch.float32, into).div_(255.0), y
        if kind in MNIST_LIKE:
            return Images(x.unsqueeze(3)), y
        return Images(x if kind in CIFAR_LIKE else x.permute(0, 2, 3, 1)), y

    return look_up


def _apply(atom: Any, x: Tensor | Images, into: Tensor | None) -> Tensor | Images:
    if isinstance(x, Images):
        planes = x.bytes.permute(0, 3, 1, 2).contiguous()
        if type(atom) in TO_TENSOR:
            return _floats(planes, torch.get_default_dtype(), into).div_(255)
        if type(atom) in TO_BYTES:
            return planes
        raise Unsupported(f"{type(atom).__name__} stands before the images become tensors")
    if type(atom) is PixelsPermutation:
        return x.flatten(1).index_select(1, torch.as_tensor(atom.permutation)).view_as(x)
    if type(atom) in TO_TENSOR or type(atom) in TO_BYTES[:2]:
        raise Unsupported(f"{type(atom).__name__} expected an image, got a tensor")
    if type(atom) in (v1.Normalize, v2.Normalize):
        normalise = v1.functional.normalize if type(atom) is v1.Normalize else v2.functional.normalize
        normalised: Tensor = normalise(x, list(atom.mean), list(atom.std), inplace=True)
        return normalised
    out: Tensor = atom(x)
    return out


def _floats(pixels: Tensor, dtype: torch.dtype, into: Tensor | None) -> Tensor:
    fits = into is not None and into.shape == pixels.shape and into.dtype == dtype and into.device == pixels.device
    return into.copy_(pixels) if into is not None and fits else pixels.to(dtype)


def _label(y: Tensor, transforms: list[Any], as_tensors: bool) -> Tensor:
    """Send integer labels through their transforms: once per distinct label."""
    if y.ndim != 1 or y.is_floating_point():
        raise Unsupported("its labels are no integers")
    values, place = torch.unique(y, return_inverse=True)
    mapped = []
    for value in values if as_tensors else values.tolist():
        for transform in transforms:
            value = transform(value)
        mapped.append(value)
    table: Tensor = default_collate(mapped)
    return table[place]


def lies_in_tensors(data: Any) -> bool:
    """Whether a known data set's rows are torch's tensors, which tell by their version whether they were changed."""
    return code_of(data) in TENSOR_DATA or isinstance(getattr(data, "data", None), Tensor)


def _equal(fast: list[Tensor], plain: list[Tensor]) -> bool:
    return len(fast) == len(plain) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b) for a, b in zip(fast, plain, strict=True)
    )


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
