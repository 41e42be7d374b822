"""Several replay plugins, updates that judge a batch again, losses of other reductions: against loops by hand."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from _replays import REPLAY
from _streams import CLASSES, FEATURES, classic, network, plain
from _streams import weights as weights_of
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from torch import Tensor, nn
from torch.nn import functional as F

from avalanche_memplugins import (
    LeanStepPlugin,
    MemoryReplayPlugin,
    RandomMemory,
    TensorLoaderPlugin,
)

every_replay = pytest.mark.parametrize(
    "replay", [name for name in REPLAY if name not in ("growing weight", "after the experience", "latent, weighted")]
)


def train(plugins: list[Any], cls: Any = Naive, stream: Any = None, lr: float = 0.05, **options: Any) -> Any:
    """A strategy that has seen the stream."""
    model = network()
    strategy = cls(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=lr), train_mb_size=16, eval_mb_size=64,
        plugins=plugins, evaluator=None, **options,
    )  # fmt: skip
    torch.manual_seed(3)
    strategy.train(plain().train_stream if stream is None else stream)
    return strategy


class Watched(RandomMemory):
    """Notes its draws and the sizes of what is written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.draws: list[Any] = []
        self.written: list[int] = []

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        self.draws.append(super().sample(*args, **kwargs))
        return self.draws[-1]

    def write(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.written.append(len(x))
        return super().write(x, *args, **kwargs)


class Look(SupervisedPlugin):  # type: ignore[misc]
    """Notes batches, and the loss that is logged beside the stream's own."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[Tensor]] = []
        self.losses: list[tuple[float, float]] = []

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        self.batches.append([column.clone() for column in strategy.mbatch])

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        own = F.cross_entropy(strategy.mb_output, strategy.mb_y)
        self.losses.append((float(strategy.loss), float(own)))

    def check(self) -> None:
        logged, own = zip(*self.losses, strict=True)
        assert logged == pytest.approx(own, abs=1e-4)


# ---------------------------------------------------------------- two plugins


@pytest.mark.parametrize("order", [1, -1])
def test_two_plugins_replay_beside_each_other_and_write_the_streams_rows_only(order: int) -> None:
    memories = [Watched(40, seed=1), Watched(40, write_policy="reservoir", seed=2)]
    look = Look()
    plugins = [
        MemoryReplayPlugin(memories[0], write_at="iteration"),
        MemoryReplayPlugin(memories[1], replay_size=5, write_at="iteration"),
    ][::order]
    strategy = train([look, *plugins])
    for memory in memories:
        assert memory.written == [len(batch[0]) for batch in look.batches]
    assert [len(draw.y) for draw in memories[0].draws] == memories[0].written[1:]
    look.check()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for i, (x, y) in enumerate(look.batches):
        draws = [plugin.memory.draws[i - 1] for plugin in plugins] if i else []
        x, y = torch.cat([x, *(draw.x for draw in draws)]), torch.cat([y, *(draw.y for draw in draws)])
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    torch.testing.assert_close(weights_of(strategy), torch.cat([p.detach().flatten() for p in model.parameters()]))


def test_a_second_memory_that_stores_outputs_gets_those_of_the_streams_rows() -> None:
    memory = RandomMemory(400, store_logits=True)
    strategy = train(
        [MemoryReplayPlugin(RandomMemory(30), write_at="iteration"), MemoryReplayPlugin(memory, write_at="iteration")],
        lr=0.0,
    )
    assert len(memory) == 180
    rows = memory.rows(torch.arange(180))
    torch.testing.assert_close(rows.logits, strategy.model(rows.x).detach())


@pytest.mark.parametrize("name", ["replacing", "weighted", "soft", "logits", "DER++", "latent"])
@pytest.mark.parametrize("order", [1, -1])
def test_plugins_that_cannot_share_a_batch_are_told_before_a_step(name: str, order: int) -> None:
    plugins = [REPLAY[name](), REPLAY["appended"]()][::order]
    with pytest.raises(ValueError, match="plugins: several replay plugins on one strategy are expected to append"):
        train(plugins)
    assert not len(plugins[0].memory)


# ---------------------------------------------------------------- updates that judge a batch again


class TwiceJudged(Naive):  # type: ignore[misc]
    """Works the gradient out once more in the update; on other rows the weights would be others."""

    def optimizer_step(self) -> None:
        self.optimizer.zero_grad()
        self.mb_output = self.forward()
        self.loss = self.criterion()
        self.loss.backward()
        self.optimizer.step()


class Sharpness(Naive):  # type: ignore[misc]
    """SAM: the gradient is that of a point beside the weights."""

    def optimizer_step(self) -> None:
        def gradient() -> None:
            self.optimizer.zero_grad()
            self.mb_output = self.forward()
            self.criterion().backward()

        sharpness(self.model, gradient)
        self.optimizer.step()


def sharpness(model: nn.Module, gradient: Callable[[], None]) -> None:
    with torch.no_grad():
        steps = [0.05 * p.grad / (1e-12 + p.grad.norm()) for p in model.parameters() if p.grad is not None]
        for p, step in zip(model.parameters(), steps, strict=True):
            p.add_(step)
    gradient()
    with torch.no_grad():
        for p, step in zip(model.parameters(), steps, strict=True):
            p.sub_(step)


@every_replay
@pytest.mark.parametrize(
    "accelerations", [[], [LeanStepPlugin, lambda: TensorLoaderPlugin(seed=1)]], ids=["plain", "accelerated"]
)
def test_a_gradient_that_is_worked_out_again_is_that_of_the_same_rows(replay: str, accelerations: list[Any]) -> None:
    found = []
    for cls in (Naive, TwiceJudged):
        look, plugin = Look(), REPLAY[replay]()
        found.append(weights_of(train([plugin, look, *(make() for make in accelerations)], cls)))
        look.check()
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("weight", [None, 0.4])
def test_sharpness_aware_updates_against_a_loop_by_hand(weight: float | None) -> None:
    memory, look = Watched(40), Look()
    strategy = train([look, MemoryReplayPlugin(memory, replay_weight=weight, write_at="iteration")], Sharpness)
    assert sum(memory.written) == 180
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for i, (x, y) in enumerate(look.batches):
        draw = memory.draws[i - 1] if i else None

        def gradient(x: Tensor = x, y: Tensor = y, draw: Any = draw) -> None:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            if draw is not None:
                share = len(draw.y) / (len(draw.y) + len(y)) if weight is None else weight
                loss = (1 - share) * loss + share * F.cross_entropy(model(draw.x), draw.y)
            loss.backward()

        gradient()
        sharpness(model, gradient)
        optimizer.step()
    torch.testing.assert_close(weights_of(strategy), torch.cat([p.detach().flatten() for p in model.parameters()]))


@cache
def weights_alone(replay: str) -> Tensor:
    return weights_of(train([REPLAY[replay]()]))


@every_replay
@pytest.mark.parametrize(
    "event", ["after_forward", "before_backward", "after_backward", "before_update", "after_update"]
)
@pytest.mark.parametrize("first", [True, False])
def test_plugins_that_look_at_the_stream_again_change_nothing(replay: str, event: str, first: bool) -> None:
    rows: set[int] = set()

    def look(self: Any, strategy: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            rows.add(len(strategy.forward()) - len(strategy.mbatch[0]))

    plugins = [REPLAY[replay](), type("Looks", (SupervisedPlugin,), {event: look})()]
    looked = weights_of(train(plugins[::-1] if first else plugins))
    torch.testing.assert_close(looked, weights_alone(replay))
    assert rows == {0}


class Thrice(Naive):  # type: ignore[misc]
    """Trains on each batch three times."""

    def training_epoch(self, **kwargs: Any) -> None:
        for batch in self.dataloader:
            self.mbatch = batch
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            for _ in range(3):
                self.optimizer.zero_grad()
                self.loss = self._make_empty_loss()
                self._before_forward(**kwargs)
                self.mb_output = self.forward()
                self._after_forward(**kwargs)
                self.loss += self.criterion()
                self._before_backward(**kwargs)
                self.backward()
                self._after_backward(**kwargs)
                self._before_update(**kwargs)
                self.optimizer_step()
                self._after_update(**kwargs)
            self._after_training_iteration(**kwargs)


@pytest.mark.parametrize("policy", ["append", "replace"])
def test_a_batch_that_is_trained_on_several_times_is_written_once(policy: Any) -> None:
    memory = Watched(400)
    train([MemoryReplayPlugin(memory, batch_policy=policy, write_at="iteration")], Thrice)
    assert sum(memory.written) == len(memory) == 180
    if policy == "replace":
        assert {len(draw.y) for draw in memory.draws} == {8, 6}  # half of 16 and of the last 12, each time


# ---------------------------------------------------------------- losses


def brier(output: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(output.softmax(1), F.one_hot(y, CLASSES).float())


class Brier(Naive):  # type: ignore[misc]
    def criterion(self) -> Tensor:
        return brier(self.mb_output, self.mb_y)


class BrierOnTheInstance(Naive):  # type: ignore[misc]
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.criterion = lambda: brier(self.mb_output, self.mb_y)


@every_replay
def test_a_criterion_set_on_the_instance_counts_as_one_that_is_overridden(replay: str) -> None:
    losses: dict[Any, list[float]] = {Brier: [], BrierOnTheInstance: []}
    found = []
    for cls, seen in losses.items():

        class Note(SupervisedPlugin):  # type: ignore[misc]
            seen: list[float]

            def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
                self.seen.append(float(strategy.loss))

        note = Note()
        note.seen = seen
        found.append(weights_of(train([REPLAY[replay](), note], cls)))
    torch.testing.assert_close(*found)
    assert losses[BrierOnTheInstance] == pytest.approx(losses[Brier])
    assert max(losses[Brier]) < 0.5  # cross-entropy of six classes is 1.8


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weight", [None, 0.3])
@pytest.mark.parametrize("write_at", ["iteration", "experience"])
def test_soft_labels_follow_the_reduction_of_the_loss(reduction: str, weight: float | None, write_at: Any) -> None:
    memory, look = Watched(60), Look()
    lr = 0.05 if reduction == "mean" else 0.003
    criterion = nn.CrossEntropyLoss(reduction=reduction)
    plugin = MemoryReplayPlugin(memory, labels="soft", replay_weight=weight, write_at=write_at)
    stream = plain().train_stream
    strategy = train([look, plugin], stream=stream[:1], lr=lr, criterion=criterion)
    teacher, model = copy.deepcopy(strategy.model), copy.deepcopy(strategy.model)
    look.batches.clear()
    memory.draws.clear()
    strategy.train(stream[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for (x, y), draw in zip(look.batches, memory.draws, strict=True):
        with torch.no_grad():
            target = F.pad((teacher(draw.x)[:, :2] / 2).softmax(1), (0, CLASSES - 2))
        output = model(draw.x)
        soft = 4 * F.kl_div((output / 2).log_softmax(1), target, reduction="none").sum(1)
        rows = torch.where(draw.origin == 0, soft, F.cross_entropy(output, draw.y, reduction="none"))
        stream_rows = F.cross_entropy(model(x), y, reduction="none")
        if weight is None:
            loss = torch.cat([stream_rows, rows])
            loss = loss.mean() if reduction == "mean" else loss.sum()
        elif reduction == "mean":
            loss = (1 - weight) * stream_rows.mean() + weight * rows.mean()
        else:
            loss = (1 - weight) * stream_rows.sum() + weight * rows.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(weights_of(strategy), torch.cat([p.detach().flatten() for p in model.parameters()]))


# ---------------------------------------------------------------- told in time


class WithWeights(nn.Module):
    """Gives a tensor that has not one row for each row of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.classifier = nn.Linear(FEATURES, 12), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Any:
        return {"logits": self.classifier(self.features(x)), "weights": self.classifier.weight}


@every_replay
def test_outputs_that_cannot_be_parted_are_told_before_a_step(replay: str) -> None:
    model = WithWeights()
    before = copy.deepcopy(model.state_dict())
    strategy = Naive(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), train_mb_size=16, evaluator=None,
        plugins=[REPLAY[replay]()], criterion=lambda output, y: F.cross_entropy(output["logits"], y),
    )  # fmt: skip
    with pytest.raises(ValueError, match="model: expected an output with one row for each of the 16 rows"):
        strategy.train(plain().train_stream)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_criterion_of_as_many_rows_as_the_stream_is_named() -> None:
    class Weighted(Naive):  # type: ignore[misc]
        def criterion(self) -> Tensor:
            return (F.cross_entropy(self.mb_output, self.mb_y, reduction="none") * torch.ones(16)).mean()

    with pytest.raises(
        RuntimeError, match=r"criterion: expected a loss of as many rows .* 16 replayed rows joined the 16"
    ):
        train([REPLAY["appended"]()], Weighted)


