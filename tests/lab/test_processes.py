"""Processes of runs: one a run, ended with their parent, and they may die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from avalanche_memplugins.lab import LocalProcesses, ResultStore, RunResult, RunSpec, Settings, processes


def fake_serve(pipe: Connection, spec: RunSpec, store: ResultStore, settings: Settings, log: str) -> None:
    """Stands in for the real one, which trains: says who did the run, and how."""
    if spec.seed == 13:
        Path(log).write_text("the last words of a process")
        os._exit(7)
    environment = {
        "pid": str(os.getpid()),
        "threads": os.environ.get("OMP_NUM_THREADS", "unset"),
        "wanted": str(settings.threads),
        "folder": str(store.folder),
        "interrupt": str(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    }
    time.sleep(0.05)
    pipe.send(RunResult(spec=spec, error="not done", environment=environment))


def sleeping_serve(pipe: Connection, spec: RunSpec, store: ResultStore, settings: Settings, log: str) -> None:
    """Never ends by itself."""
    store.folder.mkdir(exist_ok=True)
    threading.Thread(target=processes._die_with_the_reader, args=(pipe.fileno(),), daemon=True).start()
    (store.folder / "pids").write_text(f"{os.getpid()} {parent_process().pid}")
    time.sleep(600)


@pytest.fixture
def fake_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "serve", fake_serve)


@pytest.mark.usefixtures("fake_processes")
def test_every_run_has_a_process_and_one_that_dies_fails_its_run_only(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it from the start
    specs = [spec(seed=seed) for seed in (0, 13, 1, 2, 3, 4)]
    executor = LocalProcesses(2, Settings(threads=3))
    results = {result.spec: result for result in executor.run(specs, ResultStore(tmp_path))}
    assert results.keys() == set(specs)
    death = results[specs[1]].error
    assert death is not None
    assert "died with exit code 7" in death
    assert "the last words of a process" in death
    others = [result.environment for one, result in results.items() if one.seed != 13]
    assert len({one["pid"] for one in others}) == 5
    assert all(one["threads"] == "1" for one in others)
    assert all(one["wanted"] == "3" for one in others)
    assert all(one["folder"] == str(tmp_path) for one in others)
    assert all(one["interrupt"] == "True" for one in others), "Ctrl-C is the parent's to handle"
    assert "OMP_NUM_THREADS" not in os.environ, "the parent's environment is as it was"
    assert signal.getsignal(signal.SIGINT) is before


def test_leaving_early_ends_the_processes(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = []
    process = processes._Process
    monkeypatch.setattr(processes, "serve", fake_serve)
    monkeypatch.setattr(processes, "_Process", lambda *how: started.append(process(*how)) or started[-1])
    runs = LocalProcesses(1).run([spec(seed=seed) for seed in range(5)], ResultStore(tmp_path))
    first = int(next(runs).environment["pid"])
    monkeypatch.setattr(processes, "serve", sleeping_serve)
    waiting = threading.Timer(0.3, lambda: started[-1].process.kill())
    waiting.start()
    assert "died with exit code -9" in str(next(runs).error)
    runs.close()
    for pid in (first, *(one.process.pid for one in started)):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert len(started) == 2


def test_what_is_imported_before_the_fork_is_all_there_and_computes_nothing() -> None:
    code = (
        "import sys, threading\n"
        "from avalanche_memplugins.lab import preload\n"
        "missing = set(preload.MODULES) - sys.modules.keys()\n"
        "assert not missing, missing\n"
        "assert 'torch._dynamo' in sys.modules, 'the last line was reached'\n"
        "assert threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


def test_no_runs_start_no_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "_Process", None)
    assert list(LocalProcesses(2).run([], ResultStore(tmp_path))) == []


def test_jobs_are_checked_and_default_to_the_cores() -> None:
    with pytest.raises(ValueError, match="jobs: expected at least 1, got 0"):
        LocalProcesses(0)
    cores = len(os.sched_getaffinity(0))
    assert LocalProcesses().jobs == cores
    assert LocalProcesses(settings=Settings(threads=2 * cores)).jobs == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"threads": 0}, "threads: expected an integer from 1 to 1024, got 0"),
        ({"gpus": -1.0}, r"gpus: expected a number >= 0, got -1\.0"),
        ({"loggers": ("print",)}, "log: no 'print'; there are csv, tensorboard, wandb"),
    ],
)
def test_settings_are_checked(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**setting)


class _Pipe:
    def __init__(self) -> None:
        self.sent: list[RunResult] = []

    def fileno(self) -> int:
        return 2

    def send(self, result: RunResult) -> None:
        self.sent.append(result)


def test_an_installation_that_cannot_be_imported_fails_the_run(
    spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(threads: int) -> None:
        raise ImportError("operator torchvision::nms does not exist")

    monkeypatch.setattr(processes, "warm_up", broken)
    monkeypatch.setattr(os, "dup2", lambda *streams: None)
    monkeypatch.setattr(signal, "signal", lambda *handler: None)
    pipe = _Pipe()
    processes.serve(pipe, spec(), ResultStore(tmp_path), Settings(), str(tmp_path / "log"))  # type: ignore[arg-type]
    assert [result.spec for result in pipe.sent] == [spec()]
    assert "torchvision::nms" in str(pipe.sent[0].error)
