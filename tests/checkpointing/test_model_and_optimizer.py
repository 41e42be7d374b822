"""Models that grow, and optimisers of every kind, fit or say why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint_runs
import pytest
import torch
from avalanche.models import DynamicModule, IncrementalClassifier, NCMClassifier
from avalanche.training import Naive
from checkpoint_runs import EXPERIENCES, FEATURES, Plain, Run, assert_same
from torch import Tensor, nn

from avalanche_memplugins.checkpointing import CheckpointError, load_run_state, save_run_state


class GrowsItsOwnWay(DynamicModule):
    """A prototype for each class met in training, in a parameter list that no checkpoint can know of."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.ParameterList([nn.Parameter(torch.randn(FEATURES)) for _ in range(2)])
        self.adaptations = 0

    def adaptation(self, experience: Any) -> None:
        self.adaptations += self.training
        while len(self.prototypes) <= max(experience.classes_in_this_experience):
            self.prototypes.append(nn.Parameter(torch.randn(FEATURES)))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(x, torch.stack(list(self.prototypes)))


class Recurrent(nn.Module):
    """Its layer keeps a list of its own weights, which must stay the parameters themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.classifier = nn.LSTM(3, 8, batch_first=True), IncrementalClassifier(8)
        self.scratch = torch.zeros(3)
        self.register_buffer("transient", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.scratch = self.scratch + 1
            self.transient += 0.5
        return self.classifier(self.lstm(x.view(len(x), 4, 3))[0][:, -1]) + self.scratch.mean() * self.transient.mean()


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], nn.Module]]:
    table = {**checkpoint_runs.MODELS, "own": GrowsItsOwnWay, "recurrent": Recurrent}
    monkeypatch.setattr(checkpoint_runs, "MODELS", table)
    return table


@pytest.mark.parametrize("evaluate", [True, False])
def test_modules_of_ones_own_grow_over_the_experiences(evaluate: bool, tmp_path: Path) -> None:
    run = Run("own", "adam", evaluate=evaluate)
    whole = run.whole(tmp_path)
    for boundary in range(EXPERIENCES + 1):
        stream = run.benchmark().train_stream
        resumed = run.resumed(tmp_path / str(boundary), experiences=stream)
        assert_same(whole, resumed)
        assert resumed.model.adaptations == whole.model.adaptations == EXPERIENCES


def test_modules_of_ones_own_want_the_experiences(tmp_path: Path) -> None:
    run = Run("own")
    run.whole(tmp_path)
    fresh, same = run.strategy(seed=2), run.strategy(seed=2)
    state = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=r"prototypes.2 is missing from the model.*experiences=benchmark"):
        load_run_state(fresh, tmp_path / "2")
    with pytest.raises(CheckpointError, match=r"prototypes.4 is missing from the model"):
        load_run_state(fresh, tmp_path / "3", experiences=run.benchmark().train_stream[:2])
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(fresh, same)


def test_recurrent_layers_and_hidden_state(tmp_path: Path) -> None:
    run = Run("recurrent", "adam")
    whole = run.whole(tmp_path)
    for boundary in (0, 1, 3):
        resumed = run.resumed(tmp_path / str(boundary))
        assert_same(whole, resumed)
        assert torch.equal(whole.model.scratch, resumed.model.scratch)
        assert torch.equal(whole.model.transient, resumed.model.transient)
        weights = resumed.model.lstm._flat_weights
        assert all(a is b for a, b in zip(weights, resumed.model.lstm.parameters(), strict=True))


def test_lazy_buffers(models: dict[str, Callable[[], nn.Module]], tmp_path: Path) -> None:
    models["ncm"] = lambda: nn.Sequential(nn.Linear(FEATURES, 4), NCMClassifier())
    run = Run("ncm")
    saved, fresh = run.strategy(seed=1), run.strategy(seed=2)
    saved.model[1].update_class_means_dict({0: torch.ones(4), 3: torch.zeros(4)})
    save_run_state(saved, tmp_path / "run")
    load_run_state(fresh, tmp_path / "run")
    assert torch.equal(fresh.model[1].class_means, saved.model[1].class_means)
    assert list(fresh.model[1].class_means_dict) == [0, 3]
    x = torch.randn(5, FEATURES)
    assert torch.equal(fresh.model(x), saved.model(x))


@pytest.mark.parametrize(
    ("model", "other", "match"),
    [
        ("plain", "wide", r"trunk.0.weight is \(16, 12\) float32 in the checkpoint, \(32, 12\) float32 in the model"),
        ("plain", "double", r"\(16, 12\) float32 in the checkpoint, \(16, 12\) float64 in the model"),
        ("plain", "incremental", r"classifier.classifier.weight is missing from the checkpoint"),
        ("multihead", "incremental", r"classifier.active_units_T1 is missing from the model"),
        ("incremental", "large", r"classifier.classifier.weight is \(6, 16\) .* \(20, 16\)"),
        ("incremental", "narrow", r"classifier.classifier.weight is \(6, 16\) .* \(2, 8\)"),
    ],
)
def test_a_model_that_does_not_fit(
    model: str, other: str, match: str, models: dict[str, Callable[[], nn.Module]], tmp_path: Path
) -> None:
    def changed(change: Callable[[Any], None]) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            made = Plain()
            change(made)
            return made

        return make

    def wide(m: Any) -> None:
        m.trunk[0] = nn.Linear(FEATURES, 32)

    def narrow(m: Any) -> None:
        m.trunk.append(nn.Linear(16, 8))
        m.classifier = IncrementalClassifier(8)

    models["wide"] = changed(wide)
    models["double"] = changed(lambda m: m.double())
    models["large"] = changed(lambda m: setattr(m, "classifier", IncrementalClassifier(16, 20)))
    models["narrow"] = changed(narrow)
    Run(model).whole(tmp_path)
    fresh, same = Run(other).strategy(seed=2), Run(other).strategy(seed=2)
    with pytest.raises(CheckpointError, match=match):
        load_run_state(fresh, tmp_path / "2")
    assert_same(fresh, same)


def test_frozen_parameters_and_modes(tmp_path: Path) -> None:
    run = Run()
    saved, fresh = run.strategy(seed=1), run.strategy(seed=2)
    saved.model.trunk[0].requires_grad_(False)
    saved.model.trunk[1].eval()
    save_run_state(saved, tmp_path / "run")
    load_run_state(fresh, tmp_path / "run")
    assert [p.requires_grad for p in fresh.model.parameters()] == [False, False, True, True, True, True]
    assert [m.training for m in fresh.model.modules()] == [m.training for m in saved.model.modules()]
    assert not fresh.model.trunk[1].training


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01), foreach=False),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.01),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.001),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_other_optimizers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checkpoint_runs.OPTIMIZERS, name, lambda p: OPTIMIZERS[name](list(p)))
    run = Run("plain", name)
    assert_same(run.whole(tmp_path), run.resumed(tmp_path / "2"))


class Grouped:
    """Two groups with rates of their own, one of them with a parameter of the criterion."""

    def __init__(self, evaluate: bool = True) -> None:
        self.run = Run("incremental", evaluate=evaluate)

    def strategy(self, seed: int) -> Naive:
        torch.manual_seed(seed)
        model, temperature = checkpoint_runs.MODELS["incremental"](), nn.Parameter(torch.ones(1))

        class Criterion(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.temperature = temperature

            def forward(self, out: Tensor, y: Tensor) -> Tensor:
                return nn.functional.cross_entropy(out * self.temperature, y)

        groups = [
            {"params": list(model.trunk.parameters()), "lr": 0.05},
            {"params": [temperature, *model.classifier.parameters()], "lr": 0.2, "momentum": 0.5},
        ]
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        return Naive(
            model=model,
            optimizer=optimizer,
            criterion=Criterion(),
            train_mb_size=10,
            eval_mb_size=60,
            evaluator=None,
        )


@pytest.mark.parametrize("evaluate", [True, False])
def test_groups_and_parameters_from_outside_the_model(evaluate: bool, tmp_path: Path) -> None:
    grouped = Grouped(evaluate)
    stream = grouped.run.benchmark().train_stream
    whole = grouped.strategy(seed=1)
    for number, experience in enumerate(stream, start=1):
        grouped.run.train(whole, [experience])
        save_run_state(whole, tmp_path / str(number))
    for number in range(1, EXPERIENCES + 1):
        resumed = grouped.strategy(seed=2)
        grouped.run.train(resumed, stream[load_run_state(resumed, tmp_path / str(number)) :])
        assert_same(whole, resumed)
        assert torch.equal(whole._criterion.temperature, resumed._criterion.temperature)
        assert whole._criterion.temperature.item() != 1.0
        assert resumed.optimizer.param_groups[1]["params"][0] is resumed._criterion.temperature
        assert len(resumed.optimizer.param_groups[1]["params"]) == 3


def test_an_optimizer_that_does_not_fit(tmp_path: Path) -> None:
    Run("incremental", "adam").whole(tmp_path)
    grouped = Grouped()
    strategy = grouped.strategy(seed=1)
    save_run_state(strategy, tmp_path / "grouped")
    with pytest.raises(CheckpointError, match=r"strategy.optimizer: expected Adam, as in the checkpoint, got SGD"):
        load_run_state(Run("incremental", "sgd").strategy(seed=2), tmp_path / "2")
    with pytest.raises(CheckpointError, match=r"strategy.optimizer: expected 2 parameter groups.*got 1"):
        load_run_state(Run("incremental", "sgd").strategy(seed=2), tmp_path / "grouped")
    del strategy.optimizer.param_groups[1]["params"][0]
    with pytest.raises(
        CheckpointError, match=r"expected a parameter \(1,\) from outside the model at place 0 of group 1"
    ):
        load_run_state(strategy, tmp_path / "grouped")


def test_an_optimizer_with_state_of_its_own_making(tmp_path: Path) -> None:
    class Own(torch.optim.SGD):
        def state_dict(self) -> dict[str, Any]:
            return {"own": 1, **super().state_dict()}

    model = Plain()
    strategy = Naive(model=model, optimizer=Own(model.parameters(), lr=0.1), evaluator=None)
    with pytest.raises(CheckpointError, match="strategy: optimizer is of type Own"):
        save_run_state(strategy, tmp_path / "run")
