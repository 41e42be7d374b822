"""Avalanche's metrics with their sums on the device: the same names and values, and no wait in an iteration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics, loss_metrics
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.benchmarks import SplitDigits
from avalanche_memplugins.metrics import on_device

AT = {"minibatch": True, "epoch": True, "epoch_running": True, "experience": True, "stream": True}


def results(metrics: list[Any], benchmark: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    strategy = Naive(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), train_mb_size=33, eval_mb_size=50,
        plugins=[MemoryReplayPlugin(RandomMemory(50, seed=0))], evaluator=EvaluationPlugin(*metrics, loggers=[]),
    )  # fmt: skip
    for experience in benchmark.train_stream[:2]:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream[:2])
    return strategy.evaluator.get_all_metrics()  # type: ignore[no-any-return]


def test_names_and_values_are_avalanches() -> None:
    benchmark = SplitDigits(5, seed=0)
    plain = results([*accuracy_metrics(**AT), *loss_metrics(**AT)], benchmark)
    ours = results(on_device(accuracy_metrics(**AT), loss_metrics(**AT)), benchmark)
    assert plain.keys() == ours.keys()
    for name, (steps, values) in plain.items():
        assert ours[name][0] == steps
        exact = "Loss" in name
        assert ours[name][1] == (values if exact else pytest.approx(values, abs=1e-12))


def test_others_are_left_as_they_are_and_sizes_must_fit() -> None:
    other = forgetting_metrics(experience=True)
    assert on_device(other) == other
    (metric,) = on_device(accuracy_metrics(epoch=True))
    assert metric.result() == 0.0
    with pytest.raises(ValueError, match="true_y: expected one for each of 3 predictions, got 2"):
        metric._metric.update(torch.zeros(3, 2), torch.zeros(2))


def test_no_iteration_waits_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "promises"))
    from fake_cuda import GPU, fake_cuda

    metrics = on_device(accuracy_metrics(epoch=True), loss_metrics(epoch=True))
    with fake_cuda() as record:
        output, y = torch.randn(4, 3).to(GPU), torch.tensor([0, 1, 2, 0]).to(GPU)
        loss = output.mean()
        record.on = True
        for _ in range(3):
            metrics[0]._metric.update(output, y)
            metrics[1]._metric.update(loss, 4)
        record.on = False
        assert "wait" not in {kind for kind, _, _ in record.found}
        right = (output.cpu().argmax(1) == y.cpu()).double().mean().item()
        assert metrics[0].result() == pytest.approx(right)
