"""MemoryReplayPlugin against hand-made losses and hand-made training loops."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from _streams import CASES, CLASSES, FEATURES, Case, Watcher, build, classic, network, rows, run, weights
from avalanche.benchmarks import nc_benchmark
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import ReplayPlugin
from torch.nn.functional import cross_entropy

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory, RandomMemoryPlugin
from avalanche_memplugins.plugins._latent import in_batch_order


class Gradients(SupervisedPlugin):
    """Compares the gradient of each step with one worked out by hand from the same rows."""

    def __init__(self, plugin: MemoryReplayPlugin, expected: Any, at: str | None = None) -> None:
        super().__init__()
        self.plugin, self.expected, self.at = plugin, expected, at
        self.compared = 0

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        recall = self.plugin._step.recall
        if recall is None:
            return
        model = copy.deepcopy(strategy.model)
        model.zero_grad()
        x, y = strategy.mbatch[0], strategy.mbatch[1]
        outputs = model(x)
        replayed = model.classifier(recall.x) if self.at else model(recall.x)
        loss = self.expected(outputs, y, replayed, recall.y, strategy.clock.train_exp_counter)
        loss.backward()
        torch.testing.assert_close(strategy.loss.squeeze(), loss.squeeze())
        self.gradients = [p.grad.clone() for p in model.parameters()]

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        if self.plugin._step.recall is None:
            return
        for parameter, gradient in zip(strategy.model.parameters(), self.gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
        self.compared += 1


def mean_over_all_rows(out: Any, y: Any, replayed: Any, replayed_y: Any, experience: int) -> torch.Tensor:
    return cross_entropy(torch.cat([out, replayed]), torch.cat([y, replayed_y]))


def weighted(w: float) -> Any:
    return lambda out, y, r, ry, _: (1 - w) * cross_entropy(out, y) + w * cross_entropy(r, ry)


def growing(out: Any, y: Any, r: Any, ry: Any, experience: int) -> torch.Tensor:
    share = 1 / (experience + 1)
    return share * cross_entropy(out, y) + (1 - share) * cross_entropy(r, ry)


@pytest.mark.parametrize("at", [None, "features"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, mean_over_all_rows),
        ({"replay_size": 5}, mean_over_all_rows),
        ({"batch_policy": "replace"}, mean_over_all_rows),
        ({"replay_weight": 0.3}, weighted(0.3)),
        ({"replay_weight": 0.8, "replay_size": 40}, weighted(0.8)),
        ({"replay_weight": "growing"}, growing),
    ],
    ids=str,
)
def test_loss_and_gradient_are_those_of_the_equation(options: dict[str, Any], expected: Any, at: str | None) -> None:
    plugin = MemoryReplayPlugin(RandomMemory(60), at=at, **{"write_at": "iteration", **options})
    check = Gradients(plugin, expected, at)
    run(Case(), [plugin, check])
    assert check.compared > 5


def test_replay_at_the_input_is_the_hand_written_loop_bit_for_bit() -> None:
    case = Case()
    strategy = run(case, [MemoryReplayPlugin(RandomMemory(50, seed=3), replay_size=10, write_at="iteration")])

    memory, model = RandomMemory(50, seed=3), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    twin = build(case, [])  # for Avalanche's own order of batches
    torch.manual_seed(1)
    for number, experience in enumerate(case.stream()):
        twin.experience = experience
        twin.train_dataset_adaptation()
        twin.make_train_dataloader(shuffle=True)
        for x, y, t in twin.dataloader:
            old = memory.sample(10) if len(memory) else None
            memory.write(x, y, t, origin=number)
            both = torch.cat([x, old.x]) if old else x
            labels = torch.cat([y, old.y]) if old else y
            optimizer.zero_grad()
            cross_entropy(model(both), labels).backward()
            optimizer.step()
    assert torch.equal(weights(strategy), torch.cat([p.detach().flatten() for p in model.parameters()]))


def test_layers_below_get_no_gradient_from_latent_replay() -> None:
    def only_replay(out: Any, y: Any, r: Any, ry: Any, experience: int) -> torch.Tensor:
        return 0 * cross_entropy(out, y) + cross_entropy(r, ry)

    plugin = MemoryReplayPlugin(RandomMemory(60), at="features", replay_weight=1 - 1e-9, write_at="iteration")
    check = Gradients(plugin, only_replay, "features")
    before = network().features[0].weight.detach().clone()
    strategy = build(Case(), [plugin, check], momentum=0.0)
    torch.manual_seed(1)
    experiences = list(Case().stream())
    strategy.train(experiences[0])
    moved = strategy.model.features[0].weight.detach().clone()
    strategy.train(experiences[1])
    assert check.compared > 5
    assert not torch.equal(before, moved)  # the very first step has nothing to replay
    torch.testing.assert_close(strategy.model.features[0].weight.detach(), moved, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["multi-head", "x, y, t", "x, y"])
def test_latents_are_those_of_their_own_rows(name: str) -> None:
    """Nothing learns here, so a stored latent must be the layer's output for the row it stands for."""
    case = CASES[name]
    memory = RandomMemory(180, write_policy="ring")
    seen: list[torch.Tensor] = []

    class Collect(SupervisedPlugin):
        def before_forward(self, strategy: Any, **kwargs: Any) -> None:
            seen.append(strategy.mbatch[0].clone())

    strategy = build(case, [Collect(), MemoryReplayPlugin(memory, at=_layer(case), write_at="iteration")], lr=0.0)
    for experience in case.stream():
        strategy.train(experience)
    body = dict(strategy.model.named_modules())[_layer(case)]
    stored = memory.rows(torch.arange(len(memory))).x
    torch.testing.assert_close(stored, body(torch.cat(seen)).detach())


