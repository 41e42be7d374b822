"""The training and evaluation loop without the work that changes nothing."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from avalanche.core import BasePlugin, BaseSGDPlugin, SupervisedPlugin
from avalanche.evaluation.metric_definitions import GenericPluginMetric, PluginMetric
from avalanche.logging.base_logger import BaseLogger
from avalanche.models import avalanche_forward
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates.base_sgd import BaseSGDTemplate, PeriodicEval
from avalanche.training.templates.problem_type.supervised_problem import SupervisedProblem
from avalanche.training.templates.update_type.sgd_update import SGDUpdate
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from avalanche_memplugins import _checks as check

from ._around import Around
from ._materialise.loader import TensorLoader

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


class LeanStepPlugin(SupervisedPlugin, supports_distributed=True):  # type: ignore[call-arg, misc]
    """Takes out of each iteration what costs time and changes nothing; results stay the same bit by bit.

    In every iteration Avalanche asks every plugin about eight events, although most inherit empty methods;
    copies the experience at each of them for an evaluator that may have no metric to update; looks up
    whether the experience has task labels; and opens a profiler record to clear gradients. While a strategy
    with this plugin trains or evaluates, its loop calls only those plugins, metrics and loggers that act on
    an event, in the same order. Everything that could tell the difference goes through Avalanche's own
    methods: strategies that override a hook, ``forward`` or ``criterion``, subclasses of the evaluator,
    loggers that handle metric values themselves, plugins, metrics and loggers added on the way.

    A strategy with a loop of its own (``training_epoch`` overridden) keeps it, with a warning. The plugin's
    place in the list does not matter.

    :param train: take over the training loop.
    :param evaluate: take over the evaluation loop.

    >>> import torch
    >>> from avalanche.training import Naive
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...                  plugins=[LeanStepPlugin()], train_mb_size=32, evaluator=None)
    >>> _ = strategy.train(SplitDigits(5).train_stream[0])
    >>> strategy.clock.train_exp_counter
    1
    """

    def __init__(self, *, train: bool = True, evaluate: bool = True) -> None:
        check.flags(train=train, evaluate=evaluate)
        super().__init__()
        self.train = train
        self.evaluate = evaluate
        self._warned = False
        self._dispatches: dict[str, Dispatch] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_dispatches": {}}

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Take over the training loop for the epoch."""
        if self.train and self._may(strategy, "training_epoch", SGDUpdate):
            strategy.training_epoch = self._once(strategy, "training_epoch", train_epoch)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Give the training loop back where the strategy stopped before its epoch."""
        vars(strategy).pop("training_epoch", None)

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Take over the evaluation loop for the experience."""
        if self.evaluate and self._may(strategy, "eval_epoch", BaseSGDTemplate):
            strategy.eval_epoch = self._once(strategy, "eval_epoch", eval_epoch)

    def _once(self, strategy: Any, name: str, loop: Callable[..., None]) -> functools.partial[None]:
        return functools.partial(_run_once, strategy, name, loop, self)

    def _may(self, strategy: Any, name: str, owner: type) -> bool:
        if getattr(type(strategy), name) is getattr(owner, name):
            # A partial of ours is left over where another plugin's exception kept the loop from being run.
            return isinstance(vars(strategy).get(name), functools.partial | None)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"LeanStepPlugin leaves {type(strategy).__name__} as it is, because it has a {name} of its own",
                stacklevel=4,
            )
        return False


def _run_once(strategy: Any, name: str, loop: Callable[..., None], plugin: LeanStepPlugin, /, **kwargs: Any) -> None:
    """Run a loop that was taken over and give it back, however it ends: a strategy at rest is as it was."""
    try:
        loop(strategy, plugin._dispatches, **kwargs)
    finally:
        vars(strategy).pop(name, None)


