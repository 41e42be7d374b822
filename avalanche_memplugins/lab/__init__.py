"""The lab: runs that are described by a value, done once, and compared over seeds."""

from __future__ import annotations

from .compare import Comparison, Outcome, compare
from .executors import Executor, InProcess, run_all
from .memories import MEMORIES, MemoryInfo
from .processes import LocalProcesses
from .settings import Settings
from .spec import RunSpec
from .store import ResultStore, RunResult
from .strategies import ABSENT, STRATEGIES, Absent, StrategyInfo

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
    "ResultStore",
    "RunResult",
    "RunSpec",
    "Settings",
    "StrategyInfo",
    "compare",
    "run_all",
]
