"""What replayed rows are trained towards, against copies of the model and losses worked out by hand in float64."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from _streams import CASES, CLASSES, FEATURES, Case, build, network, rows, run, weights
from avalanche.benchmarks import nc_benchmark
from avalanche.core import SupervisedPlugin
from avalanche.models import IncrementalClassifier
from torch import Tensor, nn

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.plugins._targets import distillation


def soft_targets(logits: Tensor, seen: list[int], temperature: float = 2.0) -> np.ndarray:
    z = logits.detach().numpy().astype(np.float64) / temperature
    p = np.zeros_like(z)
    p[:, seen] = np.exp(z[:, seen])
    return p / p.sum(1, keepdims=True)


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def kl(p: np.ndarray, output: Tensor, temperature: float = 2.0) -> np.ndarray:
    log_q = log_softmax(output.detach().numpy().astype(np.float64) / temperature)
    log_p = np.log(np.where(p > 0, p, 1.0))
    return temperature**2 * (p * (log_p - log_q)).sum(1)


def cross_entropy(output: Tensor, y: Tensor) -> np.ndarray:
    return -log_softmax(output.detach().numpy().astype(np.float64))[np.arange(len(y)), y.numpy()]


class Copies(SupervisedPlugin):
    """Keeps the model as it was at the end of each experience, and looks at each loss before its gradient."""

    def __init__(self, plugin: MemoryReplayPlugin, expected: Any) -> None:
        super().__init__()
        self.plugin, self.expected = plugin, expected
        self.old: list[nn.Module] = []
        self.compared = self.mixed = 0

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        recall, replay = self.plugin._step.recall, self.plugin.last_replay
        if recall is None or replay is None or not self.old:
            return
        known = recall.origin.numpy() != len(self.old)
        size = len(strategy.mb_output)
        stream = cross_entropy(strategy.mb_output, strategy.mbatch[1])
        replayed = self.expected(self.old[-1].eval(), replay, recall, known)
        weight = self.plugin.replay_weight or len(replayed) / (size + len(replayed))
        loss = (1 - weight) * stream.mean() + weight * replayed.mean()
        assert float(strategy.loss.detach()) == pytest.approx(loss, abs=2e-5)
        self.compared += 1
        self.mixed += bool(known.any() and not known.all())

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.old.append(copy.deepcopy(strategy.model))


ORDER = [4, 1, 0, 5, 2, 3]


def seen_until(old: int) -> list[int]:
    return sorted(ORDER[: 2 * old])  # two classes an experience


def ordered(order: list[int]) -> Any:
    return nc_benchmark(rows(180, 0), rows(60, 1), 3, False, fixed_class_order=order)


def sure_of_a_class_to_come() -> nn.Module:
    net = network()
    net.classifier.bias.data[3] = 4.0
    return net


MIXED = Case(lambda: ordered(ORDER), sure_of_a_class_to_come)


@pytest.mark.parametrize("at", [None, "features"])
@pytest.mark.parametrize("weight", [None, 0.7])
def test_soft_labels_are_the_old_models_probabilities(weight: float | None, at: str | None) -> None:
    def expected(old: Any, replay: Any, recall: Any, known: np.ndarray) -> np.ndarray:
        out = old.classifier(recall.x) if at else old(recall.x)
        soft = kl(soft_targets(out, seen_until(len(check.old))), replay.output)
        return np.where(known, soft, cross_entropy(replay.output, replay.label))

    plugin = MemoryReplayPlugin(
        RandomMemory(60, seed=2), labels="soft", replay_weight=weight, replay_size=9, at=at, write_at="iteration"
    )
    check = Copies(plugin, expected)
    run(MIXED, [plugin, check])
    assert check.compared == 8
    assert check.mixed > 3


def test_the_old_model_names_the_class_among_those_seen() -> None:
    changed = []

    def expected(old: Any, replay: Any, recall: Any, known: np.ndarray) -> np.ndarray:
        seen = np.array(seen_until(len(check.old)))
        out = old(recall.x).detach().numpy()[:, seen]
        y = np.where(known, seen[out.argmax(1)], replay.label.numpy())
        assert np.array_equal(replay.y.numpy(), y)
        changed.append(int((replay.y != replay.label).sum()))
        return cross_entropy(replay.output, torch.from_numpy(y))

    plugin = MemoryReplayPlugin(RandomMemory(60, seed=2), labels="old_model", write_at="iteration")
    check = Copies(plugin, expected)
    run(MIXED, [plugin, check], lr=0.002)  # little learned: the old model errs, and would name class 3
    assert check.compared == 8
    assert check.mixed > 3
    assert sum(changed) > 5


@pytest.mark.parametrize("write_at", ["iteration", "experience"])
def test_a_memory_that_does_not_tell_experiences_keeps_its_classes_where_the_copy_may_not_know_them(
    write_at: Any,
) -> None:
    plugin = MemoryReplayPlugin(RandomMemory(60, store_tasks=False), labels="old_model", write_at=write_at)
    changed = []

    class Look(SupervisedPlugin):
        def before_backward(self, strategy: Any, **kwargs: Any) -> None:
            if plugin.last_replay is not None:
                changed.append(bool((plugin.last_replay.y != plugin.last_replay.label).any()))

    run(MIXED, [plugin, Look()], lr=0.002)
    assert any(changed) == (write_at == "experience")


def test_stored_logits_are_the_target_of_a_mean_square() -> None:
    def expected(old: Any, replay: Any, recall: Any, known: np.ndarray) -> np.ndarray:
        difference = replay.output.numpy().astype(np.float64) - recall.logits.numpy()
        return (difference**2).mean(1)

    plugin = MemoryReplayPlugin(
        RandomMemory(60, store_logits=True), labels="logits", replay_weight=0.3, write_at="iteration"
    )
    check = Copies(plugin, expected)
    run(Case(), [plugin, check])
    assert check.compared == 8


class Growing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Linear(FEATURES, 8)
        self.classifier = IncrementalClassifier(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


@pytest.mark.parametrize("labels", ["logits", "soft", "old_model"])
def test_heads_that_grow(labels: Any) -> None:
    """The old outputs are narrower than the new ones."""
    memory = RandomMemory(60, store_logits=labels == "logits")
    plugin = MemoryReplayPlugin(memory, labels=labels, write_at="iteration")
    widths: list[tuple[int, int]] = []

    class Look(SupervisedPlugin):
        def before_backward(self, strategy: Any, **kwargs: Any) -> None:
            if plugin.targets.soft is not None:
                widths.append((plugin.targets.soft[0].shape[1], strategy.mb_output.shape[1]))
            if labels == "logits" and plugin._step.recall is not None:
                widths.append((plugin._step.recall.logits.shape[1], strategy.mb_output.shape[1]))

    strategy = run(Case(lambda: ordered(list(range(CLASSES))), Growing), [plugin, Look()])
    assert bool(torch.isfinite(weights(strategy)).all())
    if labels != "old_model":
        assert (2, 4) in widths
        assert (4, 6) in widths


def test_under_several_heads_each_row_is_judged_by_the_head_of_its_task() -> None:
    case = CASES["multi-head"]
    plugin = MemoryReplayPlugin(RandomMemory(90, seed=1), labels="old_model", replay_size=30, write_at="iteration")
    old: list[Any] = []
    found = []
    classes = [set(e.classes_in_this_experience) for e in case.stream()]

    class Look(SupervisedPlugin):
        def before_backward(self, strategy: Any, **kwargs: Any) -> None:
            replay, recall = plugin.last_replay, plugin._step.recall
            if replay is None or recall is None or not old:
                return
            for x, t, y, origin, label in zip(
                recall.x, recall.t.tolist(), replay.y.tolist(), recall.origin.tolist(), replay.label, strict=True
            ):
                if origin == len(old):
                    assert y == int(label)
                    continue
                out = old[-1](x[None], torch.tensor([t]))[0].detach()
                assert y == max(classes[t], key=lambda c: float(out[c]))
                found.append(t)

        def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
            old.append(copy.deepcopy(strategy.model).eval())

    run(case, [plugin, Look()], lr=0.005)
    assert set(found) == {0, 1}


def test_distillation_against_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    output, logits = torch.randn(5, 7, generator=generator), torch.randn(5, 4, generator=generator)
    p = np.pad(soft_targets(logits, [0, 2, 3], 3.0), ((0, 0), (0, 3)))
    ours = distillation(output, torch.from_numpy(p[:, :4]).float(), 3.0)
    np.testing.assert_allclose(ours.numpy(), kl(p, output, 3.0), atol=1e-5)
    same = logits.log_softmax(1)
    assert float(distillation(same, (same / 2).softmax(1), 2.0).abs().max()) < 1e-6


def test_the_copy_is_frozen_counted_and_nobodys_business() -> None:
    plugin = MemoryReplayPlugin(RandomMemory(40), labels="soft", write_at="iteration")
    assert plugin.nbytes_fixed == 0
    strategy = run(Case(), [plugin])
    copied = plugin.targets.teacher.model
    assert plugin.nbytes_fixed == sum(p.nbytes for p in strategy.model.parameters())
    assert not copied.training
    assert not any(p.requires_grad or p.grad is not None for p in copied.parameters())
    optimised = {id(p) for group in strategy.optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in copied.parameters()}


def test_a_state_waits_for_a_model_and_is_kept_meanwhile() -> None:
    plugin = MemoryReplayPlugin(RandomMemory(40), labels="soft", write_at="iteration")
    strategy = run(Case(), [plugin])
    state = copy.deepcopy(plugin.state_dict())
    other = MemoryReplayPlugin(RandomMemory(40), labels="soft", write_at="iteration")
    other.load_state_dict(state)
    assert other.nbytes_fixed == plugin.nbytes_fixed
    again = other.state_dict()["targets"]
    assert again["classes"] == state["targets"]["classes"] == {"0": list(range(CLASSES))}
    assert all(torch.equal(again["model"][name], value) for name, value in state["targets"]["model"].items())
    strategy.plugins[strategy.plugins.index(plugin)] = other
    other.before_training(strategy)
    assert torch.equal(other.targets.teacher.model.classifier.weight, strategy.model.classifier.weight)

    wrong = build(Case(model=lambda: nn.Sequential(nn.Linear(FEATURES, CLASSES))), [other])
    other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"state: the old model's parameters do not fit strategy\.model"):
        wrong.train(next(iter(Case().stream())))
    with pytest.raises(ValueError, match="state: expected that of a plugin with labels='memory'"):
        MemoryReplayPlugin(RandomMemory(40), write_at="iteration").load_state_dict(state)


@pytest.mark.parametrize(
    ("memory", "arguments", "message"),
    [
        ({}, {"labels": "hard"}, "labels: expected one of 'memory', 'old_model', 'soft', 'logits', got"),
        ({}, {"labels": "logits"}, "labels: 'logits' expected a memory that keeps them"),
        ({}, {"labels": "soft", "origin": "task_label"}, "origin: labels='soft' has to tell"),
    ],
)
def test_bad_arguments(memory: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryReplayPlugin(RandomMemory(10, **memory), **{"write_at": "iteration", **arguments})


def test_data_without_targets_is_named() -> None:
    plugin = MemoryReplayPlugin(RandomMemory(10), labels="soft", write_at="iteration")
    with pytest.raises(ValueError, match="labels: 'old_model' and 'soft' expected data sets with targets"):
        plugin.targets.teacher.learn(nn.Linear(2, 2), [[1, 2]])
