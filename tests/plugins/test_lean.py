"""LeanStepPlugin: Avalanche's loop and ours give the same weights, metrics, log lines and calls."""

from __future__ import annotations

import io
import pickle
import random
import warnings

import pytest
import torch
from _tensor_data import colours, split, without_tasks
from avalanche.core import SupervisedPlugin
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics, loss_metrics, timing_metrics
from avalanche.logging import BaseLogger, InteractiveLogger, TextLogger
from avalanche.models import as_multitask
from avalanche.training import AGEM, EWC, LwF, Naive, Replay
from avalanche.training.plugins import EvaluationPlugin, LRSchedulerPlugin
from avalanche.training.templates import SupervisedTemplate
from torch.optim.optimizer import register_optimizer_step_pre_hook

from avalanche_memplugins import DarkReplayPlugin, MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.plugins import lean
from avalanche_memplugins.plugins.lean import TRAIN_EVENTS, Dispatch, LeanStepPlugin
from avalanche_memplugins.plugins.tensor_loader import TensorLoaderPlugin

BENCHMARK = split(colours(), experiences=2)


class Net(torch.nn.Module):
    """A small network with dropout and batch normalisation: order and modes of forward passes show."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(48, 12), torch.nn.BatchNorm1d(12), torch.nn.Dropout(0.3)
        )
        self.classifier = torch.nn.Linear(12, 4)

    def forward(self, x):
        return self.classifier(torch.relu(self.features(x)))


def run(lean, *, kind=Naive, plugins=(), evaluator=None, benchmark=BENCHMARK, wrap=lambda m: m, between=None, **kw):
    torch.manual_seed(0)
    random.seed(0)  # AGEM shuffles with it
    model = wrap(Net())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strategy = kind(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
            train_mb_size=8,
            eval_mb_size=8,
            train_epochs=2,
            plugins=[*[make() for make in plugins], *([LeanStepPlugin()] if lean else [])],
            evaluator=evaluator() if evaluator else EvaluationPlugin(loggers=None),
            **kw,
        )
        results = []
        for experience in benchmark.train_stream:
            results.append(strategy.train(experience, eval_streams=[benchmark.test_stream]))
            if between is not None:
                between(strategy)
            results.append(strategy.eval(benchmark.test_stream))
    return strategy, results


def assert_same(**kw):
    (plain, expected), (lean, got) = run(False, **kw), run(True, **kw)
    for a, b in zip(plain.model.state_dict().values(), lean.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    timeless = [[{k: v for k, v in r.items() if "Time" not in k} for r in rows] for rows in (expected, got)]
    assert timeless[0] == timeless[1]
    assert vars(plain.clock) == vars(lean.clock)
    assert set(vars(lean)) == set(vars(plain))
    return plain, lean


METRICS = (
    lambda: accuracy_metrics(minibatch=True, epoch=True, epoch_running=True, experience=True, stream=True),
    lambda: loss_metrics(minibatch=True, epoch=True, experience=True, stream=True),
    lambda: forgetting_metrics(experience=True, stream=True),
    lambda: timing_metrics(minibatch=True, epoch=True),
)


def all_metrics():
    return EvaluationPlugin(*(make() for make in METRICS), loggers=None)


def replay():
    return MemoryReplayPlugin(RandomMemory(20, seed=1))


def dark():
    return DarkReplayPlugin(RandomMemory(20, store_logits=True, seed=1))


@pytest.mark.parametrize("benchmark", [BENCHMARK, without_tasks()])
@pytest.mark.parametrize("plugins", [(), (replay,), (dark,), (TensorLoaderPlugin, replay)])
@pytest.mark.parametrize("evaluator", [None, all_metrics])
def test_weights_and_metrics_are_those_of_the_plain_loop(plugins, benchmark, evaluator):
    assert_same(plugins=plugins, benchmark=benchmark, evaluator=evaluator)


@pytest.mark.parametrize("mode", ["iteration", "epoch"])
def test_periodic_evaluation(mode):
    assert_same(plugins=(replay,), evaluator=all_metrics, eval_every=1, peval_mode=mode)


def test_multi_head_models():
    benchmark = split(colours(), experiences=2, task_labels=True)
    assert_same(benchmark=benchmark, wrap=lambda m: as_multitask(m, "classifier"), plugins=(replay,))


def scheduler():
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return LRSchedulerPlugin(torch.optim.lr_scheduler.StepLR(optimizer, 1), step_granularity="iteration")


@pytest.mark.parametrize(
    ("kind", "kw"),
    [
        (EWC, {"ewc_lambda": 0.4}),
        (LwF, {"alpha": 1.0, "temperature": 2.0}),
        (Replay, {"mem_size": 12}),
        (AGEM, {"patterns_per_exp": 8}),
    ],
)
def test_avalanches_strategies(kind, kw):
    assert_same(kind=kind, criterion=torch.nn.CrossEntropyLoss(), **kw)


def test_plugins_of_avalanche():
    assert_same(plugins=(scheduler,))


class Trace(SupervisedPlugin):
    """Notes every event, and what the strategy looks like at it."""

    def __init__(self):
        super().__init__()
        self.notes = []


def _note(event):
    def callback(self, strategy, **kwargs):
        loss = strategy.loss.detach().clone() if isinstance(strategy.loss, torch.Tensor) else strategy.loss
        shape = None if strategy.mbatch is None else len(strategy.mbatch[0])
        self.notes.append((event, loss.tolist(), shape, strategy.clock.train_iterations, sorted(kwargs)))

    return callback


for _name in dir(SupervisedPlugin):
    if _name.startswith(("before_", "after_")):
        setattr(Trace, _name, _note(_name))


def test_every_event_reaches_a_plugin_that_wants_it_in_the_same_order():
    plain, lean = assert_same(plugins=(Trace, replay, Trace), evaluator=all_metrics)
    for number in (0, 2):
        assert plain.plugins[number].notes == lean.plugins[number].notes
        assert len(plain.plugins[number].notes) > 100


class Penalty(SupervisedPlugin):
    """Adds to the loss before the forward pass, after it and before the backward pass."""

    def before_forward(self, strategy, **kwargs):
        strategy.loss += strategy.model.classifier.weight.square().mean()

    def before_backward(self, strategy, **kwargs):
        strategy.loss = strategy.loss * 0.5


def test_plugins_that_change_the_loss():
    assert_same(plugins=(Penalty,))


class Stop(SupervisedPlugin):
    def after_training_iteration(self, strategy, **kwargs):
        if strategy.clock.train_exp_iterations == 2:
            strategy.stop_training()


def test_training_can_be_stopped():
    plain, _ = assert_same(plugins=(Stop,))
    assert plain.clock.train_iterations < 12


class Publisher(SupervisedPlugin):
    """Publishes a value in the middle of an iteration."""

    def before_backward(self, strategy, **kwargs):
        value = MetricValue(self, "Middle", float(strategy.loss), strategy.clock.train_iterations)
        strategy.evaluator.publish_metric_value(value)


class Order(BaseLogger):
    """Notes the values in the order that they come, with the number of log calls before."""

    def __init__(self):
        super().__init__()
        self.notes = []

    def log_single_metric(self, name, value, x_plot):
        self.notes.append((name, float(value), x_plot))


class Whole(Order):
    """Handles lists of values itself: it must see every event."""

    def log_metrics(self, metric_values):
        self.notes.append(len(metric_values))
        super().log_metrics(metric_values)


@pytest.mark.parametrize("logger", [Order, Whole])
def test_loggers_get_the_same_values_in_the_same_order(logger):
    def evaluator():
        return EvaluationPlugin(accuracy_metrics(minibatch=True, stream=True), loggers=[logger()])

    plain, lean = assert_same(plugins=(Publisher,), evaluator=evaluator)
    assert plain.evaluator.loggers[0].notes == lean.evaluator.loggers[0].notes
    assert len(plain.evaluator.loggers[0].notes) > 20


@pytest.mark.parametrize("logger", [TextLogger, InteractiveLogger])
def test_printed_lines_are_the_same(logger, capsys):
    def evaluator():
        return EvaluationPlugin(
            accuracy_metrics(epoch=True, stream=True),
            loggers=[logger(io.StringIO()) if logger is TextLogger else logger()],
        )

    plain, lean = assert_same(evaluator=evaluator)
    if logger is TextLogger:
        texts = [s.evaluator.loggers[0].file.getvalue() for s in (plain, lean)]
        assert texts[0] == texts[1]
        assert "Top1_Acc_Stream" in texts[0]


class OddMetric(PluginMetric):
    """Listens to an event that no metric of Avalanche listens to."""

    def __init__(self):
        super().__init__()
        self.heard = 0

    def result(self):
        return self.heard

    def reset(self):
        self.heard = 0

    def after_backward(self, strategy):
        self.heard += 1
        assert strategy.experience.current_experience in (0, 1)  # visible in logging mode only


def test_a_metric_that_listens_to_any_event_hears_it():
    plain, lean = assert_same(evaluator=lambda: EvaluationPlugin(OddMetric(), loggers=None))
    assert plain.evaluator.metrics[0].heard == lean.evaluator.metrics[0].heard > 0


class LateMetric(SupervisedPlugin):
    """Adds a metric and a plugin, and changes the evaluator's activity, in the middle of an epoch."""

    def after_training_iteration(self, strategy, **kwargs):
        step = strategy.clock.train_iterations
        if step == 3:
            strategy.evaluator.metrics.append(OddMetric())
            strategy.plugins = [Penalty(), *strategy.plugins]
        if step in (5, 9):
            strategy.evaluator.active = step == 9


