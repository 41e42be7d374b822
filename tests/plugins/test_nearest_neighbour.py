"""The nearest-neighbour classifier, against brute force in numpy's float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from _streams import CASES, CLASSES, Case, build, run, weights
from avalanche.core import SupervisedPlugin
from torch import nn

from avalanche_memplugins import EpisodicMemory, MemoryReplayPlugin, NearestNeighbourPlugin, RandomMemory


class Outputs(SupervisedPlugin):
    """What the model itself says of each test row, and what stands there in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[dict[str, np.ndarray]] = []

    def before_eval_forward(self, strategy: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            own = strategy.forward().numpy().astype(np.float64)
        self.batches.append({"x": strategy.mbatch[0].numpy(), "t": strategy.mbatch[-1].numpy(), "own": own})

    def after_eval_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.batches[-1]["output"] = strategy.mb_output.numpy().astype(np.float64)


def votes(query: np.ndarray, keys: np.ndarray, labels: np.ndarray, k: int, kernel: str) -> np.ndarray:
    squared = ((query[None] - keys) ** 2).sum(1)
    near = np.argsort(squared, kind="stable")[:k]
    d = squared[near]
    weight = {
        "uniform": np.ones(len(d)),
        "inverse_distance": 1 / (1e-3 + d),
        "nearest_relative": np.exp(-(d - d[0]) / (0.15 * max(d[0], 1e-3))),
    }[kernel]
    out = np.zeros(CLASSES)
    np.add.at(out, labels[near], weight / weight.sum())
    return out


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


@pytest.mark.parametrize("case_name", ["x, y, t", "multi-head"])
@pytest.mark.parametrize(
    ("k", "mix", "kernel"), [(1, 1.0, "uniform"), (5, 0.4, "nearest_relative"), (7, 1.0, "inverse_distance")]
)
def test_predictions_are_those_of_brute_force(k: int, mix: float, kernel: Any, case_name: str) -> None:
    memory, outputs, case = RandomMemory(60, write_policy="reservoir", seed=4), Outputs(), CASES[case_name]
    plugin = NearestNeighbourPlugin(memory, neighbours=k, mix=mix, kernel=kernel, writes=True)
    strategy = run(case, [plugin, outputs])
    strategy.eval(case.benchmark().test_stream, num_workers=0)
    rows = memory.rows(torch.arange(len(memory)))
    keys, labels, tasks = (part.numpy() for part in (rows.x.double(), rows.y, rows.t))
    checked = 0
    for batch in outputs.batches:
        for x, t, own, output in zip(batch["x"], batch["t"], batch["own"], batch["output"], strict=True):
            among = tasks == t if case_name == "multi-head" else np.ones(len(keys), dtype=bool)
            voted = votes(x.astype(np.float64), keys[among], labels[among], k, kernel)
            expected = np.log(np.maximum((1 - mix) * softmax(own) + mix * voted, 1e-6))
            assert np.allclose(output, expected, atol=2e-3 if kernel == "nearest_relative" else 1e-4)
            checked += 1
    assert checked == 60


def test_keys_of_a_layer_are_made_with_the_model_as_it_is() -> None:
    memory, outputs = EpisodicMemory(60, write_policy="reservoir", seed=4), Outputs()
    plugin = NearestNeighbourPlugin(memory, key="features", writes=True)
    strategy = run(Case(), [plugin, outputs])
    for _ in range(2):
        with torch.no_grad():
            for p in strategy.model.features.parameters():
                p.add_(torch.randn_like(p))
            rows = memory.rows(torch.arange(60))
            keys = strategy.model.features(rows.x).double().numpy()
        outputs.batches.clear()
        strategy.eval(Case().benchmark().test_stream, num_workers=0)
        with torch.no_grad():
            queries = [strategy.model.features(torch.from_numpy(b["x"])).double().numpy() for b in outputs.batches]
        for batch, query in zip(outputs.batches, queries, strict=True):
            nearest = ((query[:, None] - keys[None]) ** 2).sum(2).argmin(1)
            assert np.array_equal(batch["output"].argmax(1), rows.y.numpy()[nearest])


def test_beside_replay_it_leaves_training_alone() -> None:
    def replay() -> MemoryReplayPlugin:
        return MemoryReplayPlugin(RandomMemory(40, write_policy="reservoir", seed=5))

    alone, beside = replay(), replay()
    first = run(Case(), [alone])
    second = run(Case(), [beside, NearestNeighbourPlugin(beside.memory, neighbours=3, mix=0.5)])
    second.eval(Case().benchmark().test_stream, num_workers=0)
    assert torch.equal(weights(first), weights(second))


def test_a_memory_of_keys_alone_is_enough() -> None:
    torch.manual_seed(0)
    embedding = nn.Linear(8, 3)
    memory = EpisodicMemory(60, write_policy="reservoir", embedding=embedding, keep="key", seed=4)
    outputs = Outputs()
    strategy = run(Case(), [NearestNeighbourPlugin(memory, writes=True), outputs])
    strategy.eval(Case().benchmark().test_stream, num_workers=0)
    rows = memory.rows(torch.arange(60))
    assert rows.x.shape == (60, 3)
    for batch in outputs.batches:
        query = embedding(torch.from_numpy(batch["x"])).detach().double().numpy()
        nearest = ((query[:, None] - rows.x.double().numpy()[None]) ** 2).sum(2).argmin(1)
        assert np.array_equal(batch["output"].argmax(1), rows.y.numpy()[nearest])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": 0.0}, "mix: expected a number > 0 and <= 1, got 0.0"),
        ({"mix": 1.5}, "mix: expected a number > 0 and <= 1, got 1.5"),
        ({"neighbours": 0}, "neighbours: expected an integer >= 1, got"),
        ({"kernel": "gauss"}, "kernel: expected one of 'uniform', 'nearest_relative', 'inverse_distance', got"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NearestNeighbourPlugin(RandomMemory(4), **options)


def test_a_class_without_an_output_is_told() -> None:
    memory = RandomMemory(4)
    memory.write(torch.zeros(1, 8), torch.tensor([9]))
    strategy = build(Case(), [NearestNeighbourPlugin(memory)])
    with pytest.raises(ValueError, match="memory: holds class 9, for which the model of 6 outputs has none"):
        strategy.eval(Case().benchmark().test_stream, num_workers=0)
