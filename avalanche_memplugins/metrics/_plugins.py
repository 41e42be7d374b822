"""Finds the memory plugins of a strategy."""

from __future__ import annotations

from typing import Any

from avalanche_memplugins import _checks as check

SUFFIX = {"iteration": "MB", "epoch": "Epoch", "experience": "Exp"}
"""What Avalanche ends the names of its own metrics with."""


def memories_of(strategy: Any) -> list[Any]:
    """Each memory among the plugins once: what is called ``memory`` and counts its ``nbytes``."""
    found = [getattr(plugin, "memory", None) for plugin in strategy.plugins]
    return list({id(memory): memory for memory in found if hasattr(memory, "nbytes")}.values())


def check_emit_at(emit_at: str) -> str:
    """``emit_at`` if metrics can be emitted then."""
    return check.choice("emit_at", emit_at, tuple(SUFFIX))
