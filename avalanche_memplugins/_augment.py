"""Random augmentation of batches with random numbers of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._random import isolated
from avalanche_memplugins._structure import first_leaf, structure_of

Augment = Callable[[Any], Any]


def check_augment(augment: Augment | None) -> Augment | None:
    """``augment`` if it can be applied to a batch."""
    if isinstance(augment, type):
        check.made("augment", augment)
    if augment is not None and not callable(augment):
        raise TypeError(f"augment: expected a callable on a batch, or None, got {type(augment).__name__}")
    return augment


def augmented(augment: Augment, x: Any, generator: torch.Generator) -> Any:
    """``augment(x)``, whose random numbers come from ``generator`` instead of torch's global ones.

    :param augment: a callable on a batch, such as a transform of ``torchvision.transforms.v2``.
    :param x: ``(B, ...)``, or a dict or tuple of such, which the callable takes.
    :param generator: on the CPU; moves on by one draw.
    :raises ValueError: if what comes back is not a tensor of as many rows.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    rows = len(first_leaf(x))
    with isolated(first_leaf(x).device, seed):
        out = augment(x)
    if not isinstance(x, Tensor) and structure_of("x", x).takes(structure_of("augment", out)):
        return out
    if not isinstance(out, Tensor) or not out.ndim or len(out) != rows:
        got = f"{len(out)} rows" if isinstance(out, Tensor) and out.ndim else type(out).__name__
        raise ValueError(f"augment: expected a batch of as many rows as it was given, {rows}, got {got}")
    return out
