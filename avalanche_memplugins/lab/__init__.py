"""The lab: runs that are described by a value, done once, and compared over seeds."""

from __future__ import annotations

from .compare import Outcome, compare
from .comparison import Comparison
from .executors import Executor, InProcess
from .memories import MEMORIES, MemoryInfo
from .processes import LocalProcesses
from .result import RunResult
from .runner import run_all
from .settings import Settings
from .spec import RunSpec
from .store import ResultStore
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
