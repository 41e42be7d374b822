"""The weight of replayed rows: when it grows by itself, and the weighted loss in one pass."""

from __future__ import annotations

import copy
import logging
import pickle
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import loss_metrics
from avalanche.models import as_multitask
from avalanche.training import Cumulative, Naive
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from avalanche_memplugins import DarkReplayPlugin, LatentReplayPlugin, MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.benchmarks import SplitDigits
from avalanche_memplugins.memories import GaussianMemory
from avalanche_memplugins.plugins import RandomMemoryPlugin

NUMBERS, CLASSES = 6, 10


def stream(*classes: Iterable[int]) -> Any:
    """Experiences of these classes, 40 rows each, that tell them by their targets only."""
    generator, sets = torch.Generator().manual_seed(0), []
    for own in classes:
        y = torch.tensor(list(own)).repeat(40)[:40]
        data = TensorDataset(torch.randn(40, NUMBERS, generator=generator), y)
        data.targets = y.tolist()  # type: ignore[attr-defined]
        sets.append(as_classification_dataset(data))
    return benchmark_from_datasets(train=sets).train_stream


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Linear(NUMBERS, 8)
        self.classifier = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x).tanh())
        return out


def replay(**options: Any) -> MemoryReplayPlugin:
    return MemoryReplayPlugin(RandomMemory(60, seed=0), seed=0, **options)


def strategy_with(*plugins: Any, kind: Any = Naive, model: nn.Module | None = None, **options: Any) -> Any:
    model = Body() if model is None else model
    options = {"criterion": nn.CrossEntropyLoss(), "evaluator": None, "train_mb_size": 16, **options}
    return kind(model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), plugins=[*plugins], **options)


def decided(experiences: Iterable[Any], *plugins: Any, **options: Any) -> list[Any]:
    strategy, found = strategy_with(*plugins, **options), []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "two memories replay")
        for experience in experiences:
            strategy.train(experience)
            found.append(plugins[0].replay_weight)
    return found


# ---------------------------------------------------------------- what "auto" decides


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ([(0, 1), (2, 3), (4, 5), (6, 7)], [None, 1 - 1 / 2, 1 - 1 / 3, 1 - 1 / 4]),
        ([range(5), (5, 6), (7,)], [None, 1 - 2 / 7, 1 - 1 / 8]),
        ([(0, 1), (0, 1), (0, 1)], [None, None, None]),
        ([(0, 1), (1, 2), (3, 4)], [None, None, 1 - 2 / 5]),
        ([(0, 1), (2, 3), (0, 1), (4, 5)], [None, 1 - 1 / 2, None, 1 - 1 / 3]),
    ],
    ids=["equal", "unequal", "the same classes", "one class again", "an experience again"],
)
def test_new_classes_get_their_share_of_those_met(classes: list[Any], expected: list[Any]) -> None:
    plugin = replay()
    assert plugin.replay_weight == "auto"
    assert decided(stream(*classes), plugin) == expected


def test_it_is_so_with_classes_that_the_benchmark_tells() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert decided(SplitDigits(5, seed=0).train_stream[:3], replay(), model=model) == [None, 1 / 2, 1 - 1 / 3]


SPLIT = ((0, 1), (2, 3))


@pytest.mark.parametrize(
    "options",
    [
        {"write_at": "iteration"},
        {"write_at": "experience"},
        {"write_every": 2},
        {"labels": "soft"},
        {"labels": "old_model"},
        {"replay_weight": None},
    ],
    ids=str,
)
def test_all_rows_weigh_the_same_where_nothing_is_decided(options: dict[str, Any]) -> None:
    plugin = replay(**options)
    assert plugin.replay_weight is None
    assert decided(stream(*SPLIT), plugin) == [None, None]


def test_it_is_for_rows_that_are_kept_and_leaves_published_methods() -> None:
    assert MemoryReplayPlugin(GaussianMemory()).replay_weight is None
    assert DarkReplayPlugin(RandomMemory(9, store_logits=True), write_at="auto").replay_weight is None
    assert RandomMemoryPlugin(9).replay_weight is None
    assert LatentReplayPlugin(RandomMemory(9), at="features").replay_weight == "auto"


@pytest.mark.parametrize("weight", [0.3, "growing"])
def test_what_is_said_counts(weight: Any) -> None:
    assert decided(stream(*SPLIT), replay(replay_weight=weight)) == [weight, weight]


def test_beside_other_replay_all_rows_weigh_the_same() -> None:
    for other in (replay(), ReplayPlugin(20)):
        assert decided(stream(*SPLIT), replay(), other) == [None, None]
    with pytest.raises(ValueError, match="has a loss of its own"):
        decided(stream(*SPLIT), replay(), replay(replay_weight=0.5))


def test_it_is_not_for_several_heads_nor_where_old_rows_are_in_the_stream() -> None:
    assert decided(stream(*SPLIT), replay(), kind=Cumulative) == [None, None]
    split = SplitDigits(5, seed=0).train_stream[:2]
    body = Body()
    body.features = nn.Linear(64, 8)
    body.features.register_forward_pre_hook(lambda module, given: (given[0].flatten(1),))
    assert decided(split, replay(), model=as_multitask(body, "classifier")) == [None, None]


