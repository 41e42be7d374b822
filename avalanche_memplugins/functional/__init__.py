"""Pure tensor maths: no state, no Avalanche."""

from avalanche_memplugins.functional.reservoir import (
    distinct_integers,
    last_write_wins,
    reservoir_slots,
)

__all__ = ["distinct_integers", "last_write_wins", "reservoir_slots"]
