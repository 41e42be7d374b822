"""What every plugin promises."""

from __future__ import annotations

import copy
import pickle
from functools import cache
from itertools import chain
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.training.plugins import EvaluationPlugin, EWCPlugin
from torch import Tensor, nn

from avalanche_memplugins.testing._promise import ensure, pickles, promise, same
from avalanche_memplugins.testing.cases import PluginCase
from avalanche_memplugins.testing.streams import EXPERIENCES, SCENARIOS, Watcher, build, run, weights

PLAIN = SCENARIOS["x, y, t"]


@cache
def _numbers_without_a_memory(name: str) -> list[list[int]]:
    watcher = Watcher()
    run(SCENARIOS[name], [watcher])
    return watcher.numbers


@promise()
def check_streams_of_every_kind_and_the_evaluator_sees_their_rows_only(case: PluginCase) -> None:
    """On every kind of stream it trains, and plugins after it and the evaluator see the stream's own rows only."""
    for name, scenario in SCENARIOS.items():
        plugin, watcher = case.make(), Watcher()
        strategy = run(scenario, [plugin, watcher])
        alone = _numbers_without_a_memory(name)
        if case.replaces:
            right = all(set(mine) <= set(rows) for mine, rows in zip(watcher.numbers, alone, strict=True))
        elif case.reorders:
            right = sorted(chain(*watcher.numbers)) == sorted(chain(*alone))
        else:
            right = watcher.numbers == alone
        fix = "join rows in forward() and criterion() only, and take them out again"
        ensure(right, f"{name}: batches are not those of the stream", fix)
        ensure(watcher.outputs == [len(rows) for rows in watcher.numbers], f"{name}: outputs of other rows", fix)
        ensure(all(watcher.modes), f"{name}: the model was left in eval mode", "put the mode back in a finally block")
        ensure(bool(torch.isfinite(weights(strategy)).all()), f"{name}: a weight is not finite", "look for log(0)")
        memory = getattr(plugin, "memory", None)
        if memory is not None:
            ensure(len(memory) > 0, f"{name}: the memory is empty", "write in before_forward or after_training_exp")
            if case.keeps_all and not scenario.online:
                _every_experience(name, memory)


def _every_experience(name: str, memory: Any) -> None:
    held = memory.summary()
    told = f"{name}: the memory has rows of experiences {sorted(held.per_experience)}"
    ensure(set(held.per_experience) == set(range(EXPERIENCES)), told, "give the number of the experience as origin")
    if name == "multi-head":
        told = f"{name}: tasks are {held.per_task}, experiences {held.per_experience}"
        ensure(held.per_task == held.per_experience, told, "give the batch's task labels as t")


@promise()
def check_metrics_are_those_of_the_streams_rows(case: PluginCase) -> None:
    """Loss and accuracy of Avalanche's evaluator are those of the stream's rows and outputs."""
    watcher = Watcher()
    metrics = accuracy_metrics(minibatch=True), loss_metrics(minibatch=True)
    evaluator = EvaluationPlugin(*metrics, loggers=[], collect_all=True)
    run(PLAIN, [case.make(), watcher], evaluator=evaluator)
    recorded = evaluator.get_all_metrics()
    losses = next(values for key, (_, values) in recorded.items() if key.startswith("Loss_MB"))
    for found in (losses, watcher.losses):
        near = len(found) == len(watcher.own_losses)
        near = near and all(abs(a - b) <= 1e-5 * max(1, abs(b)) for a, b in zip(found, watcher.own_losses, strict=True))
        ensure(near, "the loss is not that of the stream's outputs", "leave the stream's loss in strategy.loss")
    accuracies = next(values for key, (_, values) in recorded.items() if key.startswith("Top1_Acc_MB"))
    sizes = [len(rows) for rows in watcher.numbers]
    whole = all(abs(a * n - round(a * n)) < 1e-4 for a, n in zip(accuracies, sizes, strict=True))
    ensure(whole, "accuracies are not of the stream's rows", "leave the stream's outputs in strategy.mb_output")


@promise()
def check_a_run_is_repeatable_bit_for_bit(case: PluginCase) -> None:
    """Two runs of one seed end with the same weights, bit for bit."""
    first, second = (weights(run(PLAIN, [case.make()])) for _ in range(2))
    ensure(same(first, second), "the weights differ", "draw from generators made from the seed; use no set or id order")


@promise("state_dict", "load_state_dict")
def check_a_plugin_restored_at_a_boundary_goes_on_exactly(case: PluginCase) -> None:
    """Restored between two experiences, by state_dict or pickle, it goes on to the weights of a run never stopped."""
    unstopped = weights(run(PLAIN, [case.make()]))
    for boundary in range(1, EXPERIENCES):
        for way in ("state_dict", "pickle"):
            plugin = case.make()
            if way == "pickle" and not all(pickles(type(part)) for part in (plugin, getattr(plugin, "memory", plugin))):
                continue
            strategy = build(PLAIN, [plugin])
            torch.manual_seed(1)
            experiences = list(PLAIN.stream())
            for experience in experiences[:boundary]:
                strategy.train(experience, num_workers=0)
            generator = torch.get_rng_state()
            if way == "state_dict":
                restored = case.make()
                restored.load_state_dict(copy.deepcopy(plugin.state_dict()))
            else:
                restored = pickle.loads(pickle.dumps(plugin))
            strategy.plugins[strategy.plugins.index(plugin)] = restored
            torch.set_rng_state(generator)
            for experience in experiences[boundary:]:
                strategy.train(experience, num_workers=0)
            told = f"restored by {way} after {boundary} experiences, the weights differ"
            ensure(same(weights(strategy), unstopped), told, "put all that a run needs into state_dict")