def test_classes_of_an_online_stream_and_of_a_memory_filled_before_are_met() -> None:
    base, again, new = stream((0, 1), (2, 3), (4, 5))
    pieces = list(split_online_stream([again], 10, seed=0))
    assert decided([base, *pieces, new], replay())[-1] == 1 - 2 / 6
    filled = replay()
    filled.memory.write(torch.randn(8, NUMBERS), torch.arange(8) % 4)  # type: ignore[union-attr]
    assert decided([new], filled) == [1 - 2 / 6]


def test_what_was_decided_is_told_once_each_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    plugin = replay()
    with caplog.at_level(logging.INFO):
        decided(stream((0, 1), (2, 3), (4, 5), (0, 1), (2, 3)), plugin)
    told = [record.message for record in caplog.records if "replay_weight" in record.message]
    assert len(told) == 2
    assert "new classes only" in told[0]
    assert "all rows weigh the same" in told[1]
    assert repr(plugin).endswith("replay_weight=None (auto))")


# ---------------------------------------------------------------- states and copies


def test_a_state_goes_on_as_it_was_made() -> None:
    first, second, third = stream((0, 1), (2, 3), (4, 5))
    plugin = replay()
    decided([first, second], plugin)
    # The memory has lost a class, but it was met.
    state = plugin.state_dict()
    state["memory"] = RandomMemory(60, seed=0).state_dict()
    resumed = replay()
    resumed.load_state_dict(state)
    assert resumed.replay_weight == 1 / 2
    assert decided([third], resumed) == [1 - 1 / 3]
    # Earlier versions kept no such entry, and all rows weighed the same.
    old = {name: value for name, value in plugin.state_dict().items() if name != "replay_weight"}
    for weight, expected in (("auto", None), ("growing", "growing"), (0.5, 0.5)):
        former = replay(replay_weight=weight)
        former.load_state_dict(old)
        assert decided([third], former) == [expected]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda plugin: pickle.loads(pickle.dumps(plugin))])
def test_a_copy_goes_on_alike(copied: Any) -> None:
    first, second, third = stream((0, 1), (2, 3), (4, 5))
    plugin = replay()
    decided([first, second], plugin)
    assert decided([third], copied(plugin)) == decided([third], plugin) == [1 - 1 / 3]


# ---------------------------------------------------------------- one pass


