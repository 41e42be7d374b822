"""Small training runs for the tests of checkpoints; as a script: resumes one in a process of its own."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import class_incremental_benchmark, nc_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics, loss_metrics
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, as_multitask
from avalanche.models.dynamic_modules import MultiTaskModule
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.checkpointing import load_run_state, save_run_state

CLASSES, FEATURES, EXPERIENCES = 6, 12, 3


class Trunk(nn.Sequential):
    """Batch norm and dropout: buffers, and weights that hang on the global random state."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.classifier: nn.Module = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.trunk(x))


class Incremental(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = IncrementalClassifier(16)


class MultiHead(MultiTaskModule):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.classifier = MultiHeadClassifier(16)

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        return self.classifier(self.trunk(x), task_labels)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "incremental": Incremental,
    "multihead": MultiHead,
    "as_multitask": lambda: as_multitask(Plain(), "classifier"),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, amsgrad=True),
}


def replay(policy: str) -> Callable[[Any], Sequence[Any]]:
    return lambda optimizer: [MemoryReplayPlugin(RandomMemory(25, write_policy=policy, seed=5))]


PLUGINS: dict[str, Callable[[Any], Sequence[Any]]] = {
    "none": lambda optimizer: [],
    **{policy: replay(policy) for policy in ("ring", "reservoir", "class_balanced", "task_balanced")},
}


@dataclass(frozen=True)
class Run:
    model: str = "plain"
    optimizer: str = "sgd"
    layout: str = "xyt"
    plugins: Callable[[Any], Sequence[Any]] = PLUGINS["none"]
    options: Any = field(default=None, hash=False)
    evaluate: bool = True

    @cache  # noqa: B019 - a few small streams
    def benchmark(self) -> Any:
        g = torch.Generator().manual_seed(0)
        y = torch.arange(60 * EXPERIENCES) % CLASSES
        x = torch.randn(len(y), FEATURES, generator=g) + 2 * torch.nn.functional.one_hot(y, FEATURES)
        data = TensorDataset(x, y)
        data.targets = y.tolist()  # type: ignore[attr-defined]
        if self.layout == "xyt":
            multi = self.model in ("multihead", "as_multitask")
            return nc_benchmark(data, data, EXPERIENCES, task_labels=multi, fixed_class_order=list(range(CLASSES)))
        sets = {name: as_classification_dataset(data) for name in ("train", "test")}
        return class_incremental_benchmark(sets, num_experiences=EXPERIENCES, class_order=list(range(CLASSES)))

    def strategy(self, seed: int) -> Naive:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global generator is what a checkpoint must save
        torch.manual_seed(seed)
        model = MODELS[self.model]()
        optimizer = OPTIMIZERS[self.optimizer](model.parameters())
        # Loggers are not part of the state, and none are needed here.
        metrics = accuracy_metrics(epoch=True, experience=True, stream=True), loss_metrics(epoch=True)
        evaluator = EvaluationPlugin(*metrics, forgetting_metrics(experience=True), loggers=[])
        return Naive(
            model=model,
            optimizer=optimizer,
            train_mb_size=10,
            train_epochs=2,
            eval_mb_size=60,
            plugins=list(self.plugins(optimizer)),
            evaluator=evaluator,
            **(self.options or {}),
        )

    def train(self, strategy: Naive, experiences: Any) -> None:
        for experience in experiences:
            strategy.train(experience)
            if self.evaluate:
                strategy.eval(self.benchmark().test_stream)

    def whole(self, folder: Path) -> Naive:
        """A run that never stops, and leaves a checkpoint at each boundary."""
        strategy, stream = self.strategy(seed=1), self.benchmark().train_stream
        save_run_state(strategy, folder / "0")
        for number, experience in enumerate(stream, start=1):
            self.train(strategy, [experience])
            save_run_state(strategy, folder / str(number))
        return strategy

    def resumed(self, folder: Path, **kwargs: Any) -> Naive:
        """A run in another random state and with other initial weights that goes on from a checkpoint."""
        strategy, stream = self.strategy(seed=77), self.benchmark().train_stream
        torch.rand(5), random.random(), np.random.rand()  # noqa: NPY002
        self.train(strategy, stream[load_run_state(strategy, folder, **kwargs) :])
        return strategy


def assert_same(a: Any, b: Any) -> None:
    """Bitwise the same weights, optimiser, clock, random state and metrics."""
    mine, other = a.model.state_dict(), b.model.state_dict()
    assert list(mine) == list(other)
    for key, value in mine.items():
        assert torch.equal(value, other[key]), key
    mine, other = a.optimizer.state_dict(), b.optimizer.state_dict()
    assert mine["param_groups"] == other["param_groups"]
    assert mine["state"].keys() == other["state"].keys()
    for key, state in mine["state"].items():
        for name, value in state.items():
            same = torch.equal(value, other["state"][key][name]) if isinstance(value, Tensor) else True
            assert same, (key, name)
    assert vars(a.clock) == vars(b.clock)
    assert a.evaluator.get_all_metrics() == b.evaluator.get_all_metrics()
    assert a.evaluator.get_last_metrics() == b.evaluator.get_last_metrics()


if __name__ == "__main__":
    torch.set_num_threads(1)
    model, optimizer, layout, policy, folder, out = sys.argv[1:]
    run = Run(model, optimizer, layout, PLUGINS[policy])
    save_run_state(run.resumed(Path(folder)), Path(out))
