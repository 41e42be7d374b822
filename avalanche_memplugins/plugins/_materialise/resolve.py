"""Flatten an Avalanche dataset: which rows of which underlying data set, through which transforms.

Avalanche keeps an experience as a tree of subsets, concatenations and transform groups. Every read walks
that tree. Here it is walked once for all rows, with index arithmetic, so that an experience of ten samples
costs microseconds and all experiences that look at one data set are recognised as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils.data import AvalancheDataset, _FlatDataWithTransform
from avalanche.benchmarks.utils.data_attribute import DataAttribute, TaskLabels
from avalanche.benchmarks.utils.flat_data import ConstantSequence, FlatData, LazyIndices, LazyRange
from avalanche.benchmarks.utils.transform_groups import DefaultTransformGroups, EmptyTransformGroups, TransformGroups
from avalanche.benchmarks.utils.transforms import MultiParamTransform
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, default_collate

from .known import state_of_data, state_of_step

_GROUPS = (TransformGroups, DefaultTransformGroups, EmptyTransformGroups)


class Unsupported(Exception):
    """A data set cannot be served from tensors; the message says why and what the user can do.

    Raised and caught inside the plugin, which then leaves Avalanche's loader where it is.
    """


@dataclass(frozen=True)
class Source:
    """An underlying data set, and the transforms between it and the experience.

    :param data: anything with ``__getitem__`` and ``__len__``.
    :param chain: transforms in order of application; each takes a sample's elements.
    """

    data: Any
    chain: tuple[Any, ...]

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """What the content depends on, as it is now: equal keys yield equal samples. Keeps alive what it names."""
        inner = tuple(state_of_step(getattr(self.data, name, None)) for name in ("transform", "target_transform"))
        return (state_of_data(self.data), inner, tuple(state_of_step(step) for step in self.chain))

    def sample(self, row: int) -> list[Any]:
        """Read one sample exactly as Avalanche does, as a list of its elements."""
        element = self.data[row]
        if isinstance(element, dict) or not isinstance(element, Sequence):
            raise Unsupported(f"its samples are of type {type(element).__name__}, not tuples of tensors")
        for step in self.chain:
            element = list(element)
            if isinstance(step, MultiParamTransform):
                element = step(*element)
            else:
                element[0] = step(element[0])
        return list(element)


@dataclass(frozen=True)
class Part:
    """Rows of one source, and where they stand in the data set: ``slots`` None if they are all, in order."""

    source: Source
    rows: Tensor  # (n,) int64
    slots: Tensor | None = None  # (n,) int64


def resolve(dataset: AvalancheDataset) -> list[Part]:
    """Name the rows that a data set consists of, source by source.

    :param dataset: an Avalanche dataset in the transform group that it is to be read in.
    :returns: at least one part; together they cover ``range(len(dataset))``.
    :raises Unsupported: if a class of its own stands between the experience and the underlying data sets.
    """
    if type(dataset).__getitem__ is not AvalancheDataset.__getitem__:
        raise Unsupported(f"its data set has a __getitem__ of its own ({type(dataset).__name__})")
    flat = dataset._flat_data
    group = flat._transform_groups.current_group
    return _merge(_walk(flat, torch.arange(len(flat)), None, (), group))


def attributes_of(dataset: AvalancheDataset) -> list[Tensor]:
    """Read the attributes that Avalanche appends to each sample, such as the task label.

    :returns: one tensor ``(n, ...)`` per attribute, as ``default_collate`` would make it.
    """
    columns = []
    for attribute in dataset._data_attributes.values():
        if not attribute.use_in_getitem:
            continue
        if type(attribute) not in (DataAttribute, TaskLabels):
            raise Unsupported(f"its attribute {attribute.name!r} is a {type(attribute).__name__}")
        data = attribute.data
        shared = isinstance(data, ConstantSequence)
        try:
            column = default_collate([data[0]] if shared else list(data))
        except (RuntimeError, TypeError) as error:
            raise Unsupported(f"its attribute {attribute.name!r} does not collate into a tensor") from error
        if not isinstance(column, Tensor):
            raise Unsupported(f"its attribute {attribute.name!r} is no number")
        columns.append(column.repeat(len(data), *[1] * (column.ndim - 1)) if shared else column)
    return columns


def _walk(
    node: Any, rows: Tensor, slots: Tensor | None, chain: tuple[Any, ...], group: str
) -> list[tuple[Source, Tensor, Tensor | None]]:
    if type(node) is Subset:
        return _walk(node.dataset, _as_tensor(node.indices)[rows], slots, chain, group)
    if type(node) is ConcatDataset:
        return _walk_parts(node.datasets, node.cumulative_sizes, rows, slots, chain, group)
    if not isinstance(node, _FlatDataWithTransform):
        return [(Source(node, chain), rows, slots)]
    if type(node) is not _FlatDataWithTransform:
        raise Unsupported(f"its data set has a class of its own inside ({type(node).__name__})")

    for groups in (node._transform_groups, node._frozen_transform_groups):
        if groups is not None and type(groups) not in _GROUPS:
            raise Unsupported(f"its transforms are grouped by a class of its own ({type(groups).__name__})")
        if groups is not None and groups.transform_groups[group] is not None:
            chain = (groups.transform_groups[group], *chain)
    if node._indices is not None:
        rows = _as_tensor(node._indices)[rows]
    if len(node._datasets) == 1:
        return _walk(node._datasets[0], rows, slots, chain, group)
    return _walk_parts(node._datasets, node._cumulative_sizes, rows, slots, chain, group)


def _walk_parts(
    parts: Sequence[Any],
    sizes: Sequence[int],
    rows: Tensor,
    slots: Tensor | None,
    chain: tuple[Any, ...],
    group: str,
) -> list[tuple[Source, Tensor, Tensor | None]]:
    """Walk a concatenation; ``sizes`` are those of its parts, summed up from the first on."""
    ends = torch.tensor(sizes)
    owner = torch.searchsorted(ends, rows, right=True)
    found = []
    for number in torch.unique(owner).tolist():
        mine = (owner == number).nonzero().squeeze(1)
        start = int(ends[number - 1]) if number else 0
        whole = len(mine) == len(rows)
        inner = slots if whole else (mine if slots is None else slots[mine])
        found += _walk(parts[number], rows[mine] - start, inner, chain, group)
    return found


def _merge(found: list[tuple[Source, Tensor, Tensor | None]]) -> list[Part]:
    """Join what comes from one source: branches of a concatenation often end at the same data set."""
    if len(found) == 1:
        return [Part(*found[0])]
    grouped: dict[tuple[Any, ...], list[tuple[Source, Tensor, Tensor | None]]] = {}
    for item in found:
        grouped.setdefault(item[0].key, []).append(item)
    parts = []
    for items in grouped.values():
        rows = torch.cat([rows for _, rows, _ in items])
        slots = torch.cat([slots for _, _, slots in items if slots is not None])
        if len(grouped) == 1:
            parts.append(Part(items[0][0], torch.empty_like(rows).index_copy_(0, slots, rows)))
        else:
            parts.append(Part(items[0][0], rows, slots))
    return parts


def values_in(data: Any) -> Tensor | None:
    """The integers of an attribute's data, int64 ``(n,)``; None of what is not known to be a list of such."""
    if type(data) is DataAttribute:
        return values_in(data.data)
    if type(data) is FlatData and data._datasets and len(data) > 0:
        parts = [values_in(part) for part in data._datasets]
        if any(part is None for part in parts):
            return None
        values = torch.cat([part for part in parts if part is not None])
        return values if data._indices is None else values[_as_tensor(data._indices)]
    if type(data) is not list or not data or type(data[0]) is not int:
        return None
    listed = np.asarray(data)
    return torch.from_numpy(listed) if listed.dtype == np.int64 and listed.ndim == 1 else None


def _as_tensor(indices: Any) -> Tensor:
    if isinstance(indices, LazyRange):
        start = int(indices._start + indices._offset)
        return torch.arange(start, start + len(indices))
    if isinstance(indices, LazyIndices):
        indices._to_eager()
        eager: Tensor = torch.from_numpy(indices._eager_list)
        return eager
    if isinstance(indices, FlatData):
        indices = list(indices)
    listed: Tensor = torch.from_numpy(np.asarray(indices, dtype=np.int64))
    return listed
