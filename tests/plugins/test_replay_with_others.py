"""Replay beside other people's losses, plugins, models, loops and batches."""

from __future__ import annotations

import itertools
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from _replays import REPLAY, every_replay
from _streams import (
    CASES,
    CLASSES,
    EXPERIENCES,
    FEATURES,
    Case,
    MultiHeadBody,
    build,
    classic,
    network,
    plain,
    rows,
    run,
)
from _streams import weights as weights_of
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset, as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import loss_metrics
from avalanche.models import as_multitask
from avalanche.training import JointTraining, Naive
from avalanche.training.plugins import (
    EvaluationPlugin,
    EWCPlugin,
    LwFPlugin,
    MASPlugin,
    SynapticIntelligencePlugin,
)
from avalanche.training.templates import SupervisedMetaLearningTemplate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from avalanche_memplugins import (
    DarkReplayPlugin,
    LatentReplayPlugin,
    LeanStepPlugin,
    LocalAdaptationPlugin,
    MemoryReplayPlugin,
    RandomMemory,
    TensorLoaderPlugin,
)
from avalanche_memplugins.memories import GaussianMemory

# ---------------------------------------------------------------- the strategy's own loss


def brier(output: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(output.softmax(1), F.one_hot(y, CLASSES).float())


def focal(output: Tensor, y: Tensor) -> Tensor:
    p = output.softmax(1).gather(1, y[:, None])[:, 0]
    return (-((1 - p) ** 2) * p.log()).mean()


def unreduced(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output, y, reduction="none").pow(2).mean()


def class_weights(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output, y, weight=torch.arange(1.0, CLASSES + 1))


LOSSES = {"Brier": brier, "focal": focal, "reduced by the strategy": unreduced, "class weights": class_weights}


def own_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> type[Naive]:
    class Own(Naive):
        def criterion(self) -> Tensor:
            return loss(self.mb_output, self.mb_y)

    return Own


def naive(plugins: list[Any], cls: type[Naive] = Naive, model: nn.Module | None = None, **options: Any) -> Naive:
    model = network() if model is None else model
    options = {"lr": 0.05, "train_mb_size": 16, "eval_mb_size": 64, "evaluator": None, **options}
    optimizer = torch.optim.SGD(model.parameters(), lr=options.pop("lr"))
    return cls(model=model, optimizer=optimizer, plugins=plugins, **options)


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("weight", [None, 0.4])
def test_replayed_rows_get_the_strategys_own_loss(name: str, weight: float | None) -> None:
    loss, plugin, compared = (
        LOSSES[name],
        MemoryReplayPlugin(RandomMemory(60), replay_weight=weight, write_at="iteration"),
        [],
    )

    class Compare(SupervisedPlugin):
        def before_backward(self, strategy: Any, **kwargs: Any) -> None:
            recall = plugin._step.recall
            if recall is None:
                return
            x, y = strategy.mbatch[:2]
            outputs, replayed = strategy.model(x), strategy.model(recall.x)
            if weight is None:
                expected = loss(torch.cat([outputs, replayed]), torch.cat([y, recall.y]))
            else:
                expected = (1 - weight) * loss(outputs, y) + weight * loss(replayed, recall.y)
            torch.testing.assert_close(strategy.loss.squeeze(), expected)
            compared.append(1)

    naive([plugin, Compare()], own_loss(loss)).train(classic().train_stream)
    assert len(compared) == 11


@pytest.mark.parametrize("name", list(LOSSES))
def test_dark_replays_second_draw_gets_the_strategys_own_loss(name: str) -> None:
    loss, compared = LOSSES[name], []
    plugin = DarkReplayPlugin(RandomMemory(60, store_logits=True), alpha=0.2, beta=0.5, replay_size=6)

    class Compare(SupervisedPlugin):
        def before_backward(self, strategy: Any, **kwargs: Any) -> None:
            recall = plugin._step.recall
            if recall is None:
                return
            outputs = strategy.model(recall.x)
            expected = loss(strategy.model(strategy.mb_x), strategy.mb_y)
            expected = (
                expected + 0.2 * F.mse_loss(outputs[:6], recall.logits[:6]) + 0.5 * loss(outputs[6:], recall.y[6:])
            )
            torch.testing.assert_close(strategy.loss.squeeze(), expected)
            compared.append(1)

    naive([plugin, Compare()], own_loss(loss)).train(classic().train_stream)
    assert len(compared) == 11


@pytest.mark.parametrize("name", [*LOSSES, "cross-entropy"])
def test_rows_that_the_old_model_does_not_know_get_the_strategys_own_loss(name: str) -> None:
    loss = LOSSES.get(name, F.cross_entropy)
    cls = Naive if name == "cross-entropy" else own_loss(loss)
    plugin, compared = MemoryReplayPlugin(RandomMemory(90), labels="soft", replay_weight=0.5, write_at="iteration"), []

    class Compare(SupervisedPlugin):
        def before_backward(self, strategy: Any, **kwargs: Any) -> None:
            recall = plugin._step.recall
            if recall is None:
                return
            outputs, stream = strategy.model(recall.x), loss(strategy.model(strategy.mb_x), strategy.mb_y)
            if plugin.targets.soft is None:
                replayed = loss(outputs, recall.y)
            else:
                p, known = plugin.targets.soft
                number = strategy.experience.current_experience
                assert torch.equal(known, recall.origin < number)
                classes = sorted(
                    {y for e in strategy.experience.benchmark.train_stream[:number] for y in e.dataset.targets}
                )
                q = (outputs[known] / 2).log_softmax(1)[:, classes]
                old = p[known][:, classes]
                kl = 4 * (old * (old.log() - q)).sum(1)
                unknown = loss(outputs[~known], recall.y[~known]) if (~known).any() else torch.zeros(())
                replayed = (kl.sum() + (~known).sum() * unknown) / len(known)
                compared.append(bool((~known).any()) and bool(known.any()))
            torch.testing.assert_close(strategy.loss.squeeze(), 0.5 * stream + 0.5 * replayed, rtol=1e-4, atol=1e-5)

    naive([plugin, Compare()], cls).train(classic().train_stream)
    assert sum(compared) >= 5


class Counting(nn.CrossEntropyLoss):
    """A criterion with a state: how many rows it has seen, and how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.rows = 0, 0

    def forward(self, output: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        self.rows += len(y)
        return super().forward(output, y)


@every_replay
def test_the_criterion_sees_each_row_once(replay: str) -> None:
    criterion, plugin, expected = Counting(), REPLAY[replay](), []

    class Count(SupervisedPlugin):
        def before_backward(self, strategy: Any, **kwargs: Any) -> None:
            expected.append(plugin._step)

    evaluator = EvaluationPlugin(loss_metrics(minibatch=True), loggers=None)
    strategy = naive([plugin, Count()], criterion=criterion, evaluator=evaluator)
    strategy.train(classic().train_stream)
    if replay in ("appended", "replacing", "old model", "after the experience", "latent", "generated"):
        assert criterion.calls == 12
    hard = {"logits": 0, "DER++": 0.5}.get(replay, 1)
    if replay != "soft":
        assert criterion.rows == sum(step.rows + hard * step.replayed for step in expected)


# ---------------------------------------------------------------- the order of plugins


class Penalty(SupervisedPlugin):
    """Adds to the loss, and notes what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, int]] = []

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        self.rows.append((len(strategy.mb_x), len(strategy.mb_output)))
        strategy.loss = strategy.loss + 0.01 * sum(p.square().sum() for p in strategy.model.parameters())