def _layer(case: Case) -> str:
    return next(name for name, _ in case.model().named_modules() if name.endswith("features"))


def test_latent_replay_under_several_heads_is_the_forward_pass_of_each_row() -> None:
    case = CASES["multi-head"]
    plugin = MemoryReplayPlugin(RandomMemory(120), at=_layer(case), replay_size=30, write_at="iteration")
    found: list[bool] = []

    class Compare(SupervisedPlugin):
        def before_backward(self, strategy: Any, **kwargs: Any) -> None:
            replay, recall = plugin.last_replay, plugin._step.recall
            if replay is None or recall is None:
                return
            for output, code, task in zip(replay.output, recall.x, recall.t.tolist(), strict=True):
                expected = strategy.model.classifier.forward_single_task(code[None], task)[0]
                torch.testing.assert_close(output[: len(expected)], expected.detach())
            found.append(len(set(recall.t.tolist())) > 1)

    run(case, [plugin, Compare()])
    assert any(found)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("epochs", ["first", "all"])
def test_writes_come_every_m_iterations(every: int, epochs: str) -> None:
    memory = RandomMemory(10_000)
    plugin = MemoryReplayPlugin(memory, write_every=every, write_epochs=epochs)
    run(CASES["several epochs"], [plugin])
    sizes = ([16, 16, 16, 12] * (3 if epochs == "all" else 1)) * 3  # 60 rows an experience in batches of 16
    assert memory.seen == sum(sizes[::every])
    assert memory.summary().per_experience.keys() <= {0, 1, 2}


def test_writing_after_the_experience_offers_every_row_once() -> None:
    memory = RandomMemory(10_000)
    run(CASES["several epochs"], [MemoryReplayPlugin(memory, write_at="experience")])
    numbers = (memory.rows(torch.arange(len(memory))).x[:, -1] * 1_000).round().long()
    assert sorted(numbers.tolist()) == list(range(180))
    assert memory.summary().per_experience == {0: 60, 1: 60, 2: 60}


