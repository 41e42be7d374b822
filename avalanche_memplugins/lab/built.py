"""What builders take and give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A run that is being built.

    :param spec: the run.
    :param benchmark: its stream.
    :param common: arguments that every Avalanche strategy takes.
    :param input_shape: of an image.
    :param n_classes: size of the model's output.
    :param row_bytes: of an image as Avalanche keeps it alive, float32 pixels and labels.
    :param batches: of an epoch, for each experience.
    """

    spec: RunSpec
    benchmark: Any
    common: dict[str, Any]
    input_shape: tuple[int, ...]
    n_classes: int
    row_bytes: int
    batches: list[int]

    def rows(self, row_bytes: int | None = None) -> int:
        """Rows that a memory of Avalanche's may hold: ``memory_size``, or what the budget buys.

        :param row_bytes: of a row, where that is not an image with its labels.
        :raises ValueError: if the budget is below one row.
        """
        if self.spec.budget is None:
            return self.spec.memory_size
        each = row_bytes or self.row_bytes
        if self.spec.budget < each:
            raise ValueError(f"budget: one row of {self.spec.strategy} takes {each} bytes, got {self.spec.budget}")
        return self.spec.budget // each


class Built:
    """A strategy ready to train.

    :param strategy: the Avalanche strategy.
    :param memory_bytes: bytes that it holds from the stream at the moment of the call.
    :param fixed_bytes: bytes that it needs besides, whatever the stream.
    """

    def __init__(
        self, strategy: Any, memory_bytes: Callable[[], int], fixed_bytes: Callable[[], int] = lambda: 0
    ) -> None:
        self.strategy = strategy
        self.memory_bytes = memory_bytes
        self.fixed_bytes = fixed_bytes


def tensor_bytes(*things: Any) -> int:
    """Bytes of the tensors in nested containers, modules and Avalanche's ``ParamData``; of anything else none."""
    total = 0
    for thing in things:
        if isinstance(thing, Tensor):
            total += thing.nbytes
        elif isinstance(thing, nn.Module):
            total += sum(value.nbytes for value in (*thing.parameters(), *thing.buffers()))
        elif isinstance(thing, Mapping):
            total += tensor_bytes(*thing.values())
        elif isinstance(thing, list | tuple):
            total += tensor_bytes(*thing)
        elif isinstance(getattr(thing, "data", None), Tensor):
            total += tensor_bytes(thing.data)
    return total
