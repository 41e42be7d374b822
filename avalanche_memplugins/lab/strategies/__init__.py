"""Strategies by name. Imports nothing heavy: a recipe brings in what it needs when it builds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from avalanche_memplugins.lab import doors
from avalanche_memplugins.lab.strategies.avalanche import ABSENT, Absent
from avalanche_memplugins.lab.strategies.avalanche import BASELINES as _BASELINES
from avalanche_memplugins.lab.strategies.memory import CODECS, MEMORIES, MemoryInfo, make_memory
from avalanche_memplugins.lab.strategies.ours import OURS as _OURS
from avalanche_memplugins.lab.strategies.recipe import LABEL_BYTES, Built, Recipe, Setup, changed

__all__ = [
    "ABSENT",
    "BASELINES",
    "CODECS",
    "LABEL_BYTES",
    "MEMORIES",
    "OURS",
    "STRATEGIES",
    "Absent",
    "Built",
    "MemoryInfo",
    "Recipe",
    "Setup",
    "changed",
    "find_recipe",
    "held_bytes",
    "make_memory",
    "named",
    "own_label",
    "parsed",
    "parsed_options",
    "sizing",
]

OURS: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _OURS}
BASELINES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _BASELINES}
# In the order in which tables show them when nothing else is said.
_FIRST = ("naive", "replay", "rma", "er", "er-reservoir", "mbpa", "er-mbpa", "cumulative")
_ALL = {**OURS, **BASELINES}
STRATEGIES: Mapping[str, Recipe] = {name: _ALL[name] for name in dict.fromkeys((*_FIRST, *_ALL))}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name: ours, Avalanche's, or the user's own.

    :raises ValueError: if there is none, or it cannot be called as :class:`.StrategyFactory` says.

    >>> find_recipe("er-uint8").label
    'ER 8-bit'
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    function = doors.load("strategy", name, STRATEGIES)
    options, more = doors.options_of("strategy", function)

    def build(setup: Setup) -> Built:
        made = doors.make("strategy", name, STRATEGIES, setup, **dict(setup.spec.options))
        return made if isinstance(made, Built) else Built(made, lambda: held_bytes(made, setup.row_bytes))

    return Recipe(
        name=name,
        label=own_label(name),
        summary=doors.summary_of(function),
        build=build,
        sized="rows",
        options=options,
        open_options=more,
    )


def own_label(name: str) -> str:
    """Label of what a user brings: the function's name.

    >>> own_label("mypackage.methods:hardest")
    'hardest'
    """
    return name.rpartition(":")[2]


def sizing(method: str) -> Literal["rows", "bytes", "no"]:
    """What sizes the memory of a strategy, see :class:`.Recipe`; a user's own is sized by rows.

    >>> sizing("gaussian"), sizing("er:codec=2bit")
    ('bytes', 'rows')
    """
    name, _ = parsed(method)
    return STRATEGIES[name].sized if name in STRATEGIES else "rows"


def held_bytes(strategy: Any, row_bytes: int) -> int:
    """Bytes of stream data in the memories, and in Avalanche's buffers, of a strategy's plugins.

    :param strategy: of Avalanche's kind.
    :param row_bytes: of a row as Avalanche keeps it.

    >>> from types import SimpleNamespace
    >>> plugin = SimpleNamespace(memory=SimpleNamespace(nbytes=500))
    >>> held_bytes(SimpleNamespace(plugins=[plugin, plugin]), row_bytes=10)
    500
    """
    held = {id(one): one for plugin in strategy.plugins if (one := getattr(plugin, "memory", None)) is not None}
    buffers: list[Any] = [getattr(plugin, "storage_policy", None) for plugin in strategy.plugins]
    rows = sum(len(policy.buffer) for policy in buffers if policy is not None)
    return rows * row_bytes + sum(int(memory.nbytes) for memory in held.values() if hasattr(memory, "nbytes"))


def named(strategy: str, options: Mapping[str, Any]) -> str:
    """A strategy with the options that differ from its defaults, as one name.

    >>> named("er", {"policy": "ring", "codec": "2bit"})
    'er:codec=2bit,policy=ring'
    """
    said = ",".join(f"{name}={_said(value)}" for name, value in sorted(options.items()))
    return f"{strategy}:{said}" if said else strategy


def _said(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def parsed(text: str) -> tuple[str, dict[str, Any]]:
    """A name and its options, from :func:`named`: the other way round.

    :raises ValueError: for options that are not ``name=value``, joined by commas.

    >>> parsed("mypackage.methods:hardest:share=0.5,balanced=true")
    ('mypackage.methods:hardest', {'share': 0.5, 'balanced': True})
    """
    found = re.fullmatch(r"(.+?):(\w+=.*)", text) if isinstance(text, str) else None
    return (text, {}) if found is None else (found[1], parsed_options(found[2].split(",")))


def parsed_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Options from ``name=value``; values are numbers, true, false, none, or text.

    :raises ValueError: for one without ``=``, or without a name.

    >>> parsed_options(["codec=2bit", "steps=3"])
    {'codec': '2bit', 'steps': 3}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"options: expected name=value, got {pair!r}")
        found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    plain = {"true": True, "false": False, "none": None}
    if text.lower() in plain:
        return plain[text.lower()]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text
