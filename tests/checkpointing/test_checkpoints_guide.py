"""The guide's code runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUIDES = Path(__file__).parents[2] / "docs"


def test_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (GUIDES / "checkpoints.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    exec("\n".join(blocks), {"__name__": "guide"})
    said = "strategy.plugins[0]: ReplayPlugin holds 'storage_policy' of type ExperienceBalancedBuffer, "
    assert capsys.readouterr().out.startswith(said)
