"""The guide's code runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUIDES = Path(__file__).parents[2] / "docs"


def test_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (GUIDES / "metrics.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    exec("\n".join(blocks), {"__name__": "guide"})