@pytest.mark.parametrize("write_at", ["iteration", "experience"])
def test_rows_are_stored_as_seen_or_under_the_evaluation_transforms(write_at: str) -> None:
    """Trap 14: an experience's data set applies its training transforms unless it is asked not to."""
    case = Case(
        lambda: nc_benchmark(
            rows(180, 0),
            rows(60, 1),
            3,
            False,
            seed=1,
            shuffle=False,
            train_transform=lambda x: x + 100,
            eval_transform=lambda x: x - 100,
        )
    )
    memory = RandomMemory(200)
    run(case, [MemoryReplayPlugin(memory, write_at=write_at)], lr=0.0)
    stored = memory.rows(torch.arange(len(memory))).x
    raw = rows(180, 0).tensors[0]
    shifted = stored - (100 if write_at == "iteration" else -100)
    torch.testing.assert_close(shifted.sort(0).values, raw.sort(0).values, atol=1e-4, rtol=0)


def test_workers_of_the_loader_change_nothing() -> None:
    """Trap 15: rows are drawn in the main process."""
    results = []
    for workers in (0, 1):
        strategy = build(Case(), [MemoryReplayPlugin(RandomMemory(40, seed=0), write_at="iteration")])
        torch.manual_seed(1)
        for experience in list(Case().stream())[:2]:
            strategy.train(experience, num_workers=workers)
        results.append(weights(strategy))
    assert torch.equal(*results)


def test_replace_keeps_the_size_of_the_batch() -> None:
    sizes: list[int] = []

    class Sizes(SupervisedPlugin):
        def before_forward(self, strategy: Any, **kwargs: Any) -> None:
            sizes.append(len(strategy.mbatch[0]))

    watcher = Watcher()
    plugin = MemoryReplayPlugin(RandomMemory(60), batch_policy="replace", replay_size=100, write_at="iteration")
    run(Case(), [plugin, Sizes(), watcher], train_mb_size=20)
    assert set(sizes) == {20}
    assert watcher.outputs == [20, *[1] * 8]  # the first step has nothing to replay; a later one keeps one row


def test_logits_are_those_of_the_rows() -> None:
    memory = RandomMemory(200, store_logits=True)
    strategy = run(Case(), [MemoryReplayPlugin(memory, write_at="iteration")], lr=0.0)
    recall = memory.rows(torch.arange(len(memory)))
    torch.testing.assert_close(recall.logits, strategy.model(recall.x).detach())


def test_what_was_replayed_is_left_for_metrics_and_is_not_the_streams() -> None:
    plugin = MemoryReplayPlugin(RandomMemory(50), replay_size=7, write_at="iteration")
    shapes: list[Any] = []

    class Look(SupervisedPlugin):
        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            r = plugin.last_replay
            shapes.append(None if r is None else (r.output.shape, r.y.shape, r.t.shape, r.output.requires_grad))

    run(Case(), [plugin, Look()])
    assert shapes[0] is None
    assert set(shapes[1:]) == {((7, CLASSES), (7,), (7,), False)}


@pytest.mark.parametrize("other", [lambda: ReplayPlugin(20), lambda: RandomMemoryPlugin(20)])
def test_two_memories_on_one_strategy_are_worth_a_warning(other: Any) -> None:
    strategy = build(Case(), [MemoryReplayPlugin(RandomMemory(20), write_at="iteration"), other()])
    with pytest.warns(UserWarning, match="two memories replay on one strategy"):
        strategy.train(next(iter(Case().stream())))


def test_one_memory_is_not() -> None:
    strategy = build(Case(), [MemoryReplayPlugin(RandomMemory(20), write_at="iteration"), Watcher()])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        strategy.train(next(iter(Case().stream())))


def test_an_unknown_layer_is_named_with_its_neighbours() -> None:
    strategy = build(Case(), [MemoryReplayPlugin(RandomMemory(20), at="feature", write_at="iteration")])
    with pytest.raises(ValueError, match=r"at: expected the name of a module.*got 'feature'.*'features'"):
        strategy.train(next(iter(Case().stream())))


