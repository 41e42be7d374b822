"""The ``Normalize`` of a stream's transforms, for memories that work on pixels."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.benchmarks.utils.data import AvalancheDataset
from avalanche.benchmarks.utils.transforms import TupleTransform
from torchvision import transforms as v1
from torchvision.transforms import v2

from avalanche_memplugins.plugins._materialise.errors import Unsupported
from avalanche_memplugins.plugins._materialise.known import flatten
from avalanche_memplugins.plugins._materialise.resolve import Source, resolve

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def normalisation_of(dataset: Any) -> Statistics | None:
    """Mean and std of the ``Normalize`` that the rows of a data set go through, those of several in a row as one.

    :param dataset: an Avalanche data set, in the transform group that it is read in.
    :returns: None if there is none that can be seen, or rows go through different ones.
    """
    if not isinstance(dataset, AvalancheDataset) or not len(dataset):
        return None
    try:
        found = {_of_source(part.source) for part in resolve(dataset)}
    except Unsupported:
        return None
    return found.pop() if len(found) == 1 else None


def tell_normalisation(memory: Any, dataset: Any) -> None:
    """Let a memory of pixels know the data's ``Normalize``, if the user gave it no mean and std.

    A codec that the user made is not changed, since it may serve other memories, and what they hold.

    :param memory: with ``normalise_as(mean, std)``, or a codec with mean and std.
    :param dataset: that it will be given rows of.
    :raises ValueError: if its codec has no mean and std, and the data's are known: naming them.
    """
    codecs = _codecs_without_statistics(memory)
    learns = callable(getattr(memory, "normalise_as", None)) and not len(memory)
    if not codecs and not learns:
        return
    found = normalisation_of(dataset)
    if found is None:
        return
    mean, std = (values[0] if len(values) == 1 else values for values in found)
    if learns:
        memory.normalise_as(mean, std)
    for codec in codecs:
        name = type(codec).__name__
        raise ValueError(
            f"codec: {name} expected pixels from 0 to 1, or the mean and std of the data's Normalize, got data of "
            f"mean={mean} and std={std}; make it with {name}(..., mean={mean}, std={std}), or take codec='int8'"
        )


def _codecs_without_statistics(memory: Any) -> list[Any]:
    if len(memory):
        return []
    codec = getattr(memory, "codec", None)
    codec = getattr(codec, "codec", codec)  # of a codec that makes images smaller
    if codec is None or getattr(memory, "normalisation", None) is getattr(codec, "normalisation", codec):
        return []  # the memory made it, and knows how to tell it
    holder = getattr(codec, "normalisation", codec)
    mean, std = getattr(holder, "mean", None), getattr(holder, "std", None)
    if not isinstance(mean, torch.Tensor) or not isinstance(std, torch.Tensor):
        return []
    return [] if bool(mean.any()) or bool((std != 1).any()) else [codec]


def _of_source(source: Source) -> Statistics | None:
    steps = flatten(getattr(source.data, "transform", None))
    for step in source.chain:
        steps += flatten(step.transforms[0] if isinstance(step, TupleTransform) else step)
    found = _statistics(source.data)
    for step in steps:
        if isinstance(step, v1.Normalize | v2.Normalize):
            found = _joined(found, _statistics(step))
    return found


def _statistics(owner: Any) -> Statistics | None:
    """Of a ``Normalize``, or of a data set that normalises by itself and says so."""
    mean, std = getattr(owner, "mean", None), getattr(owner, "std", None)
    if callable(mean) or callable(std) or mean is None or std is None:
        return None
    try:
        means, stds = (torch.as_tensor(value, dtype=torch.float64).reshape(-1) for value in (mean, std))
    except (TypeError, ValueError, RuntimeError):
        return None
    return tuple(means.tolist()), tuple(stds.tolist())


def _joined(first: Statistics | None, second: Statistics | None) -> Statistics | None:
    """As one: ``((p - m) / s - m2) / s2`` is ``(p - (m + m2 s)) / (s s2)``."""
    if first is None or second is None:
        return first or second
    one = [torch.tensor(values, dtype=torch.float64) for values in first]
    two = [torch.tensor(values, dtype=torch.float64) for values in second]
    return tuple((one[0] + two[0] * one[1]).tolist()), tuple((one[1] * two[1]).tolist())
