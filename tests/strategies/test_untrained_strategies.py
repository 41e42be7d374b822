"""Strategies that train nothing, and replay from models of the stream."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from _streams import CASES, CLASSES, Case, rows, run, weights
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid
from torch import nn

from avalanche_memplugins import DynamicKanervaMemory, GaussianMemory, MemoryReplayPlugin
from avalanche_memplugins.strategies import (
    GaussianReplay,
    KanervaReplay,
    NearestMean,
    RanPAC,
    StreamingLDA,
    StreamingQDA,
)


class Answers(SupervisedPlugin):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def after_eval_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.seen.append(strategy.mb_output.argmax(1))


def answers(kind: Any, case: Case, **options: Any) -> tuple[Any, torch.Tensor]:
    watch = Answers()
    strategy = kind(num_classes=CLASSES, train_mb_size=16, eval_mb_size=64, evaluator=None, plugins=[watch], **options)
    for experience in case.stream():
        strategy.train(experience, num_workers=0)
    strategy.eval(case.benchmark().test_stream, num_workers=0)
    return strategy, torch.cat(watch.seen)


@pytest.mark.parametrize("case_name", ["x, y, t", "x, y", "online"])
def test_they_are_the_classifiers_of_scikit_learn(case_name: str) -> None:
    train, test = rows(180, 0).tensors, rows(60, 1).tensors
    case = CASES[case_name]
    for kind, model in (
        (NearestMean, NearestCentroid()),
        (StreamingLDA, LinearDiscriminantAnalysis(solver="lsqr")),
    ):
        options = {"ridge": 1e-6} if kind is StreamingLDA else {}
        _, got = answers(kind, case, **options)
        expected = model.fit(train[0].double().numpy(), train[1].numpy()).predict(test[0].double().numpy())
        assert sorted(got.tolist()) == sorted(expected.tolist())


def test_ranpac_is_ridge_regression_over_random_features() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 12), nn.Dropout())
    strategy, got = answers(RanPAC, Case(), model=network, width=30, ridge=1.0, seed=3)
    projection = torch.randn(12, 30, generator=torch.Generator().manual_seed(3)).numpy() / np.sqrt(12)
    with torch.no_grad():
        train, test = (
            np.maximum(network.eval()(rows(*of).tensors[0]).numpy() @ projection, 0) for of in ((180, 0), (60, 1))
        )
    targets = np.eye(CLASSES)[rows(180, 0).tensors[1].numpy()]
    expected = Ridge(alpha=1.0, fit_intercept=False).fit(train, targets).predict(test).argmax(1)
    assert sorted(got.tolist()) == sorted(expected.tolist())
    assert len(strategy.memory) == 180


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (NearestMean, {"precision": 4}),
        (StreamingLDA, {"precision": 6}),
        (StreamingQDA, {"precision": 4, "components": 2, "seed": 0}),
        (StreamingQDA, {"rank": 2, "by": "experience"}),
    ],
)
def test_an_extractor_runs_before_and_nothing_is_trained(kind: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 12), nn.Dropout(), nn.ReLU())
    before = network[0].weight.clone()
    strategy, got = answers(kind, Case(), model=network, **options)
    assert torch.equal(network[0].weight, before)
    assert network.training
    assert strategy.memory.nbytes_fixed == 4 * (8 * 12 + 12)
    assert len(strategy.memory) == 180
    assert len(strategy.memory._open) == 0
    with torch.no_grad():
        features = network.eval()(rows(180, 0).tensors[0])
    # Chance is 10 of 60.
    truth = torch.cat([torch.tensor([int(y) for _, y, *_ in e.dataset]) for e in Case().benchmark().test_stream])
    assert int((got == truth).sum()) > 30
    assert features.shape == (180, 12)


def test_metrics_see_the_memorys_answers() -> None:
    evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[])
    strategy = StreamingQDA(num_classes=CLASSES, evaluator=evaluator, seed=0)
    for experience in Case().stream():
        strategy.train(experience, num_workers=0)
    found = strategy.eval(Case().benchmark().test_stream, num_workers=0)
    accuracy = next(value for name, value in found.items() if name.startswith("Top1_Acc_Stream"))
    assert accuracy > 0.7


@pytest.mark.parametrize(
    ("kind", "options", "memory"),
    [
        (GaussianReplay, {"rank": 2}, lambda: GaussianMemory(rank=2, seed=3)),
        (
            GaussianReplay,
            {"rank": None, "components": 2, "precision": 6, "replay_weight": "growing"},
            lambda: GaussianMemory(rank=None, components=2, precision=6, seed=3),
        ),
        (KanervaReplay, {"rows": 3}, lambda: DynamicKanervaMemory(rows=3, seed=3)),
    ],
)
def test_replay_from_a_model_is_its_plugin_on_naive(kind: Any, options: dict[str, Any], memory: Any) -> None:
    model = Case().model()
    strategy = kind(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), train_mb_size=16,
        eval_mb_size=64, evaluator=None, seed=3, **options,
    )  # fmt: skip
    torch.manual_seed(1)
    for experience in Case().stream():
        strategy.train(experience, num_workers=0)
    plugin = MemoryReplayPlugin(memory(), replay_weight=options.get("replay_weight"), seed=3)
    assert torch.equal(weights(strategy), weights(run(Case(), [plugin])))
    assert np.isfinite(weights(strategy).numpy()).all()


@pytest.mark.parametrize("kind", [NearestMean, StreamingLDA, StreamingQDA])
def test_arguments_are_told_and_checked_but_those_that_it_brings_are_refused(kind: Any) -> None:
    parameters = inspect.signature(kind).parameters
    assert not {"optimizer", "criterion", "train_epochs"} & parameters.keys()
    assert parameters["train_mb_size"].default == 64
    assert "``eval_every``" in str(kind.__doc__)
    assert "``optimizer``" not in str(kind.__doc__)
    with pytest.raises(TypeError, match=f"train_epochs: {kind.__name__} makes its own"):
        kind(num_classes=3, train_epochs=2)
    with pytest.raises(ValueError, match="device: expected a device such as 'cpu'"):
        kind(num_classes=3, device="disk")
    with pytest.raises(TypeError, match="model: expected a module that makes vectors"):
        kind(num_classes=3, model="resnet")