class NoisyInput(SupervisedPlugin):
    """Changes the stream's rows just before the forward pass."""

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        strategy.mbatch[0] = strategy.mbatch[0] * 1.5


OTHERS: dict[str, Callable[[], SupervisedPlugin]] = {
    "EWC": lambda: EWCPlugin(ewc_lambda=5.0),
    "LwF": lambda: LwFPlugin(alpha=1.0, temperature=2.0),
    "SI": lambda: SynapticIntelligencePlugin(si_lambda=0.1),
    "MAS": lambda: MASPlugin(lambda_reg=1.0, alpha=0.5),
    "penalty": Penalty,
    "inputs": NoisyInput,
}


@every_replay
@pytest.mark.parametrize("other", list(OTHERS))
def test_the_order_of_plugins_changes_no_number(replay: str, other: str) -> None:
    results = []
    for first in (True, False):
        torch.manual_seed(2)
        both = [REPLAY[replay](), OTHERS[other]()]
        evaluator = EvaluationPlugin(loss_metrics(minibatch=True), loggers=None)
        strategy = naive(both if first else both[::-1], evaluator=evaluator)
        torch.manual_seed(1)
        strategy.train(classic().train_stream)
        logged = evaluator.get_all_metrics()
        loss = next(values for name, (_, values) in logged.items() if name.startswith("Loss_MB"))
        results.append((weights_of(strategy), torch.tensor(loss)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("replay", ["weighted", "latent", "DER++"])
def test_no_order_of_several_plugins_changes_a_number(replay: str) -> None:
    results = []
    for order in itertools.permutations(range(4)):
        plugins = [REPLAY[replay](), OTHERS["EWC"](), OTHERS["LwF"](), OTHERS["penalty"]()]
        strategy = naive([plugins[place] for place in order])
        torch.manual_seed(1)
        strategy.train(classic().train_stream)
        results.append(weights_of(strategy))
    for found in results[1:]:
        torch.testing.assert_close(found, results[0], rtol=1e-5, atol=1e-6)


@every_replay
@pytest.mark.parametrize("first", [True, False])
def test_other_plugins_work_out_their_penalty_from_the_streams_rows(replay: str, first: bool) -> None:
    penalty = Penalty()
    both = [penalty, REPLAY[replay]()]
    naive(both if first else both[::-1]).train(classic().train_stream)
    assert len(penalty.rows) == 12
    assert all(x == output <= 16 for x, output in penalty.rows)


@every_replay
def test_the_logged_loss_is_the_streams_and_the_penalties(replay: str) -> None:
    """With a learning rate of 0 nothing depends on what is replayed."""
    losses = []
    for plugins in ([Penalty()], [Penalty(), REPLAY[replay]()], [REPLAY[replay](), Penalty()]):
        evaluator = EvaluationPlugin(loss_metrics(minibatch=True), loggers=None)
        strategy = naive(plugins, evaluator=evaluator, lr=0.0)
        torch.manual_seed(1)
        strategy.train(classic().train_stream)
        logged = evaluator.get_all_metrics()
        losses.append(next(values for name, (_, values) in logged.items() if name.startswith("Loss_MB")))
    if replay == "replacing":  # fewer rows of the stream are trained on
        losses = losses[1:]
    for found in losses[1:]:
        assert found == pytest.approx(losses[0], abs=1e-5)


class NormalisedOutput(SupervisedPlugin):
    """Changes outputs on their way to the loss."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        if self.in_place:
            strategy.mb_output *= 3
        else:
            strategy.mb_output = 3 * F.normalize(strategy.mb_output, dim=1)


@every_replay
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
def test_outputs_that_somebody_changes_are_told_before_a_step(replay: str, first: bool, in_place: bool) -> None:
    both = [NormalisedOutput(in_place), REPLAY[replay]()]
    strategy = naive(both if first else both[::-1])
    before = weights_of(strategy).clone()
    with pytest.raises(ValueError, match=r"mb_output: expected the outputs that strategy.forward\(\) gave"):
        strategy.train(classic().train_stream)
    assert torch.equal(weights_of(strategy), before)


class Looks(SupervisedPlugin):
    """Sees at every event whether batch and outputs are the stream's."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[tuple[int, ...]] = set()

    def _look(self, strategy: Any, **kwargs: Any) -> None:
        columns = [len(column) for column in strategy.mbatch]
        features = getattr(strategy.model, "kept", strategy.mb_output)
        self.sizes.add((*columns, len(strategy.mb_output), len(features)))

    after_forward = before_backward = after_backward = before_update = after_update = after_training_iteration = _look


class Keeping(nn.Module):
    """Keeps what its layer gave, as Avalanche's feature distillation and replay want it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh())
        self.classifier = nn.Linear(16, CLASSES)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.features(x)
        return self.classifier(self.kept)


@every_replay
@pytest.mark.parametrize("first", [True, False])
def test_no_plugin_sees_a_replayed_row_at_any_event(replay: str, first: bool) -> None:
    looks, model = Looks(), Keeping()
    both = [looks, REPLAY[replay]()]
    naive(both if first else both[::-1], model=model).train(classic().train_stream)
    assert all(len(set(sizes)) == 1 and sizes[0] <= 16 for sizes in looks.sizes)


@every_replay
def test_a_criterion_finds_what_the_model_keeps_of_the_rows_it_judges(replay: str) -> None:
    class OfKept(Naive):
        def criterion(self) -> Tensor:
            assert len(self.model.kept) == len(self.mb_output) == len(self.mb_y)
            return F.cross_entropy(self.model.classifier(self.model.kept), self.mb_y)

    torch.manual_seed(1)
    strategy = naive([REPLAY[replay]()], OfKept, Keeping())
    strategy.train(classic().train_stream)
    torch.manual_seed(1)
    usual = naive([REPLAY[replay]()], model=Keeping())
    usual.train(classic().train_stream)
    torch.testing.assert_close(weights_of(strategy), weights_of(usual))


# ---------------------------------------------------------------- what is left behind


class Bomb(SupervisedPlugin):
    """Raises at an event of the sixth iteration."""

    def __init__(self, event: str, error: BaseException) -> None:
        super().__init__()
        self.count, self.error = 0, error
        setattr(self, event, self._maybe)

    def _maybe(self, strategy: Any, **kwargs: Any) -> None:
        self.count += 1
        if self.count == 6:
            raise self.error


class Explosive(nn.Sequential):
    """The small network, raising in the middle of a forward pass."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Dropout(0.1))
        self.classifier = nn.Linear(16, CLASSES)
        self.error, self.count = error, 0

    def forward(self, x: Tensor) -> Tensor:
        z = self.features(x)
        self.count += self.training
        if self.error is not None and self.count == 6:
            raise self.error
        return self.classifier(z)


EVENTS = (
    *("before_training_epoch", "before_training_iteration", "before_forward", "after_forward", "before_backward"),
    *("after_backward", "before_update", "after_update", "after_training_iteration"),
)


@every_replay
@pytest.mark.parametrize(
    ("where", "error"),
    [
        *((where, RuntimeError("no memory")) for where in ("forward", "criterion", "before_training_exp", *EVENTS)),
        *((where, KeyboardInterrupt()) for where in ("forward", "before_backward")),
    ],
)
def test_nothing_of_ours_stays_after_an_exception(replay: str, where: str, error: BaseException) -> None:
    model = Explosive(error if where == "forward" else None)

    class Failing(Naive):
        calls = 0

        def criterion(self) -> Tensor:
            Failing.calls += 1
            if where == "criterion" and Failing.calls == 6:
                raise error
            return super().criterion()

    bombs = [Bomb(where, error)] if where in (*EVENTS, "before_training_exp") else []
    strategy = naive([REPLAY[replay](), *bombs], Failing, model, train_epochs=2)
    before = dict(vars(strategy))
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        strategy.train([experience for _ in range(3) for experience in classic().train_stream])
    assert len(strategy.mbatch[0] if strategy.mbatch else []) <= 16
    assert model.training
    model.error = None
    model.eval()
    assert len(model(torch.randn(5, FEATURES))) == 5
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert vars(strategy).keys() - before.keys() <= {"_train_exp"}
    strategy.eval(classic().test_stream[:1])
    strategy.train(classic().train_stream[0])
    assert vars(strategy).keys() == before.keys()


# ---------------------------------------------------------------- outputs and batches of other kinds

Pair = namedtuple("Pair", ["logits", "features"])


@dataclass
class Answer(OrderedDict):  # type: ignore[type-arg]
    """As Hugging Face's outputs are made: a dict and a data class."""

    logits: Tensor
    features: Tensor
    loss: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("logits", "features"):
            self[name] = getattr(self, name)


@dataclass
class Record:
    features: Tensor
    logits: Tensor


FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda logits, z: (logits, z),
    "list": lambda logits, z: [logits, z],
    "named tuple": Pair,
    "dict": lambda logits, z: {"features": z, "logits": logits},
    "Hugging Face": lambda logits, z: Answer(logits, z),
    "data class": lambda logits, z: Record(z, logits),
    "nested": lambda logits, z: (logits, {"features": z, "scale": torch.tensor(2.0), "name": "net"}),
}


class Structured(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh())
        self.classifier = nn.Linear(16, CLASSES)
        self.form = FORMS[form]

    def forward(self, x: Tensor) -> Any:
        z = self.features(x)
        return self.form(self.classifier(z), z)


def logits_of(output: Any) -> Tensor:
    if isinstance(output, dict):
        return output["logits"]
    return output.logits if hasattr(output, "logits") else output[0]


class FromStructure(Naive):
    def criterion(self) -> Tensor:
        return F.cross_entropy(logits_of(self.mb_output), self.mb_y)


@every_replay
@pytest.mark.parametrize("form", list(FORMS))
def test_outputs_of_any_structure_train_as_their_logits_would(replay: str, form: str) -> None:
    torch.manual_seed(1)
    structured = naive([REPLAY[replay]()], FromStructure, Structured(form))
    structured.train(classic().train_stream)
    torch.manual_seed(1)
    bare = naive([REPLAY[replay]()])
    bare.train(classic().train_stream)
    torch.testing.assert_close(weights_of(structured), weights_of(bare))


def test_an_output_with_other_rows_than_the_batch_is_told_before_a_step() -> None:
    class TwoViews(Naive):
        def forward(self) -> Tensor:
            return self.model(torch.cat([self.mb_x, self.mb_x]))

        def criterion(self) -> Tensor:
            return F.cross_entropy(self.mb_output, torch.cat([self.mb_y, self.mb_y]))

    memory = RandomMemory(20)
    memory.write(torch.randn(20, FEATURES), torch.arange(20) % CLASSES)
    strategy = naive([MemoryReplayPlugin(memory, write_at="iteration")], TwoViews)
    before = weights_of(strategy).clone()
    with pytest.raises(ValueError, match=r"model: expected an output with one row for each of the 32 rows .*\(64, 6\)"):
        strategy.train(classic().train_stream)
    assert torch.equal(weights_of(strategy), before)


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (lambda x, y: {"input": x, "labels": y}, r"a dict with the keys \['input', 'labels'\]"),
        (lambda x, y: [x], r"\[torch.float32 \(16, 8\)\]"),
        (lambda x, y: x, "a Tensor"),
    ],
)
def test_batches_of_other_kinds_are_told_by_name_before_a_step(batch: Any, told: str) -> None:
    class Other(Naive):
        def _unpack_minibatch(self) -> None:
            x, y, _ = self.mbatch
            self.mbatch = batch(x, y)

    strategy = naive([MemoryReplayPlugin(RandomMemory(20), write_at="iteration")], Other)
    with pytest.raises(ValueError, match=f"mbatch: expected .*, got {told}"):
        strategy.train(classic().train_stream)


