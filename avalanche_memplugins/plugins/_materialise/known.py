"""Tell by the code that makes a sample whether it is the same each time: what is not listed here is not known to be."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import PurePath
from types import CodeType
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.classic.cmnist import PixelsPermutation
from avalanche.benchmarks.datasets import CORe50Dataset, OpenLORIS, TinyImagenet
from avalanche.benchmarks.datasets.external_datasets.mnist import TensorMNIST
from avalanche.benchmarks.utils.classification_dataset import _TensorClassificationDataset, lookup
from avalanche.benchmarks.utils.datasets_from_filelists import PathsDataset, default_image_loader
from avalanche.benchmarks.utils.transforms import (
    MultiParamCompose,
    MultiParamTransformCallable,
    TupleTransform,
)
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset
from torchvision import datasets, tv_tensors
from torchvision import transforms as v1
from torchvision.datasets.folder import accimage_loader, default_loader, pil_loader
from torchvision.transforms import v2

from avalanche_memplugins.benchmarks.byte_rows import ByteRows

DATA = (
    ByteRows,
    CORe50Dataset,
    OpenLORIS,
    PathsDataset,
    TensorDataset,
    TensorMNIST,
    TinyImagenet,
    _TensorClassificationDataset,
    datasets.CIFAR10,
    datasets.Caltech256,
    datasets.DTD,
    datasets.DatasetFolder,
    datasets.EuroSAT,
    datasets.FER2013,
    datasets.FGVCAircraft,
    datasets.FakeData,
    datasets.Flowers102,
    datasets.Food101,
    datasets.GTSRB,
    datasets.Imagenette,
    datasets.MNIST,
    datasets.Omniglot,
    datasets.QMNIST,
    datasets.RenderedSST2,
    datasets.SEMEION,
    datasets.STL10,
    datasets.SUN397,
    datasets.SVHN,
    datasets.StanfordCars,
    datasets.USPS,
)
"""Classes that only look up a row or open an image; classes derived from them count where they leave that alone."""

ABSTRACT = (Dataset, datasets.VisionDataset)
"""Bases whose ``__getitem__`` only says that there is none."""

TRANSFORMS = (
    PixelsPermutation,
    torch.nn.Flatten,
    torch.nn.Identity,
    torch.nn.Unflatten,
    v1.CenterCrop,
    v1.ConvertImageDtype,
    v1.FiveCrop,
    v1.Grayscale,
    v1.LinearTransformation,
    v1.Normalize,
    v1.PILToTensor,
    v1.Pad,
    v1.Resize,
    v1.TenCrop,
    v1.ToPILImage,
    v1.ToTensor,
    v2.CenterCrop,
    v2.ConvertImageDtype,
    v2.FiveCrop,
    v2.Grayscale,
    v2.Identity,
    v2.LinearTransformation,
    v2.Normalize,
    v2.PILToTensor,
    v2.Pad,
    v2.RGB,
    v2.Resize,
    v2.TenCrop,
    v2.ToDtype,
    v2.ToImage,
    v2.ToPILImage,
    v2.ToPureTensor,
    v2.ToTensor,
)
"""Transforms that depend on their input alone. Exact types: a subclass may do anything."""

FUNCTIONS = (
    float,
    int,
    lookup,
    np.array,
    np.asarray,
    torch.as_tensor,
    torch.flatten,
    torch.from_numpy,
    torch.tensor,
    v1.functional.pil_to_tensor,
    v1.functional.to_tensor,
    v2.functional.pil_to_tensor,
    v2.functional.to_image,
)
LOADERS = (accimage_loader, default_image_loader, default_loader, pil_loader)

PLAIN = (
    *(type(None), bool, bytes, dict, float, int, list, range, str, tuple),
    *(Tensor, torch.nn.Parameter, tv_tensors.Image, np.ndarray, np.memmap),
)
"""Exact types whose items are the same at each look."""

_WRAPPERS = (MultiParamCompose, TupleTransform, v1.Compose, v2.Compose)
_ROTATIONS = (v1.RandomRotation, v2.RandomRotation)
_PASSED_BY = ("__getattr__", "__getattribute__", "__getitem__", "__getitems__", "__len__", "set_epoch")
_BY_VALUE = 1024


class Same:
    """Stands for an object in a key: equal to itself only, and keeps it alive, or another could take its place."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def flatten(step: object) -> list[Any]:
    """Take known wrappers off a transform: Avalanche's tuples and compositions, others' sequences."""
    if step is None:
        return []
    inner = _wrapped(step)
    return [step] if inner is None else [atom for part in inner for atom in flatten(part)]


def code_of(data: object) -> type:
    """The class whose ``__getitem__`` reads the rows of a known data set; for any other its own class."""
    kind: type = type(data)
    return _reader(kind) or kind


def why_unknown(data: object, chain: tuple[Any, ...]) -> str | None:
    """Explain why samples must not be read once and kept; None if they may be.

    Nothing is read: randomness that only a rare row meets would not show.

    :param data: the underlying data set.
    :param chain: transforms between it and the experience.
    :returns: a clause that completes "... because", or None.
    """
    unknown = [] if _is_known_data(data) else [f"the data set {_name(data)}"]
    own = (getattr(data, name, None) for name in ("transform", "target_transform"))
    atoms = [atom for step in (*own, *chain) for atom in flatten(step)]
    unknown += [f"the transform {_name(atom)}" for atom in atoms if not _is_known_transform(atom)]
    if not unknown:
        return None
    names = list(dict.fromkeys(unknown))
    listed = ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]
    return f"{listed} {'are' if len(names) > 1 else 'is'} not known to give the same result every time"


