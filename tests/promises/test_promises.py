"""What every memory plugin promises (DESIGN: a plugin), over every memory, every plugin and every kind of stream."""

from __future__ import annotations

import copy
import pickle
import time
from typing import Any

import pytest
import torch
from _streams import CASES, Case, Watcher, build, run, weights
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.training.plugins import EvaluationPlugin
from memories_and_plugins import BANKS, MEMORIES, MODELS, PLUGINS, for_model
from torch import nn

from avalanche_memplugins.plugins import GradientAveragingPlugin

CASE_NAMES = list(CASES)


def make(name: str, case: Case) -> Any:
    return for_model(PLUGINS[name](), multi_head=case is CASES["multi-head"])


@pytest.mark.parametrize("case_name", CASE_NAMES)
@pytest.mark.parametrize("name", PLUGINS)
def test_streams_of_every_kind_and_the_evaluator_sees_their_rows_only(name: str, case_name: str) -> None:
    case, naive, watcher = CASES[case_name], Watcher(), Watcher()
    run(case, [naive])
    plugin = make(name, case)
    strategy = run(case, [plugin, watcher])
    if name == "replacing":
        assert all(set(mine) <= set(all_rows) for mine, all_rows in zip(watcher.numbers, naive.numbers, strict=True))
    else:
        assert watcher.numbers == naive.numbers  # the very rows, in the order they come without a memory
    assert watcher.outputs == [len(rows) for rows in watcher.numbers]
    assert all(watcher.modes)
    assert bool(torch.isfinite(weights(strategy)).all())
    if name in MODELS:
        assert len(plugin.memory) >= 180
    elif name in BANKS and case.online:
        assert 10 <= len(plugin.memory) <= 40
    else:
        assert len(plugin.memory) == 40
    held = plugin.memory.summary()
    if "ring" not in name and name != "RMA":
        assert set(held.per_experience) == ({0, 1, 2} if "online" not in case_name else set(held.per_experience))
        assert len(held.per_class) >= (2 if name in BANKS and case.online else 4)
    if case_name == "multi-head":
        assert held.per_task == held.per_experience


@pytest.mark.parametrize("name", PLUGINS)
def test_metrics_are_those_of_the_streams_rows(name: str) -> None:
    """Loss and accuracy that Avalanche's evaluator collects, against what the outputs themselves say."""
    watcher = Watcher()
    evaluator = EvaluationPlugin(
        accuracy_metrics(minibatch=True), loss_metrics(minibatch=True), loggers=[], collect_all=True
    )
    run(Case(), [PLUGINS[name](), watcher], evaluator=evaluator)
    recorded = evaluator.get_all_metrics()
    losses = next(values for key, (_, values) in recorded.items() if key.startswith("Loss_MB"))
    assert losses == pytest.approx(watcher.own_losses, abs=1e-5)
    assert watcher.losses == pytest.approx(watcher.own_losses, abs=1e-5)
    accuracies = next(values for key, (_, values) in recorded.items() if key.startswith("Top1_Acc_MB"))
    sizes = [len(rows) for rows in watcher.numbers]
    assert all(abs(a * n - round(a * n)) < 1e-4 for a, n in zip(accuracies, sizes, strict=True))


