"""Killed at any moment and started again, a run gives what it would have given without."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import pytest
from rich.console import Console

from avalanche_memplugins.lab import (
    STRATEGIES,
    Comparison,
    InProcess,
    LocalProcesses,
    ResultStore,
    RunResult,
    RunSpec,
    Settings,
    compare,
    run_all,
)
from avalanche_memplugins.lab import run as lab_run
from avalanche_memplugins.lab.run import Checkpoint, Progress

execute_run, perform_run = lab_run.execute, lab_run.perform
EXACT = {"naive", "rma", "er-reservoir", "mbpa", "er-mbpa"}  # strategies whose state can be saved
FAST = {*EXACT, "replay", "cumulative"}


class Killed(BaseException):
    """Nothing catches it."""


def numbers(result: RunResult) -> RunResult:
    """All but the seconds."""
    assert result.ok, result.error
    return replace(result, train_seconds=())


@pytest.mark.parametrize(
    "strategy",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in STRATEGIES],
)
def test_a_run_that_stops_between_experiences_goes_on_from_there(
    strategy: str, spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = spec(strategy=strategy)
    whole = execute_run(run)
    if not whole.ok and strategy not in FAST:
        pytest.skip(f"{strategy} does not run here: {str(whole.error).splitlines()[-1]}")
    save = Checkpoint.save

    def save_and_stop(self: Checkpoint, *what: object) -> None:
        save(self, *what)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", save_and_stop)
        with pytest.raises(Killed):
            execute_run(run, folder=tmp_path / "run")
    saved = (tmp_path / "run" / "state").is_dir()
    assert saved or strategy not in EXACT
    trained: list[int] = []
    test = lab_run._Run._test
    monkeypatch.setattr(lab_run._Run, "_test", lambda self, model: trained.append(1) or test(self, model))
    rest = execute_run(run, folder=tmp_path / "run")
    assert numbers(rest) == numbers(whole)
    # The untrained model is tested, too, in a run that begins anew.
    assert len(trained) == (1 if saved else 3)
    assert len(rest.train_seconds) == 2


def _dies_at(operation: int, act: Callable[[], object]) -> int:
    """Fork, do ``act``, and die without a word before the n-th change to the disk; the child's exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = operation

    def counted(change: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **more: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **more)

        return call

    try:
        for name in ("replace", "fsync", "rename", "unlink", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        shutil.rmtree = counted(shutil.rmtree)
        act()
    finally:
        os._exit(0)


def test_death_at_every_change_to_the_disk_leaves_a_state_to_go_on_from(
    spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    run = spec(strategy="rma")
    built = lab_run._Run(run, Settings(), None, Checkpoint(None, run, {}), list)
    built._build(first=0)
    strategy, weights = built.built.strategy, []
    first, second = Checkpoint(tmp_path / "first", run, {}), Progress()
    rows = {"accuracy": [[0.5, 0.5]], "train_seconds": [1.0], "memory_bytes": [1]}
    for number, experience in enumerate(built.benchmark.train_stream, 1):
        strategy.train(experience)
        weights.append(lab_run.torch.nn.utils.parameters_to_vector(strategy.model.parameters()).detach().clone())
        second = Progress(**{name: row * number for name, row in rows.items()})
        if number == 1:
            first.save(strategy, second)
    for operation in range(1, 100):
        folder = tmp_path / str(operation)
        shutil.copytree(tmp_path / "first", folder)
        code = _dies_at(operation, lambda: Checkpoint(folder, run, {}).save(strategy, second))  # noqa: B023
        built._build(first=0)
        checkpoint = Checkpoint(folder, run, {})
        progress = checkpoint.numbers()
        assert progress is not None
        assert checkpoint.load(built.built.strategy, built.benchmark.train_stream, progress)
        trained = len(progress.accuracy)
        model = built.built.strategy.model
        assert lab_run.torch.equal(
            lab_run.torch.nn.utils.parameters_to_vector(model.parameters()), weights[trained - 1]
        )
        if code == 0:
            assert trained == 2
            break
    assert operation > 8, "a state and its numbers change the disk more often than that"


def test_processes_killed_at_random_give_the_same_results(spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    specs = [spec(strategy=name, n_experiences=5, epochs=20) for name in ("rma", "er-reservoir", "replay")]
    store, draw = ResultStore(tmp_path / "runs"), random.Random(0)
    for _ in range(2):
        killer = threading.Thread(target=_kill_one, args=(store.folder / ".unfinished", draw))
        killer.start()
        results = run_all(specs, store, LocalProcesses(2))
        killer.join()
        died = [one for one in results if not one.ok]
        assert len(died) == 1, "the runs are too short for this test"
        assert "died with exit code -9" in str(died[0].error)
    results = run_all(specs, store, LocalProcesses(2))
    plain = run_all(specs, ResultStore(tmp_path / "plain"), InProcess())
    assert [numbers(one) for one in results] == [numbers(one) for one in plain]


def _kill_one(begun: Path, draw: random.Random) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (any(begun.glob("*/state")) and active_children()):
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.3))
    os.kill(draw.choice([child.pid for child in active_children() if child.pid is not None]), signal.SIGKILL)


@pytest.mark.slow
def test_the_command_killed_twice_and_given_again_ends_in_the_same_table(tmp_path: Path) -> None:
    settings = {"benchmarks": ("split-digits",), "strategies": ("rma", "cumulative"), "seeds": 2, "epochs": 6}
    compare(Comparison(**settings, out=tmp_path / "plain"), console=Console(file=io.StringIO()), executor=InProcess())
    command = [sys.executable, "-m", "avalanche_memplugins", "compare"]
    for name, value in settings.items():
        command += [f"--{name}", *(value if isinstance(value, tuple) else (str(value),))]
    command += ["--out", str(tmp_path / "killed")]
    draw, runs = random.Random(1), tmp_path / "killed" / "runs"
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begun = runs / ".unfinished"
        deadline = time.monotonic() + 60
        while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(draw.uniform(0.1, 1.5))
        process.kill()
        process.wait()
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert not (runs / ".unfinished").exists()
    tables = [(tmp_path / folder / "results.csv").read_text().splitlines() for folder in ("plain", "killed")]
    one, other = ([line for line in table if "train_seconds" not in line] for table in tables)
    assert one == other
    stored = [[numbers(one) for one in ResultStore(tmp_path / f / "runs").results()] for f in ("plain", "killed")]
    assert [(one.accuracy, one.weights, one.memory_bytes) for one in stored[0]] == [
        (one.accuracy, one.weights, one.memory_bytes) for one in stored[1]
    ]
    assert len(stored[0]) == 4


@pytest.mark.parametrize("damage", ["numbers", "tensors", "versions"])
def test_a_state_that_cannot_be_gone_on_with_is_not(
    damage: str, spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = spec(strategy="rma")
    whole = execute_run(run)
    save = Checkpoint.save
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", lambda self, *what: (save(self, *what), (_ for _ in ()).throw(Killed)))
        with pytest.raises(Killed):
            execute_run(run, folder=tmp_path / "run")
    if damage == "numbers":
        path = tmp_path / "run" / "numbers.json"
        path.write_text(path.read_text()[:-5])
    elif damage == "tensors":
        path = tmp_path / "run" / "state" / "tensors.safetensors"
        path.write_bytes(path.read_bytes()[:-5] + b"12345")
    else:
        path = tmp_path / "run" / "numbers.json"
        values = json.loads(path.read_text())
        values["versions"]["torch"] = "1.0"
        path.write_text(json.dumps(values))
    again = execute_run(run, folder=tmp_path / "run")
    assert (again.accuracy, again.weights) == (whole.accuracy, whole.weights)
    assert len(again.warnings) == (damage == "tensors")


def test_two_processes_do_not_do_the_same_run(spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    """The one that waits for the other takes its result."""
    store, done = ResultStore(tmp_path / "runs"), tmp_path / "done"

    def slow(run: RunSpec, **how: object) -> RunResult:
        with done.open("a") as file:
            file.write("x")
        time.sleep(0.3)
        return RunResult(spec=run, accuracy=((1.0, 0.0),) * 2, train_seconds=(1.0,) * 2, memory_bytes=(0, 0))

    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            try:
                lab_run.execute = slow
                perform_run(spec(), store, Settings())
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    assert done.read_text() == "x"
    assert store.get(spec()) is not None
    assert not (store.folder / ".unfinished").exists()
