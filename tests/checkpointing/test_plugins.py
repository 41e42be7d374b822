"""Plugins, schedulers and regularisers go on as if the run had never stopped; others say that they cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training import Cumulative
from avalanche.training.plugins import (
    EWCPlugin,
    LRSchedulerPlugin,
    LwFPlugin,
    MASPlugin,
    ReplayPlugin,
    RWalkPlugin,
    SynapticIntelligencePlugin,
)
from checkpoint_runs import EXPERIENCES, MODELS, Run, assert_same
from torch import nn
from torch.optim import lr_scheduler

from avalanche_memplugins.checkpointing import CheckpointError, load_run_state, save_run_state


class Everything(SupervisedPlugin):
    """Holds one of each: what it does to the loss hangs on all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.name, self.nothing = 0, "everything", None
        self.seen: set[int] = set()
        self.by_class: dict[int, float] = {}
        self.history: list[tuple[int, float]] = []
        self.mean = torch.zeros(12)
        self.array = np.zeros(3, dtype=np.float32)
        self.module = nn.Linear(12, 1)
        self.module_optimizer = torch.optim.Adam(self.module.parameters(), lr=0.01)
        self.generator = torch.Generator().manual_seed(3)
        self.numpy_generator = np.random.default_rng(3)
        self.scale = lambda loss: 1.01 * loss

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        x, y = strategy.mbatch[0], strategy.mbatch[1]
        self.count += 1
        self.seen.update(y.tolist())
        self.by_class[int(y[0])] = self.by_class.get(int(y[0]), 0.0) + 0.1
        self.mean += 0.1 * (x.mean(0) - self.mean)
        self.array += 1
        loss = self.module(x).pow(2).mean()
        self.module_optimizer.zero_grad()
        loss.backward()
        self.module_optimizer.step()
        weight = torch.rand((), generator=self.generator) + self.numpy_generator.random() + self.count
        weight = weight + len(self.seen) + self.by_class[int(y[0])] + self.mean.sum() + float(self.array.sum())
        self.history.append((self.count, float(loss.detach())))
        strategy.loss = self.scale(strategy.loss) + 1e-3 * weight * next(strategy.model.parameters()).pow(2).sum()


class WithStateDict(SupervisedPlugin):
    """Cannot be saved but through its own state_dict."""

    def __init__(self) -> None:
        super().__init__()
        self.unsavable, self.steps = iter([]), 0

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        self.steps += 1
        strategy.loss = strategy.loss * (1 + 0.01 * self.steps)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["steps"] < 0:
            raise KeyError("steps")
        self.steps = state["steps"]


class Unsavable(SupervisedPlugin):
    def __init__(self) -> None:
        super().__init__()
        self.steps, self.iterator = 0, iter([1, 2])

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        self.steps += 1


PLUGINS: dict[str, Callable[[Any], list[Any]]] = {
    "everything": lambda optimizer: [Everything()],
    "state_dict": lambda optimizer: [WithStateDict(), WithStateDict()],
    "ewc": lambda optimizer: [EWCPlugin(5.0)],
    "ewc online": lambda optimizer: [EWCPlugin(5.0, mode="online", decay_factor=0.5)],
    "lwf": lambda optimizer: [LwFPlugin(2.0)],
    "mas": lambda optimizer: [MASPlugin(1.0)],
    "rwalk": lambda optimizer: [RWalkPlugin(0.5, delta_t=4)],
    "si": lambda optimizer: [SynapticIntelligencePlugin(0.1)],
    "step": lambda optimizer: [
        LRSchedulerPlugin(lr_scheduler.StepLR(optimizer, 3, 0.5), reset_scheduler=False, reset_lr=False)
    ],
    "multistep": lambda optimizer: [
        LRSchedulerPlugin(lr_scheduler.MultiStepLR(optimizer, [2, 5]), reset_scheduler=False, reset_lr=False)
    ],
    "onecycle": lambda optimizer: [
        LRSchedulerPlugin(
            lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=60),
            reset_scheduler=False,
            reset_lr=False,
            step_granularity="iteration",
        )
    ],
    "plateau": lambda optimizer: [
        LRSchedulerPlugin(
            lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5),
            reset_scheduler=False,
            reset_lr=False,
            metric="train_loss",
        )
    ],
}


@pytest.mark.parametrize("name", PLUGINS)
def test_plugins_resume_bitwise(name: str, tmp_path: Path) -> None:
    model = "incremental" if name in ("ewc", "lwf", "everything") else "plain"
    run = Run(model, plugins=PLUGINS[name])
    whole = run.whole(tmp_path)
    bare = Run(model)
    without = bare.strategy(seed=1)
    bare.train(without, bare.benchmark().train_stream)
    if name != "si":  # on a CPU its reference weights share the memory of the live ones: no penalty at all
        assert any(
            not torch.equal(a, b) for a, b in zip(whole.model.parameters(), without.model.parameters(), strict=True)
        )
    for boundary in range(EXPERIENCES + 1):
        assert_same(whole, run.resumed(tmp_path / str(boundary)))


