"""What a user brings into the lab: benchmarks, models, strategies, memories, codecs, optimisers, schedules.

Each is a function, named as ``"module:function"`` or ``"file.py:function"`` wherever a name of ours may stand: on the
command line, in a preset, in a :class:`.RunSpec`. A package makes its functions known by a plain name through the
entry-point groups ``avalanche_memplugins.strategies``, ``.benchmarks``, ``.models``, ``.memories`` and ``.codecs``;
``memplugins list`` then shows them. The protocols below say what each function gets and returns. A function that
cannot be imported, or cannot be called in this way, is an error before any run.

Modules are looked for in the current folder, too. A run's process imports the function again, so it must be at the top
level of its module. The run's key holds its name, its options and a hash of its file: edit the file, and the runs are
done anew. What that file imports is not in the hash.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from reprlib import repr as short
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from avalanche_memplugins.benchmarks.names import look_up

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from avalanche_memplugins.codecs import Codec
    from avalanche_memplugins.codecs.variable_codec import VariableCodec
    from avalanche_memplugins.lab.strategies.recipe import Setup


class BenchmarkFactory(Protocol):
    """Opens a stream."""

    def __call__(self, n_experiences: int, *, seed: int, **options: Any) -> Any:
        """An Avalanche benchmark with a train and a test stream of as many experiences each.

        :param n_experiences: length of the stream. A default makes ``--experiences`` optional.
        :param seed: of the order of classes and the like, >= 0.
        :param options: those of the run's ``benchmark_options`` that the function takes.
        """


class ModelFactory(Protocol):
    """Makes a model. Its first weights come from torch's global generator, which is seeded before."""

    def __call__(self, input_shape: tuple[int, ...], n_classes: int, **options: Any) -> nn.Module:
        """A module from rows ``(B, *input_shape)`` to outputs ``(B, n_classes)``.

        :param input_shape: of a row, ``(C, H, W)`` for images.
        :param n_classes: of the whole stream.
        :param options: those of the run's ``model_options`` that the function takes.
        """


class StrategyFactory(Protocol):
    """Makes a strategy."""

    def __call__(self, setup: Setup, **options: Any) -> Any:
        """An Avalanche strategy; or a :class:`.Built`, which also says the bytes that it holds.

        Without a ``Built``, the bytes are those of the memories of its plugins.

        :param setup: the run: the arguments that every strategy takes, the rows that a memory may hold, the seed.
        :param options: those of the run's ``options`` that the function takes.
        """


class MemoryFactory(Protocol):
    """Makes an empty memory, for the option ``memory`` of ``er``."""

    def __call__(
        self,
        capacity: int | None,
        *,
        budget: int | None,
        codec: str | Codec,
        shape: tuple[int, ...],
        classes: int,
        experiences: int,
        seed: int,
    ) -> Any:
        """A memory as ``MemoryReplayPlugin`` takes it, with ``nbytes``.

        :param capacity: rows that it may hold; None if there is a budget.
        :param budget: bytes that it may take; None if there is a capacity.
        :param codec: how a row shall be stored.
        :param shape: of a row.
        :param classes: of the whole stream.
        :param experiences: length of the stream.
        :param seed: of its draws.
        """


class CodecFactory(Protocol):
    """Makes a codec, for the option ``codec``."""

    def __call__(self, shape: tuple[int, ...], *, mean: Any, std: Any) -> str | Codec | VariableCodec:
        """A codec, or the name of one that ``RandomMemory`` knows.

        :param shape: of a row.
        :param mean: that the benchmark took out of the pixels, one number or one a channel.
        :param std: by which it divided them then, likewise.
        """


class OptimizerFactory(Protocol):
    """Makes an optimiser; torch's own classes are such functions, as in ``torch.optim:NAdam``."""

    def __call__(self, parameters: Iterable[Tensor], *, lr: float, **options: float) -> Optimizer:
        """An optimiser.

        :param parameters: those of the model that are trained.
        :param lr: learning rate.
        :param options: ``momentum`` and ``weight_decay``, each only if it is not 0.
        """


