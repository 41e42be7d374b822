"""The guide's code runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from avalanche.benchmarks import nc_benchmark
from torch import nn
from torch.utils.data import TensorDataset

GUIDE = Path(__file__).parents[2] / "docs" / "discriminants.md"


def images(rows: int, seed: int) -> TensorDataset:
    """Ten classes: a bright bar in another row of the image each."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(rows) % 10
    x = 0.3 * torch.rand(rows, 1, 28, 28, generator=g)
    for i, label in enumerate(y.tolist()):
        x[i, :, 2 + 2 * label : 6 + 2 * label, 4:24] += 0.6
    data = TensorDataset(x, y)
    data.targets = y.tolist()
    return data


def test_discriminants() -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) == 4
    train, test = images(400, 0), images(100, 1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    given: dict[str, Any] = {
        "benchmark": nc_benchmark(train, test, 5, task_labels=False, seed=0),
        "x": train.tensors[0],
        "y": train.tensors[1],
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
    }
    exec("\n".join(blocks), given)
    answers = given["memory"].predict(test.tensors[0]).argmax(1)
    assert float((answers == test.tensors[1]).float().mean()) > 0.9
    for experience in given["benchmark"].train_stream:
        given["strategy"].train(experience, num_workers=0)
    given["strategy"].eval(given["benchmark"].test_stream, num_workers=0)
    assert len(given["answers"]) == 400