def train_epoch(strategy: Any, dispatches: dict[str, Dispatch], /, **kwargs: Any) -> None:
    """Run :meth:`SGDUpdate.training_epoch`, event by event, calling only what acts.

    :param strategy: its ``dataloader`` gives the batches.
    :param dispatches: where to keep what was found out about the strategy's plugins.
    :param kwargs: what ``strategy.train`` was given, passed on to the plugins.
    """
    dispatch = _dispatch(strategy, dispatches, "train")
    forward, own = _forward(strategy), vars(strategy).get("forward")
    unpacked = _is_unpacked(strategy)
    own_backward = type(strategy).backward is not BaseSGDTemplate.backward or "backward" in vars(strategy)
    for batch in strategy.dataloader:
        strategy.mbatch = batch
        if strategy._stop_training:
            break
        if not dispatch.fits(strategy):
            dispatch = _dispatch(strategy, dispatches, "train")
        (
            before_iteration,
            before_forward,
            after_forward,
            before_backward,
            after_backward,
            before_update,
            after_update,
            after_iteration,
        ) = dispatch.calls

        if not unpacked:
            strategy._unpack_minibatch()
        for call in before_iteration:
            call(strategy, **kwargs)

        _clear_gradients(strategy.optimizer)
        strategy.loss = empty = strategy._make_empty_loss()

        for call in before_forward:
            call(strategy, **kwargs)
        if vars(strategy).get("forward") is not own:
            forward, own = _forward(strategy), vars(strategy).get("forward")
        strategy.mb_output = forward()
        for call in after_forward:
            call(strategy, **kwargs)

        watched = before_backward or after_backward or before_update or len(after_update) > 1 or own_backward
        _add_to_loss(strategy, empty, strategy.criterion(), watched=bool(watched))

        for call in before_backward:
            call(strategy, **kwargs)
        strategy.backward()
        for call in after_backward:
            call(strategy, **kwargs)

        for call in before_update:
            call(strategy, **kwargs)
        _step(strategy)
        for call in after_update:
            call(strategy, **kwargs)

        for call in after_iteration:
            call(strategy, **kwargs)


def eval_epoch(strategy: Any, dispatches: dict[str, Dispatch], /, **kwargs: Any) -> None:
    """Run :meth:`BaseSGDTemplate.eval_epoch`, event by event, calling only what acts.

    :param strategy: its ``dataloader`` gives the batches.
    :param dispatches: where to keep what was found out about the strategy's plugins.
    :param kwargs: what ``strategy.eval`` was given, passed on to the plugins.
    """
    dispatch = _dispatch(strategy, dispatches, "eval")
    forward, own = _forward(strategy), vars(strategy).get("forward")
    unpacked = _is_unpacked(strategy)
    for batch in strategy.dataloader:
        strategy.mbatch = batch
        if not dispatch.fits(strategy):
            dispatch = _dispatch(strategy, dispatches, "eval")
        before_iteration, before_forward, after_forward, after_iteration = dispatch.calls

        if not unpacked:
            strategy._unpack_minibatch()
        for call in before_iteration:
            call(strategy, **kwargs)

        for call in before_forward:
            call(strategy, **kwargs)
        if vars(strategy).get("forward") is not own:
            forward, own = _forward(strategy), vars(strategy).get("forward")
        strategy.mb_output = forward()
        for call in after_forward:
            call(strategy, **kwargs)
        strategy.loss = strategy.criterion()

        for call in after_iteration:
            call(strategy, **kwargs)


def _is_unpacked(strategy: Any) -> bool:
    """Whether batches come as lists of tensors on the strategy's device, and nothing more would be done to them."""
    loader = strategy.dataloader
    plain = type(strategy)._unpack_minibatch is SupervisedProblem._unpack_minibatch
    plain = plain and "_unpack_minibatch" not in vars(strategy)
    return plain and isinstance(loader, TensorLoader) and loader.augment is None and loader.device == strategy.device


def _dispatch(strategy: Any, dispatches: dict[str, Dispatch], loop: str) -> Dispatch:
    # An online stream runs thousands of epochs of one batch: look the plugins up once.
    known = dispatches.get(loop)
    if known is None or not known.fits(strategy):
        known = dispatches[loop] = Dispatch(strategy, TRAIN_EVENTS if loop == "train" else EVAL_EVENTS)
    return known


def _forward(strategy: Any) -> Callable[[], Any]:
    """Return the strategy's forward pass; where it is Avalanche's, the question of task labels is settled once."""
    forward: Callable[[], Any] = strategy.forward
    # A replay plugin stands around the method while an experience is trained.
    method = forward.innermost if isinstance(forward, Around) else forward
    if getattr(method, "__func__", None) is not SupervisedProblem.forward:
        return forward
    lean = _avalanche_forward(strategy)
    return forward.over(lean) if isinstance(forward, Around) else lean


