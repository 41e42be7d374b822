"""EnergyMemory: it recalls what was written, knows what was not, and finds the slot."""

from __future__ import annotations

import copy

import pytest
import torch
from _energy_bank import memory, read_alone, rows
from torch import Tensor

from avalanche_memplugins.benchmarks.digits_data import digits
from avalanche_memplugins.energy_training.options import EnergyTraining
from avalanche_memplugins.energy_training.train import Training
from avalanche_memplugins.functional.episodes import erase_block
from avalanche_memplugins.networks.energy import EnergyNetwork


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> EnergyNetwork:
    """Two seconds of meta-training on digits: enough for what is written to be read better than what is not."""
    options = EnergyTraining(
        out=tmp_path_factory.mktemp("energy") / "digits.safetensors",
        data="digits",
        patterns=(8,),
        rows=64,
        width=64,
        writable=24,
        rank=40,
        write_steps=4,
        read_steps=3,
        steps=120,
        validate_every=60,
        average=0.97,
    )
    training = Training(options)
    training.run()
    return training.best_network()


def unseen(n: int, skip: int = 0) -> tuple[Tensor, Tensor]:
    """Digits that the network was not trained on."""
    data = digits()
    return data.x_test[skip : skip + n], data.y_test[skip : skip + n]


def erased(x: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    cue, known = erase_block(x.flatten(1), 8, 4, generator=torch.Generator().manual_seed(seed))
    return cue.view_as(x), known.view_as(x)


def errors(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).sum(1)


def test_what_was_written_is_read_better_than_what_was_not(trained: EnergyNetwork) -> None:
    mine = memory(copy.deepcopy(trained), slot_size=8)
    (x, y), (other, _) = unseen(32), unseen(64, 100)
    mine.write(x, y)
    slots = torch.arange(32) // 8
    cue, known = erased(x)
    read = errors(mine.read(cue, slots=slots, known=known), x).mean()
    with torch.no_grad():
        empty = trained.read(cue.unsqueeze(0), known=known.unsqueeze(0))[-1][0]
    elsewhere = errors(mine.read(cue, slots=(slots + 1) % 4, known=known), x).mean()
    damaged, intact = erased(other)
    unknown = errors(mine.read(damaged, slots=torch.arange(64) % 4, known=intact), other).mean()
    assert read < 0.8 * errors(empty, x).mean()
    assert read < 0.8 * elsewhere
    assert read < 0.8 * unknown
    assert read < 0.5 * errors(cue, x).mean()


def test_written_rows_are_less_novel_than_others(trained: EnergyNetwork) -> None:
    mine = memory(copy.deepcopy(trained), slot_size=8)
    (x, y), (other, _) = unseen(32), unseen(64, 100)
    mine.write(x, y)
    known, new = mine.novelty(x), mine.novelty(other)
    assert float((known[:, None] < new).float().mean()) > 0.65  # the area under the ROC curve


def test_novelty_is_the_least_change_of_energy_over_all_slots() -> None:
    mine = memory(slots=6)
    x, y = rows(20)
    mine.write(x, y)
    other = rows(7, seed=1)[0]
    want = []
    with torch.no_grad():
        for row in other:
            pattern = row.view(1, 1, 1, 4, 4)
            before = mine.network.energy(pattern, mine.network.initial).item()
            after = [mine.network.energy(pattern, mine.weights(torch.tensor([s]))).item() for s in range(5)]
            want.append(min(after) - before)
    assert mine.novelty(other, score="energy").tolist() == pytest.approx(want, abs=1e-5)
    # More rows than are worked out at once.
    many = mine.novelty(other.repeat(900, 1, 1, 1), score="energy")
    assert many[-7:].tolist() == pytest.approx(want, abs=1e-5)


def test_novelty_is_the_least_slope_over_all_slots() -> None:
    mine = memory(slots=6)
    x, y = rows(20)
    mine.write(x, y)
    other = rows(7, seed=1)[0]
    mine.network.double()
    want, step = [], 1e-6
    for row in other.double():
        slopes = []
        for slot in range(5):
            weights = tuple(weight.double() for weight in mine.weights(torch.tensor([slot])))
            ends = row.view(1, 1, 16) + step * torch.cat([torch.eye(16), -torch.eye(16)]).double().view(1, 32, 16)
            with torch.no_grad():
                high, low = mine.network.energy(ends.view(1, 32, 1, 4, 4), weights)[0].view(2, 16)
            slopes.append(float(((high - low) / (2 * step)).square().sum()))
        want.append(min(slopes))
    mine.network.float()
    assert mine.novelty(other).tolist() == pytest.approx(want, rel=1e-3)
    assert mine.novelty(other.repeat(900, 1, 1, 1))[-7:].tolist() == pytest.approx(want, rel=1e-3)
    assert not mine.novelty(other).requires_grad
    with pytest.raises(ValueError, match="score: expected one of 'slope', 'energy', got 'loss'"):
        mine.novelty(other, score="loss")  # type: ignore[arg-type]


# ---------------------------------------------------------------- which slot


def test_the_energy_finds_the_slot(trained: EnergyNetwork) -> None:
    mine = memory(copy.deepcopy(trained), slot_size=8)
    x, y = unseen(32)
    mine.write(x, y)
    cue, known = erased(x)
    flat, mask = cue.flatten(1), known.flatten(1)
    found = mine.lowest(flat, known=mask)
    want = []
    with torch.no_grad():
        for row, intact in zip(flat, mask, strict=True):
            levels = []
            for slot in range(4):
                end = read_alone(mine, row, slot, known=intact.view(1, 1, *mine.network.shape))
                shaped = end.view(1, 1, *mine.network.shape)
                level = mine.network.energy(shaped, mine.weights(torch.tensor([slot])))
                levels.append(float(level - mine.network.energy(shaped, mine.network.initial)))
            want.append(levels.index(min(levels)))
    assert float((found == torch.tensor(want)).float().mean()) > 0.96
    assert float((found == torch.arange(32) // 8).float().mean()) > 0.45  # 0.25 by chance
    slots = mine.read(cue, slots=found, known=known)
    assert torch.equal(mine.read(cue, known=known, route="energy"), slots)


def test_the_best_match_finds_the_slot(trained: EnergyNetwork) -> None:
    mine = memory(copy.deepcopy(trained), slot_size=8)
    x, y = unseen(32)
    mine.write(x, y)
    cue, known = erased(x)
    flat, mask = cue.flatten(1), known.flatten(1)
    for told in (None, mask):
        found = mine.matching(flat, known=told)
        want = []
        with torch.no_grad():
            for row, intact in zip(flat, mask, strict=True):
                ends = [read_alone(mine, row, slot).flatten() for slot in range(4)]
                kept = intact if told is not None else torch.ones_like(intact)
                moved = [float((end - row).square()[kept].sum()) for end in ends]
                want.append(moved.index(min(moved)))
        assert float((found == torch.tensor(want)).float().mean()) > 0.96
    assert float((found == torch.arange(32) // 8).float().mean()) > 0.5  # 0.25 by chance
    assert torch.equal(mine.read(cue, known=known), mine.read(cue, slots=found, known=known))


def test_the_nearest_stored_cue_finds_the_slot() -> None:
    mine = memory(cue=4, slots=4, mean=0.3, std=0.5)
    x, y = rows(16)
    x = (x - 0.3) / 0.5
    mine.write(x, y)
    near = x + 0.02 * rows(16, seed=2)[0]
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    got = mine.read(near[order], route="cue")
    assert torch.equal(got, mine.read(near[order], slots=order // 4))
    assert not torch.allclose(got, mine.read(near[order], slots=(order // 4 + 1) % 4), atol=1e-3)
