"""The lab: runs that are described by a value, done once, and compared over seeds."""

from __future__ import annotations

import warnings
from typing import Any

from .compare import Comparison, Outcome, compare
from .executors import Executor, InProcess, run_all
from .processes import LocalProcesses
from .spec import RunSpec, Settings
from .store import ResultStore, RunResult
from .strategies import ABSENT, MEMORIES, STRATEGIES, Absent, MemoryInfo, Recipe

__all__ = [
    "ABSENT",
    "MEMORIES",
    "STRATEGIES",
    "Absent",
    "Comparison",
    "Executor",
    "InProcess",
    "LocalProcesses",
    "MemoryInfo",
    "Outcome",
    "Recipe",
    "ResultStore",
    "RunResult",
    "RunSpec",
    "Settings",
    "compare",
    "run_all",
]


def __getattr__(name: str) -> Any:
    if name == "StrategyInfo":
        warnings.warn("lab.StrategyInfo is now lab.Recipe", DeprecationWarning, stacklevel=2)
        return Recipe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