def third_column() -> Any:
    parts = []
    for number in range(2):
        x, y = rows(40, number).tensors
        part = TensorDataset(x, y, torch.arange(40))
        parts.append(AvalancheDataset([part]))
    return benchmark_from_datasets(train=parts)


def test_a_third_column_that_is_no_task_label_is_not_taken_for_one() -> None:
    strategy = naive([MemoryReplayPlugin(RandomMemory(20), write_at="iteration")])
    with pytest.raises(ValueError, match=r"mbatch: .*a third column that holds none"):
        strategy.train(third_column().train_stream)


# ---------------------------------------------------------------- loops of other people


class Meta(SupervisedMetaLearningTemplate):
    def _inner_updates(self, **kwargs: Any) -> None:
        self.mb_output = self.forward()
        self.criterion().backward()
        self.optimizer.step()

    def _outer_update(self, **kwargs: Any) -> None:
        self.mb_output = self.forward()
        self.loss = self.criterion()


class OwnLoop(Naive):
    def training_epoch(self, **kwargs: Any) -> None:
        for x, y, *_ in self.dataloader:
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()


@every_replay
@pytest.mark.parametrize("loop", [Meta, OwnLoop])
def test_a_memory_that_is_never_used_is_told_once(replay: str, loop: Any) -> None:
    plugin = REPLAY[replay]()
    strategy = naive([plugin], loop, criterion=nn.CrossEntropyLoss())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        strategy.train(classic().train_stream)
    told = [str(w.message) for w in caught if "never fires before_forward" in str(w.message)]
    assert len(told) == 1
    assert told[0].startswith(f"{type(plugin).__name__}: nothing is ")
    assert ("written" in told[0]) == (plugin.write_at == "iteration")


