"""The fast path on against off: not a bit of weights, rows or random state differs, and nothing is left behind."""

from __future__ import annotations

import copy
import logging
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _streams import CASES, Case, build, network, rows
from avalanche.benchmarks import nc_benchmark
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.training import Cumulative, JointTraining
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from torch import Tensor, nn

from avalanche_memplugins import (
    DarkReplayPlugin,
    LatentReplayPlugin,
    LeanStepPlugin,
    MemoryReplayPlugin,
    RandomMemory,
    RandomMemoryPlugin,
    TensorLoaderPlugin,
)
from avalanche_memplugins.checkpointing import load_run_state, save_run_state
from avalanche_memplugins.strategies import ExperienceReplay

Make = Callable[[Any], list[Any]]


class Noise(SupervisedPlugin):
    """Draws from torch's global generator in each iteration, so that weights depend on when others draw."""

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        x = strategy.mbatch[0]
        strategy.mbatch[0] = x + 0.05 * torch.randn_like(x)

    def before_eval_forward(self, strategy: Any, **kwargs: Any) -> None:
        torch.rand(3)


class Stops(Noise):
    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_iterations == 2:
            strategy.stop_training()


class Fails(Noise):
    failed = False

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_iterations == 5 and not self.failed:
            self.failed = True
            raise ArithmeticError


class Breaks(SupervisedPlugin):
    broken = True

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        if self.broken:
            raise RuntimeError("broken")


def replay(fast: Any, write_at: Any = "iteration", **options: Any) -> MemoryReplayPlugin:
    return MemoryReplayPlugin(RandomMemory(40, seed=3), seed=3, fast=fast, write_at=write_at, **options)


def found(strategy: Any) -> list[Any]:
    """All that a run leaves."""
    held = [
        value
        for plugin in strategy.plugins
        if isinstance(plugin, MemoryReplayPlugin)
        for value in (*plugin.memory.buffers(), plugin._generator.get_state())
    ]
    parameters = [p.detach().clone() for p in strategy.model.parameters()]
    return [*parameters, *held, torch.get_rng_state(), random.getstate()]


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(one, other, strict=True)
    )


def outcome(case: Case, plugins: list[Any], train: dict[str, Any] | None = None, **options: Any) -> list[Any]:
    """Train on the stream twice over and evaluate on the way."""
    strategy = build(case, plugins, **options)
    torch.manual_seed(1)
    random.seed(1)
    results: list[Any] = []
    for experience in [*case.stream(), *case.stream()]:
        strategy.train(experience, **{"num_workers": 0, **(train or {})})
        if not case.online or strategy.clock.train_exp_counter % 7 == 0:
            results.append(strategy.eval(case.benchmark().test_stream, num_workers=0))
    assert not {"forward", "criterion", "training_epoch", "eval_epoch", "_train_exp"} & vars(strategy).keys()
    return [*found(strategy), repr(results)]


def notes(caplog: pytest.LogCaptureFixture) -> str:
    return " | ".join(text for text in (record.getMessage() for record in caplog.records) if "fast=" in text)


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "avalanche_memplugins.plugins._fast")


