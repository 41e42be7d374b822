"""GaussianMemory against NumPy on all rows at once, and as a memory among memories."""

from __future__ import annotations

import copy
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avalanche_memplugins.memories import GaussianMemory

WIDTH = 6


def stream(rows: int, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of correlated classes around different means; labels 5, 6, 7, ..."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (rows,), generator=g)
    turn = torch.randn(classes, WIDTH, WIDTH, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(rows, 1, WIDTH, generator=g)
    return 10.0 * y[:, None] + torch.bmm(noise, turn[y])[:, 0], y + 5


def filled(**options: Any) -> GaussianMemory:
    memory = GaussianMemory(**options)
    x, y = stream(400)
    for first in range(0, 400, 37):
        batch = slice(first, first + 37)
        memory.write(x[batch], y[batch], 1, origin=first // 100)
    return memory


def covariance(memory: GaussianMemory, label: int) -> np.ndarray:
    k = memory.classes.index(label)
    if memory.rank is None:
        full = torch.zeros(WIDTH, WIDTH)
        full[tuple(torch.tril_indices(WIDTH, WIDTH))] = memory.spread[k]
        scatter = full + full.tril(-1).T
    else:
        scatter = memory.spread[k].T @ memory.spread[k] + memory.residual[k].diag()
    return scatter.numpy() / memory.summary().per_class[label]


@pytest.mark.parametrize("rank", [None, WIDTH, 50])
def test_moments_of_every_class_are_those_of_its_rows(rank: int | None) -> None:
    memory = filled(rank=rank)
    x, y = stream(400)
    assert sorted(memory.classes) == [5, 6, 7]
    for label in (5, 6, 7):
        rows = x[y == label].double().numpy()
        np.testing.assert_allclose(memory.mean[memory.classes.index(label)], rows.mean(0), rtol=1e-5)
        expected = np.cov(rows.T, bias=True)
        np.testing.assert_allclose(covariance(memory, label), expected, rtol=0, atol=2e-5 * expected.max())
        assert memory.summary().per_class[label] == len(rows)


@pytest.mark.parametrize("rank", [None, 0, 2])
def test_samples_have_the_moments_that_are_held(rank: int | None) -> None:
    memory = filled(rank=rank)
    recall = memory.sample(60_000)
    assert torch.bincount(recall.y).tolist() == [0] * 5 + [20_000] * 3
    for label in (5, 6, 7):
        rows = recall.x[recall.y == label].double().numpy()
        expected = covariance(memory, label)
        spread = np.sqrt(np.diag(expected))
        assert np.abs(rows.mean(0) - memory.mean[memory.classes.index(label)].numpy()).max() < 0.04 * spread.max()
        assert np.abs(np.cov(rows.T) - expected).max() < 0.05 * expected.max()


def test_classes_are_drawn_evenly_or_by_their_count() -> None:
    x, _ = stream(100)
    y = torch.tensor([0] * 90 + [1] * 10)
    even, counted = GaussianMemory(), GaussianMemory(balance="count")
    for memory in (even, counted):
        memory.write(x, y)
    assert torch.bincount(even.sample(7).y, minlength=2).sort().values.tolist() == [3, 4]
    shares = torch.bincount(counted.sample(20_000).y) / 20_000
    assert abs(float(shares[0]) - 0.9) < 0.015
    assert len({int(even.sample(1).y) for _ in range(40)}) == 2


def test_labels_and_images_come_back_in_their_own_shape() -> None:
    memory = GaussianMemory(rank=2)
    x = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    memory.write(x, torch.tensor([4, 4, 9, 9, 9, 4]), torch.arange(6), origin=torch.arange(6) + 10)
    memory.write(x[:1], torch.tensor([9]), 7, origin=3)
    recall = memory.sample(50)
    assert recall.x.shape == (50, 2, 3, 3)
    assert recall.x.dtype == torch.float64
    for label, t, origin in ((4, 5, 15), (9, 7, 3)):  # of the latest row of the class
        mine = recall.y == label
        assert bool(mine.any())
        assert set(recall.t[mine].tolist()) == {t}
        assert set(recall.origin[mine].tolist()) == {origin}
    summary = memory.summary()
    assert (summary.per_class, summary.per_task, summary.per_experience) == ({4: 3, 9: 4}, {5: 3, 7: 4}, {3: 4, 15: 3})
    assert "per class" in str(summary)
    assert "0 of 1" in str(GaussianMemory().summary())


@pytest.mark.parametrize("rank", [None, 0, 3])
def test_a_class_of_one_row_gives_that_row_back(rank: int | None) -> None:
    memory = GaussianMemory(rank=rank)
    memory.write(torch.arange(5.0)[None], torch.tensor([2]))
    torch.testing.assert_close(memory.sample(4).x, torch.arange(5.0).expand(4, 5))


class Doubling(nn.Module):
    """A codec whose latent space is twice the rows."""

    code_size = WIDTH
    nbytes_fixed = 123

    def check(self, x: Tensor) -> None:
        if x.shape[1:] != (1, 2, 3):
            raise ValueError("x: expected (B, 1, 2, 3)")

    def to_latent(self, x: Tensor) -> Tensor:
        return 2 * x.flatten(1)

    def from_latent(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        return (z / 2).view(-1, 1, 2, 3).to(dtype)


def test_with_a_codec_the_codes_are_modelled() -> None:
    memory, plain = GaussianMemory(codec=Doubling(), seed=0), GaussianMemory(seed=0)
    x, y = stream(50)
    memory.write(x.view(-1, 1, 2, 3), y)
    plain.write(2 * x, y)
    assert torch.equal(memory.mean, plain.mean)
    torch.testing.assert_close(memory.sample(9).x.flatten(1), plain.sample(9).x / 2)
    assert (memory.nbytes, memory.nbytes_fixed, plain.nbytes_fixed) == (plain.nbytes, 123, 0)
    with pytest.raises(ValueError, match=r"x: expected \(B, 1, 2, 3\)"):
        GaussianMemory(codec=Doubling()).write(x, y)


@pytest.mark.parametrize(
    ("rank", "numbers"), [(None, WIDTH + WIDTH * (WIDTH + 1) // 2), (0, 2 * WIDTH), (2, 4 * WIDTH), (50, 8 * WIDTH)]
)
def test_bytes_are_those_of_the_numbers_held(rank: int | None, numbers: int) -> None:
    assert filled(rank=rank).nbytes == 3 * (4 * numbers + 4 * 8)


def test_a_budget_gives_the_largest_rank_that_fits() -> None:
    x, y = stream(300)
    ranks = []
    for nbytes in (240, 383, 384, 419, 420, 851, 852, 5_000):
        memory = GaussianMemory.from_budget(nbytes, classes=3, shape=(WIDTH,))
        memory.write(x, y)
        memory.sample(5)
        assert memory.nbytes <= nbytes
        ranks.append(memory.rank)
    assert ranks == [0, 1, 2, 2, None, None, None, None]  # a triangle takes less than three factors would
    with pytest.raises(
        ValueError, match="nbytes: expected at least the 240 bytes that mean and variances of 3 classes take, got"
    ):
        GaussianMemory.from_budget(239, classes=3, shape=(WIDTH,))
    with pytest.raises(ValueError, match=r"shape: .* got None"):
        GaussianMemory.from_budget(5_000, classes=3)
    assert GaussianMemory.from_budget(240, classes=3, codec=Doubling()).rank == 0


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("way", ["state_dict", "pickle", "deepcopy", "folder"])
def test_a_copy_goes_on_exactly(way: str, rank: int | None, tmp_path: Path) -> None:
    memory = filled(rank=rank)
    memory.sample(3)
    if way == "state_dict":
        other = GaussianMemory(rank=rank)
        other.load_state_dict(copy.deepcopy(memory.state_dict()))
    elif way == "folder":
        memory.save(tmp_path / "memory")
        other = GaussianMemory(rank=rank).load(tmp_path / "memory")
    else:
        other = pickle.loads(pickle.dumps(memory)) if way == "pickle" else copy.deepcopy(memory)
    assert len(other) == len(memory) == 400
    x, y = stream(50, classes=5, seed=3)  # two new classes, too
    for m in (memory, other):
        m.write(x, y, origin=8)
    mine, theirs = memory.sample(20), other.sample(20)
    for name in ("x", "y", "t", "origin"):
        assert torch.equal(getattr(mine, name), getattr(theirs, name))
    assert set(mine.y.tolist()) == {5, 6, 7, 8, 9}


def test_a_state_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    memory, other = filled(rank=2), filled(rank=3)
    before = copy.deepcopy(memory).sample(5).x
    other.save(tmp_path / "memory")
    with pytest.raises(ValueError, match=r"expected that of GaussianMemory of rank 2.* got .* rank 3"):
        memory.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="expected that of GaussianMemory of rank 2"):
        memory.load(tmp_path / "memory")
    assert torch.equal(memory.sample(5).x, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 6), torch.tensor([0, -1])), "y: expected integers from 0 to"),
        ((torch.zeros(2, 6), torch.tensor([0, 1, 1])), r"y: expected shape \(2,\)"),
        ((torch.zeros(2, 5), torch.tensor([0, 1])), r"x: expected rows of shape \(6,\)"),
        ((torch.zeros(2, 6).double(), torch.tensor([0, 1])), "x: expected rows of shape"),
        ((torch.zeros(2, 6).long(), torch.tensor([0, 1])), "x: expected floating-point rows without a codec, got"),
        ((torch.full((2, 6), float("nan")), torch.tensor([0, 1])), "x: expected finite values, got 12"),
        ((torch.zeros(2, 6), torch.tensor([0, 1]), -1), "t: expected integers"),
    ],
)
def test_what_is_wrong_with_a_batch_is_said_and_nothing_changes(arguments: tuple[Any, ...], message: str) -> None:
    memory = filled()
    before = copy.deepcopy(memory).sample(5).x
    with pytest.raises(ValueError, match=message):
        memory.write(*arguments)
    assert len(memory) == 400
    assert torch.equal(memory.sample(5).x, before)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="rank: expected an integer >= 0"):
        GaussianMemory(rank=-1)
    with pytest.raises(ValueError, match=r"balance: expected one of 'class', 'count', got 'clas'; did you mean"):
        GaussianMemory(balance="clas")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="codec: expected a learned codec, or None, got"):
        GaussianMemory(codec="raw")
    with pytest.raises(ValueError, match="n: nothing has been written"):
        GaussianMemory().sample(3)
    with pytest.raises(ValueError, match="n: expected an integer >= 1, got 0"):
        filled().sample(0)
    assert GaussianMemory()  # empty is not false
    memory = GaussianMemory()
    memory.write(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert len(memory) == 0


def test_the_global_generators_stay_as_they_are() -> None:
    state = torch.get_rng_state()
    filled(seed=0).sample(10)
    assert torch.equal(torch.get_rng_state(), state)


def test_cost_of_a_step_does_not_grow_with_what_was_written() -> None:
    memory = GaussianMemory(rank=4)
    x, y = stream(32)

    def step() -> float:
        began = time.process_time()
        for _ in range(20):
            memory.write(x, y)
            memory.sample(32)
        return time.process_time() - began

    early = min(step() for _ in range(5))
    for _ in range(300):
        memory.write(x, y)
    assert min(step() for _ in range(5)) < 3 * early
