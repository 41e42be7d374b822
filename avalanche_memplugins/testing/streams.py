"""Small streams of every layout that Avalanche hands to a plugin, and a strategy to run them on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from avalanche.benchmarks import benchmark_from_datasets, nc_benchmark
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.models import MultiHeadClassifier, MultiTaskModule
from avalanche.training import Naive
from torch import Tensor, nn
from torch.utils.data import TensorDataset

CLASSES, FEATURES, EXPERIENCES = 6, 8, 3


def rows(n: int, seed: int) -> TensorDataset:
    """Six Gaussian classes; the last feature of a row is its number, so rows can be told apart.

    :param n: number of rows.
    :param seed: of the noise; the classes are always the same.

    >>> rows(12, seed=0)[7][0].shape
    torch.Size([8])
    """
    generator = torch.Generator().manual_seed(seed)
    centres = 1.5 * torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(99))
    y = torch.arange(n) % CLASSES
    x = centres[y] + torch.randn(n, FEATURES, generator=generator)
    x[:, -1] = torch.arange(n) / 1_000
    data = TensorDataset(x, y)
    data.targets = y.tolist()  # type: ignore[attr-defined]
    return data


def classic(task_labels: bool = False) -> Any:
    """Three experiences of two classes each, batches [x, y, t]: Avalanche's classic generators.

    :param task_labels: number the tasks, otherwise all are task 0.

    >>> len(classic().train_stream)
    3
    """
    return nc_benchmark(rows(180, 0), rows(60, 1), EXPERIENCES, task_labels, seed=1, shuffle=False)


def plain() -> Any:
    """The same experiences, batches [x, y]: Avalanche's newer generators.

    >>> len(plain().test_stream)
    3
    """
    parts: dict[str, list[Any]] = {"train": [], "test": []}
    for name, data in (("train", rows(180, 0)), ("test", rows(60, 1))):
        for first in range(0, CLASSES, 2):
            x, y = data.tensors
            mine = (y == first) | (y == first + 1)
            part = TensorDataset(x[mine], y[mine])
            part.targets = y[mine].tolist()  # type: ignore[attr-defined]
            parts[name].append(as_classification_dataset(part))
    return benchmark_from_datasets(**parts)


def network() -> nn.Sequential:
    """A small model with a layer to name ("features") and one to train.

    >>> network()(torch.zeros(2, 8)).shape
    torch.Size([2, 6])
    """
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("features", nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh()))
    model.add_module("classifier", nn.Linear(16, CLASSES))
    return model


class MultiHead(MultiTaskModule):  # type: ignore[misc]
    """The same with a head for each task.

    >>> [name for name, _ in MultiHead().named_children()]
    ['features', 'classifier']
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh())
        self.classifier = MultiHeadClassifier(16, initial_out_features=CLASSES)

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        """Outputs ``(B, classes)``.

        :param x: rows ``(B, 8)``.
        :param task_labels: ``(B,)``.
        """
        return self.classifier(self.features(x), task_labels)  # type: ignore[no-any-return]


def multi_head() -> MultiHead:
    """The multi-head model, always with the same weights.

    >>> bool((multi_head().features[0].weight == multi_head().features[0].weight).all())
    True
    """
    torch.manual_seed(0)
    return MultiHead()


@dataclass(frozen=True)
class Scenario:
    """A stream, a model for it and how to train.

    :param benchmark: makes the benchmark.
    :param model: makes the model.
    :param options: of the strategy.
    :param online: cut the stream into pieces of ten rows.

    >>> len(list(Scenario(plain, online=True).stream()))
    18
    """

    benchmark: Callable[[], Any] = classic
    model: Callable[[], nn.Module] = network
    options: dict[str, Any] = field(default_factory=dict)
    online: bool = False

    def stream(self) -> Iterable[Any]:
        """Training experiences; an online stream is cut into pieces of ten rows."""
        train = self.benchmark().train_stream
        experiences: Iterable[Any] = split_online_stream(train, experience_size=10, seed=0) if self.online else train
        return experiences


SCENARIOS: dict[str, Scenario] = {
    "x, y, t": Scenario(),
    "x, y": Scenario(plain),
    "multi-head": Scenario(lambda: classic(True), multi_head),
    "evaluation every epoch": Scenario(options={"eval_every": 1, "train_epochs": 2}),
    "evaluation every iteration": Scenario(options={"eval_every": 1, "peval_mode": "iteration"}),
    "several epochs": Scenario(options={"train_epochs": 3}),
    "online": Scenario(online=True),
    "online, x, y": Scenario(plain, online=True),
}


class Watcher(SupervisedPlugin):  # type: ignore[misc]
    """Looks over the strategy's shoulder from the evaluator's place, at the end of each iteration.

    ``numbers`` of the rows in each batch, ``outputs`` their count, ``losses`` as the strategy says, ``own_losses`` as
    the outputs say, ``modes`` whether the model is in train mode.

    >>> watcher = Watcher()
    >>> strategy = run(SCENARIOS["x, y"], [watcher])
    >>> len(watcher.losses)
    12
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[list[int]] = []
        self.outputs: list[int] = []
        self.losses: list[float] = []
        self.own_losses: list[float] = []
        self.modes: list[bool] = []

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Note down what the evaluator would get."""
        x, y = strategy.mbatch[0], strategy.mbatch[1]
        self.numbers.append((x[:, -1] * 1_000).round().long().tolist())
        self.outputs.append(len(strategy.mb_output))
        self.losses.append(float(strategy.loss.detach()))
        self.own_losses.append(float(nn.functional.cross_entropy(strategy.mb_output.detach(), y)))
        self.modes.append(strategy.model.training)


def build(scenario: Scenario, plugins: list[Any], *, lr: float = 0.05, momentum: float = 0.9, **options: Any) -> Naive:
    """Naive with the plugins, on the scenario's model.

    :param scenario: stream and model.
    :param plugins: of the strategy.
    :param lr: of SGD, as is ``momentum``.
    :param options: other arguments of Naive.

    >>> build(SCENARIOS["x, y"], []).train_mb_size
    16
    """
    model = scenario.model()
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum),
        **{
            "criterion": nn.CrossEntropyLoss(),
            "train_mb_size": 16,
            "eval_mb_size": 64,
            "evaluator": None,
            **scenario.options,
            **options,
        },
        plugins=plugins,
    )


def run(scenario: Scenario, plugins: list[Any], **options: Any) -> Naive:
    """Train on the whole stream with everything seeded.

    :param scenario: stream and model.
    :param plugins: of the strategy.
    :param options: as for :func:`build`.

    >>> run(SCENARIOS["x, y"], []).clock.train_exp_counter
    3
    """
    strategy = build(scenario, plugins, **options)
    torch.manual_seed(1)
    for experience in scenario.stream():
        strategy.train(experience, num_workers=0)
    return strategy


def weights(strategy: Naive) -> Tensor:
    """All parameters in one vector.

    :param strategy: whose model's.

    >>> weights(build(SCENARIOS["x, y"], [])).shape
    torch.Size([246])
    """
    return torch.cat([p.detach().flatten() for p in strategy.model.parameters()])
