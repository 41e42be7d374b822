"""Bytes held and replay accuracy: values against numpy, Avalanche's names, every logger."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from avalanche.benchmarks import class_incremental_benchmark, nc_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import CSVLogger, InteractiveLogger, TensorboardLogger, TextLogger
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.metrics import MemoryBytes, MemoryFixedBytes, ReplayAccuracy, memory_metrics

CLASSES, FEATURES, ROWS, EPOCHS, BATCH = 4, 5, 24, 2, 6


def benchmark(layout: str = "xyt") -> Any:
    y = torch.arange(ROWS) % CLASSES
    data = TensorDataset(torch.randn(ROWS, FEATURES), y)
    data.targets = y.tolist()  # type: ignore[attr-defined]
    order = list(range(CLASSES))
    if layout == "xyt":
        return nc_benchmark(data, data, 2, task_labels=False, fixed_class_order=order)
    sets = {name: as_classification_dataset(data) for name in ("train", "test")}
    return class_incremental_benchmark(sets, num_experiences=2, class_order=order)


def strategy(plugins: list[Any], metrics: list[Any], loggers: list[Any] | None = None, **kwargs: Any) -> Naive:
    model = nn.Linear(FEATURES, CLASSES)
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        train_mb_size=BATCH,
        train_epochs=EPOCHS,
        eval_mb_size=ROWS,
        plugins=plugins,
        evaluator=EvaluationPlugin(*metrics, loggers=loggers or []),
        **kwargs,
    )


class Replayed(NamedTuple):
    output: Tensor
    y: Tensor
    t: Tensor


class Script(SupervisedPlugin):
    """Pretends to have replayed what a list says, and keeps it for the oracle."""

    def __init__(self, replays: list[Replayed | None]) -> None:
        super().__init__()
        self.replays, self.last_replay = iter(replays), None

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        self.last_replay = next(self.replays)


def scripted(sizes: list[int]) -> list[Replayed | None]:
    g = torch.Generator().manual_seed(0)
    return [
        Replayed(torch.randn(n, CLASSES, generator=g), torch.randint(CLASSES, (n,), generator=g), torch.zeros(n).long())
        if n
        else None
        for n in sizes
    ]


def oracle(replays: list[Replayed | None]) -> float:
    """Share of right predictions over all rows, however they lie in iterations."""
    held = [replay for replay in replays if replay is not None]
    output = np.concatenate([replay.output.numpy().astype(np.float64) for replay in held])
    y = np.concatenate([replay.y.numpy() for replay in held])
    return sum(int(np.argmax(row)) == label for row, label in zip(output, y, strict=True)) / len(y)


def test_replay_accuracy_counts_rows_not_iterations() -> None:
    # Two epochs of two iterations in each of two experiences; sizes that differ, and some without replay.
    replays = scripted([0, 7, 1, 13, 5, 0, 0, 2])
    trained = strategy([Script(replays)], [memory_metrics(minibatch=True, epoch=True, experience=True)])
    with pytest.warns(UserWarning, match="no plugin of the strategy has a memory"):
        trained.train(benchmark().train_stream)
    results = {name: values for name, (_, values) in trained.evaluator.get_all_metrics().items()}
    where = "train_phase/train_stream/Task000"
    assert results[f"Top1_ReplayAcc_MB/{where}"] == pytest.approx([oracle([r]) for r in replays if r is not None])
    epochs = [oracle(replays[i : i + 2]) for i in (0, 2, 4, 6)]
    assert results[f"Top1_ReplayAcc_Epoch/{where}"] == pytest.approx(epochs)
    assert results[f"Top1_ReplayAcc_Exp/{where}/Exp000"] == pytest.approx([oracle(replays[:4])])
    assert results[f"Top1_ReplayAcc_Exp/{where}/Exp001"] == pytest.approx([oracle(replays[4:])])
    assert not any(name.startswith("Memory") for name in results)


def test_nothing_replayed_emits_nothing() -> None:
    trained = strategy([Script(scripted([0] * 4 + [3] * 4))], [ReplayAccuracy("epoch"), ReplayAccuracy()])
    trained.train(benchmark().train_stream)
    where = "train_phase/train_stream/Task000"
    results = trained.evaluator.get_all_metrics()
    assert set(results) == {f"Top1_ReplayAcc_Epoch/{where}", f"Top1_ReplayAcc_Exp/{where}/Exp001"}
    assert len(results[f"Top1_ReplayAcc_Epoch/{where}"][1]) == 2


def test_rows_of_several_plugins_are_pooled() -> None:
    one, two = scripted([4] * 8), scripted([9] * 8)[::-1]
    trained = strategy([Script(one), Script(two)], [ReplayAccuracy()])
    result = trained.train(benchmark().train_stream[0])
    assert result == {
        "Top1_ReplayAcc_Exp/train_phase/train_stream/Task000/Exp000": pytest.approx(oracle([*one[:4], *two[:4]]))
    }


def test_counting_waits_for_no_device() -> None:
    # Values of tensors on the meta device do not exist: asking for one raises.
    class Plugin:
        last_replay = Replayed(
            torch.empty(8, CLASSES, device="meta"),
            torch.empty(8, dtype=torch.long, device="meta"),
            torch.empty(8, dtype=torch.long, device="meta"),
        )

    class Strategy:
        plugins = (Plugin(), object())

    metric = ReplayAccuracy()
    for _ in range(3):
        metric.update(Strategy())
    with pytest.raises(RuntimeError, match="meta"):
        metric.result()


class Held:
    def __init__(self, nbytes: int, nbytes_fixed: int | None = None) -> None:
        self.nbytes = nbytes
        if nbytes_fixed is not None:
            self.nbytes_fixed = nbytes_fixed


class Holds(SupervisedPlugin):
    """A plugin whose memory grows by one byte an iteration."""

    def __init__(self, memory: Any) -> None:
        super().__init__()
        self.memory = memory

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        if self.memory is not None:
            self.memory.nbytes += 1


def test_bytes_are_summed_and_shared_memories_count_once() -> None:
    shared, other = Held(100, 7), Held(1000)
    plugins = [Holds(shared), Holds(shared), Holds(other), Holds(None)]
    trained = strategy(plugins, [MemoryBytes("epoch"), MemoryBytes(), MemoryFixedBytes()])
    trained.train(benchmark().train_stream)
    results = {name: values for name, (_, values) in trained.evaluator.get_all_metrics().items()}
    where = "train_phase/train_stream/Task000"
    # Three bytes an iteration, two iterations an epoch.
    assert results[f"MemoryBytes_Epoch/{where}"] == [1106, 1112, 1118, 1124]
    assert results[f"MemoryBytes_Exp/{where}/Exp000"] == [1112]
    assert results[f"MemoryBytes_Exp/{where}/Exp001"] == [1124]
    assert results[f"MemoryFixedBytes_Exp/{where}/Exp001"] == [7]
    assert all(type(value) is int for values in results.values() for value in values)


@pytest.mark.parametrize("layout", ["xyt", "xy"])
def test_with_a_random_memory(layout: str) -> None:
    seen: list[Any] = []

    class Spy(SupervisedPlugin):
        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            replay = strategy.plugins[0].last_replay
            seen.append(None if replay is None else Replayed(*(column.clone() for column in replay[:3])))

    embedding = nn.Linear(FEATURES, 3)
    memory = RandomMemory(10, embedding=embedding, keep="both")
    trained = strategy(
        [MemoryReplayPlugin(memory, write_at="iteration"), Spy()], [memory_metrics(epoch=True, experience=True)]
    )
    result: dict[str, Any] = {}
    for experience in benchmark(layout).train_stream:
        result.update(trained.train(experience))
    where = "train_phase/train_stream" + ("/Task000" if layout == "xyt" else "")
    assert set(result) == {
        f"{name}_{suffix}"
        for name in ("MemoryBytes", "MemoryFixedBytes", "Top1_ReplayAcc")
        for suffix in (f"Epoch/{where}", f"Exp/{where}/Exp000", f"Exp/{where}/Exp001")
    }
    assert result[f"MemoryBytes_Exp/{where}/Exp001"] == memory.nbytes > 0
    assert result[f"MemoryFixedBytes_Exp/{where}/Exp001"] == 4 * (3 * FEATURES + 3)
    assert len(seen) == 8
    assert result[f"Top1_ReplayAcc_Exp/{where}/Exp000"] == pytest.approx(oracle(seen[:4]))
    assert result[f"Top1_ReplayAcc_Exp/{where}/Exp001"] == pytest.approx(oracle(seen[4:]))
    assert result[f"Top1_ReplayAcc_Epoch/{where}"] == pytest.approx(oracle(seen[6:]))


def test_metrics_change_no_weight() -> None:
    weights = []
    for metrics in ([], [memory_metrics(minibatch=True, epoch=True, experience=True)]):
        torch.manual_seed(0)
        trained = strategy([MemoryReplayPlugin(RandomMemory(10), write_at="iteration")], metrics)
        trained.train(benchmark().train_stream)
        weights.append(trained.model.weight.detach().clone())
    assert torch.equal(*weights)


def test_periodic_evaluation_between_iterations() -> None:
    replays = scripted([5] * 8)
    trained = strategy([Script(replays)], [ReplayAccuracy()], eval_every=1, peval_mode="iteration")
    stream = benchmark()
    trained.train(stream.train_stream, eval_streams=[stream.test_stream])
    results = trained.evaluator.get_all_metrics()
    assert [name for name in results if "ReplayAcc" in name and "eval_phase" in name] == []
    name = "Top1_ReplayAcc_Exp/train_phase/train_stream/Task000/Exp001"
    assert results[name][1] == pytest.approx([oracle(replays[4:])])


def test_without_a_memory_it_warns_once_and_emits_nothing() -> None:
    trained = strategy([], [memory_metrics(minibatch=True, epoch=True)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained.train(benchmark().train_stream)
    texts = [str(warning.message) for warning in caught if "no plugin of the strategy" in str(warning.message)]
    assert len(texts) == 6  # one from each metric, however often it had nothing to say
    assert trained.evaluator.get_all_metrics() == {}


def test_every_logger_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = io.StringIO()
    loggers = [
        InteractiveLogger(),
        TextLogger(text),
        CSVLogger(str(tmp_path / "csv")),
        TensorboardLogger(str(tmp_path / "board")),
    ]
    metrics = [
        memory_metrics(minibatch=True, epoch=True, experience=True),
        accuracy_metrics(epoch=True, experience=True),
        loss_metrics(epoch=True, experience=True),
    ]
    memory = RandomMemory(10)
    trained = strategy([MemoryReplayPlugin(memory, write_at="iteration")], metrics, loggers)
    for experience in benchmark().train_stream:
        trained.train(experience)
        trained.eval(benchmark().test_stream)
    held = trained.evaluator.get_all_metrics()
    tag = "MemoryBytes_Epoch/train_phase/train_stream/Task000"
    accuracy = "Top1_ReplayAcc_Epoch/train_phase/train_stream/Task000"
    for printed in (text.getvalue(), capsys.readouterr().out):
        assert f"{tag} = {memory.nbytes}\n" in printed
        assert f"{accuracy} = {held[accuracy][1][-1]:.4f}\n" in printed
        assert "MemoryBytes_Exp/train_phase/train_stream/Task000/Exp000" in printed
    # Its columns are fixed, and ours must not be taken for them.
    rows = (tmp_path / "csv" / "training_results.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * EPOCHS
    accuracies = held["Top1_Acc_Epoch/train_phase/train_stream/Task000"][1]
    assert [float(row.split(",")[2]) for row in rows[1:]] == pytest.approx(accuracies, abs=1e-4)
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    loggers[-1].writer.flush()  # type: ignore[attr-defined]
    board = accumulator.EventAccumulator(str(tmp_path / "board")).Reload()
    for name in (tag, accuracy):
        steps, values = held[name]
        assert [event.step for event in board.Scalars(name)] == list(steps)
        assert [event.value for event in board.Scalars(name)] == pytest.approx(values)


@pytest.mark.parametrize("metric", [MemoryBytes, MemoryFixedBytes, ReplayAccuracy])
def test_wrong_moment(metric: Any) -> None:
    with pytest.raises(ValueError, match="emit_at: expected one of 'iteration', 'epoch', 'experience', got"):
        metric("stream")


def test_helper_gives_what_is_asked_for() -> None:
    assert memory_metrics() == []
    names = [str(metric) for metric in memory_metrics(minibatch=True, experience=True)]
    assert names == [
        f"{name}_{suffix}" for suffix in ("MB", "Exp") for name in ("MemoryBytes", "MemoryFixedBytes", "Top1_ReplayAcc")
    ]
