"""The read policy "cycle": shuffled passes, every row once a pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from avalanche_memplugins import RandomMemory
from avalanche_memplugins.memories.policies import Cycle


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_pass_holds_every_row_once() -> None:
    policy, random = Cycle(), generator()
    policy.start(100)
    for _ in range(3):
        drawn = torch.cat([policy.choose(10, 100, random) for _ in range(10)])
        assert drawn.sort().values.tolist() == list(range(100))
    assert drawn.tolist() != list(range(100))


def test_rows_within_a_draw_differ_and_every_row_is_equally_likely() -> None:
    policy, random = Cycle(), generator()
    policy.start(10)
    counts = torch.zeros(10)
    for _ in range(4000):
        drawn = policy.choose(3, 10, random)  # 3 draws a pass, one row left out
        assert len(drawn.unique()) == 3
        counts[drawn] += 1
    # Binomial(passes, 0.9): 4000 / 3 passes, standard deviation 11.
    assert (counts - 1200).abs().max() < 5 * 11


def test_new_rows_come_with_the_next_pass() -> None:
    policy, random = Cycle(), generator()
    policy.start(8)
    first = policy.choose(2, 4, random)
    second = policy.choose(2, 8, random)
    assert torch.cat([first, second]).sort().values.tolist() == [0, 1, 2, 3]
    rest = torch.cat([policy.choose(4, 8, random) for _ in range(2)])
    assert rest.sort().values.tolist() == list(range(8))


def test_a_draw_is_no_larger_than_the_memory() -> None:
    policy = Cycle()
    policy.start(8)
    assert policy.choose(5, 3, generator()).sort().values.tolist() == [0, 1, 2]


def fill(memory: RandomMemory, n: int = 60) -> None:
    memory.write(torch.arange(n * 2.0).view(n, 2), torch.arange(n) % 3, 0)


def test_a_memory_resumes_in_the_middle_of_a_pass(tmp_path) -> None:
    memory = RandomMemory(50, write_policy="ring", read_policy="cycle", seed=3)
    fill(memory)
    memory.sample(7)
    by_state = RandomMemory(50, write_policy="ring", read_policy="cycle", seed=9)
    by_state.load_state_dict(memory.state_dict())
    memory.save(tmp_path / "memory")
    by_folder = RandomMemory(50, write_policy="ring", read_policy="cycle", seed=9).load(tmp_path / "memory")
    for _ in range(12):
        expected = memory.sample(7).x
        assert torch.equal(by_state.sample(7).x, expected)
        assert torch.equal(by_folder.sample(7).x, expected)


def test_bytes_count_the_pass() -> None:
    memories = [RandomMemory(50, read_policy=read) for read in ("uniform", "cycle")]
    for memory in memories:
        fill(memory)
    assert memories[1].nbytes - memories[0].nbytes == 4 * 50


def test_replacement_is_refused() -> None:
    with pytest.raises(ValueError, match="replacement"):
        RandomMemory(5, read_policy="cycle", replacement=True)


def written(**options: Any) -> RandomMemory:
    memory = RandomMemory(50, seed=3, **options)
    memory.write(torch.arange(80.0)[:, None], torch.arange(80) % 10)
    return memory


@pytest.mark.parametrize("passes", [False, True])
@pytest.mark.parametrize("folder", [False, True])
def test_a_memory_that_was_given_no_read_policy_goes_on_from_a_state_of_either(
    passes: bool, folder: bool, tmp_path: Path
) -> None:
    earlier = written(read_policy="cycle" if passes else "uniform")
    earlier.sample(7)
    for fresh in (RandomMemory(50), written()):
        fresh.read_in_passes()
        if folder:
            earlier.save(tmp_path / "memory")
            fresh.load(tmp_path / "memory")
        else:
            fresh.load_state_dict(earlier.state_dict())
        fresh.read_in_passes()
        assert repr(fresh.read_policy) == repr(earlier.read_policy), "as it was"
        state = earlier.state_dict()
        assert torch.equal(fresh.sample(20).x, earlier.sample(20).x)
        earlier.load_state_dict(state)


def test_what_is_still_open_is_so_after_loading() -> None:
    fresh = RandomMemory(50)
    fresh.load_state_dict(written().state_dict())
    assert repr(fresh.read_policy) == "Uniform(replacement=False)"
    fresh.read_in_passes()
    assert repr(fresh.read_policy) == "Cycle()"
    with pytest.raises(ValueError, match="Uniform"):
        written(read_policy="uniform").load_state_dict(fresh.state_dict())


def test_what_is_given_stays() -> None:
    for options in ({"read_policy": "uniform"}, {"read_policy": "class_balanced"}, {"replacement": True}):
        memory = written(**options)
        said = repr(memory.read_policy)
        memory.read_in_passes()
        assert repr(memory.read_policy) == said
