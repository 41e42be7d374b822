"""Strategies that train nothing, and replay from models of the stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from _streams import CASES, CLASSES, Case, rows, run, weights
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid
from torch import nn

from avalanche_memplugins import DynamicKanervaMemory, GaussianMemory, MemoryReplayPlugin
from avalanche_memplugins.strategies import GaussianReplay, KanervaReplay, NearestMean, StreamingLDA, StreamingQDA


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
    assert len(strategy.memory._bank.open) == 0
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