def closed_form(out: Tensor, y: Tensor, rows: int, weight: float, smoothing: float) -> np.ndarray:
    """Loss and its gradient in the outputs, float64, by hand."""
    o = out.detach().double().numpy()
    p = np.exp(o - o.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    target = np.full_like(p, smoothing / p.shape[1])
    target[np.arange(len(p)), y.numpy()] += 1 - smoothing
    each = np.r_[np.full(rows, (1 - weight) / rows), np.full(len(p) - rows, weight / (len(p) - rows))]
    loss = -(each[:, None] * target * np.log(p)).sum()
    stream_loss = -(target * np.log(p))[:rows].sum(1).mean()
    return np.r_[loss, stream_loss, (each[:, None] * (p - target)).ravel()]


class Compare(SupervisedPlugin):  # type: ignore[misc]
    def __init__(self, plugin: MemoryReplayPlugin, weight: float, smoothing: float) -> None:
        super().__init__()
        self.plugin, self.weight, self.smoothing = plugin, weight, smoothing
        self.logged: list[float] = []
        self.expected: list[float] = []

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        step = self.plugin._step
        if step is None or step.recall is None:
            return
        out, y = torch.cat([strategy.mb_output, step.output]), torch.cat([strategy.mb_y, step.recall.y])
        found = closed_form(out, y, len(strategy.mb_y), self.weight, self.smoothing)
        (gradient,) = torch.autograd.grad(strategy.loss, step._all, retain_graph=True)
        np.testing.assert_allclose(strategy.loss.item(), found[0], rtol=1e-5)
        np.testing.assert_allclose(gradient.double().numpy().ravel(), found[2:], atol=1e-7)
        self.expected.append(found[1])

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.logged.append(float(strategy.loss))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("at", [None, "features"])
@pytest.mark.parametrize("options", [{"replay_size": 5}, {"batch_policy": "replace"}], ids=str)
def test_one_pass_is_the_closed_form(smoothing: float, at: str | None, options: dict[str, Any]) -> None:
    plugin = replay(at=at, **options)
    compare = Compare(plugin, 0.5, smoothing)
    decided(stream(*SPLIT), plugin, compare, criterion=nn.CrossEntropyLoss(label_smoothing=smoothing))
    assert len(compare.expected) == 3
    # The stream's loss is what is left for metrics.
    np.testing.assert_allclose(compare.logged[-3:], compare.expected, rtol=1e-5)


def watched(criterion: nn.Module, calls: list[int]) -> nn.Module:
    criterion.register_forward_hook(lambda module, given, loss: calls.append(len(given[1])))
    return criterion


def test_one_pass_and_two_calls_train_alike_and_log_the_same_loss() -> None:
    found, calls = [], list[int]()
    for criterion in (nn.CrossEntropyLoss(), watched(nn.CrossEntropyLoss(), calls)):
        evaluator = EvaluationPlugin(loss_metrics(epoch=True), loggers=[])
        strategy = strategy_with(replay(replay_size=5), criterion=criterion, evaluator=evaluator)
        for experience in stream(*SPLIT):
            strategy.train(experience)
        (logged,) = (v for k, v in evaluator.get_last_metrics().items() if "Loss_Epoch" in k)
        found.append(torch.cat([torch.tensor([logged]), *(p.detach().flatten() for p in strategy.model.parameters())]))
    torch.testing.assert_close(*found)
    assert calls[-6:] == [16, 5, 16, 5, 8, 5], "a criterion that somebody watches is called"


class Own(nn.CrossEntropyLoss):
    """A class of the user's."""


@pytest.mark.parametrize(
    "criterion", [nn.CrossEntropyLoss(weight=torch.arange(1.0, 11.0)), nn.CrossEntropyLoss(ignore_index=9), Own()]
)
def test_other_losses_are_called_for_each_part(criterion: Any) -> None:
    compared = []
    plugin = replay()

    class Check(SupervisedPlugin):  # type: ignore[misc]
        def before_backward(self, strategy: Any, **kwargs: Any) -> None:
            step = plugin._step
            if step is not None and step.recall is not None:
                expected = (criterion(strategy.mb_output, strategy.mb_y) + criterion(step.output, step.recall.y)) / 2
                torch.testing.assert_close(strategy.loss.squeeze(), expected)
                compared.append(1)

    decided(stream(*SPLIT), plugin, Check(), criterion=criterion)
    assert len(compared) == 3


def test_labels_changed_on_the_way_count() -> None:
    class Shift(SupervisedPlugin):  # type: ignore[misc]
        def after_forward(self, strategy: Any, **kwargs: Any) -> None:
            strategy.mbatch[1] = (strategy.mbatch[1] + 1) % CLASSES

    plugin = replay()
    compare = Compare(plugin, 0.5, 0.0)
    decided(stream(*SPLIT), plugin, Shift(), compare)
    assert len(compare.expected) == 3


# ---------------------------------------------------------------- found by use


def uneven(*sizes: tuple[int, tuple[int, ...]], kind: Any = Tensor.tolist) -> Any:
    sets = []
    for rows, own in sizes:
        y = torch.tensor(own).repeat(rows)[:rows]
        data = TensorDataset(torch.randn(rows, NUMBERS), y)
        data.targets = kind(y)  # type: ignore[attr-defined]
        sets.append(as_classification_dataset(data))
    return benchmark_from_datasets(train=sets).train_stream


@pytest.mark.parametrize(
    "kind", [Tensor.tolist, Tensor.numpy, lambda y: list(y.numpy())], ids=["ints", "array", "numpy"]
)
def test_targets_of_numpy_are_classes_too(kind: Any) -> None:
    assert decided(uneven((40, (0, 1)), (40, (2, 3)), kind=kind), replay()) == [None, 0.5]


def test_a_class_met_in_a_small_experience_has_been_met_though_no_row_of_it_is_held() -> None:
    memory = RandomMemory(20, write_policy="ring")
    small = uneven((8, (3,)), (50, (0, 1, 2)), (40, (3,)))
    assert decided(small, MemoryReplayPlugin(memory))[-1] is None


class Penalty(SupervisedPlugin):  # type: ignore[misc]
    """Adds to the loss in place, as EWC and LwF do."""

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        strategy.loss += sum(p.square().sum() for p in strategy.model.parameters())


@pytest.mark.parametrize("first", [True, False], ids=["penalty first", "replay first"])
@pytest.mark.parametrize("weight", [None, "auto"])
def test_penalties_stay_in_the_logged_loss_with_and_without_the_fast_path(weight: Any, first: bool) -> None:
    def logged(fast: Any) -> list[float]:
        plugins = [replay(fast=fast, replay_weight=weight), Penalty()]
        evaluator = EvaluationPlugin(loss_metrics(minibatch=True), loggers=[])
        strategy = strategy_with(*(plugins[::-1] if first else plugins), evaluator=evaluator)
        for experience in stream((0, 1), (2, 3)):
            strategy.train(experience)
        (values,) = [v for k, (_, v) in evaluator.get_all_metrics().items() if k.startswith("Loss_MB")]
        return list(values)

    assert logged("auto") == logged(False)


def test_what_the_criterion_gave_is_not_changed_by_a_penalty() -> None:
    class Keeps(Naive):  # type: ignore[misc]
        def criterion(self) -> Any:
            self.kept = super().criterion()
            self.value = self.kept.item()
            return self.kept

    strategy = strategy_with(replay(), Penalty(), kind=Keeps)
    for experience in stream((0, 1), (2, 3)):
        strategy.train(experience)
        assert strategy.kept.item() == strategy.value