def _avalanche_forward(strategy: Any) -> Callable[[], Any]:
    if hasattr(strategy.experience, "task_labels"):
        return lambda: avalanche_forward(strategy.model, strategy.mb_x, strategy.mb_task_id)
    return lambda: strategy.model(strategy.mb_x)


def _add_to_loss(strategy: Any, empty: Tensor, loss: Any, *, watched: bool) -> None:
    """Do ``strategy.loss += loss``; where nobody touched the empty loss, without an addition of zero.

    :param watched: somebody may add to it in place later, as penalties are, which the criterion's tensor must not see.
    """
    untouched = strategy.loss is empty and empty._version == 0 and not empty.requires_grad
    if not watched and untouched and isinstance(loss, Tensor) and loss.ndim == 0 and loss.dtype == empty.dtype:
        strategy.loss = loss.view(1)
    else:
        strategy.loss += loss


def _clear_gradients(optimizer: Any) -> None:
    if type(optimizer).zero_grad is not Optimizer.zero_grad or "zero_grad" in vars(optimizer):
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _step(strategy: Any) -> None:
    """Do ``strategy.optimizer_step()``; torch's optimisers without the record for a profiler that is not there."""
    optimizer = strategy.optimizer
    method = strategy.optimizer_step
    if getattr(method, "__func__", None) is not BaseSGDTemplate.optimizer_step or "step" in vars(optimizer):
        method()
        return
    kind: Any = type(optimizer)
    step = _bare_step(kind, kind.step)
    watched = (
        torch.autograd._profiler_enabled()  # type: ignore[attr-defined]  # torch names no public one
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
    )
    if step is None or watched:
        method()
        return
    if type(optimizer) is SGD and all(map(_is_plain_descent, optimizer.param_groups)):
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.add_(parameter.grad, alpha=-group["lr"])
        return
    with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
        step(optimizer)


def _is_plain_descent(group: dict[str, Any]) -> bool:
    """Whether torch's SGD only adds gradients times a number, one parameter after the other."""
    more = ("momentum", "weight_decay", "maximize", "foreach", "fused", "differentiable")
    if any(map(group.get, more)) or type(group["lr"]) is not float:
        return False
    return all(parameter.is_cpu for parameter in group["params"])


@functools.lru_cache(maxsize=64)
def _bare_step(kind: type, step: Any) -> Callable[[Any], Any] | None:
    """The step of a class of torch's within torch's own two wrappers; None where these are not the ones known."""
    if not kind.__module__.startswith("torch.optim.") or not getattr(step, "hooked", False):
        return None
    without_grad = getattr(step, "__wrapped__", None)
    bare: Callable[[Any], Any] | None = getattr(without_grad, "__wrapped__", None)
    names = [getattr(getattr(f, "__code__", None), "co_name", "") for f in (step, without_grad, bare)]
    return bare if names == ["wrapper", "_use_grad", "step"] and not hasattr(bare, "__wrapped__") else None


# ---------------------------------------------------------------- who has something to do at an event


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
        # Kept, so that nothing else can take their place in memory.
        self.kept = [*strategy.plugins, *evaluator.metrics, *evaluator.loggers]
        self.parts = _parts(strategy)
        self.periodic = [p for p in strategy.plugins if type(p) is PeriodicEval]
        self.periods = self._periods()
        self.calls: list[list[Call]] = [_calls(strategy, event) for event in events]

    def fits(self, strategy: Any) -> bool:
        """Say whether the strategy is the one it was, with the same plugins, metrics and loggers."""
        return strategy is self.strategy and _parts(strategy) == self.parts and self._periods() == self.periods

    def _periods(self) -> list[tuple[str, int]]:
        return [(p.peval_mode, p.eval_every) for p in self.periodic]


def _parts(strategy: Any) -> tuple[list[int], list[int], list[int], int, bool]:
    """Plugins, metrics, loggers and evaluator as they are now, and whether it is active."""
    evaluator = strategy.evaluator
    # Avalanche's looks twice at each name that is asked for.
    get = object.__getattribute__ if type(evaluator) is EvaluationPlugin else getattr
    metrics, loggers, active = get(evaluator, "metrics"), get(evaluator, "loggers"), get(evaluator, "active")
    return [*map(id, strategy.plugins)], [*map(id, metrics)], [*map(id, loggers)], id(evaluator), active


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