@pytest.mark.parametrize("name", PLUGINS)
def test_a_run_is_repeatable_bit_for_bit(name: str) -> None:
    first, second = (weights(run(Case(), [PLUGINS[name]()])) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", PLUGINS)
def test_averaging_gradients_beside_it_changes_nothing_in_a_single_process(name: str) -> None:
    alone, beside = (weights(run(Case(), [*more, PLUGINS[name]()])) for more in ([], [GradientAveragingPlugin()]))
    assert torch.equal(alone, beside)


@pytest.mark.parametrize("way", ["state_dict", "pickle"])
@pytest.mark.parametrize("boundary", [1, 2])
@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_restored_at_a_boundary_goes_on_exactly(name: str, boundary: int, way: str) -> None:
    case = Case()
    unstopped = weights(run(case, [PLUGINS[name]()]))

    plugin = PLUGINS[name]()
    strategy = build(case, [plugin])
    torch.manual_seed(1)
    experiences = list(case.stream())
    for experience in experiences[:boundary]:
        strategy.train(experience, num_workers=0)
    generator = torch.get_rng_state()
    if way == "state_dict":
        restored = PLUGINS[name]()
        restored.load_state_dict(copy.deepcopy(plugin.state_dict()))
    else:
        restored = pickle.loads(pickle.dumps(plugin))
    strategy.plugins[strategy.plugins.index(plugin)] = restored
    torch.set_rng_state(generator)
    for experience in experiences[boundary:]:
        strategy.train(experience, num_workers=0)
    assert torch.equal(weights(strategy), unstopped)


@pytest.mark.parametrize("name", PLUGINS)
def test_nothing_of_it_enters_the_optimiser_the_model_or_the_criterion(name: str) -> None:
    criterion = nn.CrossEntropyLoss()
    plugin = PLUGINS[name]()
    strategy = build(Case(), [plugin])
    strategy._criterion = criterion
    strategy.model.classifier.bias.requires_grad_(False)
    names = [n for n, _ in strategy.model.named_modules()]
    for experience in Case().stream():
        strategy.train(experience)
        in_model = {id(p) for p in strategy.model.parameters()}
        in_optimiser = {id(p) for group in strategy.optimizer.param_groups for p in group["params"]}
        assert in_optimiser == in_model
        assert [n for n, _ in strategy.model.named_modules()] == names
        assert [p.requires_grad for p in strategy.model.parameters()] == [True, True, True, False]
        assert not any(module._forward_hooks for module in strategy.model.modules())
    assert strategy._criterion is criterion
    assert criterion.reduction == "mean"


@pytest.mark.parametrize("name", PLUGINS)
def test_a_frozen_model_in_eval_mode_stays_so(name: str) -> None:
    """Avalanche puts the model in train mode once per call of train; a user may freeze a part of it after that."""
    plugin = PLUGINS[name]()
    case = Case()
    strategy = build(case, [plugin])
    strategy.model.features.train = lambda mode=True: strategy.model.features  # type: ignore[method-assign]
    for module in strategy.model.features.modules():
        module.training = False
    for experience in case.stream():
        strategy.train(experience)
    assert not any(m.training for m in strategy.model.features.modules())
    assert strategy.model.classifier.training


def seconds(function: Any, repeats: int = 60) -> float:
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(repeats):
            function()
        best = min(best, time.process_time() - began)
    return best


@pytest.mark.parametrize("name", MEMORIES)
def test_cost_depends_neither_on_capacity_nor_on_fill_nor_on_experiences(name: str) -> None:
    """Ratios only, and wide ones: what grows with the memory would be 50 to 1,000 times slower here."""
    x, y = torch.randn(10, 8), torch.arange(10) % 6
    logits = torch.zeros(10, 6) if name == "logits" else None

    def filled(capacity: int, experiences: int, each: int) -> Any:
        memory = MEMORIES[name](capacity)
        for number in range(experiences):
            for _ in range(each):
                memory.write(x, y, 0, origin=number, logits=logits)
        return memory

    def cost(memory: Any) -> float:
        origin = int(memory.rows(torch.tensor([len(memory) - 1])).origin)

        def step() -> None:
            memory.write(x, y, 0, origin=origin, logits=logits)
            memory.sample(10)

        return seconds(step)

    small = cost(filled(100, 2, 10))
    assert cost(filled(20_000, 2, 1_000)) < 5 * small  # capacity and fill
    assert cost(filled(100_000, 2, 10)) < 5 * small  # capacity alone
    assert cost(filled(100, 1_000, 1)) < 5 * small  # experiences


@pytest.mark.parametrize("name", PLUGINS)
def test_autocast(name: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        strategy = run(Case(), [PLUGINS[name]()])
    assert bool(torch.isfinite(weights(strategy)).all())


@pytest.mark.parametrize("name", PLUGINS)
def test_the_plugin_takes_whatever_avalanche_passes_on(name: str) -> None:
    strategy = build(Case(), [PLUGINS[name]()])
    strategy.train(next(iter(Case().stream())), num_workers=0, shuffle=False, persistent_workers=False, drop_last=True)


@pytest.mark.gpu
@pytest.mark.parametrize("name", [n for n in PLUGINS if "class" not in n and n not in MODELS | BANKS])
def test_no_step_waits_for_the_gpu(name: str) -> None:
    from avalanche_memplugins.plugins.tensor_loader import TensorLoaderPlugin

    strategy = build(Case(), [TensorLoaderPlugin(), PLUGINS[name]()], device="cuda")
    experiences = list(Case().stream())
    strategy.train(experiences[0])

    class Strict(Watcher):
        def before_forward(self, strategy: Any, **kwargs: Any) -> None:
            torch.cuda.set_sync_debug_mode("error")

        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            torch.cuda.set_sync_debug_mode("default")

    strategy.plugins.insert(0, Strict())
    try:
        strategy.train(experiences[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert strategy.plugins[2].memory.device.type == "cuda"
