"""Random augmentation of batches with random numbers of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Augment = Callable[[Tensor], Tensor]


def check_augment(augment: Augment | None) -> Augment | None:
    """``augment`` if it can be applied to a batch."""
    if augment is not None and not callable(augment):
        raise TypeError(f"augment: got {type(augment).__name__}, want a callable on a batch, or None")
    return augment


def augmented(augment: Augment, x: Tensor, generator: torch.Generator) -> Tensor:
    """``augment(x)``, with torch's global generators set from ``generator`` meanwhile and put back after.

    :param augment: a callable on a batch, such as a transform of ``torchvision.transforms.v2``.
    :param x: ``(B, ...)``.
    :param generator: on the CPU; moves on by one draw.
    :raises ValueError: if what comes back is not a tensor of as many rows.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    cuda = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        out = augment(x)
    if not isinstance(out, Tensor) or len(out) != len(x):
        got = f"{len(out)} rows" if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"augment: wants a batch of as many rows as it was given, {len(x)}, got {got}")
    return out
