"""How many rows are replayed in an iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from avalanche_memplugins import _checks as check

Amount: TypeAlias = int | Literal["growing"] | Callable[[int, int], int] | None


def check_amount(amount: Amount) -> Amount:
    """``amount`` if it is None, ``"growing"``, an integer >= 1, or a function."""
    if amount is None or callable(amount) or amount == "growing":
        return amount
    return check.positive_integer("replay_size", amount)


def rows_to_replay(amount: Amount, clock: Any, rows: int, *, replace: bool) -> int:
    """Rows to replay beside ``rows`` of the stream.

    :param amount: see :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin`.
    :param clock: the strategy's.
    :param replace: the rows take the place of the stream's, of which one stays at least.
    :raises ValueError: if a function gives anything but an integer >= 0.
    """
    number = int(clock.train_exp_counter)
    size = rows // 2 if replace else rows
    if amount == "growing":
        size = number * rows
    elif callable(amount):
        size = amount(number, int(clock.train_exp_iterations))
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ValueError(
                f"replay_size: wants a function that gives an integer >= 0, got {size!r} for experience {number}"
            )
    elif isinstance(amount, int):
        size = amount
    return min(size, rows - 1) if replace else size
