"""What codecs that learn from the stream's first rows share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Size, Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._fingerprint import fingerprint


class Learned:
    """Tensors that a codec has learned, as buffers of any size: empty until it is fitted, in the state by name.

    :param module: the codec, whose buffers they become.
    :param names: of them.
    """

    def __init__(self, module: nn.Module, *names: str) -> None:
        self.names = names
        for name in names:
            module.register_buffer(name, torch.zeros(0))
        module.register_load_state_dict_pre_hook(self._resize)  # type: ignore[no-untyped-call]

    def _resize(self, module: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
        # A state is loaded only into buffers of its shape and type.
        for name in self.names:
            value = state.get(prefix + name)
            held = getattr(module, name)
            if isinstance(value, Tensor) and (value.shape != held.shape or value.dtype != held.dtype):
                setattr(module, name, torch.empty_like(value, device=held.device))

    def said(self, module: nn.Module) -> str:
        """What tells it apart from the same codec fitted to other rows, for its ``repr``; empty before it is fitted."""
        tensors = {name: getattr(module, name) for name in self.names}
        return f", fitted {fingerprint(tensors)}" if any(len(value) for value in tensors.values()) else ""

    def nbytes(self, module: nn.Module) -> int:
        """Bytes of all of them."""
        return sum(getattr(module, name).nbytes for name in self.names)


def vectors(x: Tensor, least: int, codec: str) -> Tensor:
    """Rows that a codec learns from, as finite float32 vectors ``(B, F)``.

    :param least: how many are needed.
    :param codec: name of it, for the error.
    """
    check.floats(x=check.batch("x", x))
    if len(x) < least:
        raise ValueError(f"x: the codec {codec} expected at least {least} rows to learn from, got {len(x)}")
    check.finite("x", x)
    return x.detach().flatten(1).float()


def check_vectors(x: Tensor, width: int, codec: str) -> None:
    """Raise unless ``x`` are finite rows of ``width`` numbers.

    :param codec: name of it, for the error.
    """
    check.floats(x=check.batch("x", x))
    if not width:
        raise ValueError(f"x: the codec {codec} expected to have learned, call fit(rows) first, got {check.show(x)}")
    if x[0:1].numel() != width * min(len(x), 1):
        raise ValueError(f"x: the codec {codec} expected rows of {width} numbers, got {tuple(x.shape)}")
    check.finite("x", x)


def check_width(shape: Size, width: int, codec: str) -> None:
    """Raise unless rows of a shape are as long as those that a codec has learned from, if it has.

    :param codec: name of it, for the error.
    """
    if width and shape.numel() != width:
        raise ValueError(f"shape: the codec {codec} expected rows of {width} numbers, got {tuple(shape)}")
