"""Small streams of every layout that Avalanche hands to a plugin, and a strategy to run them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from avalanche.benchmarks import benchmark_from_datasets, nc_benchmark
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.models import as_multitask
from avalanche.training import Naive
from torch import Tensor, nn
from torch.utils.data import TensorDataset

CLASSES, FEATURES, EXPERIENCES = 6, 8, 3


def rows(n: int, seed: int) -> TensorDataset:
    """Six Gaussian classes; the last feature of a row is its number, so rows can be told apart."""
    generator = torch.Generator().manual_seed(seed)
    centres = 1.5 * torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(99))
    y = torch.arange(n) % CLASSES
    x = centres[y] + torch.randn(n, FEATURES, generator=generator)
    x[:, -1] = torch.arange(n) / 1_000
    data = TensorDataset(x, y)
    data.targets = y.tolist()
    return data


def classic(task_labels: bool = False) -> Any:
    """Batches [x, y, t]: Avalanche's classic generators."""
    return nc_benchmark(rows(180, 0), rows(60, 1), EXPERIENCES, task_labels, seed=1, shuffle=False)


def plain() -> Any:
    """Batches [x, y]: Avalanche's newer generators."""
    parts = {"train": [], "test": []}
    for name, data in (("train", rows(180, 0)), ("test", rows(60, 1))):
        for first in range(0, CLASSES, 2):
            x, y = data.tensors
            mine = (y == first) | (y == first + 1)
            part = TensorDataset(x[mine], y[mine])
            part.targets = y[mine].tolist()
            parts[name].append(as_classification_dataset(part))
    return benchmark_from_datasets(**parts)


def network() -> nn.Sequential:
    """A small model with a layer to name ("features") and one to train."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("features", nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh()))
    model.add_module("classifier", nn.Linear(16, CLASSES))
    return model


class MultiHeadBody(nn.Module):
    """The same with an attribute that ``as_multitask`` can replace."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh())
        self.classifier = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


@dataclass
class Case:
    """A stream, a model for it and how to train."""

    benchmark: Callable[[], Any] = classic
    model: Callable[[], nn.Module] = network
    options: dict[str, Any] = field(default_factory=dict)
    online: bool = False

    def stream(self) -> Iterable[Any]:
        """Training experiences; an online stream is cut into pieces of ten rows."""
        train = self.benchmark().train_stream
        return split_online_stream(train, experience_size=10, seed=0) if self.online else train


CASES = {
    "x, y, t": Case(),
    "x, y": Case(plain),
    "multi-head": Case(lambda: classic(True), lambda: as_multitask(MultiHeadBody(), "classifier")),
    "evaluation every epoch": Case(options={"eval_every": 1, "train_epochs": 2}),
    "evaluation every iteration": Case(options={"eval_every": 1, "peval_mode": "iteration"}),
    "several epochs": Case(options={"train_epochs": 3}),
    "online": Case(online=True),
    "online, x, y": Case(plain, online=True),
}


class Watcher(SupervisedPlugin):
    """Looks over the strategy's shoulder from the evaluator's place, at the end of each iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[list[int]] = []
        self.outputs: list[int] = []
        self.losses: list[float] = []
        self.own_losses: list[float] = []
        self.modes: list[bool] = []

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        x, y = strategy.mbatch[0], strategy.mbatch[1]
        self.numbers.append((x[:, -1] * 1_000).round().long().tolist())
        self.outputs.append(len(strategy.mb_output))
        assert len(x) == len(y) == len(strategy.mb_output) == len(strategy.mbatch[-1])
        self.losses.append(float(strategy.loss.detach()))
        self.own_losses.append(float(nn.functional.cross_entropy(strategy.mb_output.detach(), y)))
        self.modes.append(strategy.model.training)


def build(case: Case, plugins: list[Any], *, lr: float = 0.05, momentum: float = 0.9, **options: Any) -> Naive:
    """Naive with the plugins, on the case's model."""
    model = case.model()
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum),
        **{
            "criterion": nn.CrossEntropyLoss(),
            "train_mb_size": 16,
            "eval_mb_size": 64,
            "evaluator": None,
            **case.options,
            **options,
        },
        plugins=plugins,
    )


def run(case: Case, plugins: list[Any], **options: Any) -> Naive:
    """Train on the whole stream with everything seeded."""
    strategy = build(case, plugins, **options)
    torch.manual_seed(1)
    for experience in case.stream():
        strategy.train(experience, num_workers=0)
    return strategy


def weights(strategy: Naive) -> Tensor:
    """All parameters in one vector."""
    return torch.cat([p.detach().flatten() for p in strategy.model.parameters()])
