"""Every script of bench/ imports, says what it is for, and has the options that all have."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import pytest

from avalanche_memplugins.lab.reproduce import load_preset

BENCH = Path(__file__).parents[2] / "bench"
SCRIPTS = sorted(path for path in BENCH.glob("*.py") if not path.name.startswith("_"))
PRESETS = sorted((BENCH / "presets").glob("*.yaml"))


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.chdir(BENCH.parent)


def test_the_scripts_are_there() -> None:
    assert {"speed", "scale", "faults", "standard_runs", "discriminants"} <= {path.stem for path in SCRIPTS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_it_parses_its_options(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(path), run_name="__main__")
    assert left.value.code == 0
    shown = capsys.readouterr().out
    quick = "--cpu" if path.stem == "gpu" else "--quick"
    assert quick in shown
    assert "--record" in shown


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_its_docstring_has_the_command(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert f"python bench/{path.name}" in said


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_of_our_own_are_whole(path: Path) -> None:
    preset = load_preset(path)
    assert "RESULTS.md" in preset.source, "their numbers were measured here"
    keys = [row.spec(0).key for row in preset.rows]
    assert len(set(keys)) == len(keys), "no row is another one again"


def test_a_quick_run_records_and_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import _common

    said: list[str] = []
    monkeypatch.setattr(_common, "record", lambda section, *rest: said.append(section))
    monkeypatch.chdir(tmp_path)
    quick, whole = _common.Options(quick=True), _common.Options()
    quick.write("Speed", "table", "command")
    _common.Options(record=False).write("Speed", "table", "command")
    assert not said
    whole.write("Speed", "table", "command")
    assert said == ["Speed"]
    assert quick.runs("results/speed") != Path("results/speed")
    assert not (tmp_path / "results").exists()
    assert whole.runs("results/speed").is_dir()
    assert (quick.least(9, 2), quick.least(1, 2), whole.least(9, 2)) == (2, 1, 9)


def test_what_was_made_once_is_not_made_again(tmp_path: Path) -> None:
    import _common

    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(1)
        return {"runs": len(made)}

    file = tmp_path / "folder" / "run.json"
    assert [_common.once(file, make) for _ in range(2)] == [{"runs": 1}] * 2
    file.unlink()
    assert _common.once(file, make) == {"runs": 2}
    assert [path.name for path in file.parent.iterdir()] == ["run.json"]