def test_a_loop_with_another_forward_pass_is_told_before_a_step() -> None:
    class Direct(Naive):
        def training_epoch(self, **kwargs: Any) -> None:
            for batch in self.dataloader:
                self.mbatch = batch
                self._unpack_minibatch()
                self._before_forward(**kwargs)
                self.mb_output = self.model(self.mb_x)
                self._after_forward(**kwargs)
                self.criterion().backward()
                self.optimizer.step()

    strategy = naive([MemoryReplayPlugin(RandomMemory(20), write_at="iteration")], Direct)
    before = weights_of(strategy).clone()
    with pytest.raises(RuntimeError, match=r"strategy: .*Direct ran another forward pass; call self.forward\(\)"):
        strategy.train(classic().train_stream)
    assert torch.equal(weights_of(strategy), before)


class OwnLossLoop(Naive):
    """As Avalanche's DER: works out its loss without criterion()."""

    def criterion(self) -> Tensor:
        if self.is_training:
            raise AssertionError("not in training")
        return super().criterion()

    def training_epoch(self, **kwargs: Any) -> None:
        for batch in self.dataloader:
            self.mbatch = batch
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            self.optimizer.zero_grad()
            self._before_forward(**kwargs)
            self.mb_output = self.forward()
            self._after_forward(**kwargs)
            self.loss = F.cross_entropy(self.mb_output, self.mb_y)
            self._before_backward(**kwargs)
            self.backward()
            self._after_backward(**kwargs)
            self._before_update(**kwargs)
            self.optimizer_step()
            self._after_update(**kwargs)
            self._after_training_iteration(**kwargs)


