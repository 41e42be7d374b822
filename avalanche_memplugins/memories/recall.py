"""What a memory gives back, and what it says of what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
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


@dataclass(frozen=True)
class Summary:
    """Contents of a memory in numbers; ``str()`` makes a table of it.

    ``per_class``, ``per_task`` and ``per_experience`` map a label to the rows held under it; ``nbytes``
    counts what grows with the stream, ``nbytes_fixed`` what is needed besides.

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> memory = RandomMemory(10)
    >>> memory.write(torch.rand(4, 3), torch.tensor([0, 1, 1, 1]))
    >>> memory.summary().per_class
    {0: 1, 1: 3}
    """

    description: str
    capacity: int
    filled: int
    seen: int
    nbytes: int
    nbytes_fixed: int
    per_class: dict[int, int]
    per_task: dict[int, int]
    per_experience: dict[int, int]

    def __str__(self) -> str:
        lines = [
            self.description,
            f"  rows         {self.filled:,} of {self.capacity:,} ({self.filled / self.capacity:.0%}), "
            f"{self.seen:,} offered",
            f"  bytes        {self.nbytes:,}" + (f" + {self.nbytes_fixed:,} fixed" * bool(self.nbytes_fixed)),
        ]
        for name in ("class", "task", "experience"):
            counts: dict[int, int] = getattr(self, f"per_{name}")
            shown = ", ".join(f"{k}: {n:,}" for k, n in list(counts.items())[:20])
            more = f", ... ({len(counts)} in all)" if len(counts) > 20 else ""
            lines.append(f"  {'per ' + name:12s} {shown}{more}")
        return "\n".join(lines)


def counts(column: Tensor) -> dict[int, int]:
    """How often each value comes in a column of labels.

    >>> import torch
    >>> counts(torch.tensor([2, 0, 2]))
    {0: 1, 2: 2}
    """
    values, sizes = torch.unique(column, return_counts=True)
    return dict(zip(values.tolist(), sizes.tolist(), strict=True))
