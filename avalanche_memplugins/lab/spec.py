"""What one run is."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from reprlib import repr as short
from typing import Any

from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins.benchmarks.names import look_up
from avalanche_memplugins.benchmarks.registry import get_benchmark

from .models import MODELS
from .strategies import STRATEGIES, StrategyInfo

# Counts up whenever the same spec would give other numbers than before, so that old results are not taken for new.
PROTOCOL = 1
# Beyond it neither torch nor NumPy takes a size or a seed.
_MOST = 2**31 - 1
OPTIMIZERS = {"adam": "Adam", "sgd": "SGD"}
# Came after the first results were kept. At their defaults they are left out of a spec's JSON, so that the key of a run
# that does without them, and with it the name of its result, is what it was.
_LATER = ("budget", "iterations", "hidden_layers", "dropout", "train_rows", "test_rows", "options", "benchmark_options")
Settings = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run, whole: two runs of equal specs give equal numbers on a CPU.

    :param benchmark: name in :data:`~avalanche_memplugins.benchmarks.BENCHMARKS`.
    :param strategy: name in :data:`.STRATEGIES`.
    :param seed: of the order of classes or permutations, the first weights, the batches and the memory; 0 to 2**31 - 1,
        as for all that are counted.
    :param n_experiences: length of the stream, >= 1.
    :param memory_size: rows that a memory holds at most, >= 1. A budget takes its place.
    :param model: name in :data:`.MODELS`.
    :param hidden: units in a hidden layer, >= 1.
    :param optimizer: ``"adam"`` or ``"sgd"``, without momentum or weight decay.
    :param lr: learning rate, > 0.
    :param epochs: epochs an experience, >= 1.
    :param batch_size: rows of the stream a step, >= 1; replay comes on top.
    :param budget: bytes of stream-dependent state that the memory may take, a number or as in ``"50KB"``; only for
        strategies that can be sized. None: ``memory_size`` counts.
    :param iterations: steps an experience, >= 1, in the place of ``epochs``, which is then 1. None: whole epochs.
    :param hidden_layers: of the model ``"mlp"``, >= 1.
    :param dropout: of the model ``"mlp"``, 0 <= dropout < 1.
    :param train_rows: take only so many training rows of each experience, drawn by ``seed``. None: all.
    :param test_rows: test on only so many rows of each experience, likewise. None: on all.
    :param options: the strategy's own settings, see its :class:`.StrategyInfo`; a mapping, or pairs.
    :param benchmark_options: keywords of the benchmark's function; a mapping, or pairs.
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
    budget: int | None = None
    iterations: int | None = None
    hidden_layers: int = 2
    dropout: float = 0.0
    train_rows: int | None = None
    test_rows: int | None = None
    options: Settings = ()
    benchmark_options: Settings = ()

    def __post_init__(self) -> None:
        get_benchmark(self.benchmark)
        info = look_up("strategy", self.strategy, STRATEGIES)
        look_up("model", self.model, MODELS)
        look_up("optimizer", self.optimizer, OPTIMIZERS)
        counts = ("n_experiences", "epochs", "memory_size", "hidden", "batch_size", "seed", "hidden_layers")
        optional = tuple(
            field for field in ("iterations", "train_rows", "test_rows") if getattr(self, field) is not None
        )
        for field in counts + optional:
            value, least = getattr(self, field), 0 if field == "seed" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{field}: expected an integer >= {least}, got {short(value)}")
            if value > _MOST:
                raise ValueError(f"{field}: expected an integer up to {_MOST}, got {short(value)}")
        if isinstance(self.lr, bool) or not isinstance(self.lr, int | float):
            raise ValueError(f"lr: expected a number above 0, got {short(self.lr)}")
        # 1 and 1.0 are the same run and must have the same hash.
        try:
            object.__setattr__(self, "lr", float(self.lr))
        except OverflowError:
            raise ValueError(f"lr: expected a number above 0, got {short(self.lr)}") from None
        if not math.isfinite(self.lr) or self.lr <= 0:
            raise ValueError(f"lr: expected a number above 0, got {short(self.lr)}")
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected a number from 0 to below 1, got {short(self.dropout)}")
        self._normalise(info)

    def _normalise(self, info: StrategyInfo) -> None:
        """Make equal runs equal: what plays no part is at its default, settings are sorted pairs."""
        if self.budget is not None:
            if info.sized == "no":
                raise ValueError(f"budget: {self.strategy} has no memory that a budget could size, expected None")
            object.__setattr__(self, "budget", parse_bytes(self.budget))
            object.__setattr__(self, "memory_size", type(self).memory_size)
        if self.iterations is not None:
            object.__setattr__(self, "epochs", 1)
        object.__setattr__(self, "dropout", float(self.dropout))
        options = info.with_defaults(_as_dict("options", self.options))
        changed = {name: value for name, value in options.items() if value != info.options[name]}
        object.__setattr__(self, "options", _frozen(changed))
        object.__setattr__(self, "benchmark_options", _frozen(_as_dict("benchmark_options", self.benchmark_options)))

    @property
    def all_options(self) -> dict[str, Any]:
        """The strategy's settings, those at their defaults too."""
        return STRATEGIES[self.strategy].with_defaults(dict(self.options))

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits that stand for all fields, the same in every process and on every machine."""
        whole = json.dumps({"protocol": PROTOCOL, **self.to_json()}, sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """For a reader: benchmark, strategy, budget if there is one, and seed."""
        budget = "" if self.budget is None else f" · {self.budget} bytes"
        return f"{self.benchmark} · {self.strategy}{budget} · seed {self.seed}"

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values; those that came later only where they are not at their defaults."""
        defaults = {field.name: field.default for field in fields(self)}
        values = {name: value for name, value in asdict(self).items() if name not in _LATER or value != defaults[name]}
        return {name: dict(value) if name.endswith("options") else value for name, value in values.items()}


def _as_dict(name: str, settings: Any) -> dict[str, Any]:
    try:
        found = dict(settings)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected a mapping of settings, got {short(settings)}") from None
    if not all(isinstance(key, str) for key in found):
        raise ValueError(f"{name}: expected names of settings, got {short(list(found))}")
    return found


def _frozen(settings: Mapping[str, Any]) -> Settings:
    """Sorted pairs that can be hashed: lists become tuples."""
    return tuple((key, _tuples(f"options: {key}", settings[key])) for key in sorted(settings))


def _tuples(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_tuples(name, one) for one in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{name}: expected text, numbers, or lists of them, got {short(value)}")
