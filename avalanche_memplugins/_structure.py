"""Dicts, tuples and named tuples of tensors: taken apart into their tensors, and put together again."""

from __future__ import annotations

import sys
import weakref
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_KINDS = ("tensor", "dict", "tuple", "list", "named tuple")
# Classes of named tuples that have come by, for those that no module has.
_MET: weakref.WeakValueDictionary[tuple[str, ...], type] = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class Structure:
    """How tensors are put together; one tensor alone is the simplest.

    Any mapping counts as a dict, and comes back as one, with its keys in the order of the first.

    :param kind: ``"tensor"``, ``"dict"``, ``"tuple"``, ``"list"`` or ``"named tuple"``.
    :param keys: keys, fields or places of the parts.
    :param parts: their structures.
    :param home: module and name of a named tuple's class.
    """

    kind: str = "tensor"
    keys: tuple[str, ...] = ()
    parts: tuple[Structure, ...] = ()
    home: tuple[str, str] = ("", "")

    @property
    def is_tensor(self) -> bool:
        """Whether it is one tensor alone."""
        return self.kind == "tensor"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors, such as ``"pixels"`` or ``"boxes.0"``; of one alone ``""``."""
        if self.is_tensor:
            return ("",)
        return tuple(
            f"{key}.{name}" if name else key
            for key, part in zip(self.keys, self.parts, strict=True)
            for name in part.names
        )

    def leaves(self, name: str, value: Any) -> list[Tensor]:
        """The tensors of a value of this structure, in the order of :attr:`names`.

        :param name: of the value, for the error.
        :raises ValueError: if it is of another structure.
        """
        if self.is_tensor and isinstance(value, Tensor):
            return [value]
        found = structure_of(name, value)
        if not self.takes(found):
            raise ValueError(f"{name}: expected {self}, got {found}")
        return list(self._parts_in(value))

    def _parts_in(self, value: Any) -> Iterator[Tensor]:
        if self.is_tensor:
            yield value
            return
        values = [value[key] for key in self.keys] if self.kind == "dict" else value
        for part, each in zip(self.parts, values, strict=True):
            yield from part._parts_in(each)

    def takes(self, other: Structure) -> bool:
        """Whether values of another structure are of this one, too: the keys of a dict may come in another order."""
        if (self.kind, len(self.keys)) != (other.kind, len(other.keys)) or self.home[1:] != other.home[1:]:
            return False
        theirs = dict(zip(other.keys, other.parts, strict=True))
        if self.kind != "dict" and self.keys != other.keys:
            return False
        return all(key in theirs and part.takes(theirs[key]) for key, part in zip(self.keys, self.parts, strict=True))

    def build(self, leaves: Iterable[Any]) -> Any:
        """A value of this structure, of anything in the place of its tensors.

        :param leaves: one for each of :attr:`names`.
        """
        return self._build(iter(leaves))

    def _build(self, leaves: Iterator[Any]) -> Any:
        if self.is_tensor:
            return next(leaves)
        values = [part._build(leaves) for part in self.parts]
        if self.kind == "dict":
            return dict(zip(self.keys, values, strict=True))
        if self.kind == "named tuple":
            return _named_tuple(self.home, self.keys)(*values)
        return tuple(values) if self.kind == "tuple" else values

    def state(self) -> Any:
        """As lists and strings, for JSON."""
        if self.is_tensor:
            return "tensor"
        parts = [[key, part.state()] for key, part in zip(self.keys, self.parts, strict=True)]
        return [self.kind, parts, *(self.home if self.kind == "named tuple" else ())]

    @classmethod
    def of_state(cls, state: Any) -> Structure:
        """What :meth:`state` gave.

        :raises ValueError: if it is damaged.
        """
        if state == "tensor":
            return cls()
        try:
            kind, parts, *home = state
            keys = tuple(key for key, _ in parts)
            fits = kind in _KINDS[1:] and len(home) == 2 * (kind == "named tuple") and len(set(keys)) == len(keys) > 0
            if not fits or not all(isinstance(word, str) and word for word in (*keys, *home)):
                raise ValueError
            if kind == "named tuple" and not all(word.isidentifier() for word in (*keys, home[1].rpartition(".")[2])):
                raise ValueError
            return cls(
                kind, keys, tuple(cls.of_state(part) for _, part in parts), *([(home[0], home[1])] if home else [])
            )
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"state: expected how rows are put together, got {str(state)[:200]}") from error

    def __str__(self) -> str:
        if self.is_tensor:
            return "a tensor"
        what = f"a {self.kind}" if self.kind != "named tuple" else f"a {self.home[1]}"
        return f"{what} of tensors ({', '.join(self.names)})"


def structure_of(name: str, value: Any) -> Structure:
    """How a value is put together.

    :param name: of the value, for the error.
    :raises TypeError: if something in it is neither a tensor nor a dict, tuple or list of such.
    :raises ValueError: if a dict or tuple is empty, or holds itself.
    """
    try:
        return _structure_of(name, value)
    except RecursionError as error:
        raise ValueError(
            f"{name}: expected tensors, or dicts or tuples of them, got some within some without end"
        ) from error


def _structure_of(name: str, value: Any) -> Structure:
    if isinstance(value, Tensor):
        return Structure()
    kind, home = "", ("", "")
    if isinstance(value, Mapping):
        kind, keys = "dict", tuple(value)
        if wrong := [key for key in keys if not isinstance(key, str) or not key]:
            raise TypeError(f"{name}: expected keys that are strings, got {wrong[0]!r}")
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        kind, keys = "named tuple", value._fields
        home = (type(value).__module__, type(value).__qualname__.replace("<locals>.", ""))
        _MET[(*home, *keys)] = type(value)
    elif isinstance(value, tuple | list):
        kind, keys = type(value).__name__ if type(value) in (tuple, list) else "tuple", ()
        keys = tuple(map(str, range(len(value))))
    else:
        whole, _, place = name.partition("[")
        under = f" at [{place}" if place else ""
        raise TypeError(
            f"{whole}: expected a tensor, or a dict or tuple of tensors, got a {type(value).__name__}{under}"
        )
    if not keys:
        raise ValueError(f"{name}: expected a {kind} of at least one tensor, got an empty one")
    values = [value[key] for key in keys] if kind == "dict" else list(value)
    parts = tuple(_structure_of(f"{name}[{key!r}]", each) for key, each in zip(keys, values, strict=True))
    return Structure(kind, keys, parts, home)


def _named_tuple(home: tuple[str, str], fields: Sequence[str]) -> Any:
    """The class, if a module that is loaded has it; else one like it. Nothing is imported because a file says so."""
    if (met := _MET.get((*home, *fields))) is not None:
        return met
    found: Any = sys.modules.get(home[0])
    for word in home[1].split("."):
        found = getattr(found, word, None)
    if isinstance(found, type) and issubclass(found, tuple) and getattr(found, "_fields", None) == tuple(fields):
        return found
    return namedtuple(home[1].rpartition(".")[2], fields)


def mapped(function: Callable[..., Any], value: Any, *others: Any) -> Any:
    """A value of the same structure, with what a function makes of each tensor, and of those of others beside it.

    :param others: of the same structure.
    """
    if isinstance(value, Tensor):
        return function(value, *others)
    structure = structure_of("x", value)
    columns = [structure.leaves("x", each) for each in (value, *others)]
    return structure.build(function(*leaves) for leaves in zip(*columns, strict=True))


def first_leaf(value: Any) -> Tensor:
    """The first tensor of a value."""
    while not isinstance(value, Tensor):
        value = next(iter(value.values() if isinstance(value, Mapping) else value))
    return value


def row_count(name: str, value: Any) -> int:
    """How many rows a value has, whose tensors have one row a row each.

    :raises TypeError: if it is no structure of tensors.
    :raises ValueError: if its tensors have different numbers of rows.
    """
    structure = structure_of(name, value)
    leaves = dict(zip(structure.names, structure.leaves(name, value), strict=True))
    sizes = {leaf: len(tensor) if tensor.ndim else None for leaf, tensor in leaves.items()}
    if len(set(sizes.values())) > 1 or None in sizes.values():
        shapes = ", ".join(f"{leaf} {tuple(tensor.shape)}" for leaf, tensor in leaves.items())
        raise ValueError(f"{name}: expected one row a row in each tensor, got {shapes}")
    return next(iter(sizes.values())) or 0


def rows_in(value: Any, index: slice | Tensor) -> Any:
    """Some of the rows of a value."""
    return value[index] if isinstance(value, Tensor) else mapped(lambda leaf: leaf[index], value)


def joined_rows(name: str, values: Sequence[Any], pad: Callable[[str], float | None] | None = None) -> Any:
    """The rows of several values of one structure, one behind the other.

    :param name: of the values: ``"x"`` or ``"y"``.
    :param pad: gives for the name of a tensor what its rows are filled up with at the end where they differ in length,
        or None.
    :raises ValueError: if they are of different structures.
    """
    structure = structure_of(name, values[0])
    columns = zip(*(structure.leaves(name, value) for value in values), strict=True)
    joined = []
    for leaf, tensors in zip(structure.names, columns, strict=True):
        fill = None if pad is None else pad(f"{name}.{leaf}" if leaf else name)
        joined.append(torch.cat(tensors if fill is None else evened(tensors, fill)))
    return structure.build(joined)


def evened(tensors: Sequence[Tensor], fill: float, length: int | None = None) -> list[Tensor]:
    """Tensors ``(B, L, ...)`` of different L, all as long as the longest.

    :param fill: what is put behind the shorter ones.
    :param length: L; None: that of the longest.
    """
    longest = max(tensor.shape[1] for tensor in tensors) if length is None else length
    return [
        tensor
        if tensor.shape[1] == longest
        else torch.cat([tensor, tensor.new_full((len(tensor), longest - tensor.shape[1], *tensor.shape[2:]), fill)], 1)
        for tensor in tensors
    ]