@every_replay
def test_a_loop_with_a_loss_of_its_own_is_told_before_a_step(replay: str) -> None:
    strategy = naive([REPLAY[replay]()], OwnLossLoop, criterion=nn.CrossEntropyLoss())
    before = weights_of(strategy).clone()
    with pytest.raises(RuntimeError, match=r"strategy: .* OwnLossLoop works out its loss in another way"):
        strategy.train(classic().train_stream)
    assert torch.equal(weights_of(strategy), before)


@pytest.mark.parametrize("memory", [lambda: RandomMemory(400), GaussianMemory])
def test_joint_training_offers_all_experiences(memory: Any) -> None:
    plugin = MemoryReplayPlugin(memory(), write_at="experience")
    strategy = naive([plugin], JointTraining, criterion=nn.CrossEntropyLoss())
    strategy.train(classic().train_stream)
    held = plugin.memory
    assert sorted(held.summary().per_class) == list(range(CLASSES))
    if isinstance(held, RandomMemory):
        assert held.summary().per_experience == dict.fromkeys(range(EXPERIENCES), 60)


@every_replay
def test_both_accelerations_beside_replay_change_no_weight(replay: str) -> None:
    results = []
    for extra in ([], [LeanStepPlugin()]):
        strategy = naive([REPLAY[replay](), *extra])
        torch.manual_seed(1)
        strategy.train(classic().train_stream)
        results.append(weights_of(strategy))
    assert torch.equal(*results)


