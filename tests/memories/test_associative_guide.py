"""The guide's code runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

GUIDE = (Path(__file__).parents[2] / "docs" / "associative.md").read_text(encoding="utf-8")


def test_the_code() -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) == 1
    names: dict = {}
    exec(blocks[0], names)
    assert names["wrong"] < 0.2
    assert names["packed"].nbytes == 10 * 32 * 16
