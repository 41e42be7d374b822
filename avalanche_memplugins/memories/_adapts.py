"""A memory as an attribute of an Avalanche ``Agent``, in a training loop of the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from avalanche_memplugins import _checks as check

_BATCH = 256


class AdaptsToExperiences:
    """Base of memories: takes in each experience when it has ended, as ``Agent.post_adapt`` asks of its attributes."""

    def __bool__(self) -> bool:
        """True even while empty, so that ``memory or default`` does not drop an empty one."""
        return True

    def pre_adapt(self, agent: Any, exp: Any) -> None:
        """Test the experience's first row before it is trained.

        :param agent: whose attribute the memory is.
        :param exp: an experience with a ``dataset``.
        :raises TypeError: if the experience has no data set.
        :raises ValueError: what the memory has against the row; or if it needs outputs or losses, which only a loop can
            give it.
        """
        memory: Any = self
        for name in sorted(getattr(memory, "needs", frozenset()) & {"logits", "loss"}):
            raise ValueError(
                f"memory: expected one that needs no {name}, got {memory!r}; call write(..., {name}=...) in the "
                "training loop instead of agent.post_adapt"
            )
        for x, y, t in _Batches(exp, memory.device, rows=1):
            memory.check_rows(x, y, t)
            break

    def post_adapt(self, agent: Any, exp: Any) -> None:
        """Write the experience's rows under their evaluation transforms, or learn from them.

        :param agent: whose attribute the memory is.
        :param exp: an experience with a ``dataset`` and its number, ``current_experience``.
        :raises TypeError: if the experience has no data set.
        :raises ValueError: what the memory has against the rows.
        """
        memory: Any = self
        batches = _Batches(exp, memory.device, rows=_BATCH)
        if hasattr(memory, "consolidate"):
            if len(batches):
                memory.consolidate(batches, origin=batches.number)
            return
        for x, y, t in batches:
            memory.write(x, y, t, origin=batches.number)


class _Batches:
    """Batches ``(x, y, t)`` of an experience, a fresh pass each time."""

    def __init__(self, exp: Any, device: torch.device, *, rows: int) -> None:
        check.having("exp", exp, ("dataset",), "an experience with a dataset")
        self.device = device
        self.number = int(getattr(exp, "current_experience", 0))
        dataset = exp.dataset
        dataset = dataset.eval() if callable(getattr(dataset, "eval", None)) else dataset
        self._has_tasks = hasattr(exp, "task_labels") or hasattr(dataset, "targets_task_labels")
        # A loader without a generator of its own would draw its seed from torch's global one.
        self._loader: DataLoader[Any] = DataLoader(
            dataset, batch_size=rows, collate_fn=getattr(dataset, "collate_fn", None), generator=torch.Generator()
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for columns in self._loader:
            x, y, *more = (column.to(self.device) for column in columns)
            t = more[-1] if more and self._has_tasks else torch.zeros(len(x), dtype=torch.int64, device=self.device)
            yield x, y, t
