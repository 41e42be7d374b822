"""What one run is, and how runs are carried out."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from reprlib import repr as short
from typing import Any

from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins.benchmarks.names import look_up
from avalanche_memplugins.benchmarks.registry import BenchmarkInfo
from avalanche_memplugins.benchmarks.roots import ENV
from avalanche_memplugins.benchmarks.roots import data_root as find_root
from avalanche_memplugins.lab import doors, streams
from avalanche_memplugins.lab.models import MODELS, TORCHVISION, find_model
from avalanche_memplugins.lab.strategies import CODECS, STRATEGIES, Recipe, changed, find_recipe, named
from avalanche_memplugins.lab.strategies.memory import OWN_ROWS
from avalanche_memplugins.lab.training import OPTIMIZERS, SCHEDULES, check_rates

# Counts up whenever the same spec would give other numbers than before, so that old results are not taken for new.
PROTOCOL = 1
# Beyond it neither torch nor NumPy takes a size or a seed.
_MOST = 2**31 - 1
# Came after the first results were kept. At their defaults they are left out of a spec's JSON, so that the key of a run
# that does without them, and with it the name of its result, is what it was.
_LATER = (
    "budget",
    "iterations",
    "hidden_layers",
    "dropout",
    "train_rows",
    "test_rows",
    "options",
    "benchmark_options",
    "model_options",
    "momentum",
    "weight_decay",
    "schedule",
    "code",
)
Pairs = tuple[tuple[str, Any], ...]
MOST_THREADS = 1024
LOGGERS = ("csv", "tensorboard", "wandb")


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run, whole: two runs of equal specs give equal numbers on a CPU.

    Benchmark, strategy, model, optimiser and schedule may be functions of your own, see :mod:`.doors`.

    :param benchmark: name in :data:`~avalanche_memplugins.benchmarks.BENCHMARKS`, or ``"folder:DIR"``: images in one
        folder a class.
    :param strategy: name in :data:`.STRATEGIES`.
    :param seed: of the order of classes or permutations, the first weights, the batches and the memory; 0 to 2**31 - 1,
        as for all that are counted.
    :param n_experiences: length of the stream, >= 1.
    :param memory_size: rows that a memory holds at most, >= 1. A budget takes its place.
    :param model: name in :data:`.MODELS`, or ``"torchvision:NAME"``.
    :param hidden: units in a hidden layer, >= 1.
    :param optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``.
    :param lr: learning rate, > 0.
    :param epochs: epochs an experience, >= 1.
    :param batch_size: rows of the stream a step, >= 1; replay comes on top.
    :param budget: bytes of stream-dependent state that the memory may take, a number or as in ``"50KB"``; only for
        strategies that can be sized. None: ``memory_size`` counts.
    :param iterations: steps an experience, >= 1, instead of ``epochs``, which is then 1. None: whole epochs.
    :param hidden_layers: of the model ``"mlp"``, >= 1.
    :param dropout: of the model ``"mlp"``, 0 <= dropout < 1.
    :param train_rows: take only so many training rows of each experience, drawn by ``seed``. None: all.
    :param test_rows: test on only so many rows of each experience, likewise. None: on all.
    :param options: the strategy's own settings, see its :class:`.Recipe`; a mapping, or pairs.
    :param benchmark_options: keywords of the benchmark's function; a mapping, or pairs.
    :param model_options: the model's own settings, see its :class:`.ModelInfo`; a mapping, or pairs.
    :param momentum: of ``"sgd"``, 0 <= momentum < 1.
    :param weight_decay: of the optimiser, >= 0.
    :param schedule: of the learning rate within each experience: ``"constant"``, ``"cosine"`` or ``"step"``.
    :param code: hash of the files that your own functions are in; the spec fills it in. A spec that is read back from a
        result has it already, and your functions need not be there any more.
    :raises ValueError: naming the field that is out of range or unknown.

    >>> stream = {"benchmark": "split-digits", "seed": 0, "n_experiences": 5, "epochs": 1}
    >>> RunSpec(strategy="er", options={"codec": "2bit"}, **stream).method
    'er:codec=2bit'
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
    options: Pairs = ()
    benchmark_options: Pairs = ()
    model_options: Pairs = ()
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "constant"
    code: str = ""

    def __post_init__(self) -> None:
        counts = ("n_experiences", "epochs", "memory_size", "hidden", "batch_size", "seed", "hidden_layers")
        optional = tuple(name for name in ("iterations", "train_rows", "test_rows") if getattr(self, name) is not None)
        for name in counts + optional:
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: expected an integer >= {least}, got {short(value)}")
            if value > _MOST:
                raise ValueError(f"{name}: expected an integer up to {_MOST}, got {short(value)}")
        for name, low, high in (
            ("lr", None, math.inf),
            ("dropout", 0.0, 1.0),
            ("momentum", 0.0, 1.0),
            ("weight_decay", 0.0, math.inf),
        ):
            # 1 and 1.0 are the same run and must have the same hash.
            object.__setattr__(self, name, _number(name, getattr(self, name), low, high))
        if not isinstance(self.code, str):
            raise ValueError(f"code: expected text, got {short(self.code)}")
        for name in ("options", "benchmark_options", "model_options"):
            object.__setattr__(self, name, _frozen(_as_dict(name, getattr(self, name))))
        read_back = bool(self.code)
        if not read_back:
            self._look_up()
        elif not self._own() and streams.folder_of(self.benchmark) is None:
            object.__setattr__(self, "code", "")  # as of a spec that was replaced
        self._normalise(read_back)

    def _look_up(self) -> None:
        """Raise unless all names mean something; read the user's own files."""
        streams.check_name(self.benchmark)
        find_recipe(self.strategy)
        find_model(self.model)
        check_rates(self.optimizer, self.momentum, self.schedule)
        content = {f"{kind}={name}": doors.content_of(kind, name, known) for kind, name, known in self._own()}
        if folder := streams.folder_of(self.benchmark):
            content["folder"] = streams.content_of(folder)
        if content:
            said = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
            object.__setattr__(self, "code", said)

    def _own(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        """Kind and name of each function that the user brings, and our own names of that kind."""
        options = dict(self.options)
        names = [
            ("strategy", self.strategy, STRATEGIES),
            ("model", "" if self.model.startswith(TORCHVISION) else self.model, MODELS),
            ("benchmark", "" if streams.folder_of(self.benchmark) else self.benchmark, streams.BENCHMARKS),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
        ]
        if self.strategy in STRATEGIES:
            names += [
                ("memory", options.get("memory", ""), OWN_ROWS),
                ("codec", options.get("codec", ""), CODECS),
            ]
        return [(kind, name, known) for kind, name, known in names if name and name not in known]

    def check_code(self) -> None:
        """Raise ``ValueError`` if the user's files are not what they were when this spec was made."""
        if self.code and (now := replace(self, code="").code) != self.code:
            raise ValueError(f"code: expected the files as they were when the runs began, {self.code}, got {now}")

    def _normalise(self, read_back: bool) -> None:
        """Normalise a spec so that equal runs have equal hashes: what plays no part is at its default.

        :param read_back: whether it has been normalised before, and the user's functions may be gone.
        """
        recipe = STRATEGIES.get(self.strategy) if read_back else self.recipe
        if self.budget is not None:
            if recipe is not None and recipe.sized == "no":
                raise ValueError(f"budget: {self.strategy} has no memory that a budget could size, expected None")
            object.__setattr__(self, "budget", parse_bytes(self.budget))
            object.__setattr__(self, "memory_size", type(self).memory_size)
        if self.iterations is not None:
            object.__setattr__(self, "epochs", 1)
        model = MODELS.get(self.model) if read_back else find_model(self.model)
        for name, owner in (("options", recipe), ("model_options", model)):
            if owner is not None:
                options = owner.with_defaults(dict(getattr(self, name)))
                object.__setattr__(self, name, _frozen(changed(options, owner.options)))

    @property
    def recipe(self) -> Recipe:
        """What builds the strategy."""
        return find_recipe(self.strategy)

    @property
    def info(self) -> BenchmarkInfo:
        """Facts about the benchmark; a user's own is opened for them once."""
        return streams.find_benchmark(self.benchmark, self.n_experiences, self.benchmark_options)

    @property
    def normalisation(self) -> dict[str, Any]:
        """``mean`` and ``std`` that were taken out of the pixels, which a codec has to undo."""
        if not self.info.local and dict(self.benchmark_options).get("normalise") is False:
            return {"mean": 0.0, "std": 1.0}
        return {"mean": self.info.mean, "std": self.info.std}

    @property
    def method(self) -> str:
        """The strategy with the options that differ from its defaults: what a line of a table stands for."""
        return named(self.strategy, dict(self.options))

    @property
    def all_options(self) -> dict[str, Any]:
        """The strategy's settings, those at their defaults too."""
        return self.recipe.with_defaults(dict(self.options))

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits that stand for all fields, the same in every process and on every machine."""
        told, recipe = self.to_json(), STRATEGIES.get(self.strategy)
        if recipe is not None and recipe.former:
            # A default that has changed is told, the one that it was is not.
            options = changed(told.pop("options"), {**recipe.options, **recipe.former})
            told |= {"options": options} if options else {}
        whole = json.dumps({"protocol": PROTOCOL, **told}, sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """For a reader: benchmark, strategy, budget if there is one, and seed."""
        budget = "" if self.budget is None else f" · {self.budget} bytes"
        return f"{self.benchmark} · {self.method}{budget} · seed {self.seed}"

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values; those that came later only where they are not at their defaults.

        Options whose default has changed are always told, since a result without them is of the former one.
        """
        defaults = {field.name: field.default for field in fields(self)}
        values = {name: value for name, value in asdict(self).items() if name not in _LATER or value != defaults[name]}
        told = {name: dict(value) if name.endswith("options") else value for name, value in values.items()}
        recipe = STRATEGIES.get(self.strategy)
        if recipe is not None and recipe.former:
            told["options"] = {**{name: recipe.options[name] for name in recipe.former}, **told.get("options", {})}
        return told

    @classmethod
    def from_result(cls, values: Mapping[str, Any]) -> RunSpec:
        """The spec of a result, from :meth:`to_json` of this version or an earlier one.

        :param values: what a result's file says of its spec.
        :raises ValueError: naming the field that is out of range or unknown.

        >>> stream = {"benchmark": "split-digits", "seed": 0, "n_experiences": 5, "epochs": 1}
        >>> RunSpec.from_result({"strategy": "er", **stream}).method  # as it was by default in version 0.1
        'er:read=uniform,replay_weight=none,write_at=iteration'
        """
        recipe = STRATEGIES.get(values.get("strategy", ""))
        if recipe is None or not recipe.former:
            return cls(**values)
        return cls(**{**values, "options": {**recipe.former, **_as_dict("options", values.get("options", ()))}})


def _as_dict(name: str, settings: Any) -> dict[str, Any]:
    try:
        found = dict(settings)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected a mapping of settings, got {short(settings)}") from None
    if not all(isinstance(key, str) for key in found):
        raise ValueError(f"{name}: expected names of settings, got {short(list(found))}")
    return found


def _frozen(settings: Mapping[str, Any]) -> Pairs:
    """Sorted pairs that can be hashed: lists become tuples."""
    return tuple((key, _tuples(f"options: {key}", settings[key])) for key in sorted(settings))


def _tuples(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_tuples(name, one) for one in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{name}: expected text, numbers, or lists of them, got {short(value)}")


def _number(field: str, value: Any, low: float | None, high: float) -> float:
    """A number from ``low`` (None: above 0) to below ``high``."""
    expected = "a number above 0" if low is None else f"a number from {low:g} to below {high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{field}: expected {expected}, got {short(value)}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{field}: expected {expected}, got {short(value)}") from None
    if not (number > 0 if low is None else low <= number) or not number < high:
        raise ValueError(f"{field}: expected {expected}, got {short(value)}")
    return number


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Threads, device and loggers of every run; none of them is in a run's hash.

    :param threads: of a run, 1 to 1024. Sums may be added in another order with another number, so a table that is to
        repeat bit for bit needs the same number.
    :param gpus: share of a GPU that a run takes, >= 0. Above 0 runs train on it; Ray places them by it.
    :param loggers: of Avalanche, from :data:`LOGGERS`; ``wandb`` and ``tensorboard`` need their packages.
    :param data_root: folder of the data sets, as torchvision lays them out; None: ``MEMPLUGINS_DATA``.
    :param folder: where the command was given; on a machine that has it, a run works there, so that a user's own
        modules and folders are found.
    :raises ValueError: naming the setting that is out of range or unknown, or a folder that does not exist.

    >>> Settings(threads=2, loggers=("csv",)).threads
    2
    >>> Settings(threads=0)
    Traceback (most recent call last):
    ValueError: threads: ...
    """

    threads: int = 1
    gpus: float = 0.0
    loggers: tuple[str, ...] = ()
    data_root: Path | None = None
    folder: Path = field(default_factory=Path.cwd)

    def __post_init__(self) -> None:
        threads = self.threads
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
            raise ValueError(f"threads: expected an integer from 1 to {MOST_THREADS}, got {threads!r}")
        if isinstance(self.gpus, bool) or not isinstance(self.gpus, int | float) or not 0 <= self.gpus < float("inf"):
            raise ValueError(f"gpus: expected a number >= 0, got {self.gpus!r}")
        for name in self.loggers:
            look_up("log", name, dict.fromkeys(LOGGERS))
        if self.data_root is not None:
            # Absolute: a node of a cluster works in another folder.
            object.__setattr__(self, "data_root", Path(os.path.abspath(find_root(self.data_root) or "")))

    @property
    def device(self) -> str:
        """Where models are trained, as torch names it."""
        return "cuda" if self.gpus else "cpu"

    @contextmanager
    def data(self) -> Iterator[None]:
        """Within it a run works in :attr:`folder`, and reads its data from :attr:`data_root`, if that is given."""
        place, before = Path.cwd(), os.environ.get(ENV)
        if self.folder.is_dir():
            os.chdir(self.folder)
        if self.data_root is not None:
            os.environ[ENV] = str(self.data_root)
        try:
            yield
        finally:
            os.chdir(place)
            if self.data_root is not None:
                if before is None:
                    del os.environ[ENV]
                else:
                    os.environ[ENV] = before