class ScheduleFactory(Protocol):
    """Makes a schedule of the learning rate, anew for each experience."""

    def __call__(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        """A scheduler of torch's kind; its ``step`` is called after every iteration.

        :param optimizer: at the run's learning rate.
        :param steps: iterations of the experience.
        """


@dataclass(frozen=True)
class Door:
    """One kind of function that a user may bring.

    :param group: its entry points' group; empty if there is none.
    :param call: how the lab calls it, for errors.
    :param arguments: positional arguments.
    :param keywords: that are always given.
    :param gives: what it must return, for errors.
    :param parts: what that must have.
    """

    group: str
    call: str
    arguments: int
    keywords: tuple[str, ...]
    gives: str
    parts: tuple[str, ...]


_OWN = "avalanche_memplugins."
DOORS: Mapping[str, Door] = {
    "benchmark": Door(
        f"{_OWN}benchmarks",
        "(n_experiences, *, seed, **options)",
        1,
        ("seed",),
        "an Avalanche benchmark",
        ("train_stream", "test_stream"),
    ),
    "model": Door(
        f"{_OWN}models",
        "(input_shape, n_classes, **options)",
        2,
        (),
        "a torch.nn.Module",
        ("forward", "parameters", "state_dict"),
    ),
    "strategy": Door(
        f"{_OWN}strategies",
        "(setup, **options)",
        1,
        (),
        "an Avalanche strategy or a Built",
        ("train", "eval", "model", "plugins"),
    ),
    "memory": Door(
        f"{_OWN}memories",
        "(capacity, *, budget, codec, shape, classes, experiences, seed)",
        1,
        ("budget", "codec", "shape", "classes", "experiences", "seed"),
        "a memory with sample and nbytes",
        ("sample", "nbytes"),
    ),
    "codec": Door(
        f"{_OWN}codecs",
        "(shape, *, mean, std)",
        1,
        ("mean", "std"),
        "a codec",
        ("check", "encode", "decode", "spec", "nbytes_fixed"),
    ),
    "optimizer": Door("", "(parameters, *, lr, **options)", 1, ("lr",), "a torch optimiser", ("step", "param_groups")),
    "schedule": Door("", "(optimizer, steps)", 2, (), "a torch scheduler", ("step",)),
}


def registered(kind: str) -> dict[str, EntryPoint]:
    """Entry points of a kind, by name; those of installed packages.

    >>> isinstance(registered("codec"), dict)
    True
    """
    group = DOORS[kind].group
    return {point.name: point for point in entry_points(group=group)} if group else {}


def is_own(name: str, known: Mapping[str, Any]) -> bool:
    """Whether a name means something that a user brings, and not one of ours.

    >>> is_own("nets:resnet", {"mlp": None}), is_own("mlp", {"mlp": None})
    (True, False)
    """
    return isinstance(name, str) and name not in known and ":" in name


def load(kind: str, name: str, known: Mapping[str, Any]) -> Callable[..., Any]:
    """The function behind a name of the user's.

    :param kind: in :data:`DOORS`.
    :param name: ``"module:function"``, ``"file.py:function"``, or of an entry point.
    :param known: our own, for a hint.
    :raises ValueError: if there is none, it cannot be imported, or it cannot be called as the lab calls it.

    >>> load("optimizer", "torch.optim:NAdam", {}).__name__
    'NAdam'
    """
    if not is_own(name, known):
        points = registered(kind)
        point = look_up(kind, name, {**known, **points})
        if name not in points:
            raise ValueError(f"{kind}: expected a name of your own, got {name!r}, which is the lab's")
        name = str(point.value)
    found: Callable[..., Any] = _found(kind, name)
    check_call(kind, name, found)
    return found


def _found(kind: str, name: str) -> Any:
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise ValueError(f"{kind}: expected module:function, got {name!r}")
    try:
        found: Any = _file(Path(where)) if where.endswith(".py") else _module(where)
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as problem:
        raise ValueError(f"{kind}: {where} has no {attribute!r}") from problem
    except Exception as problem:  # whatever the user's module raises when it is imported
        raise ValueError(f"{kind}: cannot import {where!r}: {type(problem).__name__}: {problem}") from problem
    return found


def _module(name: str) -> ModuleType:
    if not {"", os.getcwd()} & set(sys.path):
        # As `python -m` has it, but last. A run's process gets this path from its parent.
        sys.path.append(os.getcwd())
    return import_module(name)


def _file(path: Path) -> ModuleType:
    path = path.expanduser().absolute()
    name = f"_memplugins_{path.stem}_{hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"no Python file {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def check_call(kind: str, name: str, function: Any) -> None:
    """Raise ``ValueError`` unless a function can be called as the lab calls it; the error shows the signature.

    >>> check_call("schedule", "nets:flat", lambda optimizer, steps: None)
    """
    door = DOORS[kind]
    if not callable(function):
        raise ValueError(f"{kind}: expected a function {door.call}, got {name}, which is {short(function)}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # a built-in function that tells no signature
        return
    try:
        signature.bind(*range(door.arguments), **dict.fromkeys(door.keywords))
    except TypeError as problem:
        raise ValueError(
            f"{kind}: expected a function that can be called as {door.call}, got {name}{signature}: {problem}"
        ) from None


def returned(kind: str, name: str, value: Any) -> Any:
    """``value`` if it has what a function of this kind must return.

    :raises ValueError: otherwise; the error shows the signature.
    """
    door = DOORS[kind]
    value_of = getattr(value, "strategy", value) if kind == "strategy" else value
    missing = [part for part in door.parts if not hasattr(value_of, part)]
    if missing or isinstance(value, type):
        why = "a class" if isinstance(value, type) else f"a {type(value).__name__} without {', '.join(missing)}"
        raise ValueError(f"{kind}: expected {name}{door.call} to return {door.gives}, got {why}")
    return value


def make(kind: str, name: str, known: Mapping[str, Any], *arguments: Any, **options: Any) -> Any:
    """Call a function of the user's, and check what it returns.

    :param kind: as in :func:`load`, likewise ``name`` and ``known``.
    :param arguments: for the function, likewise ``options``.
    :raises ValueError: as :func:`load` and :func:`returned`; and for whatever the function raises, with its cause.

    >>> make("schedule", "builtins:max", {}, 1, 2)
    Traceback (most recent call last):
    ValueError: schedule: expected builtins:max(optimizer, steps) to return a torch scheduler, got a int without step
    """
    function = load(kind, name, known)
    try:
        value = function(*arguments, **options)
    except Exception as problem:
        raise ValueError(f"{kind}: {name} raised {type(problem).__name__}: {problem}") from problem
    return returned(kind, name, value)


def options_of(kind: str, function: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """A function's own settings with their defaults, and whether it takes others, too.

    >>> options_of("model", lambda shape, classes, width=8: None)
    ({'width': 8}, False)
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        return {}, True
    door = DOORS[kind]
    own = {
        one.name: one.default
        for one in parameters[door.arguments :]
        if one.default is not one.empty and one.name not in door.keywords
    }
    return own, any(one.kind is one.VAR_KEYWORD for one in parameters)


def summary_of(function: Any) -> str:
    """First line of a function's docstring."""
    return (inspect.getdoc(function) or "your own").splitlines()[0]


def content_of(kind: str, name: str, known: Mapping[str, Any]) -> str:
    """Hash of the file that a function is in, as it was when it was first asked for.

    >>> len(content_of("optimizer", "torch.optim:NAdam", {}))
    16
    """
    function = inspect.unwrap(load(kind, name, known))
    try:
        file = inspect.getsourcefile(function)
    except TypeError:  # an object, whose class tells
        file = inspect.getsourcefile(type(function))
    return "" if file is None else _content(file)


@cache
def _content(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
