"""Runs in processes of this machine."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from .result import RunResult
from .spec import RunSpec
from .worker import serve

# One thread a process: several runs side by side are faster than one run on several threads, and repeatable.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class LocalProcesses:
    """Worker processes that live for many runs, since importing Avalanche takes longer than a small run.

    A worker that dies (out of memory, a crash in native code) fails its run and is replaced. What runs print
    goes to a log; the log of a dead worker becomes part of its run's error.

    :param jobs: number of processes, >= 1; None: one a core.
    :raises ValueError: if ``jobs`` is below 1.
    """

    def __init__(self, jobs: int | None = None) -> None:
        if jobs is not None and jobs < 1:
            raise ValueError(f"jobs: wants at least 1, got {jobs}")
        self.jobs = cores() if jobs is None else jobs

    def run(self, specs: Sequence[RunSpec]) -> Iterator[RunResult]:
        """As :meth:`.Executor.run`. Leaving the iterator early ends the processes."""
        waiting = deque(specs)
        with tempfile.TemporaryDirectory(prefix="memplugins-") as logs:
            workers: list[_Worker] = []
            try:
                for number in range(min(self.jobs, len(waiting))):
                    workers.append(_Worker(Path(logs) / f"{number}.log"))
                    workers[-1].give(waiting.popleft())
                while any(worker.spec is not None for worker in workers):
                    ready = wait([worker.pipe for worker in workers if worker.spec is not None])
                    for number, worker in enumerate(workers):
                        if worker.pipe not in ready:
                            continue
                        result = worker.take()
                        if not worker.alive:
                            worker.stop()
                            if waiting:
                                workers[number] = worker = _Worker(worker.log)
                        if waiting:
                            worker.give(waiting.popleft())
                        yield result
            finally:
                for worker in workers:
                    worker.stop()


class _Worker:
    def __init__(self, log: Path) -> None:
        # Spawned and not forked: torch's threads do not survive a fork.
        context = get_context("spawn")
        self.log = log
        self.spec: RunSpec | None = None
        self.alive = True
        self.pipe: Connection
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=serve, args=(theirs, str(log)), daemon=True)
        with _one_thread(), _deaf_to_interrupts():
            self.process.start()
        theirs.close()

    def give(self, spec: RunSpec) -> None:
        self.spec = spec
        with suppress(BrokenPipeError):  # it has died; `take` finds out
            self.pipe.send(spec)

    def take(self) -> RunResult:
        spec, self.spec = self.spec, None
        if spec is None:
            raise RuntimeError("the worker has no run")
        try:
            result: RunResult = self.pipe.recv()
            return result
        except (EOFError, ConnectionResetError):
            self.alive = False
            self.process.join()
            said = self.log.read_text(encoding="utf-8", errors="replace")[-4000:] if self.log.exists() else ""
            return RunResult(spec=spec, error=f"the worker process died with exit code {self.process.exitcode}\n{said}")

    def stop(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _one_thread() -> Iterator[None]:
    # Set here and not in the worker: the libraries read it when they are loaded.
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    # Ctrl-C reaches every process of the terminal, but the decision is the parent's. A process inherits that
    # it ignores the signal, so not even its start-up is disturbed.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