# With noise the batch is another than the one that was served.
@pytest.mark.parametrize(("write_at", "noise"), [("iteration", [Noise()]), ("iteration", []), ("auto", [])])
@pytest.mark.parametrize("case_name", CASES)
def test_on_every_stream(case_name: str, write_at: str, noise: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    case = CASES[case_name]
    off = outcome(case, [*noise, replay(False, write_at)])
    assert notes(caplog) == ""
    on = outcome(case, [*noise, replay("auto", write_at)])
    assert same(on, off)
    assert "training data are served from tensors" in notes(caplog)
    assert "evaluation data are served from tensors" in notes(caplog)
    assert "lean loop" in notes(caplog)


PLUGINS: dict[str, Make] = {
    "after the experience": lambda fast: [replay(fast, write_at="experience")],
    "before the others": lambda fast: [replay(fast), Noise()],
    "two memories": lambda fast: [replay(fast), Noise(), MemoryReplayPlugin(RandomMemory(20, seed=1), fast=fast)],
    "with the old model": lambda fast: [replay(fast, labels="soft")],
    "logits": lambda fast: [DarkReplayPlugin(RandomMemory(40, store_logits=True, seed=3), seed=3, fast=fast)],
    "at a layer": lambda fast: [
        LatentReplayPlugin(RandomMemory(40, seed=3), at="features", seed=3, freeze_below=False, fast=fast)
    ],
    "RMA": lambda fast: [Noise(), RandomMemoryPlugin(40, write_every=2, seed=3, fast=fast)],
    "Avalanche's replay after it": lambda fast: [replay(fast), Noise(), ReplayPlugin(20)],
    "Avalanche's replay before it": lambda fast: [ReplayPlugin(20), Noise(), replay(fast)],
}


@pytest.mark.filterwarnings("ignore:two memories replay")
@pytest.mark.parametrize("name", PLUGINS)
def test_with_every_plugin(name: str) -> None:
    case = Case(options={"train_epochs": 2})
    assert same(outcome(case, PLUGINS[name]("auto")), outcome(case, PLUGINS[name](False)))


@pytest.mark.parametrize(
    "train",
    [{"drop_last": True}, {"shuffle": False}, {"num_workers": 2}, {"num_workers": 1, "persistent_workers": True}],
    ids=str,
)
@pytest.mark.parametrize("case_name", ["x, y, t", "x, y"])
def test_with_every_option_of_the_loader(case_name: str, train: dict[str, Any]) -> None:
    case = Case(CASES[case_name].benchmark, options={"train_epochs": 2, "train_mb_size": 21})
    on, off = (outcome(case, [Noise(), replay(fast)], train) for fast in ("auto", False))
    assert same(on, off)


def mixed() -> Any:
    """Experiences of two tasks each, of different sizes, so that the smaller starts again within an epoch."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import AvalancheDataset, as_classification_dataset, concat_datasets

    def part(n: int, seed: int, task: int) -> AvalancheDataset:
        from avalanche.benchmarks.utils.data_attribute import TaskLabels

        data = as_classification_dataset(rows(n, seed))
        return data.update_data_attribute("targets_task_labels", TaskLabels([task] * n))  # type: ignore[no-any-return]

    train = [concat_datasets([part(40, s, 0), part(15, s + 1, 1)]) for s in (0, 2)]
    return benchmark_from_datasets(train=train, test=[part(12, 9, 0)])


@pytest.mark.parametrize("workers", [0, 2])
def test_with_several_tasks_in_an_experience(workers: int, caplog: pytest.LogCaptureFixture) -> None:
    from avalanche.benchmarks.scenarios.task_aware import with_task_labels

    case = Case(lambda: with_task_labels(mixed()), options={"train_epochs": 2, "train_mb_size": 8})
    on, off = (outcome(case, [Noise(), replay(fast)], {"num_workers": workers}) for fast in ("auto", False))
    assert same(on, off)
    assert ("worker processes draw ahead" in notes(caplog)) == bool(workers)


def test_an_early_stop_and_metrics() -> None:
    def run(fast: Any) -> list[Any]:
        metrics = [
            *accuracy_metrics(minibatch=True, epoch=True, experience=True, stream=True), *loss_metrics(epoch=True)
        ]  # fmt: skip
        return outcome(Case(), [Stops(), replay(fast)], evaluator=EvaluationPlugin(*metrics, loggers=[]))

    assert same(run("auto"), run(False))


def test_an_exception_in_the_middle_leaves_nothing_and_a_second_try_is_the_same() -> None:
    def run(fast: Any) -> list[Any]:
        strategy = build(Case(), [Fails(), replay(fast)])
        torch.manual_seed(1)
        stream = list(Case().stream())
        for experience in [stream[0], stream[1]]:
            try:
                strategy.train(experience, num_workers=0)
            except ArithmeticError:
                assert not {"forward", "criterion", "training_epoch", "_train_exp"} & vars(strategy).keys()
        strategy.train(stream[2], num_workers=0)
        strategy.eval(Case().benchmark().test_stream, num_workers=0)
        return found(strategy)

    assert same(run("auto"), run(False))


def test_an_exception_before_an_evaluation_is_got_over() -> None:
    breaks, plugin = Breaks(), replay("auto")
    strategy = build(Case(), [plugin, breaks])
    strategy.train(next(iter(Case().stream())), num_workers=0)
    with pytest.raises(RuntimeError, match="broken"):
        strategy.eval(Case().benchmark().test_stream, num_workers=0)
    breaks.broken = False
    strategy.eval(Case().benchmark().test_stream, num_workers=0)
    assert "eval_epoch" not in vars(strategy)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "run state"])
def test_a_copy_goes_on_the_same(how: str, tmp_path: Any) -> None:
    def run(fast: Any) -> list[Any]:
        strategy = build(Case(), [Noise(), replay(fast)])
        torch.manual_seed(1)
        stream = list(Case().stream())
        strategy.train(stream[0], num_workers=0)
        if how == "deepcopy":
            strategy = copy.deepcopy(strategy)
        elif how == "pickle":
            strategy = pickle.loads(pickle.dumps(strategy))
        else:
            save_run_state(strategy, tmp_path / str(fast))
            strategy = build(Case(), [Noise(), replay(fast)])
            torch.manual_seed(7)
            load_run_state(strategy, tmp_path / str(fast))
        for experience in stream[1:]:
            strategy.train(experience, num_workers=0)
        return found(strategy)

    assert same(run("auto"), run(False))


def test_random_transforms_and_what_is_not_known_stay_with_avalanche(caplog: pytest.LogCaptureFixture) -> None:
    def noisy(x: Tensor) -> Tensor:
        return x + torch.randn(8)

    def benchmark() -> Any:
        return nc_benchmark(
            rows(180, 0), rows(60, 1), 3, False, seed=1, shuffle=False, train_transform=noisy, eval_transform=noisy
        )

    on, off = (outcome(Case(benchmark), [replay(fast)]) for fast in ("auto", False))
    assert same(on, off)
    assert "stay with Avalanche's loader, because the transform" in notes(caplog)
    assert "served from tensors" not in notes(caplog)


def test_data_changed_between_experiences_are_read_anew() -> None:
    """Arrays at the end of each experience, tensors when their version tells."""

    def run(fast: Any) -> list[Any]:
        data, test = rows(60, 0), rows(12, 1)
        strategy = build(Case(), [Noise(), replay(fast)])
        torch.manual_seed(1)
        stream = nc_benchmark(data, test, 3, False, seed=1, shuffle=False).train_stream
        for experience in stream:
            strategy.train(experience, num_workers=0)
            data.tensors[0].mul_(0.5)
        return found(strategy)

    assert same(run("auto"), run(False))


@pytest.mark.parametrize("kind", [Cumulative, JointTraining])
def test_other_templates(kind: Any) -> None:
    def run(fast: Any) -> list[Any]:
        model = network()
        strategy = kind(
            model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.05), criterion=nn.CrossEntropyLoss(),
            train_mb_size=16, eval_mb_size=64, evaluator=None, plugins=[Noise(), replay(fast, write_at="experience")],
        )  # fmt: skip
        torch.manual_seed(1)
        stream = Case().benchmark().train_stream
        for part in [stream] if kind is JointTraining else stream:
            strategy.train(part, num_workers=0)
        return found(strategy)

    assert same(run("auto"), run(False))


@pytest.mark.filterwarnings("ignore:two memories replay")
def test_it_is_off_where_the_user_says_so_or_lists_the_plugins(caplog: pytest.LogCaptureFixture) -> None:
    outcome(Case(), [replay("auto"), replay(False)])
    assert notes(caplog) == ""
    outcome(Case(), [replay("auto"), TensorLoaderPlugin(seed=0), LeanStepPlugin()])
    assert notes(caplog) == ""
    plugin = replay("auto")
    assert plugin.fast == "auto"
    plugin.fast = False
    outcome(Case(), [plugin])
    assert notes(caplog) == ""
    for wrong in (True, "yes", None, 0):
        with pytest.raises(ValueError, match="fast: expected 'auto' or False, got"):
            MemoryReplayPlugin(RandomMemory(4), fast=wrong)  # type: ignore[arg-type]


def test_a_strategy_hands_it_on_and_lists_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    def made(**options: Any) -> Any:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        strategy = ExperienceReplay(model=model, optimizer=optimizer, train_mb_size=16, evaluator=None, **options)
        strategy.train(next(iter(Case().stream())), num_workers=0)
        return strategy

    off = [type(plugin) for plugin in made(fast=False).plugins]
    assert notes(caplog) == ""
    assert [type(plugin) for plugin in made().plugins] == off
    assert "lean loop" in notes(caplog)
    with pytest.raises(ValueError, match="fast: expected"):
        made(fast="slow")


def test_a_plugin_that_takes_over_the_forward_pass_on_the_way_is_seen() -> None:
    class Takes(Noise):
        calls = 0

        def before_forward(self, strategy: Any, **kwargs: Any) -> None:
            super().before_forward(strategy, **kwargs)
            inner = strategy.forward

            def forward() -> Any:
                self.calls += 1
                strategy.forward = inner
                return inner()

            strategy.forward = forward

    plugins = [Takes(), Takes()]
    on, off = (outcome(Case(), [plugins[i], replay(fast)]) for i, fast in enumerate(("auto", False)))
    assert same(on, off)
    assert plugins[0].calls == plugins[1].calls > 0
