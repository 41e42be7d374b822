"""Rows fetched ahead are the rows that would have come anyway; files are read where they will be needed."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from avalanche_memplugins import EpisodicMemory, RandomMemory
from avalanche_memplugins.memories._prefetch import Ahead
from avalanche_memplugins.memories.row_store import RowStore

READS = ("uniform", "cycle", "class_balanced", "task_balanced")


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the rows had a way to go: without a GPU nothing would be fetched ahead."""
    monkeypatch.setattr(RowStore, "is_apart", True)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the draws made ahead that were used."""
    sizes: list[int] = []
    use = Ahead.use

    def counted(self: Ahead, *args: Any) -> Any:
        sizes.append(self.n)
        return use(self, *args)

    monkeypatch.setattr(Ahead, "use", counted)
    return sizes


def rows_of_a_run(memory: RandomMemory, ahead: bool, sizes: list[int]) -> list[torch.Tensor]:
    """Sample, write, fetch ahead: what a training step does. Every third step writes nothing."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for step, size in enumerate(sizes):
        if len(memory):
            recall = memory.sample(size)
            found += [torch.cat([recall.x, recall.y[:, None]], 1)]
        if step % 3 != 2:
            x = torch.randn(5, 3, generator=generator)
            memory.write(x, torch.randint(4, (5,), generator=generator), origin=step // 4)
        if ahead:
            memory.prefetch(size)
    return found


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("policy", ["ring", "reservoir", "class_balanced"])
@pytest.mark.parametrize("read", READS)
def test_what_is_fetched_ahead_is_what_would_have_come(read: str, policy: str, used: list[int]) -> None:
    sizes = [6, 6, 6, 6, 4, 6, 6, 9, 9, 9, 9, 1, 1, 6, 6, 6]  # a batch of another size discards what was drawn
    plain, ahead = (
        rows_of_a_run(RandomMemory(20, write_policy=policy, read_policy=read, seed=7), flag, sizes)
        for flag in (False, True)
    )
    assert len(plain) == len(ahead) == 15
    assert all(torch.equal(a, b) for a, b in zip(plain, ahead, strict=True))
    assert len(used) == 10  # of 15, five follow a step of another size


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("way", ["state_dict", "pickle", "deepcopy", "save"])
def test_what_is_saved_is_the_state_before_the_draw(read: str, way: str, tmp_path: Path) -> None:
    memory = RandomMemory(20, read_policy=read, seed=7)
    rows_of_a_run(memory, True, [6] * 8)
    assert memory._ahead is not None
    if way == "state_dict":
        other = RandomMemory(20, read_policy=read, seed=0)
        other.load_state_dict(copy.deepcopy(memory.state_dict()))
    elif way == "save":
        memory.save(tmp_path / "rows")
        other = RandomMemory(20, read_policy=read).load(tmp_path / "rows")
    else:
        other = pickle.loads(pickle.dumps(memory)) if way == "pickle" else copy.deepcopy(memory)
    assert other._ahead is None
    for _ in range(4):
        assert torch.equal(memory.sample(6).x, other.sample(6).x)


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("change", ["write", "load_state_dict", "another size"])
def test_a_draw_that_no_longer_holds_is_discarded(change: str, used: list[int]) -> None:
    def memory() -> RandomMemory:
        out = RandomMemory(8, write_policy="ring", seed=2)
        out.write(torch.arange(8.0)[:, None], torch.zeros(8, dtype=torch.int64))
        return out

    one, two = memory(), memory()
    one.prefetch(3)
    for m in (one, two):
        if change == "write":
            m.write(100 + torch.arange(8.0)[:, None], torch.ones(8, dtype=torch.int64))
        elif change == "load_state_dict":
            m.load_state_dict(memory().state_dict())
        else:
            m.sample(4)
    assert torch.equal(one.sample(3).x, two.sample(3).x)
    assert used == []


@pytest.mark.usefixtures("apart")
def test_keys_made_anew_are_not_those_fetched_ahead() -> None:
    embedding = torch.nn.Linear(2, 2)
    memory = EpisodicMemory(8, embedding=embedding)
    memory.write(torch.randn(8, 2), torch.zeros(8, dtype=torch.int64))
    memory.prefetch(8)
    with torch.no_grad():
        embedding.weight.add_(1.0)
    memory.reembed()
    recall = memory.sample(8)
    torch.testing.assert_close(recall.key, embedding(recall.x).detach())


def test_on_the_device_there_is_nothing_to_fetch(tmp_path: Path) -> None:
    for storage in ("device", "host", tmp_path / "rows"):
        memory = RandomMemory(8, storage=storage)
        memory.prefetch(2)
        memory.write(torch.zeros(8, 2), torch.zeros(8, dtype=torch.int64))
        memory.prefetch(2)
        assert memory._ahead is None
    with pytest.raises(ValueError, match="n: expected an integer >= 1, got 0"):
        memory.prefetch(0)


@pytest.mark.usefixtures("apart")
def test_a_forked_process_fetches_with_a_thread_of_its_own() -> None:
    memory = RandomMemory(8)
    memory.write(torch.arange(8.0)[:, None], torch.zeros(8, dtype=torch.int64))
    memory.prefetch(8)
    memory.sample(8)
    child = os.fork()
    if child == 0:
        memory.prefetch(8)
        os._exit(int(not torch.equal(memory.sample(8).x.sort(0).values, torch.arange(8.0)[:, None])))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="no posix_fadvise here")
def test_the_system_is_told_which_rows_of_a_file_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = RandomMemory(16, storage=tmp_path / "rows")
    memory.write(torch.randn(16, 300), torch.zeros(16, dtype=torch.int64))
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, start, size, advice: told.append((start, size)))
    memory.rows(torch.tensor([3, 0, 15]))
    assert told == [(3 * 1200, 1200), (0, 1200), (15 * 1200, 1200)]  # images only: labels lie close together
    told.clear()
    copied = copy.deepcopy(memory)  # in memory
    assert torch.equal(copied.rows(torch.arange(16)).x, memory.rows(torch.arange(16)).x)
    assert len(told) == 16


@pytest.mark.gpu
def test_rows_written_from_a_gpu_to_the_host_are_all_there() -> None:
    """The copy to the host returns before it is done."""
    for storage in ("host", "device"):
        memory = RandomMemory(64, write_policy="ring", storage=storage).to("cuda")
        x = torch.randn(64, 1 << 16, device="cuda")
        for _ in range(20):
            memory.write(x.roll(1, 0).roll(-1, 0), torch.zeros(64, dtype=torch.int64, device="cuda"))
        assert torch.equal(memory.rows(torch.arange(64)).x, x)


@pytest.mark.gpu
def test_rows_fetched_ahead_over_a_side_stream() -> None:
    plain, ahead = (
        rows_of_a_run(RandomMemory(20, storage="host", seed=7).to("cuda"), flag, [6] * 12) for flag in (False, True)
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, ahead, strict=True))
