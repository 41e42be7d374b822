"""What a strategy of the lab is: a recipe, and what it is given and gives. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from avalanche_memplugins.lab.spec import RunSpec

# Of a label and a task label, eight each, kept with every float32 image of Avalanche's.
LABEL_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a recipe builds a strategy from.

    :param spec: the run.
    :param benchmark: its stream.
    :param common: arguments that every Avalanche strategy takes: ``model``, ``optimizer``, ``criterion``,
        ``train_mb_size``, ``train_epochs``, ``eval_mb_size``, ``evaluator``, ``plugins``.
    :param input_shape: of a row.
    :param n_classes: size of the model's output.
    :param row_bytes: of a row as Avalanche keeps it alive, float32 numbers and labels.
    :param batches: of an epoch, for each experience.

    >>> from avalanche_memplugins.lab import RunSpec
    >>> spec = RunSpec(benchmark="split-digits", strategy="replay", seed=0, n_experiences=5, epochs=1, budget="1KB")
    >>> facts = {"input_shape": (1, 8, 8), "n_classes": 10, "row_bytes": 272, "batches": []}
    >>> Setup(spec=spec, benchmark=None, common={}, **facts).rows()
    3
    """

    spec: RunSpec
    benchmark: Any
    common: dict[str, Any]
    input_shape: tuple[int, ...]
    n_classes: int
    row_bytes: int
    batches: list[int]

    def rows(self, row_bytes: int | None = None) -> int:
        """Rows that a memory may hold: ``memory_size``, or what the budget buys.

        :param row_bytes: of a row, where that is not an image with its labels.
        :raises ValueError: if the budget is below one row.
        """
        if self.spec.budget is None:
            return self.spec.memory_size
        each = row_bytes or self.row_bytes
        if self.spec.budget < each:
            raise ValueError(f"budget: one row of {self.spec.strategy} takes {each} bytes, got {self.spec.budget}")
        return self.spec.budget // each

    def extended(self, *plugins: Any) -> dict[str, Any]:
        """The common arguments with further plugins."""
        return {**self.common, "plugins": [*self.common["plugins"], *plugins]}


@dataclass(frozen=True)
class Built:
    """A strategy ready to train.

    :param strategy: the Avalanche strategy.
    :param memory_bytes: gives the bytes of stream data that it holds now.
    :param fixed_bytes: gives the bytes that it needs besides, whatever the stream.

    >>> Built(strategy="any", memory_bytes=lambda: 12).fixed_bytes()
    0
    """

    strategy: Any
    memory_bytes: Callable[[], int]
    fixed_bytes: Callable[[], int] = lambda: 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A strategy of the lab, as data. An alias is a recipe, too: another one with some of its options set.

    :param name: as on the command line.
    :param label: as in tables and pictures.
    :param summary: one line for a reader.
    :param build: makes the strategy from a :class:`Setup`.
    :param memory: makes the run's memory, empty, from the run alone; None: there is none, or Avalanche has it.
    :param unsuitable: why a run cannot be built, told from the run alone; None if it can.
    :param sized: what a run's ``memory_size`` and ``budget`` mean to it: ``"rows"``, it holds so many rows, or as many
        as the budget buys; ``"bytes"``, only a budget sizes it, by its memory's ``from_budget``; ``"no"``: nothing
        does, and a budget is refused.
    :param options: its own settings by name, with their defaults.
    :param former: defaults of earlier versions, of those options whose default has changed. They stand for what a
        result says nothing of, so that keys and results go on meaning the run that they meant.
    :param open_options: whether it takes settings that are not in ``options``, as a function with ``**kwargs`` does.
    :param source: where these defaults are from.
    :param note: what a reader must know before trusting its numbers.
    :param requires: module that it needs, beside those of the installation.
    :param of: name of the recipe that this one is an alias of; empty if it is none.

    >>> from avalanche_memplugins.lab import STRATEGIES
    >>> STRATEGIES["er-4bit"].of, STRATEGIES["er-4bit"].options["codec"]
    ('er-reservoir', '4bit')
    """

    name: str
    label: str
    summary: str
    build: Callable[[Setup], Any]
    memory: Callable[[RunSpec], Any] | None = None
    unsuitable: Callable[[RunSpec], str | None] = lambda spec: None
    sized: Literal["rows", "bytes", "no"] = "no"
    options: Mapping[str, Any] = field(default_factory=dict)
    former: Mapping[str, Any] = field(default_factory=dict)
    open_options: bool = False
    source: str = ""
    note: str = ""
    requires: str = ""
    of: str = ""

    def alias(self, name: str, label: str, summary: str, *, source: str = "", note: str = "", **options: Any) -> Recipe:
        """This recipe under another name, with other defaults of some options."""
        settings = {**self.options, **self.with_defaults(options)}
        said: dict[str, Any] = {"name": name, "label": label, "summary": summary, "source": source, "note": note}
        return replace(self, **said, options=settings, former={}, of=self.name)

    def with_defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options, those given and the others at their defaults.

        :raises ValueError: for one that the strategy does not have, or of another kind than the default.
        """
        return with_defaults(self.name, options, self.options, more=self.open_options)


def with_defaults(
    owner: str, options: Mapping[str, Any], defaults: Mapping[str, Any], *, more: bool = False, field: str = "options"
) -> dict[str, Any]:
    """All options, those given and the others at their defaults.

    :param owner: whose they are, for errors.
    :param options: those given.
    :param defaults: all there are, by name.
    :param more: whether others may be given, too.
    :param field: the error begins with it.
    :raises ValueError: for one that there is not, or of another kind than its default.

    >>> with_defaults("sgd", {"momentum": 1}, {"momentum": 0.0, "nesterov": False})
    {'momentum': 1.0, 'nesterov': False}
    """
    strange = sorted(set(options) - set(defaults))
    if strange and not more:
        known = ", ".join(defaults) or "none"
        raise ValueError(f"{field}: {owner} has no {strange[0]!r}; it has {known}")
    given = {name: _like(f"{field}: {name}", value, defaults.get(name)) for name, value in options.items()}
    return {**defaults, **given}


def changed(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that are not at their defaults.

    >>> changed({"momentum": 0.9, "nesterov": False}, {"momentum": 0.0, "nesterov": False})
    {'momentum': 0.9}
    """
    return {name: value for name, value in options.items() if name not in defaults or value != defaults[name]}


def _like(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = isinstance(default, bool | int | float | str)
    if plain and value is not None and type(value) is not type(default):
        raise ValueError(f"{name}: expected a value like {default!r}, got {value!r}")
    return value


def tensor_bytes(*things: Any) -> int:
    """Bytes of the tensors in nested containers, modules and Avalanche's ``ParamData``; of anything else none.

    >>> import torch
    >>> tensor_bytes({"a": [torch.zeros(3)]}, torch.nn.Linear(1, 1), "text")
    20
    """
    from torch import Tensor, nn

    total = 0
    for thing in things:
        if isinstance(thing, Tensor):
            total += thing.nbytes
        elif isinstance(thing, nn.Module):
            total += sum(value.nbytes for value in (*thing.parameters(), *thing.buffers()))
        elif isinstance(thing, Mapping):
            total += tensor_bytes(*thing.values())
        elif isinstance(thing, list | tuple):
            total += tensor_bytes(*thing)
        elif isinstance(getattr(thing, "data", None), Tensor):
            total += tensor_bytes(thing.data)
    return total
