"""The seed of whatever draws from a generator of its own."""

from __future__ import annotations

import operator

import torch


def seed(value: int | None) -> int:
    """``value`` if torch's generators take it as their seed; for None one draw from torch's global generator.

    So ``torch.manual_seed`` governs all that is made after it, and what has a number of its own leaves it alone.

    :raises TypeError: if it is no integer.
    :raises ValueError: if it is out of their range.
    """
    if value is None:
        return int(torch.empty((), dtype=torch.int64, device="cpu").random_())
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"seed: expected an integer or None, got {value!r}")
    if not -(2**63) <= (number := operator.index(value)) < 2**64:
        raise ValueError(f"seed: expected an integer from -2**63 to 2**64 - 1, got {value!r}")
    return number
