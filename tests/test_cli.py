"""The command line, end to end and by halves."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from avalanche_memplugins import __version__
from avalanche_memplugins.cli import COMMANDS, main
from avalanche_memplugins.lab import MEMORIES, STRATEGIES, InProcess, executors, processes, store

TINY = [
    *("compare", "--benchmarks", "split-digits", "--strategies", "naive", "rma", "--seeds", "2"),
    *("--experiences", "2", "--epochs", "1", "--hidden", "16", "--memory-size", "64"),
]


def numbers(out: Path) -> pd.DataFrame:
    table = pd.read_csv(out / "results.csv")
    return table[table["metric"] != "train_seconds"].reset_index(drop=True)


def test_compare_from_the_command_to_the_files_and_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert main([*TINY, "--jobs", "1", "--out", str(out)]) == 0
    screen = capfd.readouterr()
    assert "split-digits: class-incremental, 2 experiences, 1 epoch each, 2 seeds" in screen.out
    assert screen.err == "", "no noise"
    names = {
        "results.csv",
        "summary.csv",
        "accuracy.png",
        "matrices.png",
        "report.html",
        "comparison.json",
        "runs",
    }
    found = {path.name for path in out.iterdir()} - {"results.parquet", "summary.parquet"}  # only with pyarrow
    assert found == names
    assert pd.read_csv(out / "summary.csv")["strategy"].tolist() == ["naive", "rma"]
    written = {path.name: path.read_bytes() for path in (out / "runs").glob("*.json")}
    assert len(written) == 4

    def refuse(*args: object) -> None:
        raise AssertionError("a process was started although every run is done")

    with monkeypatch.context() as patch:
        patch.setattr(processes, "_Process", refuse)
        assert main([*TINY, "--out", str(out)]) == 0
    assert capfd.readouterr().out.count("done before") == 4
    assert {path.name: path.read_bytes() for path in (out / "runs").iterdir()} == written

    # The same runs again, elsewhere and in this process: the same numbers and the same weights.
    with monkeypatch.context() as patch:
        patch.setattr(executors, "open_executor", lambda **how: InProcess())
        assert main([*TINY, "--out", str(tmp_path / "again")]) == 0
    pd.testing.assert_frame_equal(numbers(out), numbers(tmp_path / "again"))
    for name, content in written.items():
        weights = json.loads(content)["weights"]
        assert json.loads((tmp_path / "again" / "runs" / name).read_bytes())["weights"] == weights


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategies", "navie"], "error: strategy: no 'navie'; did you mean 'naive'?"),
        (["--benchmarks", "split-digit"], "error: benchmark: no 'split-digit'; did you mean 'split-digits'?"),
        (["--seeds", "0"], "error: seeds: expected an integer from 1 to 10000, got 0"),
        (["--jobs", "0"], "error: jobs: expected at least 1, got 0"),
        (["--baseline", "[red]"], "error: baseline: no '[red]'; there are naive"),
    ],
)
def test_bad_arguments_end_with_one_clear_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["compare", *arguments, "--out", str(tmp_path / "out")]) == 2
    screen = capsys.readouterr()
    assert message in screen.err
    assert "Traceback" not in screen.err
    assert screen.out == ""
    assert not (tmp_path / "out").exists()


def test_a_failed_run_makes_the_exit_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "open_executor", lambda **how: InProcess())
    monkeypatch.setattr("avalanche_memplugins.lab.run.build", lambda *args: 1 / 0)
    assert main([*TINY, "--out", str(tmp_path)]) == 1
    assert "FAILED split-digits · rma · seed 1: ZeroDivisionError" in capsys.readouterr().out
    assert all("Traceback" in json.loads(path.read_text())["error"] for path in (tmp_path / "runs").iterdir())


def test_ctrl_c_makes_the_exit_status_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        jobs = 1

        def run(self, specs: object, store: object) -> object:
            raise KeyboardInterrupt

    monkeypatch.setattr(executors, "open_executor", lambda **how: Interrupted())
    assert main([*TINY, "--out", str(tmp_path)]) == 130


def test_list_shows_all_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in [
        *STRATEGIES,
        *(memory.name for memory in MEMORIES),
        "split-digits",
        "permuted-mnist",
        "split-omniglot",
    ]:
        assert name in shown


def test_listed_memories_exist() -> None:
    for memory in MEMORIES:
        assert hasattr(importlib.import_module(memory.module), memory.name)


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["list"]])
def test_help_and_list_import_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from avalanche_memplugins.cli import COMMANDS, main
try:
    main({arguments!r})
except SystemExit as end:
    assert not end.code
heavy = sorted({{"torch", "avalanche", "pandas", "matplotlib", "scipy", "sklearn"}} & sys.modules.keys())
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"memplugins {__version__}\n"


def test_a_bare_command_shows_the_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["memplugins"])
    assert main() == 2
    bare = capsys.readouterr()
    assert main(["--help"]) == 0
    assert bare.out == capsys.readouterr().out
    assert bare.err == ""
    assert "Compare strategies on benchmarks over several seeds." in bare.out
    assert "memplugins --version" in bare.out.replace("\n", " ")


@pytest.mark.parametrize(
    "command", [[], ["compare"], ["frontier"], ["reproduce"], ["gallery"], ["recall"], ["train-energy"]]
)
def test_help_fits_the_terminal(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with suppress(SystemExit):
        main([*command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 10
    assert [line for line in lines if len(line) > 80] == []


def test_python_m_is_the_same_command() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "avalanche_memplugins", "list"], capture_output=True, text=True
    )
    assert ended.returncode == 0
    assert "er-reservoir" in ended.stdout


@pytest.mark.slow
def test_a_real_ctrl_c_and_the_same_command_again(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "avalanche_memplugins",
        *TINY,
        "--seeds",
        "6",
        "--out",
        str(tmp_path),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("[ 2/"):
        pass
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on from there" in out
    assert "Traceback" not in err
    done = {path.name: path.read_bytes() for path in (tmp_path / "runs").iterdir()}
    assert 2 <= len(done) < 12
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout.count("(done before)") == len(done)
    assert all((tmp_path / "runs" / name).read_bytes() == content for name, content in done.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compar"], "command: no 'compar'; did you mean 'compare'?"),
        (["compare", "--experiences", "3"], "experiences: expected a divisor of the 10 classes of split-digits, got 3"),
        (["compare", "--budget", "10"], "replay on split-digits: budget: expected at least 272 bytes, got 10"),
        (["compare", "--strategies", "gss", "--memory-size", "9"], "memory_size: expected at least 32 rows, got 9"),
        (["compare", "--strategies", "er-latent"], "er-latent on split-digits: strategy: er-latent expected images of"),
        (["compare", "--data-root", "no-such"], "data_root: expected an existing folder, got 'no-such'"),
        (["compare", "--out", ""], "out: expected a value, got an empty text"),
        (["gallery", "--out="], "out: expected a value, got an empty text"),
        (["compare", "--seeds", "1000000000"], "seeds: expected an integer from 1 to 10000"),
        (["compare", "--threads", "1000000000"], "threads: expected an integer from 1 to 1024"),
        (["compare", "--memory-size", "1" + "0" * 40], "memory_size: expected an integer up to"),
        (["compare", "--lr", "nan"], "lr: expected a number above 0, got nan"),
        (["compare", "--log", "tensorbord"], "log: no 'tensorbord'; did you mean 'tensorboard'?"),
        (["frontier", "--budgets", "5"], "budgets: none of them holds a memory"),
        (["frontier", "--budgets", "1e18", "--strategies", "vae"], "budgets: none of them holds a memory; vae at"),
        (["frontier", "--data-root", "no-such"], "data_root: expected an existing folder"),
        (["reproduce", "clb-split-mnis"], "preset: no 'clb-split-mnis'; did you mean 'clb-split-mnist'?"),
        (["reproduce", "no-such.yaml"], "preset: cannot read no-such.yaml: No such file or directory"),
        (["reproduce", "."], "preset: no '.'; there are"),
        (["reproduce", "clb-split-mnist", "--data-root", "no-such"], "data_root: expected an existing folder"),
        (["gallery", "--budget", "-3"], "budget: expected bytes such as"),
        (["gallery", "--seed", "-3"], "seed: expected an integer from 0 to"),
        (["gallery", "--images", "mnist", "--data-root", "no-such"], "data_root: expected an existing folder"),
        (["train-energy", "--bits", "0"], "bits: expected an integer from 1 to"),
        (["train-energy", "--lr", "inf"], "lr: expected a finite number > 0, got inf"),
        (["train-energy", "--width", "2000000000"], "not enough memory for what was asked"),
        (["train-energy", "--data", "mnist", "--data-root", "."], "data: mnist cannot be read from"),
        (["report", "no-such"], "folder: expected a folder of `memplugins compare` with finished runs, got no-such"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_any_work(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEMPLUGINS_DATA", raising=False)
    if arguments[0] == "train-energy":
        arguments = [*arguments, "--out", "out.safetensors", "--steps", "1"]
    assert main(arguments) == 2
    screen = capsys.readouterr()
    assert message in screen.err
    assert screen.err.count("\n") == 1
    assert screen.out == ""
    assert list(tmp_path.iterdir()) == []


PLACES = [
    ["compare", "--benchmarks", "split-digits", "--strategies", "naive", "--out"],
    ["frontier", "--budgets", "5KB", "--strategies", "er-4bit", "--out"],
    ["reproduce", "preset.yaml", "--out"],
    ["gallery", "--out"],
    ["recall", "--out"],
]


@pytest.mark.parametrize("arguments", PLACES)
@pytest.mark.parametrize("place", ["a file", "below a file", "read-only", "full"])
def test_a_place_that_cannot_be_written_to_is_told_before_any_work(
    arguments: list[str], place: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    run = "{benchmark: split-digits, strategy: naive, n_experiences: 5}"
    (tmp_path / "preset.yaml").write_text(
        f"summary: s\nsource: s\nseeds: 1\nminutes: 1\nrows:\n- {{label: a, run: {run}, expected: 20, tolerance: 5}}\n"
    )
    monkeypatch.setattr(executors, "open_executor", lambda **how: Refusing())
    out = {"a file": "file", "below a file": "file/out"}.get(place, "out")
    if place in ("read-only", "full"):
        number = errno.EROFS if place == "read-only" else errno.ENOSPC

        def refuse(*args: Any, **options: Any) -> Any:
            raise OSError(number, os.strerror(number), "out")

        monkeypatch.setattr(store.tempfile, "TemporaryFile", refuse)
    assert main([*arguments, out]) == 2
    screen = capsys.readouterr()
    assert screen.err.startswith(f"error: out: expected a folder that can be written to, got {out}: ")
    assert screen.err.count("\n") == 1


class Refusing:
    """An executor that must not be asked."""

    jobs = 1

    def run(self, specs: object, store: object) -> Any:
        raise AssertionError("a run was begun")


def test_other_options_keep_the_earlier_report(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "open_executor", lambda **how: InProcess())
    out = tmp_path / "out"
    assert main([*TINY, "--seeds", "1", "--out", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert main([*TINY, "--seeds", "1", "--jobs", "1", "--out", str(out)]) == 0
    assert not (out / "earlier").exists(), "the same runs have the same report"
    capsys.readouterr()
    assert main([*TINY, "--seeds", "1", "--hidden", "8", "--out", str(out)]) == 0
    (kept,) = (out / "earlier").iterdir()
    assert f"the report of an earlier comparison is kept in {kept}" in capsys.readouterr().out.replace("\n", "")
    held = {path.name: path.read_bytes() for path in kept.iterdir()}
    assert held.keys() == before.keys()
    assert held["results.csv"] == before["results.csv"] != (out / "results.csv").read_bytes()
    assert main(["report", str(kept)]) == 0
    assert (kept / "results.csv").read_bytes() == before["results.csv"]
    # There and back: two reports, each with its own numbers.
    assert main([*TINY, "--seeds", "1", "--out", str(out)]) == 0
    assert (out / "results.csv").read_bytes() == before["results.csv"]
    assert len(list((out / "earlier").iterdir())) == 2


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    for name in COMMANDS:
        assert name in shown
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0
        assert f"usage: memplugins {name} " in capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 60, 80])
def test_lists_fit_the_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line.rstrip()) > width] == []
    shown = " ".join(" ".join(lines).split())
    for name in (*STRATEGIES, "three-scenarios-split-mnist-domain"):
        assert name in shown


def _process(arguments: list[str], **how: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-W", "ignore", "-m", "avalanche_memplugins", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, timeout=60, **how)


@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["compare", "--help"]])
def test_a_reader_that_leaves_and_a_full_disk_are_no_traceback(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        ended = _process(arguments, stdout=pipe)
    assert (ended.returncode, ended.stderr) == (141, b"")
    if Path("/dev/full").exists():
        with open("/dev/full", "wb") as full:
            ended = _process(arguments, stdout=full)
        assert ended.returncode == 2
        assert ended.stderr == b"error: No space left on device\n"


def test_an_old_terminal_gets_its_table_and_a_closed_one_no_traceback() -> None:
    for encoding in ("ascii", "latin-1", "cp437"):
        ended = _process(["list"], stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": encoding})
        assert ended.returncode == 0
        assert b"er-reservoir" in ended.stdout
    assert "±·…○●✗─│╭é".encode("ascii", "memplugins") == b"~-.o*x-|+?"
    closed = subprocess.run(
        ["sh", "-c", f"{sys.executable} -W ignore -m avalanche_memplugins list >&-"], capture_output=True, timeout=60
    )
    assert (closed.returncode, closed.stderr) == (0, b"")


@pytest.mark.parametrize("moment", ["import", "start", "data"])
def test_ctrl_c_at_any_moment_of_the_start(moment: str, tmp_path: Path) -> None:
    """Sent at a point of the program, not of the clock."""
    points = {
        "import": ("builtins.__import__", "lambda name, *a, **k: (name == 'tyro' and hit()) or real(name, *a, **k)"),
        "start": ("multiprocessing.forkserver.ensure_running", "lambda *a, **k: (hit(), real(*a, **k))[1]"),
        "data": ("avalanche_memplugins.lab.options.check_before", "lambda *a, **k: (hit(), real(*a, **k))[1]"),
    }
    place, wrapper = points[moment]
    module, name = place.rsplit(".", 1)
    code = f"""
import importlib, os, signal, sys
import avalanche_memplugins.__main__ as command
importlib.import_module({module!r})
module = sys.modules[{module!r}]
real = getattr(module, {name!r})
sent = []
def hit():
    if not sent:
        sent.append(True)
        os.kill(os.getpid(), signal.SIGINT)
setattr(module, {name!r}, {wrapper})
sys.argv = ["memplugins", *{TINY!r}, "--out", {str(tmp_path / "out")!r}]
status = command.run()
assert sent
sys.exit(status)
"""
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, timeout=120, text=True)
    assert (ended.returncode, ended.stderr) == (130, "")
    runs = tmp_path / "out" / "runs"
    assert not runs.exists() or not list(runs.glob("*.json")), "no run was done after it"
