"""Runs in processes of this machine."""

from __future__ import annotations

import os
import select
import signal
import sys
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, get_all_start_methods, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from .spec import RunSpec, Settings
from .store import ResultStore, RunResult

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class LocalProcesses:
    """Does each run in a process of its own, several at a time.

    The processes are forked from one that has imported Avalanche already, since the import takes longer than a small
    run. Several runs side by side on a thread each are faster than one run on several threads, and repeatable. If a
    process dies (out of memory, a crash in native code), only its own run fails; what the process printed last
    becomes part of the run's error. If this process is killed, its children end, too.

    :param jobs: processes at a time, >= 1; None: as many as fill the cores with their threads.
    :param settings: how; None: one thread a run.
    :raises ValueError: if ``jobs`` is below 1.

    >>> LocalProcesses(jobs=2).jobs
    2
    """

    def __init__(self, jobs: int | None = None, settings: Settings | None = None) -> None:
        if jobs is not None and jobs < 1:
            raise ValueError(f"jobs: expected at least 1, got {jobs}")
        self.settings = settings or Settings()
        self.jobs = max(1, cores() // self.settings.threads) if jobs is None else jobs

    def run(self, specs: Sequence[RunSpec], store: ResultStore) -> Iterator[RunResult]:
        """As :meth:`.Executor.run`. Leaving the iterator early ends the processes."""
        waiting = deque(specs)
        running: dict[Connection, _Process] = {}
        with tempfile.TemporaryDirectory(prefix="memplugins-") as logs:
            try:
                while waiting or running:
                    while waiting and len(running) < self.jobs:
                        process = _Process(waiting.popleft(), store, self.settings, Path(logs))
                        running[process.pipe] = process
                    for ready in wait(list(running)):
                        # Taken out only afterwards: whatever interrupts this, `finally` ends the process.
                        process = running[ready]  # type: ignore[index]
                        result = process.take()
                        del running[process.pipe]
                        yield result
            finally:
                for process in running.values():
                    process.stop()


class _Process:
    def __init__(self, spec: RunSpec, store: ResultStore, settings: Settings, logs: Path) -> None:
        context = _context()
        self.spec = spec
        self.log = logs / f"{spec.key}.log"
        self.pipe: Connection
        self.pipe, theirs = context.Pipe(duplex=False)
        arguments = (theirs, spec, store, settings, str(self.log))
        self.process: BaseProcess = context.Process(target=serve, args=arguments, daemon=True)
        try:
            with _one_thread():
                with _interrupts_wait():
                    _ensure_server()
                # The first one waits until the server has imported everything, which Ctrl-C may end.
                self.process.start()
        except BaseException:
            # Whether it has begun or is about to: without a reader it ends.
            self.pipe.close()
            raise
        finally:
            theirs.close()

    def take(self) -> RunResult:
        try:
            result: RunResult = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            said = self.log.read_text(encoding="utf-8", errors="replace")[-4000:] if self.log.exists() else ""
            error = f"the run's process died with exit code {self.process.exitcode}\n{said}"
            result = RunResult(spec=self.spec, error=error)
        self.pipe.close()
        self.process.join()
        return result

    def stop(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _context() -> Any:
    # Never a fork of this process: torch's threads do not survive one.
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["avalanche_memplugins.lab.preload"])
    return context


def _ensure_server() -> None:
    if "forkserver" in get_all_start_methods():
        forkserver.ensure_running()


@contextmanager
def _one_thread() -> Iterator[None]:
    # Set here, since the libraries read it when they are loaded; a run on more threads tells torch so itself.
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
def _interrupts_wait() -> Iterator[None]:
    """Keep a Ctrl-C that comes meanwhile until the block has ended; a process started in it never gets one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[Any] = []
    masks = hasattr(signal, "pthread_sigmask")
    if masks:
        # It unblocks the signal when it starts, so it has to run already.
        resource_tracker.ensure_running()
    # The handler keeps the signal for this process, whichever of its threads gets it. The mask is what a new process
    # inherits, so that no start-up is disturbed.
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(frame))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set()
    try:
        yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
        if came and callable(before):
            before(signal.SIGINT, came[0])


def serve(pipe: Connection, spec: RunSpec, store: ResultStore, settings: Settings, log: str) -> None:
    """Do one run and send its result.

    :param pipe: takes the result.
    :param spec: the run.
    :param store: where its result and its state go.
    :param settings: how.
    :param log: file that standard output and error go to.
    """
    # Ctrl-C reaches every process of the terminal, but the decision is the parent's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_the_reader, args=(pipe.fileno(),), daemon=True).start()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        from .run import perform

        warm_up(settings.threads)
        result = perform(spec, store, settings)
    except Exception:
        # A run reports its own failures: only a broken installation or a full disk comes here.
        result = RunResult(spec=spec, error=traceback.format_exc())
    pipe.send(result)


def warm_up(threads: int) -> None:
    """Do now what torch and Avalanche do on first use, so that the first experience is not charged for it."""
    import torch
    from avalanche.training import Naive

    torch.set_num_threads(threads)
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.zero_grad()
    model(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    Naive(model=model, optimizer=optimizer, criterion=torch.nn.CrossEntropyLoss(), evaluator=None)


def _die_with_the_reader(pipe: int) -> None:
    """End the process when nobody waits for its result: the parent was killed, or has given up this run.

    Otherwise it would hold the run's lock until it ends.
    """
    parent = parent_process()
    if parent is None:
        return
    if hasattr(select, "poll"):
        ends = select.poll()
        ends.register(parent.sentinel, select.POLLIN)
        ends.register(pipe, 0)  # an error is told unasked
        ends.poll()
    else:
        wait([parent.sentinel])
    os._exit(1)
