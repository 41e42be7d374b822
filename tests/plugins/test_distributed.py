"""Two ranks train as one process does, and no row is stored twice."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avalanche_memplugins import LeanStepPlugin, MemoryReplayPlugin, RandomMemory, TensorLoaderPlugin
from avalanche_memplugins.benchmarks import SplitDigits
from avalanche_memplugins.memories import EpisodicMemory
from avalanche_memplugins.plugins import GradientAveragingPlugin, LatentReplayPlugin, LocalAdaptationPlugin
from avalanche_memplugins.plugins.gradient_averaging import _together

sys.path.insert(0, str(Path(__file__).parent))
import _ranks


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_ranks_train_as_one_process_with_the_doubled_batch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", port]
    script = Path(_ranks.__file__)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for part in one:
        assert one[part]["weights"] == other[part]["weights"], f"{part}: the ranks have drifted apart"

    alone = _ranks.full_batch(0, 1, 0)
    np.testing.assert_allclose(one["full batch"]["weights"], alone["weights"], rtol=1e-9, atol=1e-12)
    assert other["full batch"]["buffer"] == 0.0, "the first rank's"

    accuracies = [one[f"replay {seed}"]["accuracy"] for seed in range(2)]
    single = [_ranks.replay(0, 1, seed)["accuracy"] for seed in range(2)]
    assert np.mean(accuracies) == pytest.approx(np.mean(single), abs=0.06)
    assert min(single) > 0.7, "the comparison means something only where something is learned"

    for seed in range(2):
        rows = _rows(one[f"replay {seed}"]) + _rows(other[f"replay {seed}"])
        assert sum(rows.values()) == 400
        assert not rows - _stream(seed), "a row is stored more often than the stream has it"
    rows = _rows(one["at the end"]) + _rows(other["at the end"])
    assert rows == _stream(0), "every row on one of the ranks"
    for part in (one, other):
        assert part["quick"]["weights"] == part["quick"]["plain"], "the lean loop changes nothing"
        (said,) = part["quick"]["warned"]
        assert "training is distributed" in said


def _rows(part: dict[str, Any]) -> Counter[tuple[float, ...]]:
    return Counter(tuple(np.round(row, 4)) for row in part["rows"])


def _stream(seed: int) -> Counter[tuple[float, ...]]:
    return Counter(
        tuple(np.round(np.asarray(row[0]).ravel().tolist(), 4))
        for experience in SplitDigits(n_experiences=5, seed=seed).train_stream
        for row in experience.dataset
    )


def test_what_was_tested_on_several_ranks_says_so() -> None:
    memory = RandomMemory(10)
    plugins = [MemoryReplayPlugin(memory), MemoryReplayPlugin(memory, write_at="experience"), GradientAveragingPlugin()]
    for plugin in (*plugins, LatentReplayPlugin(memory, at="0"), LeanStepPlugin(), TensorLoaderPlugin()):
        assert plugin.supports_distributed
    assert not LocalAdaptationPlugin(EpisodicMemory(10)).supports_distributed


@pytest.mark.parametrize("replays", [False, True])
def test_in_a_single_process_nothing_changes(replays: bool) -> None:
    weights = []
    for more in ([], [GradientAveragingPlugin()]):
        benchmark = SplitDigits(n_experiences=5, seed=0)
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        strategy = _ranks.Naive(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=16,
            plugins=[*more, *([MemoryReplayPlugin(RandomMemory(50, seed=0), replay_weight=0.5)] if replays else [])],
            evaluator=None,
        )
        strategy.train(benchmark.train_stream[:2])
        weights.append(_ranks.flat(model))
    assert weights[0] == weights[1]


def test_messages_bring_every_tensor_back_to_its_place() -> None:
    tensors = [torch.randn(2, 3), torch.tensor(5), torch.randn(4).double(), torch.randn(3, 2).T, torch.tensor(2.0)]
    wanted = [-tensor.clone() for tensor in tensors]
    messages: list[int] = []
    _together(tensors, lambda flat: (messages.append(len(flat)), flat.neg_()))
    assert all(torch.equal(tensor, value) for tensor, value in zip(tensors, wanted, strict=True))
    assert sorted(messages) == [1, 4, 13], "one message a type"
