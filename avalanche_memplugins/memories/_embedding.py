"""Keys of rows by a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._modes import eval_mode


def embed(network: nn.Module, x: Tensor, like: Tensor | None) -> Tensor:
    """Keys ``(B, *key_shape)`` of the rows ``x``, by the network in eval mode.

    :param like: keys that are held, whose shape and type these must have.
    :raises ValueError: if the network does not take the rows, or gives no such keys.
    """
    with eval_mode(network):
        try:
            key = network(x)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            line = (str(error).splitlines() or [""])[0]
            raise ValueError(f"x: expected rows that the embedding takes, got {check.show(x)}: {line}") from error
    if not isinstance(key, Tensor) or key.ndim < 2 or len(key) != len(x) or 0 in key.shape:
        raise ValueError(f"embedding: expected a key for each of {len(x)} rows, (B, F), got {check.show(key)}")
    check.computed("embedding", key)
    if like is not None and (key.shape[1:] != like.shape[1:] or key.dtype != like.dtype):
        raise ValueError(
            f"embedding: expected {like.dtype} keys of {tuple(like.shape[1:])}, as this memory holds, got "
            f"{key.dtype} keys of {tuple(key.shape[1:])}"
        )
    return key