@promise()
def check_nothing_of_it_enters_optimizer_model_or_criterion(case: PluginCase) -> None:
    """Optimizer, modules, hooks, requires_grad and criterion of the strategy are as they were after each experience."""
    criterion = nn.CrossEntropyLoss()
    strategy = build(PLAIN, [case.make()])
    strategy._criterion = criterion
    strategy.model.classifier.bias.requires_grad_(False)
    names = [name for name, _ in strategy.model.named_modules()]
    for experience in PLAIN.stream():
        strategy.train(experience)
        in_model = {id(p) for p in strategy.model.parameters()}
        in_optimizer = {id(p) for group in strategy.optimizer.param_groups for p in group["params"]}
        ensure(in_optimizer == in_model, "the optimizer has other parameters than the model", "add none to it")
        found = [name for name, _ in strategy.model.named_modules()]
        ensure(found == names, f"the model's modules are {found}", "assign no module to the model")
        flags = [p.requires_grad for p in strategy.model.parameters()]
        ensure(flags == [True, True, True, False], f"requires_grad of parameters are {flags}", "put them back")
        hooked = [name for name, module in strategy.model.named_modules() if module._forward_hooks]
        ensure(not hooked, f"hooks are left on {hooked}", "remove hooks in a finally block")
    kept = strategy._criterion is criterion and criterion.reduction == "mean"
    ensure(kept, "the criterion has changed", "work out losses by rows with a criterion of your own")


@promise()
def check_a_frozen_layer_in_eval_mode_stays_so(case: PluginCase) -> None:
    """A layer that the user keeps in eval mode is in eval mode after training, and the others in train mode."""
    strategy = build(PLAIN, [case.make()])
    # Avalanche puts the model in train mode once per call of train; a user may freeze a part of it after that.
    features = strategy.model.features
    features.train = lambda mode=True: features
    for module in features.modules():
        module.training = False
    for experience in PLAIN.stream():
        strategy.train(experience)
    fix = "note the mode of every module, and put each back"
    ensure(not any(m.training for m in features.modules()), "the frozen layer is in train mode", fix)
    ensure(strategy.model.classifier.training, "the classifier is in eval mode", fix)


class _Stop(Exception):
    """Raised in the middle of training."""


class _Stopper(SupervisedPlugin):  # type: ignore[misc]
    """Raises an error at a callback of the second experience."""

    def __init__(self, event: str) -> None:
        super().__init__()

        def stop(strategy: Any, **kwargs: Any) -> None:
            if strategy.clock.train_exp_counter == 1 and strategy.clock.train_exp_iterations == 2:
                raise _Stop

        setattr(self, event, stop)


@promise()
def check_an_exception_leaves_nothing_behind(case: PluginCase) -> None:
    """After an exception in training nothing of it is left on model and strategy, and training can go on."""
    for event in ("before_forward", "after_forward", "before_backward", "after_update"):
        stopper = _Stopper(event)
        strategy = build(PLAIN, [case.make(), stopper])
        first, second, _ = PLAIN.stream()
        methods = {name for name, value in vars(strategy).items() if callable(value)}
        strategy.train(first, num_workers=0)
        try:
            strategy.train(second, num_workers=0)
        except _Stop:
            pass
        else:
            ensure(False, f"an exception of {event} was lost", "use finally, not except")
        hooked = [name for name, module in strategy.model.named_modules() if module._forward_hooks]
        ensure(not hooked, f"hooks are left on {hooked}", "remove hooks in a finally block")
        patched = [name for name, module in strategy.model.named_modules() if "forward" in vars(module)]
        ensure(not patched, f"forward is replaced on {patched}", "put it back in a finally block")
        flags = [p.requires_grad for p in strategy.model.parameters()]
        ensure(all(flags), f"requires_grad of parameters are {flags}", "put them back in a finally block")
        left = {name for name, value in vars(strategy).items() if callable(value)} - methods - {"loss", "mb_output"}
        ensure(not left, f"methods {sorted(left)} of the strategy are replaced", "put them back in a finally block")
        width = len(strategy.mbatch[0])
        ensure(width <= strategy.train_mb_size, f"the batch has {width} rows", "keep the batch as it was")
        strategy.plugins.remove(stopper)
        strategy.train(second, num_workers=0)
        ensure(bool(torch.isfinite(weights(strategy)).all()), "trained on, a weight is not finite", "start afresh")


@promise()
def check_its_place_in_the_list_changes_no_number(case: PluginCase) -> None:
    """Before or after another plugin in the list, a run ends with the same weights, bit for bit."""
    results: list[Tensor] = []
    for first in (True, False):
        both = [case.make(), EWCPlugin(0.1)]
        results.append(weights(run(PLAIN, both if first else both[::-1])))
    told = f"weights differ by up to {float((results[0] - results[1]).abs().max()):.2g} beside EWC"
    ensure(same(*results), told, "see the stream's own batch in callbacks, and add nothing to strategy.loss")


@promise()
def check_autocast(case: PluginCase) -> None:
    """Under autocast to bfloat16 a run ends with finite weights."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        strategy = run(PLAIN, [case.make()])
    ensure(bool(torch.isfinite(weights(strategy)).all()), "a weight is not finite", "keep sums in float32")


@promise()
def check_it_takes_whatever_avalanche_passes_on(case: PluginCase) -> None:
    """Arguments of train(), such as num_workers, do not disturb its callbacks."""
    strategy = build(PLAIN, [case.make()])
    options = {"num_workers": 0, "shuffle": False, "persistent_workers": False, "drop_last": True}
    strategy.train(next(iter(PLAIN.stream())), **options)
