"""What one run is."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from avalanche_memplugins.benchmarks.names import look_up
from avalanche_memplugins.benchmarks.registry import get_benchmark

from .models import MODELS
from .strategies import STRATEGIES

# Counts up whenever the same spec would give other numbers than before, so that old results are not taken for new.
PROTOCOL = 1
OPTIMIZERS = {"adam": "Adam", "sgd": "SGD"}


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run, whole: two runs of equal specs give equal numbers on a CPU.

    :param benchmark: name in :data:`~avalanche_memplugins.benchmarks.BENCHMARKS`.
    :param strategy: name in :data:`.STRATEGIES`.
    :param seed: of the order of classes or permutations, the first weights, the batches and the memory; >= 0.
    :param n_experiences: length of the stream, >= 1.
    :param memory_size: rows that a memory holds at most, >= 1.
    :param model: name in :data:`.MODELS`.
    :param hidden: units in a hidden layer, >= 1.
    :param optimizer: ``"adam"`` or ``"sgd"``, without momentum or weight decay.
    :param lr: learning rate, > 0.
    :param epochs: epochs an experience, >= 1.
    :param batch_size: rows of the stream a step, >= 1; replay comes on top.
    :raises ValueError: naming the field that is out of range or unknown.
    """

    benchmark: str
    strategy: str
    seed: int
    n_experiences: int
    epochs: int
    memory_size: int = 200
    model: str = "mlp"
    hidden: int = 256
    optimizer: str = "adam"
    lr: float = 1e-3
    batch_size: int = 32

    def __post_init__(self) -> None:
        get_benchmark(self.benchmark)
        look_up("strategy", self.strategy, STRATEGIES)
        look_up("model", self.model, MODELS)
        look_up("optimizer", self.optimizer, OPTIMIZERS)
        for field in ("n_experiences", "epochs", "memory_size", "hidden", "batch_size", "seed"):
            value, least = getattr(self, field), 0 if field == "seed" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{field}: wants an integer >= {least}, got {value!r}")
        if isinstance(self.lr, bool) or not isinstance(self.lr, int | float):
            raise ValueError(f"lr: wants a number above 0, got {self.lr!r}")
        # 1 and 1.0 are the same run and must have the same hash.
        object.__setattr__(self, "lr", float(self.lr))
        if not math.isfinite(self.lr) or self.lr <= 0:
            raise ValueError(f"lr: wants a number above 0, got {self.lr!r}")

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits that stand for all fields, the same in every process and on every machine."""
        whole = json.dumps({"protocol": PROTOCOL, **self.to_json()}, sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """For a reader: benchmark, strategy and seed."""
        return f"{self.benchmark} · {self.strategy} · seed {self.seed}"

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)
