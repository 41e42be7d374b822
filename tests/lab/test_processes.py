"""Worker processes: they share the runs, live for many, and may die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from avalanche_memplugins.lab import LocalProcesses, RunResult, RunSpec, processes, worker


def fake_serve(pipe: Connection, log: str) -> None:
    """Stands in for the real loop, which takes seconds to import Avalanche: says who did the run, and how."""
    while (spec := pipe.recv()) is not None:
        if spec.seed == 13:
            Path(log).write_text("the last words of a worker")
            os._exit(7)
        environment = {
            "pid": str(os.getpid()),
            "threads": os.environ.get("OMP_NUM_THREADS", "unset"),
            "interrupt": str(signal.getsignal(signal.SIGINT) is signal.SIG_IGN),
        }
        time.sleep(0.05)
        pipe.send(RunResult(spec=spec, error="not done", environment=environment))


@pytest.fixture
def fake_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "serve", fake_serve)


@pytest.mark.usefixtures("fake_workers")
def test_runs_are_shared_and_a_dead_worker_is_replaced(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it from the start
    specs = [spec(seed=seed) for seed in (0, 13, 1, 2, 3, 4)]
    results = {result.spec: result for result in LocalProcesses(2).run(specs)}
    assert results.keys() == set(specs)
    death = results[specs[1]].error
    assert death is not None
    assert "died with exit code 7" in death
    assert "the last words of a worker" in death
    others = [result.environment for one, result in results.items() if one.seed != 13]
    assert len({one["pid"] for one in others}) == 2, "two workers, one of them in the place of the dead one"
    assert all(one["threads"] == "1" for one in others)
    assert all(one["interrupt"] == "True" for one in others), "Ctrl-C is the parent's to handle"
    assert "OMP_NUM_THREADS" not in os.environ, "the parent's environment is as it was"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("fake_workers")
def test_leaving_early_ends_the_processes(spec: Callable[..., RunSpec]) -> None:
    runs = LocalProcesses(1).run([spec(seed=seed) for seed in range(5)])
    pid = int(next(runs).environment["pid"])
    os.kill(pid, 0)
    runs.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_no_runs_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_Worker", None)
    assert list(LocalProcesses(2).run([])) == []


def test_jobs_are_checked_and_default_to_the_cores() -> None:
    with pytest.raises(ValueError, match="jobs: wants at least 1, got 0"):
        LocalProcesses(0)
    assert LocalProcesses().jobs == len(os.sched_getaffinity(0))


class _Pipe:
    """One run, then the end."""

    def __init__(self, spec: RunSpec) -> None:
        self.given, self.sent = [spec, None], []

    def recv(self) -> RunSpec | None:
        return self.given.pop(0)

    def send(self, result: RunResult) -> None:
        self.sent.append(result)


def test_an_installation_that_cannot_be_imported_fails_the_run(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(run: RunSpec) -> None:
        raise ImportError("operator torchvision::nms does not exist")

    monkeypatch.setattr(worker, "warm_up", broken)
    monkeypatch.setattr(os, "dup2", lambda *streams: None)
    pipe = _Pipe(spec())
    worker.serve(pipe, str(tmp_path / "log"))  # type: ignore[arg-type]
    assert [result.spec for result in pipe.sent] == [spec()]
    assert "torchvision::nms" in str(pipe.sent[0].error)
