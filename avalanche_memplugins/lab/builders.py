"""From a run's spec to an Avalanche strategy, and the bytes that it holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from torch import nn

from avalanche_memplugins import MemoryReplayPlugin
from avalanche_memplugins.benchmarks.byte_rows import Draw
from avalanche_memplugins.benchmarks.registry import BENCHMARKS
from avalanche_memplugins.benchmarks.streams import assemble, tell_order
from avalanche_memplugins.plugins import DarkReplayPlugin, LocalAdaptationPlugin, NearestNeighbourPlugin

from . import baseline_builders
from .built import Built, Setting
from .memory_factory import make_memory
from .models import MODELS
from .multi_task import TaskMasked, task_classes
from .served_tests import ServedTests
from .spec import OPTIMIZERS, RunSpec
from .strategies import OURS, STRATEGIES
from .strategy_info import LABEL_BYTES

__all__ = ["Built", "StopAfter", "build", "open_benchmark", "write_every"]


class StopAfter(SupervisedPlugin):  # type: ignore[misc]
    """Ends an experience after a number of steps, in the middle of an epoch if need be."""

    def __init__(self, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Count, and stop."""
        if strategy.clock.train_exp_iterations + 1 >= self.iterations:
            strategy.stop_training()


def open_benchmark(spec: RunSpec) -> Any:
    """The stream of a run."""
    info, options = BENCHMARKS[spec.benchmark], dict(spec.benchmark_options)
    if info.draws_rows:
        options |= {"train_rows": spec.train_rows, "test_rows": spec.test_rows}
    benchmark = info.build(n_experiences=spec.n_experiences, seed=spec.seed, **options)
    if info.draws_rows or (spec.train_rows is None and spec.test_rows is None):
        return benchmark
    sides = (benchmark.train_stream, spec.train_rows), (benchmark.test_stream, spec.test_rows)
    train, test = (_some(stream, rows, spec.seed) for stream, rows in sides)
    classes = [set(experience.classes_in_this_experience) for experience in benchmark.train_stream]
    fewer = assemble(train, test, classes, tasks=info.scenario == "task-incremental")
    if hasattr(benchmark, "n_classes_per_exp"):
        tell_order(fewer, benchmark.n_classes_per_exp, benchmark.classes_order)
    return fewer


def _some(stream: Any, rows: int | None, seed: int) -> list[Any]:
    """The experiences' data sets, or so many rows of each."""
    draw = Draw(rows, seed)
    datasets = [experience.dataset for experience in stream]
    if rows is None:
        return datasets
    return [data.subset(draw(np.arange(len(data))).tolist()) for data in datasets]


def build(spec: RunSpec, benchmark: Any, evaluator: Any) -> Built:
    """Model, optimiser and strategy of a run; the first weights come from torch's global generator."""
    info = BENCHMARKS[spec.benchmark]
    model = MODELS[spec.model](
        info.input_shape, info.n_classes, spec.hidden, layers=spec.hidden_layers, dropout=spec.dropout
    )
    if info.scenario == "task-incremental":
        model = TaskMasked(model, task_classes(benchmark, info.n_classes))
    optimizer = getattr(torch.optim, OPTIMIZERS[spec.optimizer])(model.parameters(), lr=spec.lr)
    batches = [math.ceil(len(experience.dataset) / spec.batch_size) for experience in benchmark.train_stream]
    epochs = spec.epochs if spec.iterations is None else math.ceil(spec.iterations / min(batches))
    common = {
        "model": model,
        "optimizer": optimizer,
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": spec.batch_size,
        "train_epochs": epochs,
        "eval_mb_size": 256,
        "evaluator": evaluator,
        "plugins": [ServedTests()] + ([] if spec.iterations is None else [StopAfter(spec.iterations)]),
    }
    setting = Setting(
        spec=spec,
        benchmark=benchmark,
        common=common,
        input_shape=info.input_shape,
        n_classes=info.n_classes,
        row_bytes=4 * math.prod(info.input_shape) + LABEL_BYTES,
        batches=batches,
    )
    name = STRATEGIES[spec.strategy].builder
    builder: Callable[[Setting], Built]
    builder = globals()[name] if spec.strategy in OURS else getattr(baseline_builders, name)
    return builder(setting)


