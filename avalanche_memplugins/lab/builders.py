"""From a run's spec to an Avalanche strategy, and the bytes that it holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from avalanche.training import Cumulative, Naive, Replay
from torch import nn

from avalanche_memplugins.benchmarks.registry import BENCHMARKS

# mypy does not follow setup.py's package_dir to where the strategies lie.
from avalanche_memplugins.strategies import RMA, ExperienceReplay, MbPA  # type: ignore[import-not-found]

from .models import MODELS
from .spec import OPTIMIZERS, RunSpec
from .strategies import STRATEGIES

# A label and a task label of eight bytes each, kept with every float32 image.
LABEL_BYTES = 16


class Built:
    """A strategy ready to train.

    :param strategy: the Avalanche strategy.
    :param memory_bytes: bytes that it holds from the stream at the moment of the call.
    :param fixed_bytes: bytes that it needs besides, whatever the stream.
    """

    def __init__(self, strategy: Any, memory_bytes: Callable[[], int], fixed_bytes: Callable[[], int] = lambda: 0) -> None:
        self.strategy = strategy
        self.memory_bytes = memory_bytes
        self.fixed_bytes = fixed_bytes


def open_benchmark(spec: RunSpec) -> Any:
    """The stream of a run."""
    return BENCHMARKS[spec.benchmark].build(n_experiences=spec.n_experiences, seed=spec.seed)


def build(spec: RunSpec, benchmark: Any, evaluator: Any) -> Built:
    """Model, optimiser and strategy of a run; the first weights come from torch's global generator."""
    info = BENCHMARKS[spec.benchmark]
    model = MODELS[spec.model](info.input_shape, info.n_classes, spec.hidden)
    optimizer = getattr(torch.optim, OPTIMIZERS[spec.optimizer])(model.parameters(), lr=spec.lr)
    common = {
        "model": model,
        "optimizer": optimizer,
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": spec.batch_size,
        "train_epochs": spec.epochs,
        "eval_mb_size": 256,
        "evaluator": evaluator,
    }
    row_bytes = 4 * math.prod(info.input_shape) + LABEL_BYTES
    builder: Callable[..., Built] = globals()[STRATEGIES[spec.strategy].builder]
    return builder(spec, benchmark, common, row_bytes)


def naive(spec: RunSpec, benchmark: Any, common: dict[str, Any], row_bytes: int) -> Built:
    """Fine-tuning."""
    return Built(Naive(**common), lambda: 0)


def replay(spec: RunSpec, benchmark: Any, common: dict[str, Any], row_bytes: int) -> Built:
    """Avalanche's replay; its buffer holds indices into the data set, so the rows they keep alive are counted."""
    strategy = Replay(**common, mem_size=spec.memory_size)
    plugin = next(plugin for plugin in strategy.plugins if hasattr(plugin, "storage_policy"))
    return Built(strategy, lambda: len(plugin.storage_policy.buffer) * row_bytes)


def rma(spec: RunSpec, benchmark: Any, common: dict[str, Any], row_bytes: int) -> Built:
    """RMA; like its author's, the ring is as long as the stream's writes, so the stream's length must be known."""
    batches = sum(math.ceil(len(exp.dataset) / spec.batch_size) for exp in benchmark.train_stream)
    strategy = RMA(
        **common,
        mem_size=spec.memory_size,
        write_every=write_every(batches, spec.memory_size, spec.batch_size),
        seed=spec.seed,
    )
    return Built(strategy, lambda: int(strategy.memory.nbytes))


def er_reservoir(spec: RunSpec, benchmark: Any, common: dict[str, Any], row_bytes: int) -> Built:
    """Replay from a reservoir."""
    strategy = ExperienceReplay(**common, mem_size=spec.memory_size, seed=spec.seed)
    return Built(strategy, lambda: int(strategy.memory.nbytes))


def mbpa(spec: RunSpec, benchmark: Any, common: dict[str, Any], row_bytes: int, *, replay: bool = False) -> Built:
    """Local adaptation at test time."""
    strategy = MbPA(**common, mem_size=spec.memory_size, replay=replay, seed=spec.seed)
    return Built(strategy, lambda: int(strategy.memory.nbytes))


def er_mbpa(spec: RunSpec, benchmark: Any, common: dict[str, Any], row_bytes: int) -> Built:
    """Replay and local adaptation from one reservoir."""
    return mbpa(spec, benchmark, common, row_bytes, replay=True)


def cumulative(spec: RunSpec, benchmark: Any, common: dict[str, Any], row_bytes: int) -> Built:
    """All data so far, which is then its memory."""
    strategy = Cumulative(**common)
    return Built(strategy, lambda: 0 if strategy.dataset is None else len(strategy.dataset) * row_bytes)


def write_every(batches: int, memory_size: int, batch_size: int) -> int:
    r"""Steps from one write to the next so that the first epochs' writes just fit the ring.

    .. math:: m = \left\lceil \frac{\text{batches}}{\max(1, \lfloor C / B \rfloor)} \right\rceil

    :param batches: first-epoch batches in the whole stream, >= 1.
    :param memory_size: rows of the ring, C.
    :param batch_size: rows of a write, B.
    """
    return max(1, math.ceil(batches / max(1, memory_size // batch_size)))
