"""What a memory gives back."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Recall(NamedTuple):
    """Rehearsal rows, all on the memory's device.

    ``x`` ``(n, *shape)``; ``y``, ``t``, ``origin`` int64 ``(n,)``: class, task label, and the number of the
    experience that a row came from (``y`` of a memory that was given other targets than classes: as it was given);
    ``logits`` ``(n, classes)`` and ``key`` ``(n, *key_shape)`` only from
    memories that hold them.

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> memory = RandomMemory(10, seed=0)
    >>> memory.write(torch.ones(5, 3), torch.arange(5), origin=2)
    >>> recall = memory.sample(2)
    >>> recall.x.shape, recall.origin
    (torch.Size([2, 3]), tensor([2, 2]))
    """

    x: Tensor
    y: Tensor
    t: Tensor
    origin: Tensor
    logits: Tensor | None = None
    key: Tensor | None = None