def test_what_is_added_on_the_way_is_heard():
    plain, lean = assert_same(plugins=(LateMetric,))
    assert plain.evaluator.metrics[-1].heard == lean.evaluator.metrics[-1].heard > 0


class OwnHooks(SupervisedTemplate):
    """A strategy that overrides what a lean loop would otherwise skip."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.count = 0

    def _before_forward(self, **kwargs):
        self.count += 1
        super()._before_forward(**kwargs)

    def forward(self):
        return super().forward() * 1.5

    def criterion(self):
        return super().criterion() * 2


def test_a_strategy_with_hooks_of_its_own():
    plain, lean = assert_same(kind=OwnHooks)
    assert plain.count == lean.count > 0


class OwnLoop(SupervisedTemplate):
    def training_epoch(self, **kwargs):
        self.own = True
        super().training_epoch(**kwargs)


def test_a_strategy_with_a_loop_of_its_own_keeps_it_with_a_warning():
    model = Net()
    strategy = OwnLoop(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        train_mb_size=8,
        plugins=[LeanStepPlugin()],
        evaluator=EvaluationPlugin(loggers=None),
    )
    with pytest.warns(UserWarning, match="OwnLoop as it is"):
        strategy.train(BENCHMARK.train_stream[0])
    assert strategy.own
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="No loggers")
        strategy.train(BENCHMARK.train_stream[1])


class Bomb(SupervisedPlugin):
    """Raises at one event, as often as it is armed."""

    def __init__(self, event, error):
        super().__init__()
        self.armed = True

        def explode(strategy, **kwargs):
            if self.armed:
                raise error("bang")

        setattr(self, event, explode)


def overridden(strategy):
    """Methods that stand on the strategy itself in front of its class's."""
    return {name for name in vars(strategy) if callable(getattr(type(strategy), name, None))}