def test_replay_works_beside_a_served_stream() -> None:
    strategy = naive([REPLAY["weighted"](), TensorLoaderPlugin(), LeanStepPlugin()])
    strategy.train(classic().train_stream)
    assert len(strategy.plugins[0].memory) == 60


# ---------------------------------------------------------------- streams with nothing in them, and a second run


@every_replay
@pytest.mark.parametrize("sizes", [(0, 32, 32), (32, 0, 32)])
def test_experiences_without_rows(replay: str, sizes: tuple[int, ...]) -> None:
    def part(n: int, seed: int) -> Any:
        data = TensorDataset(torch.rand(n, FEATURES), torch.randint(0, 2, (n,)) + 2 * seed)
        data.targets = data.tensors[1].tolist()
        return as_classification_dataset(data)

    stream = benchmark_from_datasets(train=[part(n, seed) for seed, n in enumerate(sizes)]).train_stream
    plugin = REPLAY[replay]()
    strategy = naive([plugin])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for experience in stream:
            strategy.train(experience, shuffle=False)
    assert len(plugin.memory) > 0


def test_one_plugin_over_two_runs_is_told() -> None:
    plugin = MemoryReplayPlugin(RandomMemory(40), write_at="iteration")
    first = naive([plugin])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for experience in classic().train_stream:
            first.train(experience)
    second = naive([plugin])
    with pytest.warns(
        UserWarning, match="memory: this RandomMemory joins a second strategy with 40 rows from the first"
    ):
        second.train(classic().train_stream)


