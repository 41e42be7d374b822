"""Defaults that plugins, strategies and the lab share. Imports nothing heavy."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Weight: TypeAlias = float | Literal["auto", "growing"] | None

REPLAY_WEIGHT: Final[Weight] = "auto"  # of experience replay; None: all rows weigh the same