EVENTS = [
    *("training_exp", "training_epoch", "training_iteration", "forward", "backward", "update"),
    *("eval", "eval_exp", "eval_iteration", "eval_forward"),
]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("event", EVENTS)
def test_an_exception_leaves_nothing_of_ours(event, when, error):
    bomb = Bomb(f"{when}_{event}", error)
    strategy = Naive(
        model=(model := Net()),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        train_mb_size=8,
        train_epochs=2,
        plugins=[bomb, LeanStepPlugin(), TensorLoaderPlugin()],
        evaluator=EvaluationPlugin(loggers=None),
    )

    def go():
        strategy.train(BENCHMARK.train_stream[0])
        strategy.eval(BENCHMARK.test_stream)

    with pytest.raises(error, match="bang"):
        go()
    assert not overridden(strategy)
    bomb.armed = False
    go()
    assert not overridden(strategy)
    pickle.dumps(LeanStepPlugin())


def test_only_what_acts_is_called():
    strategy, _ = run(True, plugins=(replay, TensorLoaderPlugin))
    dispatch = Dispatch(strategy, TRAIN_EVENTS)
    names = [[call.__self__.__class__.__name__ for call in calls] for calls in dispatch.calls]
    assert names == [
        [],
        ["MemoryReplayPlugin"],
        ["MemoryReplayPlugin"],
        ["MemoryReplayPlugin"],
        [],
        [],
        ["MemoryReplayPlugin"],
        ["MemoryReplayPlugin", "Clock"],
    ]


