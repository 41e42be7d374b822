"""Which plugins have something to do at an event of the training or evaluation loop."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from avalanche.core import BasePlugin, BaseSGDPlugin, SupervisedPlugin
from avalanche.evaluation.metric_definitions import GenericPluginMetric, PluginMetric
from avalanche.logging.base_logger import BaseLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates.base_sgd import BaseSGDTemplate, PeriodicEval

TRAIN_EVENTS = (
    "before_training_iteration",
    "before_forward",
    "after_forward",
    "before_backward",
    "after_backward",
    "before_update",
    "after_update",
    "after_training_iteration",
)
EVAL_EVENTS = ("before_eval_iteration", "before_eval_forward", "after_eval_forward", "after_eval_iteration")

Call = Callable[..., Any]


class Dispatch:
    """The calls that each event of one loop leads to, in Avalanche's order, without those that do nothing.

    Left out are methods that a plugin, metric or logger only inherits as an empty default, the evaluator
    where none of its metrics and loggers listens, and periodic evaluation where it is not by iteration.

    :param strategy: its plugins, evaluator and own hooks are looked at.
    :param events: names of the events, as plugins spell them.
    """

    def __init__(self, strategy: Any, events: Iterable[str]) -> None:
        evaluator = strategy.evaluator
        self.strategy = strategy
        self.plugins = list(strategy.plugins)
        self.metrics = list(evaluator.metrics)
        self.loggers = list(evaluator.loggers)
        self.active = evaluator.active
        self.periods = _periods(strategy)
        self.calls: list[list[Call]] = [_calls(strategy, event) for event in events]

    def fits(self, strategy: Any) -> bool:
        """Say whether the strategy is the one it was, with the same plugins, metrics and loggers."""
        evaluator = strategy.evaluator
        return (
            strategy is self.strategy
            and evaluator.active is self.active
            and _same(strategy.plugins, self.plugins)
            and _same(evaluator.metrics, self.metrics)
            and _same(evaluator.loggers, self.loggers)
            and _periods(strategy) == self.periods
        )


def _periods(strategy: Any) -> list[tuple[str, int]]:
    return [(p.peval_mode, p.eval_every) for p in strategy.plugins if type(p) is PeriodicEval]


def _same(now: Sequence[Any], before: list[Any]) -> bool:
    return len(now) == len(before) and all(map(operator.is_, now, before))


def _calls(strategy: Any, event: str) -> list[Call]:
    hook = f"_{event}"
    if hook in vars(strategy) or getattr(type(strategy), hook) is not getattr(BaseSGDTemplate, hook):
        # The strategy has its own idea of the event.
        method = getattr(strategy, hook)
        return [lambda strategy, **kwargs: method(**kwargs)]
    calls: list[Call] = []
    for plugin in strategy.plugins:
        if type(plugin) is EvaluationPlugin:
            calls += _evaluator_calls(plugin, event)
        elif type(plugin) is PeriodicEval and event == "after_training_iteration":
            if plugin.peval_mode == "iteration" and plugin.eval_every > 0:
                calls.append(plugin.after_training_iteration)
        elif _acts(plugin, event):
            calls.append(getattr(plugin, event))
    return calls


def _acts(plugin: object, event: str) -> bool:
    """Say whether calling a plugin at an event can do anything."""
    if event in vars(plugin):
        return True
    method = getattr(type(plugin), event, None)
    if method is None:
        return hasattr(plugin, event)
    empty = (BasePlugin, BaseSGDPlugin, SupervisedPlugin)
    return all(method is not getattr(base, event, None) for base in empty)


def _evaluator_calls(evaluator: EvaluationPlugin, event: str) -> list[Call]:
    if not evaluator.active:
        return []
    if any(_listens(metric, event) for metric in evaluator.metrics) or any(
        _acts(logger, event) or type(logger).log_metrics is not BaseLogger.log_metrics for logger in evaluator.loggers
    ):
        return [getattr(evaluator, event)]
    if not evaluator.loggers:
        return []

    def pass_on(strategy: Any, **kwargs: Any) -> None:
        # A plugin published a value: loggers get it at the next event, whichever that is.
        if evaluator._metric_values:
            getattr(evaluator, event)(strategy, **kwargs)

    return [pass_on]


def _listens(metric: Any, event: str) -> bool:
    if event in vars(metric):
        return True
    method = getattr(type(metric), event, None)
    if method is None:
        return hasattr(metric, event)
    if method is getattr(PluginMetric, event, None):
        return False
    if method is getattr(GenericPluginMetric, event, None):
        mode = "eval" if "eval" in event else "train"
        if event.startswith("before"):
            return bool(metric._mode == mode and metric._reset_at == "iteration")
        return bool(metric._mode == mode)
    return True
