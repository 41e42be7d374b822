"""Memories that are written, or learn, when an experience has ended."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _streams import CASES, FEATURES, Case, Watcher, build, classic, rows, run
from avalanche.benchmarks import nc_benchmark
from torch import Tensor, nn

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory, TensorLoaderPlugin
from avalanche_memplugins.plugins._materialise.loader import TensorLoader


class Listener(RandomMemory):
    """Notes what it is fed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(200, **kwargs)
        self.fed: list[tuple[int, list[list[Tensor]]]] = []
        self.sizes: list[list[int]] = []

    def consolidate(self, batches: Any, *, origin: int) -> None:
        passes = []
        for _ in range(3):
            one = list(batches)
            self.sizes.append([len(x) for x, _, _ in one])
            passes.append([torch.cat(column) for column in zip(*one, strict=True)])
        self.fed.append((origin, passes))
        self.write(*passes[0], origin=origin)


def numbers(x: Tensor) -> list[int]:
    return (x[:, -1] * 1_000).round().long().tolist()


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("name", ["x, y, t", "x, y", "several epochs", "multi-head"])
def test_a_memory_that_learns_is_fed_each_experience_once_in_fresh_passes(name: str, tensors: bool) -> None:
    case, memory = CASES[name], Listener()
    run(case, [MemoryReplayPlugin(memory), *[TensorLoaderPlugin()] * tensors])
    assert [origin for origin, _ in memory.fed] == [0, 1, 2]
    for (_, passes), experience in zip(memory.fed, case.stream(), strict=True):
        expected = {round(float(row[0][-1]) * 1_000): (int(row[1]), int(row[-1])) for row in experience.dataset}
        for x, y, t in passes:
            labels = {n: (a, b) for n, a, b in zip(numbers(x), y.tolist(), t.tolist(), strict=True)}
            if name == "x, y":
                assert labels == {n: (y, 0) for n, (y, _) in expected.items()}
            else:
                assert labels == expected
        orders = [numbers(x) for x, _, _ in passes]
        assert len({tuple(order) for order in orders}) == 3
    assert memory.sizes == [[16, 16, 16, 12]] * 9  # of train_mb_size


def test_feeding_is_served_from_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    served = []
    iterate = TensorLoader.__iter__
    monkeypatch.setattr(TensorLoader, "__iter__", lambda self: (served.append(1), iterate(self))[1])
    run(Case(), [MemoryReplayPlugin(Listener()), TensorLoaderPlugin(train=False)])
    assert len(served) == 9


@pytest.mark.parametrize("at", [None, "features"])
def test_feeding_draws_nothing_from_the_global_generator(at: str | None) -> None:
    naive, watcher = Watcher(), Watcher()
    run(Case(), [naive])
    after = torch.get_rng_state()
    run(Case(), [MemoryReplayPlugin(Listener(), at=at), watcher])
    assert naive.numbers == watcher.numbers
    assert torch.equal(after, torch.get_rng_state())


def test_rows_come_under_their_evaluation_transforms() -> None:
    def benchmark() -> Any:
        shift = {"train_transform": lambda x: x + 100, "eval_transform": lambda x: x - 100}
        return nc_benchmark(rows(180, 0), rows(60, 1), 3, False, seed=1, shuffle=False, **shift)

    memory = Listener()
    run(Case(benchmark), [MemoryReplayPlugin(memory)], lr=0.0)
    fed = torch.cat([passes[0][0] for _, passes in memory.fed])
    torch.testing.assert_close(fed.sort(0).values + 100, rows(180, 0).tensors[0].sort(0).values, atol=1e-4, rtol=0)


class Restless(nn.Module):
    """A body whose output depends on its mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
        self.classifier = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


@pytest.mark.parametrize("kind", ["written", "written with logits", "learning"])
def test_outputs_of_a_layer_are_those_of_the_finished_model_in_eval_mode(kind: str) -> None:
    memory: Any = Listener() if kind == "learning" else RandomMemory(200, store_logits="logits" in kind)
    plugin = MemoryReplayPlugin(memory, at="features", write_at="auto" if kind == "learning" else "experience")
    strategy = build(Case(model=Restless), [plugin])
    experience = next(iter(classic().train_stream))
    modes: list[list[bool]] = []
    body = strategy.model.features
    body[2].eval()  # a mode of the user's own
    body[2].train = lambda mode=True: body[2]
    strategy.train(experience)
    modes.append([m.training for m in strategy.model.modules()])
    statistics = {name: value.clone() for name, value in body.named_buffers()}
    held = memory.rows(torch.arange(60))
    assert modes == [[True, True, True, True, False, True]]

    strategy.model.eval()
    x = torch.stack([row[0] for row in experience.dataset])
    codes = body(x).detach()
    order = codes[:, 0].argsort(), held.x[:, 0].argsort()
    torch.testing.assert_close(held.x[order[1]], codes[order[0]])
    if memory.store_logits:
        torch.testing.assert_close(held.logits, strategy.model.classifier(held.x).detach())
    if kind == "learning":
        ((_, passes),) = memory.fed
        assert len({tuple(x[:, 0].tolist()) for x, _, _ in passes}) == 3
        for x, y, _ in passes:
            assert torch.equal(x[x[:, 0].argsort()], passes[0][0][passes[0][0][:, 0].argsort()])
            assert sorted(y.tolist()) == sorted(row[1] for row in experience.dataset)
    assert all(torch.equal(value, statistics[name]) for name, value in body.named_buffers())


def test_logits_at_the_input_after_the_experience() -> None:
    memory = RandomMemory(200, store_logits=True)
    strategy = build(Case(model=Restless), [MemoryReplayPlugin(memory, write_at="experience")])
    strategy.train(next(iter(classic().train_stream)))
    held = memory.rows(torch.arange(60))
    strategy.model.eval()
    torch.testing.assert_close(held.logits, strategy.model(held.x).detach())


def test_under_several_heads_codes_after_the_experience_are_those_of_their_rows() -> None:
    case, memory = CASES["multi-head"], RandomMemory(180, write_policy="ring")
    strategy = run(case, [MemoryReplayPlugin(memory, at="model.features", write_at="experience")], lr=0.0)
    held = memory.rows(torch.arange(180))
    x = torch.cat([torch.stack([row[0] for row in e.dataset]) for e in case.stream()])
    t = torch.cat([torch.tensor([row[2] for row in e.dataset]) for e in case.stream()])
    torch.testing.assert_close(held.x, strategy.model.model.features(x).detach())
    assert torch.equal(held.t, t)


def test_arguments_that_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"write_at: Listener learns from whole experiences, .* got 'iteration'"):
        MemoryReplayPlugin(Listener(), write_at="iteration")
    with pytest.raises(ValueError, match=r"memory: expected one that learns .* got one that needs .*logits"):
        MemoryReplayPlugin(Listener(store_logits=True))
    with pytest.raises(TypeError, match="memory: expected a memory with sample and write or consolidate, got list"):
        MemoryReplayPlugin([])  # type: ignore[arg-type]
    assert MemoryReplayPlugin(Listener()).write_at == "experience"
    assert MemoryReplayPlugin(RandomMemory(3)).write_at == "auto"
