"""Python values as JSON beside a table of tensors, and back, exactly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from avalanche_memplugins.checkpointing.errors import CheckpointError, UnsavableError

Node: TypeAlias = Any
"""A JSON value. What JSON has no word for is a dict with the key ``"$"``, the name of its kind."""


class Encoder:
    """Turns values into nodes and collects their tensors.

    :param device: the strategy's device; tensors on it are put on the strategy's device on loading, too.
    :param copies: whether to copy tensors, so that they keep their values if training goes on.
    """

    def __init__(self, device: torch.device, *, copies: bool = False) -> None:
        self.device = device
        self.copies = copies
        self.tensors: dict[str, Tensor] = {}

    def encode(self, value: object, path: str) -> Node:
        """The node of ``value``, whose tensors are named after ``path``.

        :raises UnsavableError: if there is something in it that has no node.
        """
        if value is None or isinstance(value, bool | str) or type(value) is int:
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"$": "float", "value": repr(value)}
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, np.ndarray | np.generic):
            return self._array(np.asarray(value), path, scalar=isinstance(value, np.generic))
        if isinstance(value, int | float):  # bool is out already; what is left are enums and the like
            raise UnsavableError(path, value)
        if isinstance(value, dict):
            return self._dict(value, path)
        if type(value) in _SEQUENCES:
            items = [self.encode(item, f"{path}/{i}") for i, item in enumerate(_listed(value))]
            kind = _SEQUENCES[type(value)]
            return items if kind == "list" else {"$": kind, "value": items}
        return self.encode_other(value, path)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Forget the tensors collected in this block if it fails."""
        before = set(self.tensors)
        try:
            yield
        except UnsavableError:
            for name in set(self.tensors) - before:
                del self.tensors[name]
            raise

    def encode_other(self, value: object, path: str) -> Node:
        """The node of a value that is no plain data."""
        raise UnsavableError(path, value)

    def _tensor(self, value: Tensor, path: str) -> Node:
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise UnsavableError(path, value)
        at = self._name(path)
        home = value.device.type == self.device.type
        plain = value.detach()
        self.tensors[at] = plain.to("cpu", copy=True) if self.copies else plain
        return {"$": "tensor", "at": at, "home": home, **({"grad": True} if value.requires_grad else {})}

    def _array(self, value: np.ndarray[Any, Any], path: str, *, scalar: bool) -> Node:
        try:
            tensor = torch.from_numpy(np.array(value, copy=True))
        except TypeError:  # strings, objects, dates
            raise UnsavableError(path, value) from None
        at = self._name(path)
        self.tensors[at] = tensor
        return {"$": "scalar" if scalar else "array", "at": at}

    def _dict(self, value: dict[Any, Any], path: str) -> Node:
        kind = "counter" if isinstance(value, Counter) else "dict"
        if kind == "dict" and all(type(key) is str for key in value) and "$" not in value:
            return {key: self.encode(item, f"{path}/{key}") for key, item in value.items()}
        pairs = [[self.encode(key, f"{path}/key"), self.encode(item, f"{path}/{key}")] for key, item in value.items()]
        return {"$": kind, "value": pairs}

    def _name(self, path: str) -> str:
        # The keys 1 and "1" of a dict give the same path.
        name, count = path, 1
        while name in self.tensors:
            count += 1
            name = f"{path}~{count}"
        return name


class Decoder:
    """Turns nodes back into values.

    :param tensors: the table that the encoder made.
    :param device: the strategy's device.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.tensors = tensors
        self.device = device

    def decode(self, node: Node, current: object = None) -> Any:
        """The value of ``node``.

        :param node: what :meth:`Encoder.encode` gave.
        :param current: the value that the new one is to replace. Dicts and parameters are filled in
            place, so whoever else holds them sees the new contents, and a ``defaultdict`` remains one.
        """
        if isinstance(node, list):
            return self._items(node, current)
        if not isinstance(node, dict):
            return node
        kind = node.get("$", "dict")
        if kind == "tensor":
            return self._tensor(node, current)
        if kind in ("array", "scalar"):
            array = self.stored(node).numpy().copy()
            return array[()] if kind == "scalar" else array
        if kind == "float":
            return float(node["value"])
        if kind in ("dict", "counter"):
            return self._dict(node, current)
        if kind in _MAKERS:
            return _MAKERS[kind](self._items(node["value"], current))
        return self.decode_other(kind, node, current)

    def decode_other(self, kind: str, node: Node, current: object) -> Any:
        """The value of a node that is no plain data."""
        raise CheckpointError(f"folder: holds a value of the unknown kind {kind!r}")

    def _items(self, nodes: list[Node], current: object) -> list[Any]:
        olds = list(current) if isinstance(current, list | tuple) else []
        if len(olds) != len(nodes):
            olds = [None] * len(nodes)
        return [self.decode(node, old) for node, old in zip(nodes, olds, strict=True)]

    def stored(self, node: Node) -> Tensor:
        """The table's own tensor of a node; not to be written to."""
        return self.tensors[node["at"]]

    def _tensor(self, node: Node, current: object) -> Tensor:
        stored = self.stored(node)
        if isinstance(current, torch.nn.Parameter) and current.shape == stored.shape:
            with torch.no_grad():
                return current.copy_(stored)
        # A copy: two nodes may have come from one table entry, and a table may be decoded twice.
        value = stored.to(self.device if node["home"] else "cpu", copy=True)
        return value.requires_grad_() if node.get("grad") else value

    def _dict(self, node: Node, current: object) -> dict[Any, Any]:
        old: dict[Any, Any] = current if isinstance(current, dict) else {}
        missing: Callable[[], object] = getattr(old, "default_factory", None) or _nothing
        if "$" in node:
            pairs = [(self.decode(key), item) for key, item in node["value"]]
        else:
            pairs = list(node.items())
        values = {key: self.decode(item, old[key] if key in old else missing()) for key, item in pairs}
        if isinstance(current, dict):
            old.clear()
            old.update(values)
            return old
        return Counter(values) if node.get("$") == "counter" else values


def _nothing() -> None:
    return None


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, set | frozenset):
        return list(value)
    try:
        return sorted(value)  # one order, so that equal states make equal files
    except TypeError:
        return list(value)


_SEQUENCES: dict[type, str] = {
    list: "list",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    torch.Size: "size",
}
_MAKERS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "size": torch.Size,
}
