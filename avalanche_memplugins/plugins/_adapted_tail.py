"""Finds the part of a model that local adaptation fits, by watching the model run once."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_memplugins.plugins._wrapped import path_to

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AdaptedTail:
    """What is adapted.

    ``layers``: if not empty, the chain of modules from the first adapted layer to the output, each fed with
    nothing but its predecessor's output; then the rest of the model need not run again. Of half precision they are
    copies in float32, in which the steps are taken. ``first``: the first of them as it is in the model. ``names``: the
    adapted parameters. ``active``: outputs ``(C,)`` that the model passes on as they are; a head that masks classes
    which it has not met yet has others. None: all. ``classes``: outputs of the head; None if that is not known.
    ``dtype``: of the steps.
    """

    layers: tuple[nn.Module, ...]
    names: tuple[str, ...]
    active: Tensor | None
    first: nn.Module | None
    classes: int | None
    dtype: torch.dtype

    @property
    def width(self) -> int:
        """Numbers a row that enter the first layer."""
        first = next(m for m in self.layers if isinstance(m, nn.Linear))
        return first.in_features

    def inputs(self, forward: Forward, x: Tensor) -> Tensor:
        """What enters the first layer ``(n, F)`` for rows ``(n, *shape)``, of type ``dtype``."""
        if self.first is None:
            raise RuntimeError("a tail without layers")
        seen: list[Tensor] = []
        handle = self.first.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
        try:
            forward(x)
        finally:
            handle.remove()
        return seen[0].to(self.dtype)


def find_tail(model: nn.Module, forward: Forward, x: Tensor, adapt: int | Sequence[str]) -> AdaptedTail:
    """Watch ``forward(x)``.

    :param adapt: the last so many linear layers that ran, or names of modules.
    :raises ValueError: if there are no such modules, or they hold no parameters.
    """
    calls, head, output = _watch(model, forward, x)
    linear = [module for module, _, _ in calls if isinstance(module, nn.Linear)]
    if isinstance(adapt, int):
        if len(linear) < adapt:
            raise ValueError(f"adapt: expected {adapt} linear layers, but {len(linear)} ran in the model; name modules")
        chosen = linear[-adapt:]
        roots: list[nn.Module] = list(chosen)
    else:
        roots = [_module(model, name) for name in adapt]
        chosen = [m for root in roots for m in root.modules() if isinstance(m, nn.Linear)]
    wanted = {id(p) for root in roots for p in root.parameters()}
    names = tuple(name for name, p in model.named_parameters() if id(p) in wanted)
    if not names:
        raise ValueError(f"adapt: {adapt!r} holds no parameters that could be adapted")
    layers = _chain(calls, chosen, wanted)
    if layers:
        active = _passed_on(head, output)
        if active is not None:
            active = None if bool(active.all()) else active
            dtype, widened = _widened(layers)
            return AdaptedTail(widened, names, active, layers[0], head.shape[1], dtype)
    return AdaptedTail((), names, None, None, None, x.dtype)


def _widened(layers: tuple[nn.Module, ...]) -> tuple[torch.dtype, tuple[nn.Module, ...]]:
    """The type in which layers are adapted, float32 at least, and the layers in it."""
    found = {value.dtype for layer in layers for value in layer.parameters()}
    dtype = reduce(torch.promote_types, found, torch.float32)
    if found == {dtype}:
        return dtype, layers
    return dtype, tuple(copy.deepcopy(layer).to(dtype) for layer in layers)


def _watch(model: nn.Module, forward: Forward, x: Tensor) -> tuple[list[tuple[nn.Module, Any, Any]], Tensor, Tensor]:
    """The leaf modules' calls in order, what the last linear one gave, and what the model gave."""
    calls: list[tuple[nn.Module, Any, Any]] = []
    head = torch.empty(0)

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal head
        calls.append((module, args, output))
        if isinstance(module, nn.Linear):
            head = output.clone()  # multi-head models mask their heads' outputs in place

    leaves = [m for m in model.modules() if not any(m.children())]
    handles = [m.register_forward_hook(hook) for m in leaves]
    try:
        output = forward(x)
    finally:
        for handle in handles:
            handle.remove()
    return calls, head, output


def _chain(calls: list[tuple[nn.Module, Any, Any]], chosen: list[nn.Linear], wanted: set[int]) -> tuple[nn.Module, ...]:
    """The modules from the first chosen one on, if each takes its predecessor's output and no others are adapted."""
    modules = [module for module, _, _ in calls]
    starts = [i for i, module in enumerate(modules) if any(module is c for c in chosen)]
    if not starts or not isinstance(modules[-1], nn.Linear):
        return ()
    chain = calls[starts[0] :]
    follows = all(len(b[1]) == 1 and b[1][0] is a[2] for a, b in pairwise(chain))
    linear = [m for m, _, _ in chain if isinstance(m, nn.Linear)]
    adapted = {id(p) for m in linear for p in m.parameters()}
    once = all(modules.count(m) == 1 for m in linear)
    flat = chain[0][1][0].ndim == 2
    plain = all(_is_plain(m) for m in linear)
    return tuple(m for m, _, _ in chain) if follows and once and flat and plain and adapted == wanted else ()


def _is_plain(layer: nn.Linear) -> bool:
    """Whether the layer is x W^T + b of its own parameters: no subclass with more to it, no parametrised weight."""
    return type(layer).forward is nn.Linear.forward and "weight" in layer._parameters


def _passed_on(head: Tensor, output: Tensor) -> Tensor | None:
    """Columns of the head's output that are the model's output; None if the model makes something else of it.

    Masking leaves the others at one constant; so does padding, which is wider than the head.
    """
    if output.ndim != 2 or head.ndim != 2 or output.shape[1] < head.shape[1]:
        return None
    narrow = output[:, : head.shape[1]]
    same = (narrow == head).all(0)
    others = narrow[:, ~same]
    return same if bool((others == others[:1]).all()) and bool(same.any()) else None


def _module(model: nn.Module, name: str) -> nn.Module:
    path = path_to(model, name)
    if path is None:
        modules = dict(model.named_modules())
        near = difflib.get_close_matches(name, modules, n=3) or [n for n in modules if n][:8]
        raise ValueError(f"adapt: expected names of modules of the model, got {name!r}; there are {near}")
    return path[-1]
