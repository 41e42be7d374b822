"""What all ready-made strategies share: the arguments of Avalanche's template, declared and checked in one place."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

import torch
from avalanche.core import BasePlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from torch.nn import CrossEntropyLoss, Module
from torch.optim import Optimizer

from avalanche_memplugins import _checks as check
from avalanche_memplugins._words import OF_A_STRATEGY, POLICIES, names_ours, renamed
from avalanche_memplugins.plugins.memory_replay import Fast, MemoryReplayPlugin

T = TypeVar("T", bound=type)
Device = str | torch.device
Evaluator = EvaluationPlugin | Callable[[], EvaluationPlugin]


class Shared(TypedDict, total=False):
    """Arguments of Avalanche's ``SupervisedTemplate`` that every strategy takes, and may leave out."""

    criterion: Any
    train_mb_size: int
    train_epochs: int
    eval_mb_size: int | None
    device: Device
    plugins: Sequence[BasePlugin] | None
    evaluator: Evaluator | None
    eval_every: int
    peval_mode: str
    fast: Fast


class _Needed(TypedDict):
    model: Module
    optimizer: Optimizer


class Template(Shared, _Needed):
    """All arguments of Avalanche's ``SupervisedTemplate``, for a strategy that trains the user's model."""


def _check_template(
    *,
    criterion: Any = CrossEntropyLoss(),  # noqa: B008 - Avalanche's own default; it is never changed
    train_mb_size: int = 1,
    train_epochs: int = 1,
    eval_mb_size: int | None = None,
    device: Device = "cpu",
    plugins: Sequence[BasePlugin] | None = None,
    evaluator: Evaluator | None = default_evaluator,
    eval_every: int = -1,
    fast: Fast = "auto",
) -> None:
    """Raise for arguments of ``SupervisedTemplate`` that it would take, or fail on later, without naming them.

    :raises TypeError: for an argument of a wrong kind.
    :raises ValueError: for one out of range.
    """
    check.function("criterion", criterion, "a loss function")
    check.positive_integer("train_mb_size", train_mb_size)
    check.positive_integer("train_epochs", train_epochs)
    if eval_mb_size is not None:
        check.positive_integer("eval_mb_size", eval_mb_size)
    check.integer("eval_every", eval_every, least=-1)
    if fast is not False:
        check.choice("fast", fast, ("auto",))
    try:
        torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device: expected a device such as 'cpu' or 'cuda:0', got {check.show(device)}") from error
    if plugins is not None and (isinstance(plugins, str) or not hasattr(plugins, "__iter__")):
        raise TypeError(f"plugins: expected a sequence of plugins, or None, got {check.show(plugins)}")
    for plugin in plugins or ():
        check.instance("plugins", plugin, BasePlugin, "plugins of Avalanche")
    if evaluator is not None and not isinstance(evaluator, EvaluationPlugin):
        check.function("evaluator", evaluator, "an EvaluationPlugin, a function that makes one, or None")


_KINDS = {"model": (Module, "a module"), "optimizer": (Optimizer, "an optimizer of torch.optim")}
_SHARED = {
    **{
        name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind)
        for name, (kind, _) in _KINDS.items()
    },
    **inspect.signature(_check_template).parameters,
}
_NOTES = {"criterion": " (cross-entropy)", "eval_mb_size": " (None: that for training)"}
_NOTES |= {
    "fast": " (of :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin`)",
    "plugins": " beside the strategy's own",
    "evaluator": " (None: no metrics)",
}


def ready_made(cls: T) -> T:
    """Class decorator for a strategy whose ``__init__`` takes its own arguments and ``**template``.

    The template's arguments are checked before anything else happens; ``template`` holds all of them, given or not,
    but for those that the class names in ``brings``, a set, because it makes them itself. Signature and documentation
    tell the arguments, too. Arguments under others' names are refused with ours.
    """
    written = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    own = {name: p for name, p in written.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    brings: frozenset[str] = getattr(cls, "brings", frozenset())
    theirs = {name: p for name, p in _SHARED.items() if name not in brings}
    needed = [p for p in theirs.values() if p.default is inspect.Parameter.empty]
    optional = [p for name, p in theirs.items() if p not in needed and name not in own]
    signature = inspect.Signature(
        [
            *(p for p in written.values() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD),
            *(*needed, *own.values(), *optional),
            inspect.Parameter("base_kwargs", inspect.Parameter.VAR_KEYWORD, annotation="Any"),
        ]
    )
    filled = {p.name: p.default for p in optional}
    known = {p.name: p.default for p in own.values() if p.name in theirs}
    init = cls.__init__  # type: ignore[misc]

    @functools.wraps(init)
    def checked(self: Any, **arguments: Any) -> None:
        signature.bind(self, **arguments)  # what is missing is told
        given = {**filled, **known, **arguments}
        for name in brings & given.keys() - own.keys():
            raise TypeError(f"{name}: {cls.__name__} makes its own, so none is expected")
        for p in needed:
            check.instance(p.name, given[p.name], *_KINDS[p.name])
        _check_template(**{name: given[name] for name in theirs if name not in _KINDS})
        init(self, **{**filled, **arguments})

    checked.__signature__ = signature  # type: ignore[attr-defined]
    earlier = {old: new for old, new in POLICIES.items() if new in own}
    cls.__init__ = renamed(earlier)(checked)  # type: ignore[misc]
    names = ", ".join(f"``{name}``{_NOTES.get(name, '')}" for name in (*theirs, "peval_mode"))
    about = f"    Further arguments are those of Avalanche's ``SupervisedTemplate``: {names}.\n"
    first, _, rest = (cls.__doc__ or "").partition("\n\n    :param")
    cls.__doc__ = f"{first}\n\n{about}\n    :param{rest}" if rest else f"{first}\n\n{about}"
    return names_ours(OF_A_STRATEGY)(cls)


def beside(template: Shared | Template, *plugins: BasePlugin) -> Mapping[str, Any]:
    """The template's arguments with a strategy's own plugins after those of the user; ``fast`` goes to its replay."""
    fast = template.get("fast", "auto")
    for plugin in plugins:
        if isinstance(plugin, MemoryReplayPlugin):
            plugin.fast = fast
    rest = {name: value for name, value in template.items() if name != "fast"}
    return {**rest, "plugins": [*(template.get("plugins") or ()), *plugins]}
