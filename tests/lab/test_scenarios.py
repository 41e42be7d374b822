"""Runs on task-incremental streams, tests served from tensors, and baselines whose memory is smaller than a batch."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.core import SupervisedPlugin
from torch import nn

from avalanche_memplugins.lab import RunSpec
from avalanche_memplugins.lab import run as lab_run
from avalanche_memplugins.lab.nets import OFF, TaskMasked
from avalanche_memplugins.lab.run import execute
from avalanche_memplugins.lab.strategies import make_memory
from avalanche_memplugins.lab.streams import open_benchmark


def test_each_task_has_its_own_outputs() -> None:
    own = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=torch.bool)
    network = nn.Linear(3, 4)
    model, x = TaskMasked(network, own), torch.randn(5, 3)
    tasks = torch.tensor([0, 1, 0, 1, 1])
    out, plain = model(x, tasks), network(x)
    for row, task in enumerate(tasks.tolist()):
        assert torch.equal(out[row, own[task]], plain[row, own[task]])
        assert (out[row, ~own[task]] == OFF).all()
    assert torch.equal(model(x, 1), model(x, torch.ones(5, dtype=torch.long)))
    assert torch.equal(model(x, None)[0], model.forward_single_task(x, 0))
    nn.functional.cross_entropy(out, torch.tensor([0, 2, 1, 3, 2])).backward()
    assert torch.isfinite(network.weight.grad).all()


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripes, the class being where they lie: learned in a few steps."""
    rng, raw = np.random.default_rng(0), tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 400), ("t10k", 100)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        images = rng.integers(0, 60, (n, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 3] = 250
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, n, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, n) + labels.tobytes())
    monkeypatch.setenv("MEMPLUGINS_DATA", str(tmp_path))


@pytest.mark.usefixtures("mnist")
@pytest.mark.parametrize("strategy", ["naive", "er-uint8", "replay", "lwf", "er-ace", "agem", "mir", "ewc", "gdumb"])
def test_strategies_run_on_streams_that_tell_the_task(strategy: str) -> None:
    sized = {} if strategy in ("naive", "lwf", "ewc") else {"budget": 60_000}
    run = RunSpec(
        benchmark="split-mnist-task", strategy=strategy, seed=0, n_experiences=5, epochs=5, batch_size=8, **sized
    )
    result = execute(run)
    assert result.ok, result.error
    # Two classes at a time, told which: even fine-tuning is far above the half of guessing.
    assert result.final_accuracy > (0.3 if strategy == "gdumb" else 0.8)


@pytest.mark.usefixtures("mnist")
def test_a_memory_keeps_task_labels_only_where_there_are_some() -> None:
    common: dict[str, Any] = {"strategy": "er-uint8", "seed": 0, "n_experiences": 5, "epochs": 1, "budget": 10_000}
    told = make_memory(RunSpec(benchmark="split-mnist-task", **common))
    plain = make_memory(RunSpec(benchmark="split-mnist", **common))
    assert told.store_tasks
    assert not plain.store_tasks
    told.write(torch.zeros(2, 1, 28, 28).sub(0.1307).div(0.3081), torch.tensor([4, 5]), torch.tensor([2, 2]))
    assert told.sample(2).t.tolist() == [2, 2]
    assert told.nbytes <= 10_000


@pytest.mark.usefixtures("mnist")
def test_rows_are_drawn_for_tests_too() -> None:
    run = RunSpec(
        benchmark="split-mnist", strategy="naive", seed=0, n_experiences=5, epochs=1, train_rows=9, test_rows=4
    )
    stream = open_benchmark(run)
    assert {len(experience.dataset) for experience in stream.train_stream} == {9}
    assert {len(experience.dataset) for experience in stream.test_stream} == {4}


def test_rows_of_digits_are_drawn_and_classes_known(spec: Callable[..., RunSpec]) -> None:
    stream = open_benchmark(spec(n_experiences=5, train_rows=9, test_rows=4))
    whole = open_benchmark(spec(n_experiences=5))
    for few, all_of in zip(stream.train_stream, whole.train_stream, strict=True):
        assert len(few.dataset) == 9
        assert set(few.classes_in_this_experience) == set(all_of.classes_in_this_experience)
    assert stream.classes_order == whole.classes_order


def test_tests_from_tensors_change_no_number(spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    served = execute(spec(strategy="er-uint8", epochs=2))
    monkeypatch.setattr(lab_run, "ServedTests", SupervisedPlugin)
    plain = execute(spec(strategy="er-uint8", epochs=2))
    assert served.accuracy == plain.accuracy
    assert served.weights == plain.weights


@pytest.mark.parametrize("strategy", ["der", "der-pp", "er-ace"])
def test_a_memory_smaller_than_a_batch_is_replayed_all_the_same(
    strategy: str, spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = nn.Module.__call__

    def call(self: nn.Module, x: torch.Tensor, *rest: Any, **more: Any) -> Any:
        if type(self).__name__ == "SimpleMLP" and self.training:
            seen.append(len(x))
        return real(self, x, *rest, **more)

    monkeypatch.setattr(nn.Module, "__call__", call)
    result = execute(spec(strategy=strategy, memory_size=6, batch_size=16))
    assert result.ok, result.error
    # Six rows of ten classes leave one a step; ER-ACE passes it through the model by itself.
    assert 1 in seen if strategy == "er-ace" else 17 in seen


def test_memories_too_small_for_icarl_and_gss_are_refused(spec: Callable[..., RunSpec]) -> None:
    icarl = execute(spec(strategy="icarl", memory_size=9))
    assert "icarl keeps a row a class at least" in (icarl.error or "")
    gss = execute(spec(strategy="gss", memory_size=9, batch_size=16))
    assert "gss compares batches of 16 rows" in (gss.error or "")
