"""Rehearsal in loops that are not Avalanche's: the same rows, and the same weights, as with the plugin."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any, NamedTuple

import pytest
import torch
from avalanche.training import Naive
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory, Rehearsal, VAEMemory
from avalanche_memplugins.benchmarks import SplitDigits
from avalanche_memplugins.networks import ConditionalVAE


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


OPTIONS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "replace": {"batch_policy": "replace"},
    "some": {"replay_size": 5, "write_every": 3},
    "growing": {"replay_size": "growing"},
    "function": {"replay_size": lambda number, iteration: number + iteration % 3},
    "augment": {"augment": lambda x: x + 0.1 * torch.randn_like(x), "seed": 4},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_loop_by_hand_ends_with_the_weights_of_the_avalanche_plugin(name: str) -> None:
    seen: list[tuple[int, Any]] = []

    class Look(Naive):
        def _unpack_minibatch(self) -> None:
            super()._unpack_minibatch()
            seen.append((self.clock.train_exp_counter, self.mbatch))

    one, two = network(), network()
    plugin = MemoryReplayPlugin(RandomMemory(60, seed=3), write_at="iteration", **OPTIONS[name])
    strategy = Look(
        model=one,
        optimizer=torch.optim.SGD(one.parameters(), lr=0.1),
        train_mb_size=32,
        plugins=[plugin],
        evaluator=None,
    )
    for experience in SplitDigits(5).train_stream[:3]:
        strategy.train(experience)

    rehearsal = Rehearsal(RandomMemory(60, seed=3), **OPTIONS[name])
    optimizer = torch.optim.SGD(two.parameters(), lr=0.1)
    for number, batch in seen:
        if number != rehearsal.experience:
            rehearsal.experience = number
        mixed = rehearsal.step(*batch)
        optimizer.zero_grad()
        cross_entropy(two(mixed.x), mixed.y).backward()
        optimizer.step()
    assert torch.equal(weights(one), weights(two))
    memory = rehearsal.memory
    assert torch.equal(memory.rows(memory.slots()).origin, plugin.memory.rows(memory.slots()).origin)


def test_the_rows_of_the_stream_come_first_and_are_written_after_the_draw() -> None:
    rehearsal = Rehearsal(RandomMemory(100, seed=0), replay_size=3)
    first = rehearsal.step(torch.full((4, 2), 1.0), torch.zeros(4).long(), 5)
    assert (first.rows, first.recall, first.t.tolist()) == (4, None, [5] * 4)
    second = rehearsal.step(torch.full((4, 2), 2.0), torch.ones(4).long())
    assert second.x[:, 0].tolist() == [2.0] * 4 + [1.0] * 3
    assert second.t.tolist() == [0] * 4 + [5] * 3
    assert second.recall is not None
    assert torch.equal(second.recall.x, second.x[second.rows :])
    rehearsal.experience = 7
    rehearsal.step(torch.full((4, 2), 3.0), torch.ones(4).long())
    assert sorted(rehearsal.memory.rows(rehearsal.memory.slots()).origin.unique().tolist()) == [0, 7]


class Batch(NamedTuple):
    x: Any
    y: Any


@pytest.mark.parametrize("kind", ["list", "tuple", "three", "named", "dict", "labels", "tasks"])
def test_batches_come_back_as_they_are_put_together(kind: str) -> None:
    x, y, t = torch.rand(4, 2), torch.arange(4), torch.arange(4) % 2
    batch: Any = {
        "list": [x, y],
        "tuple": (x, y),
        "three": [x, y, t],
        "named": Batch(x, y),
        "dict": {"x": x, "n": t, "y": y},
        "labels": {"input_ids": t[:, None], "labels": y},
        "tasks": {"x": x, "y": y, "targets_task_labels": t},
    }[kind]
    rehearsal = Rehearsal(RandomMemory(10, seed=0))
    assert type(rehearsal.mix(batch)) is type(batch)
    mixed = rehearsal.mix(batch)
    assert type(mixed) is type(batch)
    names = list(batch) if isinstance(batch, dict) else range(len(batch))
    assert (set(mixed) == set(batch)) if isinstance(batch, dict) else len(mixed) == len(batch)
    for name in names:
        assert len(mixed[name]) == 8
        assert torch.equal(mixed[name][:4], batch[name])
    order = mixed["labels" if kind == "labels" else "y"] if isinstance(batch, dict) else mixed[1]
    for name in names:  # replayed rows are rows, not columns drawn apart
        assert torch.equal(mixed[name][4:], batch[name][order[4:]])


@pytest.mark.parametrize("way", ["over", "loader over", "collate"])
def test_loaders_give_mixed_batches(way: str) -> None:
    x, y = torch.arange(24.0)[:, None], torch.arange(24) % 3
    rehearsal = Rehearsal(RandomMemory(24, seed=0), replay_size=2)
    data = TensorDataset(x, y)
    if way == "collate":
        batches: Any = DataLoader(data, batch_size=6, collate_fn=rehearsal.collate())
    else:
        batches = rehearsal.over(DataLoader(data, batch_size=6, num_workers=2 if way == "over" else 0))
        assert len(batches) == 4
        if way == "loader over":
            batches = DataLoader(batches, batch_size=None)
    found = list(batches)
    assert [len(batch[0]) for batch in found] == [6, 8, 8, 8]
    assert torch.cat([batch[0][:6] for batch in found]).equal(x)
    for i, (a, b) in enumerate(found):
        assert torch.equal(a[:, 0].long() % 3, b)
        assert (a[6:] < 6 * i).all()
    assert len(rehearsal.memory) == 24


def test_a_worker_process_is_refused() -> None:
    rehearsal = Rehearsal(RandomMemory(24, seed=0))
    loader = DataLoader(TensorDataset(torch.rand(8, 1)), batch_size=2, num_workers=1, collate_fn=rehearsal.collate())
    with pytest.raises(RuntimeError, match="num_workers: expected 0"):
        next(iter(loader))


def test_outputs_that_the_memory_needs_are_written_when_the_model_has_run() -> None:
    rehearsal = Rehearsal(RandomMemory(24, store_logits=True, seed=0), replay_size=2)
    for i in range(3):
        mixed = rehearsal.step(torch.full((4, 2), float(i)), torch.zeros(4).long())
        assert len(rehearsal.memory) == 4 * i
        rehearsal.write(logits=mixed.x * 10)  # of stream and replayed rows
    found = rehearsal.memory.rows(rehearsal.memory.slots())
    assert torch.equal(found.logits, found.x * 10)
    rehearsal.step(torch.rand(4, 2), torch.zeros(4).long())
    with pytest.raises(ValueError, match=r"write: expected a call after each step.*logits"):
        rehearsal.step(torch.rand(4, 2), torch.zeros(4).long())
    with pytest.raises(ValueError, match="logits: expected that of every row"):
        rehearsal.write(loss=torch.rand(4))
    hardest = Rehearsal(RandomMemory(2, write_policy="hardest", seed=0), batch_policy="replace")
    for _ in range(2):
        mixed = hardest.step(torch.arange(4.0)[:, None], torch.zeros(4).long())
        hardest.write(loss=mixed.x[:, 0])
    assert sorted(hardest.memory.sample(2).x.flatten().tolist()) == [2.0, 3.0]
    assert hardest.memory.seen == 4 + 2  # two were replaced before the model saw them


def test_a_memory_that_learns_is_drawn_from_and_not_written() -> None:
    memory = VAEMemory(ConditionalVAE((1, 4, 4), code_size=2, hidden=(8,)), steps=1, seed=0)
    rehearsal = Rehearsal(memory, replay_size=3)
    x, y = torch.rand(8, 1, 4, 4), torch.arange(8) % 2
    assert len(rehearsal.step(x, y).x) == 8
    memory.consolidate([(x, y, torch.zeros(8).long())], origin=0)
    assert len(rehearsal.step(x, y).x) == 11


@pytest.mark.parametrize("way", ["state_dict", "pickle", "deepcopy"])
def test_it_goes_on_exactly_from_its_state(way: str) -> None:
    def make() -> Rehearsal:
        return Rehearsal(RandomMemory(20, seed=0), write_every=2, augment=_noise, seed=1)

    one = make()
    x, y = torch.rand(6, 3), torch.arange(6)
    for _ in range(3):
        one.step(x, y)
    if way == "state_dict":
        two = make()
        two.load_state_dict(one.state_dict())
    else:
        two = pickle.loads(pickle.dumps(one)) if way == "pickle" else copy.deepcopy(one)
    for _ in range(3):
        a, b = one.step(x, y), two.step(x, y)
        assert torch.equal(a.x, b.x)
    assert one.memory.seen == two.memory.seen == 18


def _noise(x: Tensor) -> Tensor:
    return x + torch.randn_like(x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Rehearsal(RandomMemory), "memory: expected an instance"),
        (lambda: Rehearsal(torch.rand(3)), "memory: expected a memory with sample"),  # type: ignore[arg-type]
        (lambda: Rehearsal(RandomMemory(3), replay_size=0), "replay_size: expected"),
        (lambda: Rehearsal(RandomMemory(3), batch_policy="beside"), "batch_policy: expected one of"),  # type: ignore[arg-type]
        (lambda: Rehearsal(RandomMemory(3)).mix(torch.rand(3)), "batch: expected"),
        (lambda: Rehearsal(RandomMemory(3)).mix({"x": torch.rand(3, 1), "z": torch.rand(3)}), "y: expected the key"),
        (lambda: Rehearsal(RandomMemory(3)).step(torch.rand(3, 1), torch.arange(2)), "y: expected shape"),
        (lambda: Rehearsal(RandomMemory(3)).over(3), "batches: expected batches"),  # type: ignore[arg-type]
        (lambda: setattr(Rehearsal(RandomMemory(3)), "experience", -1), "experience: expected"),
    ],
)
def test_wrong_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_it_does_without_avalanche() -> None:
    code = (
        "import sys, torch; from avalanche_memplugins import RandomMemory, Rehearsal; "
        "Rehearsal(RandomMemory(3)).step(torch.rand(2, 1), torch.arange(2)); assert 'avalanche' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], check=True, timeout=120)
