"""The guide's code runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from avalanche.models import SimpleMLP

from avalanche_memplugins.benchmarks import SplitDigits

GUIDE = Path(__file__).parents[2] / "docs" / "generative.md"


def test_generative() -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) == 3
    torch.manual_seed(0)
    given = {"benchmark": SplitDigits(n_experiences=2, seed=0)}
    for prefix in ("", "new_"):
        net = SimpleMLP(input_size=64, num_classes=10)
        given |= {f"{prefix}model": net, f"{prefix}optimizer": torch.optim.SGD(net.parameters(), lr=0.05)}
    exec("\n".join(blocks), given)
    x = given["memory"]
    assert given["strategy"].memory.consolidations == 2
    assert len(x) == 0  # made in the second block, not trained there
