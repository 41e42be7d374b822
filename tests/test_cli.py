"""The command line, end to end and by halves."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from avalanche_memplugins import __version__
from avalanche_memplugins.cli import main
from avalanche_memplugins.lab import MEMORIES, STRATEGIES, InProcess, builders, executors, processes

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
    monkeypatch.setattr(builders, "build", lambda *args: 1 / 0)
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
from avalanche_memplugins.cli import main
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
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert bare.out == capsys.readouterr().out
    assert bare.err == ""
    assert "Compare strategies on benchmarks over several seeds." in bare.out
    assert "memplugins --version" in bare.out.replace("\n", " ")


@pytest.mark.parametrize("command", [[], ["compare"], ["frontier"], ["reproduce"], ["gallery"], ["train-energy"]])
def test_help_fits_the_terminal(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
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