def test_attributes_come_back_with_their_types(tmp_path: Path) -> None:
    run = Run(plugins=PLUGINS["everything"])
    saved = run.whole(tmp_path).plugins[0]
    fresh = run.strategy(seed=4)
    before = vars(fresh.plugins[0]).copy()
    load_run_state(fresh, tmp_path / str(EXPERIENCES))
    for name, value in vars(fresh.plugins[0]).items():
        assert type(value) is type(vars(saved)[name]), name
    assert fresh.plugins[0].history == saved.history
    # Objects stay the same objects: the optimiser in the plugin goes on training the module in the plugin.
    for name in ("module", "module_optimizer", "generator", "scale", "by_class"):
        assert vars(fresh.plugins[0])[name] is before[name]


def test_a_plugin_that_cannot_be_saved_is_named(tmp_path: Path) -> None:
    run = Run(plugins=lambda optimizer: [Unsavable()])
    with pytest.raises(CheckpointError, match=r"strategy.plugins\[0\]: Unsavable holds 'iterator'"):
        save_run_state(run.strategy(seed=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_avalanches_replay_points_to_ours(tmp_path: Path) -> None:
    run = Run(plugins=lambda optimizer: [ReplayPlugin(20)])
    with pytest.raises(CheckpointError, match=r"ReplayPlugin holds 'storage_policy'.*MemoryReplayPlugin"):
        save_run_state(run.strategy(seed=1), tmp_path / "run")


def test_a_strategy_that_cannot_be_saved_is_named(tmp_path: Path) -> None:
    run = Run()
    model = MODELS["plain"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    strategy = Cumulative(
        model=model, optimizer=optimizer, criterion=nn.CrossEntropyLoss(), train_mb_size=10, evaluator=None
    )
    strategy.train(run.benchmark().train_stream[0])
    with pytest.raises(CheckpointError, match="its attribute 'dataset' is of type"):
        save_run_state(strategy, tmp_path / "run")


def test_not_strict_leaves_a_plugin_out(tmp_path: Path) -> None:
    run = Run(plugins=lambda optimizer: [Unsavable(), WithStateDict()])
    strategy = run.strategy(seed=1)
    run.train(strategy, run.benchmark().train_stream[:1])
    with pytest.warns(UserWarning, match="left out of the checkpoint.*Unsavable"):
        save_run_state(strategy, tmp_path / "run", strict=False)
    fresh = run.strategy(seed=2)
    with pytest.raises(CheckpointError, match="without the state of some plugins"):
        load_run_state(fresh, tmp_path / "run")
    assert load_run_state(fresh, tmp_path / "run", strict=False) == 1
    assert fresh.plugins[0].steps == 0
    assert fresh.plugins[1].steps == strategy.plugins[1].steps > 0


def test_other_plugins_are_an_error_unless_not_strict(tmp_path: Path) -> None:
    run = Run(plugins=PLUGINS["state_dict"])
    saved = run.whole(tmp_path)
    other = Run(plugins=lambda optimizer: [EWCPlugin(1.0), WithStateDict()]).strategy(seed=2)
    with pytest.raises(CheckpointError, match=r"expected \['WithStateDict', 'WithStateDict', .*got \['EWCPlugin'"):
        load_run_state(other, tmp_path / "2")
    assert load_run_state(other, tmp_path / "2", strict=False) == 2
    assert other.plugins[1].steps == saved.plugins[0].steps * 2 // EXPERIENCES


def test_a_plugin_that_refuses_its_state_leaves_the_strategy_unchanged(tmp_path: Path) -> None:
    run = Run(plugins=lambda optimizer: [Everything(), WithStateDict()])
    strategy = run.strategy(seed=1)
    run.train(strategy, run.benchmark().train_stream[:2])
    strategy.plugins[1].steps = -1
    save_run_state(strategy, tmp_path / "bad")
    fresh, same = run.strategy(seed=3), run.strategy(seed=3)
    random_state = torch.get_rng_state()
    with pytest.raises(CheckpointError, match="steps"):
        load_run_state(fresh, tmp_path / "bad")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_same(fresh, same)
    assert vars(fresh.plugins[0]).keys() == vars(same.plugins[0]).keys()
    for strategy in (fresh, same):
        torch.manual_seed(0)
        run.train(strategy, run.benchmark().train_stream)
    assert_same(fresh, same)
