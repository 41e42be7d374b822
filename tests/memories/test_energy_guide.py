"""The guide's code runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from torch import nn
from torch.utils.data import TensorDataset

GUIDE = Path(__file__).parents[2] / "docs" / "energy.md"


def test_energy() -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) == 3
    torch.manual_seed(0)
    x, y = torch.rand(40, 1, 28, 28).square(), torch.arange(40) % 2
    mask = torch.rand(x.shape) < 0.5
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 2))
    given = {"x": x, "y": y, "mask": mask, "damaged": x * mask, "model": model}
    given["optimizer"] = torch.optim.SGD(model.parameters(), lr=0.05)
    exec("\n".join(blocks).replace("loggers=[...]", "loggers=[]"), given)
    assert torch.equal(given["restored"][mask], x[mask])
    dataset = TensorDataset(x.sub(0.1307).div(0.3081), y)
    dataset.targets = y.tolist()
    stream = benchmark_from_datasets(train=[as_classification_dataset(dataset)] * 2).train_stream
    for experience in stream:
        given["strategy"].train(experience, num_workers=0)
    assert given["memory"].summary().per_experience == {0: 40, 1: 40}
