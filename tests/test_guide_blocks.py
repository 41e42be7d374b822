"""The code in the guides on loops, forgetting and structures runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("page", "block"), [("loops", 0), ("forgetting", 0), ("memories", "structure")])
def test_a_block_runs(page: str, block: int | str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    chosen = blocks[block] if isinstance(block, int) else next(text for text in blocks if '"camera"' in text)
    exec(chosen, {})
