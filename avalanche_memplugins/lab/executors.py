"""Where runs are executed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from .result import RunResult
from .spec import RunSpec


class Executor(Protocol):
    """Executes runs, somewhere.

    :param jobs: runs that are under way at the same time.
    """

    jobs: int

    def run(self, specs: Sequence[RunSpec]) -> Iterator[RunResult]:
        """Yield each run's result as soon as it is there, in any order; a run that fails is a result too."""
        ...


class InProcess:
    """One run after the other in this process, on one thread as in the worker processes."""

    jobs = 1

    def run(self, specs: Sequence[RunSpec]) -> Iterator[RunResult]:
        """As :meth:`Executor.run`."""
        import torch

        from .execute import execute

        for spec in specs:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                result = execute(spec)
            finally:
                torch.set_num_threads(threads)
            yield result
