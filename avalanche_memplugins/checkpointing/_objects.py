"""The state of plugins, of what they hold, and of the other objects that hang on a strategy."""

from __future__ import annotations

import copy
import enum
import logging
import random
import re
import types
from collections.abc import Callable, Collection, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from avalanche.evaluation import Metric
from avalanche.training.regularization import RegularizationMethod
from avalanche.training.utils import ParamData
from torch import Tensor, nn

from avalanche_memplugins.checkpointing._model import capture_model, grow_model, restore_model
from avalanche_memplugins.checkpointing._tree import Decoder, Encoder, Node
from avalanche_memplugins.checkpointing.errors import CheckpointError, UnsavableError

SETTING: Node = {"$": "setting"}
"""Stands for what the constructor brings back."""

_GENERATORS: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    torch.Generator: (lambda g: g.get_state(), lambda g, state: g.set_state(state.cpu())),
    random.Random: (lambda g: g.getstate(), lambda g, state: g.setstate(state)),
    np.random.Generator: (
        lambda g: g.bit_generator.state,
        lambda g, state: setattr(g.bit_generator, "state", state),
    ),
}
# Protocols, so isinstance() refuses them.
_AVALANCHE_PARTS: frozenset[type] = frozenset({Metric, RegularizationMethod})
_SETTINGS = (
    types.ModuleType, logging.Logger, torch.device, torch.dtype, PurePath, enum.Enum, re.Pattern, range, slice
)  # fmt: skip


class ObjectEncoder(Encoder):
    """An encoder that also knows modules, generators, Avalanche's metrics and whatever has a ``state_dict``.

    Functions, classes, callables and the like count as settings, which the constructor brings back.

    :param references: ids of objects that are saved in another place.
    """

    def __init__(self, device: torch.device, *, copies: bool = False, references: Collection[int] = ()) -> None:
        super().__init__(device, copies=copies)
        self.references = frozenset(references)
        self.plain = Encoder(device, copies=copies)
        self.plain.tensors = self.tensors

    def encode(self, value: object, path: str) -> Node:
        if id(value) in self.references:
            return SETTING
        return super().encode(value, path)

    def encode_other(self, value: object, path: str) -> Node:
        if isinstance(value, nn.Module):
            return {"$": "module", "class": _name(value), "value": capture_model(value, self.plain, path)}
        if has_state(value):
            state = value.state_dict()  # type: ignore[attr-defined]
            return {"$": "state_dict", "class": _name(value), "value": self.plain.encode(state, path)}
        if not _AVALANCHE_PARTS.isdisjoint(type(value).__mro__):
            return {"$": "object", "class": _name(value), "value": self.attributes(value, path)}
        if isinstance(value, ParamData):
            return {"$": "param_data", "name": value.name, "value": self.plain.encode(value.data, path)}
        for kind, (get, _) in _GENERATORS.items():
            if type(value) is kind:
                return {"$": "generator", "class": _name(value), "value": self.plain.encode(get(value), path)}
        if isinstance(value, _SETTINGS) or callable(value):
            return SETTING
        raise UnsavableError(path, value)

    def attributes(self, holder: object, path: str, *, lenient: bool = False) -> Node:
        """The attributes of ``holder``; if ``lenient``, without those that cannot be saved."""
        out = {}
        for name, value in vars(holder).items():
            try:
                with self.all_or_nothing():
                    out[name] = self.encode(value, f"{path}/{name}")
            except UnsavableError:
                if not lenient:
                    raise
        return out


class ObjectDecoder(Decoder):
    """Puts the state of objects back into the objects of a freshly built strategy.

    :param model: the strategy's model as built; copies of it take the state of earlier models.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device, model: nn.Module) -> None:
        super().__init__(tensors, device)
        self.model = model
        self.plain = Decoder(tensors, device)

    def decode_other(self, kind: str, node: Node, current: object) -> Any:
        if kind == "setting":
            return current
        if kind == "param_data":
            data = self.plain.decode(node["value"])
            return ParamData(node["name"], data.shape, init_tensor=data, device=data.device)
        if kind == "module" and current is None and node["class"] == _name(self.model):
            current = copy.deepcopy(self.model).to(
                self.device
            )  # as distillation keeps the model of the last experience
        if _name(current) != node.get("class"):
            raise CheckpointError(
                f"strategy: where the checkpoint has the state of a {node.get('class')},"
                f" the strategy has a {_name(current)}"
            )
        if kind == "object":
            self.restore_attributes(current, node["value"])
        elif kind == "module":
            what = f"a {_name(current)} that a plugin holds"
            grow_model(current, node["value"], self.plain, None, 0, what=what)  # type: ignore[arg-type]
            restore_model(current, node["value"], self.plain)  # type: ignore[arg-type]
        elif kind == "state_dict":
            current.load_state_dict(self.plain.decode(node["value"]))  # type: ignore[attr-defined]
        elif kind == "generator":
            _GENERATORS[type(current)][1](current, self.plain.decode(node["value"]))
        else:
            return super().decode_other(kind, node, current)
        return current

    def restore_attributes(self, holder: object, node: Node) -> None:
        """Set the attributes of ``holder`` that :meth:`ObjectEncoder.attributes` took."""
        held = vars(holder)
        for name, value in node.items():
            if value != SETTING:
                held[name] = self.decode(value, held.get(name))


class TrialDecoder(ObjectDecoder):
    """Decodes as :class:`ObjectDecoder` does, but into copies of what is there."""

    def _tensor(self, node: Node, current: object) -> Tensor:
        return super()._tensor(node, None)

    def _dict(self, node: Node, current: object) -> dict[Any, Any]:
        return super()._dict(node, copy.copy(current))

    def decode_other(self, kind: str, node: Node, current: object) -> Any:
        if kind in ("module", "state_dict") and current is not None:
            try:
                current = copy.deepcopy(current)
            except (RuntimeError, TypeError, ValueError):  # that cannot be tried
                return current
        elif kind == "generator" and type(current) in _GENERATORS:
            current = torch.Generator() if isinstance(current, torch.Generator) else copy.deepcopy(current)
        return super().decode_other(kind, node, current)

    def restore_attributes(self, holder: object, node: Node) -> None:
        """Decode the attributes of ``holder``, which keeps its own."""
        held = vars(holder)
        for name, value in node.items():
            if value != SETTING:
                self.decode(value, held.get(name))


def has_state(value: object) -> bool:
    """Whether an object brings its own ``state_dict()`` and ``load_state_dict()``."""
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


def _name(value: object) -> str:
    return type(value).__qualname__