def replay(setting: Setting) -> Built:
    """Replay from a memory that is told nothing but the stream: of rows, of a model of them, or of energies."""
    return _replaying(setting, make_memory(setting.spec))


def rma(setting: Setting) -> Built:
    """RMA; like its author's, the ring is as long as the stream's writes, so the stream's length must be known."""
    spec, options = setting.spec, setting.spec.all_options
    memory = make_memory(spec)
    every = options["write_every"] or write_every(sum(setting.batches), memory.capacity, spec.batch_size)
    return _replaying(setting, memory, write_every=every, write_epochs=options["write_epochs"])


def dark(setting: Setting) -> Built:
    """Dark experience replay."""
    options, memory = setting.spec.all_options, make_memory(setting.spec)
    weights = {name: options[name] for name in ("alpha", "beta")}
    plugin = DarkReplayPlugin(memory, replay_size=options["batch_size_mem"], seed=setting.spec.seed, **weights)
    return _with_memory(setting, memory, plugin)


def mbpa(setting: Setting, *, replay: bool = False) -> Built:
    """Local adaptation at test time."""
    options = setting.spec.all_options
    memory = make_memory(setting.spec)
    adaptation = LocalAdaptationPlugin(
        memory,
        neighbours=options["neighbours"],
        steps=options["steps"],
        lr=options["lr"],
        beta=options["beta"],
        writes=not replay,
        max_bytes=64 << 20,
    )
    rehearsal = [MemoryReplayPlugin(memory, seed=setting.spec.seed)] if replay else []
    return _with_memory(setting, memory, *rehearsal, adaptation)


def er_mbpa(setting: Setting) -> Built:
    """Replay and local adaptation from one reservoir."""
    return mbpa(setting, replay=True)


class Untrained(Naive):  # type: ignore[misc]
    """Shows the stream to its plugins, once, and trains nothing."""

    def training_epoch(self, **kwargs: Any) -> None:
        """Every batch, as far as its plugins may write it."""
        for batch in self.dataloader:
            self.mbatch = batch
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)


def knn(setting: Setting) -> Built:
    """The nearest rows' class."""
    memory = make_memory(setting.spec)
    plugin = NearestNeighbourPlugin(memory, neighbours=setting.spec.all_options["neighbours"], writes=True)
    return _with_memory(setting, memory, plugin, kind=Untrained, train_epochs=1)


def vae(setting: Setting) -> Built:
    """Deep generative replay: ``VAEReplay`` with a memory of the size that the run wants."""
    spec = setting.spec
    steps = spec.iterations or spec.epochs * round(sum(setting.batches) / len(setting.batches))
    # Under a budget the old model's copy would be bytes outside it.
    labels = "old_model" if spec.budget is None else "memory"
    return _replaying(setting, make_memory(spec, steps=steps), replay_weight="growing", labels=labels)


def write_every(batches: int, memory_size: int, batch_size: int) -> int:
    r"""Steps from one write to the next so that the first epochs' writes just fit the ring.

    .. math:: m = \left\lceil \frac{\text{batches}}{\max(1, \lfloor C / B \rfloor)} \right\rceil

    :param batches: first-epoch batches in the whole stream, >= 1.
    :param memory_size: rows of the ring, C.
    :param batch_size: rows of a write, B.
    """
    return max(1, math.ceil(batches / max(1, memory_size // batch_size)))


def _replaying(setting: Setting, memory: Any, **kwargs: Any) -> Built:
    return _with_memory(setting, memory, MemoryReplayPlugin(memory, seed=setting.spec.seed, **kwargs))


def _with_memory(setting: Setting, memory: Any, *plugins: Any, kind: type[Naive] = Naive, **options: Any) -> Built:
    common = {**setting.common, **options}
    strategy = kind(**{**common, "plugins": [*common["plugins"], *plugins]})
    # So that galleries and reports find it.
    strategy.memory = memory
    fixed = [part for part in (memory, *plugins) if hasattr(part, "nbytes_fixed")]
    return Built(strategy, lambda: int(memory.nbytes), lambda: sum(int(part.nbytes_fixed) for part in fixed))
