"""What the guide says is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from avalanche_memplugins.cli import main
from avalanche_memplugins.lab import STRATEGIES
from avalanche_memplugins.lab.reproduce import load_preset, preset_names
from avalanche_memplugins.lab.strategies import parsed

GUIDE = (Path(__file__).parents[2] / "docs" / "lab.md").read_text(encoding="utf-8")


def test_the_guides_preset_is_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    path = tmp_path / "my.yaml"
    path.write_text(block, encoding="utf-8")
    rows = load_preset(path).rows
    assert [row.spec(0).strategy for row in rows] == ["er-4bit", "ewc"]


def test_the_guide_names_every_strategy_and_preset() -> None:
    named = set(re.findall(r"`([a-z0-9+-]+)`", GUIDE))
    assert set(STRATEGIES) <= named
    assert set(preset_names()) <= named
    lines = re.findall(r"--strategies (.+?)(?: --|\n)", GUIDE)
    assert len(lines) == 5
    words = {word for line in lines for word in line.split() if ".py:" not in word}
    assert {parsed(word)[0] for word in words} <= set(STRATEGIES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "clb-split-mnits"], "error: preset: no 'clb-split-mnits'; did you mean 'clb-split-mnist'?"),
        (["reproduce", "clb-split-mnist", "--rows", "LwG"], "error: rows: no 'LwG'; did you mean 'LwF'?"),
        (["frontier", "--budgets", "5 cups"], "error: budgets: expected bytes such as 50KB"),
        (["compare", "--budget", "-1KB"], "error: budget: expected bytes such as 50KB"),
    ],
)
def test_bad_arguments_end_with_one_clear_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_list_says_what_is_left_out_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "MultiStepLR no longer takes verbose=" in shown
    assert "'avalanche-memplugins[gem]'" in shown, "not taken for markup"
    assert "does nothing on a CPU" in shown
    assert all(name in shown for name in preset_names())