def test_one_memory_that_two_plugins_of_a_strategy_share_is_not() -> None:
    memory = RandomMemory(40)
    strategy = naive([MemoryReplayPlugin(memory, write_at="iteration"), LocalAdaptationPlugin(memory)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        strategy.train(classic().train_stream)
        strategy.eval(classic().test_stream)


@pytest.mark.parametrize("labels", ["old_model", "soft"])
def test_data_without_classes_is_told_before_a_step(labels: Any) -> None:
    data = AvalancheDataset([TensorDataset(*rows(40, 0).tensors)])
    strategy = naive([MemoryReplayPlugin(RandomMemory(20), labels=labels, write_at="iteration")])
    with pytest.raises(ValueError, match="labels: 'old_model' and 'soft' expected data sets with targets"):
        strategy.train(benchmark_from_datasets(train=[data]).train_stream)
    assert strategy.clock.train_iterations == 0


@pytest.mark.parametrize("replay", ["logits", "DER++", "latent"])
def test_training_that_has_diverged_is_called_so(replay: str) -> None:
    strategy = naive([REPLAY[replay]()], lr=1e38)
    with pytest.raises(ValueError, match=r"model: expected finite outputs.*: training has diverged"):
        strategy.train(classic().train_stream)


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("replay", ["appended", "weighted", "DER++"])
def test_the_strategys_methods_are_its_own_again(case: str, replay: str) -> None:
    strategy = build(CASES[case], [REPLAY[replay]()])
    before = vars(strategy).keys() | {"loss"}
    for experience in CASES[case].stream():
        strategy.train(experience)
    assert vars(strategy).keys() <= before | {"__orig_class__"}


def test_several_heads_and_latents_in_any_order() -> None:
    results = []
    for first in (True, False):
        model = as_multitask(MultiHeadBody(), "classifier")
        at = next(name for name, _ in model.named_modules() if name.endswith("features"))
        both = [
            LatentReplayPlugin(RandomMemory(60, seed=1), at=at, freeze_below=False, write_at="iteration"),
            LwFPlugin(1.0, 2.0),
        ]
        strategy = naive(both if first else both[::-1], model=model)
        torch.manual_seed(1)
        strategy.train(classic(True).train_stream)
        results.append(weights_of(strategy))
    torch.testing.assert_close(*results)


def test_plain_streams_keep_their_two_columns() -> None:
    seen: set[int] = set()

    class Look(SupervisedPlugin):
        def after_forward(self, strategy: Any, **kwargs: Any) -> None:
            seen.add(len(strategy.mbatch))

    run(Case(plain), [MemoryReplayPlugin(RandomMemory(20), write_at="iteration"), Look()])
    assert seen == {2}