def state_of_data(data: Any) -> tuple[Any, ...]:
    """What a data set's rows depend on, to tell by comparison whether it has been changed since.

    Of a data set that is not known it is the object and its length.
    """
    kind: type = type(data)
    reader = _reader(kind)
    held = getattr(data, "__dict__", {})
    names = sorted(_names_read(reader) & held.keys()) if reader is not None else []
    state = ((name, _token(held[name])) for name in names if name not in ("transform", "target_transform"))
    return (Same(data), len(data), *state)


def state_of_step(step: object) -> Any:
    """What a transform's result depends on; Avalanche wraps one anew whenever groups are frozen or replaced."""
    if step is None:
        return None
    inner = _wrapped(step)
    if inner is not None:
        return (type(step).__name__, *(state_of_step(part) for part in inner))
    if isinstance(step, functools.partial):
        return (Same(step.func), *map(_token, step.args), *((k, _token(v)) for k, v in step.keywords.items()))
    if type(step) in (*TRANSFORMS, *_ROTATIONS):
        state = tuple((k, _token(v)) for k, v in vars(step).items() if not k.startswith("_"))
        # Two of one class with the same plain arguments do the same: one block serves training and evaluation.
        alike = type(step) in TRANSFORMS and not _is_hooked(step)
        return (type(step) if alike else Same(step), *state)
    return Same(step)


def _wrapped(step: Any) -> list[Any] | None:
    """The transforms within a wrapper, in order; None for what is none."""
    if type(step) in _WRAPPERS and not _is_hooked(step):
        return list(step.transforms)
    if type(step) is torch.nn.Sequential and not _is_hooked(step):
        return list(step)
    if type(step) is MultiParamTransformCallable:
        return [step.transform]
    return None


def _is_known_transform(atom: Any) -> bool:
    if isinstance(atom, functools.partial):
        given = (*atom.args, *atom.keywords.values())
        return type(atom) is functools.partial and atom.func in FUNCTIONS and all(map(_is_plain, given))
    if type(atom) in _ROTATIONS:
        return bool(atom.degrees[0] == atom.degrees[1]) and not isinstance(atom.fill, dict) and not _is_hooked(atom)
    if type(atom) in TRANSFORMS:
        return not getattr(atom, "inplace", False) and not _is_hooked(atom)
    return any(atom is function for function in FUNCTIONS)


def _is_hooked(step: object) -> bool:
    """Whether a module does more, or other things, than its class says."""
    own = vars(step)
    return any(own.get(name) for name in ("forward", "_forward_hooks", "_forward_pre_hooks"))


def _is_known_data(data: object) -> bool:
    kind: type = type(data)
    if kind in (list, tuple):
        return True
    reader = _reader(kind)
    if reader is None or hasattr(data, "set_epoch"):
        return False
    held = getattr(data, "__dict__", {})
    read = _names_read(reader) - {"transform", "target_transform"}
    return all(_is_plain(held[name]) or any(held[name] is one for one in LOADERS) for name in read & held.keys())


def _is_plain(value: Any) -> bool:
    if isinstance(value, PurePath):
        return True
    if type(value) in (tuple, list) and len(value) <= _BY_VALUE:
        return all(map(_is_plain, value))
    return type(value) in PLAIN or isinstance(value, np.generic | torch.dtype)


@functools.lru_cache(maxsize=256)
def _reader(kind: type) -> type | None:
    """The listed class whose ``__getitem__`` a class has, if nothing that it reads is overridden on the way."""
    lineage = kind.__mro__
    readers = [one for one in lineage if "__getitem__" in vars(one)]
    if not readers or readers[0] not in DATA or not all(one in (*DATA, *ABSTRACT) for one in readers):
        return None
    reader = readers[0]
    fixed = {*_names_read(reader), *_PASSED_BY}
    derived = [one for one in lineage[: lineage.index(reader)] if one not in DATA]
    if any(fixed & vars(one).keys() for one in derived):
        return None
    return reader


@functools.lru_cache(maxsize=256)
def _names_read(kind: type) -> frozenset[str]:
    """Names that a class's ``__getitem__`` reads, through its own methods and properties, and others that it uses."""
    names: set[str] = set()
    new = {"__getitem__"}
    while new:
        found = (vars(one).get(name) for name in new for one in kind.__mro__)
        new = {name for value in found for name in _names_in(_code(value))} - names
        names |= new
    return frozenset(names)


def _code(value: Any) -> CodeType | None:
    function: Callable[..., Any] | None = value.fget if isinstance(value, property) else value
    return getattr(function, "__code__", None)


def _names_in(code: CodeType | None) -> set[str]:
    if code is None:
        return set()
    nested = (_names_in(part) for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*nested)


def _token(value: Any) -> Any:
    """Equal before and after only if ``value`` is the same and, as far as can be told at no cost, unchanged."""
    if isinstance(value, Tensor):
        return (Same(value), None if value.is_inference() else value._version)
    if type(value) in (list, tuple) and len(value) <= _BY_VALUE:
        return tuple(map(_token, value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return (Same(value), len(value)) if type(value) in (dict, list, tuple) else Same(value)


def _name(thing: object) -> str:
    if isinstance(thing, functools.partial):
        return _name(thing.func)
    name = getattr(thing, "__qualname__", None) or type(thing).__name__
    return f"{name}(inplace=True)" if getattr(thing, "inplace", False) is True else str(name)