def test_a_memory_of_inputs_does_not_fit_a_layer() -> None:
    memory = RandomMemory(20)
    memory.write(torch.zeros(4, FEATURES), torch.zeros(4, dtype=torch.int64))
    strategy = build(Case(), [MemoryReplayPlugin(memory, at="features", write_at="iteration")])
    with pytest.raises(ValueError, match=r"rows of shape \(8,\), but 'features' gives \(16,\)"):
        strategy.train(next(iter(Case().stream())))


def test_a_batch_with_further_columns_is_refused() -> None:
    class Widen(SupervisedPlugin):
        def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            strategy.mbatch.insert(2, strategy.mbatch[0])

    strategy = build(Case(), [Widen(), MemoryReplayPlugin(RandomMemory(20), write_at="iteration")])
    with pytest.raises(ValueError, match=r"mbatch: expected a list .*got .*float32 \(16, 8\), torch.int64 \(16,\), .*"):
        strategy.train(next(iter(Case().stream())))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"replay_size": 0}, "replay_size: expected an integer >= 1, got"),
        ({"write_every": -1}, "write_every: expected an integer >= 1, got"),
        ({"write_at": "epoch"}, "write_at: expected one of 'auto', 'iteration', 'experience', got"),
        ({"write_epochs": "last"}, "write_epochs: expected one of 'first', 'all', got"),
        ({"batch_policy": "appends"}, "batch_policy: .*did you mean 'append'"),
        ({"replay_weight": 1.0}, "replay_weight: expected 0 < w < 1, 'growing', 'auto' or None, got 1.0"),
        ({"replay_weight": "shrinking"}, "replay_weight: .*got 'shrinking'"),
        ({"replay_weight": np.array([0.5, 0.5])}, "replay_weight: expected 0 < w < 1, .*got ndarray"),
        ({"origin": "task"}, "origin: expected one of 'experience', 'task_label', got"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryReplayPlugin(RandomMemory(10), **{"write_at": "iteration", **arguments})


def test_the_memory_and_the_count_of_iterations_are_the_state() -> None:
    plugin = MemoryReplayPlugin(RandomMemory(30), write_every=4)
    run(Case(), [plugin])
    other = MemoryReplayPlugin(RandomMemory(30), write_every=4)
    other.load_state_dict(plugin.state_dict())
    assert other.rehearsal.iterations == plugin.rehearsal.iterations == 12
    assert torch.equal(other.memory.sample(5).x, plugin.memory.sample(5).x)


def test_rehearsal_prevents_forgetting_and_a_ring_too_small_does_not() -> None:
    def accuracy(*plugins: Any) -> float:
        strategy = run(Case(options={"train_epochs": 8}), list(plugins))
        right = []
        strategy.model.eval()
        for experience in classic().test_stream:
            x = torch.stack([row[0] for row in experience.dataset])
            y = torch.tensor([row[1] for row in experience.dataset])
            right.append(float((strategy.model(x).argmax(1) == y).float().mean()))
        return 100 * sum(right) / len(right)

    naive = accuracy()
    reservoir = accuracy(MemoryReplayPlugin(RandomMemory(60), write_at="iteration"))
    ring = accuracy(MemoryReplayPlugin(RandomMemory(60, write_policy="ring"), write_at="iteration"))
    assert reservoir > naive + 25
    assert ring < reservoir - 15


def test_latents_of_a_batch_of_several_tasks_go_back_to_their_rows() -> None:
    """A multi-task model runs task by task, so a module's outputs come sorted by task."""
    t = torch.tensor([2, 0, 1, 0, 2, 1, 0])
    rows_of = torch.arange(7.0)[:, None]
    latents = [rows_of[t == task] for task in (0, 1, 2)]
    assert torch.equal(in_batch_order(latents, t), rows_of)