class OwnZeroGrad(torch.optim.SGD):
    cleared = 0

    def zero_grad(self, set_to_none=True):
        type(self).cleared += 1
        super().zero_grad(set_to_none)


def test_an_optimiser_that_clears_gradients_its_own_way():
    model = Net()
    strategy = Naive(
        model=model,
        optimizer=OwnZeroGrad(model.parameters(), lr=0.1),
        train_mb_size=8,
        plugins=[LeanStepPlugin()],
        evaluator=EvaluationPlugin(loggers=None),
    )
    strategy.train(BENCHMARK.train_stream[0])
    assert OwnZeroGrad.cleared == 4


@pytest.mark.gpu
def test_a_step_on_a_gpu_never_waits_for_it():
    torch.manual_seed(0)
    model = Net()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        train_mb_size=8,
        train_epochs=3,
        device="cuda",
        plugins=[replay(), TensorLoaderPlugin(), LeanStepPlugin(), NoSync()],
        evaluator=EvaluationPlugin(loggers=None),
    )
    strategy.train(BENCHMARK.train_stream)


class NoSync(SupervisedPlugin):
    """Forbids synchronisation from the second iteration to the end of each experience."""

    def before_training_iteration(self, strategy, **kwargs):
        if strategy.clock.train_exp_iterations == 1:
            torch.cuda.set_sync_debug_mode("error")

    def after_training_exp(self, strategy, **kwargs):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9}, {"weight_decay": 0.1}, {"maximize": True}, {"foreach": True}]
)
def test_the_bare_step_is_torchs(options):
    torch.manual_seed(0)
    models = [torch.nn.Linear(3, 2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, **options) for model in models]
    strategy = Naive(model=models[1], optimizer=optimizers[1], evaluator=None)
    for _ in range(3):
        for model in models:
            model(torch.ones(4, 3)).square().sum().backward()
        optimizers[0].step()
        lean._step(strategy)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    assert not models[1].weight.requires_grad or models[1].weight.grad_fn is None
    assert str(optimizers[0].state_dict()) == str(optimizers[1].state_dict())


def test_the_bare_step_calls_all_that_listens():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    strategy = Naive(model=model, optimizer=optimizer, evaluator=None)
    heard = []
    handles = [
        optimizer.register_step_pre_hook(lambda *args: heard.append("before")),
        optimizer.register_step_post_hook(lambda *args: heard.append("after")),
        register_optimizer_step_pre_hook(lambda *args: heard.append("all")),
    ]
    lean._step(strategy)
    for handle in handles:
        handle.remove()
    lean._step(strategy)
    assert sorted(heard) == ["after", "all", "before"]
    with torch.profiler.profile() as profile:
        lean._step(strategy)
    assert any("Optimizer.step" in event.key for event in profile.key_averages())
    # A scheduler counts steps by a method of the optimiser's own.
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    lean._step(strategy)
    assert optimizer._opt_called


def test_an_optimiser_of_the_users_own_is_called_as_it_is():
    class Mine(torch.optim.SGD):
        steps = 0

        def step(self, closure=None):
            self.steps += 1
            return super().step(closure)

    model = torch.nn.Linear(3, 2)
    optimizer = Mine(model.parameters(), lr=0.1)
    lean._step(Naive(model=model, optimizer=optimizer, evaluator=None))
    assert optimizer.steps == 1