class Interrupts(SupervisedPlugin):  # type: ignore[misc]
    """Ctrl-C while the second experience begins."""

    armed = True

    def __init__(self, event: str) -> None:
        super().__init__()
        self.event, self.calls = event, 0

    def _count(self, event: str) -> None:
        self.calls += event == self.event
        if self.calls == 2 and self.armed:
            self.armed = False
            raise KeyboardInterrupt

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._count("before_training_exp")

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self._count("before_training_epoch")


@every_replay
@pytest.mark.parametrize("event", ["before_training_exp", "before_training_epoch"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copy", "pickle"])
def test_an_interrupted_strategy_can_be_copied_and_goes_on(replay: str, event: str, copied: Any) -> None:
    model, stream = network(), classic().train_stream
    strategy = Naive(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), train_mb_size=16, evaluator=None,
        plugins=[REPLAY[replay](), LeanStepPlugin(), Interrupts(event)],
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        strategy.train(stream)
    # Avalanche's experiences cannot be pickled, and it keeps the interrupted one and its data.
    for name in ("experience", "adapted_dataset", "dataloader", "_experiences", "current_eval_stream", "_eval_streams"):
        setattr(strategy, name, None)
    strategy.mbatch = strategy.mb_output = strategy.loss = None
    other = copied(strategy)
    found = []
    for one in (strategy, other):
        torch.manual_seed(4)
        one.train(stream[1])
        assert not {"_train_exp", "training_epoch", "forward", "criterion"} & vars(one).keys()
        found.append(weights_of(one))
    assert torch.equal(*found)
