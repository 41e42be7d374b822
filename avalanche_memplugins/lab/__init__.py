"""The lab: runs that are described by a value, done once, and compared over seeds."""

from __future__ import annotations

from .compare import Comparison, Outcome, compare
from .executors import Executor, InProcess, run_all
from .memories import MEMORIES, MemoryInfo
from .processes import LocalProcesses
from .spec import RunSpec, Settings
from .store import ResultStore, RunResult
from .strategies import ABSENT, STRATEGIES, Absent, Recipe

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
