"""RandomProjectionMemory: against scikit-learn's ridge regression, in any order, counted and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.training import Naive
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from avalanche_memplugins import MemoryPredictionPlugin, RandomProjectionMemory
from avalanche_memplugins.codecs import LatentCodec
from avalanche_memplugins.memories.random_projection_memory import RIDGES

FEATURES, WIDTH, CLASSES = 6, 40, 4


def stream(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Classes 2, 3, 4, 5 around means on a ring, which no linear function of the rows tells apart in one direction."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (rows,), generator=g)
    means = 2 * torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(9))
    return means[y] + torch.randn(rows, FEATURES, generator=g), y + 2


def filled(order: Tensor | None = None, rows: int = 300, batch: int = 16, **options: Any) -> RandomProjectionMemory:
    memory = RandomProjectionMemory(**{"width": WIDTH, "ridge": 1.0, "seed": 3, **options})
    x, y = stream(rows)
    if order is not None:
        x, y = x[order], y[order]
    for number, (rows_x, rows_y) in enumerate(zip(x.split(batch), y.split(batch), strict=True)):
        memory.write(rows_x, rows_y, 0, origin=number // 5)
    return memory


def projected(x: Tensor, seed: int = 3) -> np.ndarray:
    drawn = torch.randn(FEATURES, WIDTH, generator=torch.Generator().manual_seed(seed)).double().numpy()
    return np.maximum(x.double().numpy() @ drawn / np.sqrt(FEATURES), 0)


def test_it_answers_as_scikit_learns_ridge_on_all_rows_at_once() -> None:
    x, y = stream(300)
    queries = stream(50, seed=1)[0]
    fit = Ridge(alpha=1.0, fit_intercept=False).fit(projected(x), np.eye(CLASSES)[y.numpy() - 2])
    outputs = fit.predict(projected(queries))
    expected = outputs - np.log(np.exp(outputs).sum(1, keepdims=True))
    got = filled().predict(queries)
    assert bool((got[:, :2] == -torch.inf).all())
    np.testing.assert_allclose(got[:, 2:].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("order", ["by class", "backwards", "one by one"])
def test_the_order_of_the_stream_changes_rounding_only(order: str) -> None:
    queries = stream(50, seed=1)[0]
    y = stream(300)[1]
    places = {"by class": y.argsort(), "backwards": torch.arange(299, -1, -1), "one by one": torch.arange(300)}[order]
    other = filled(places, batch=1 if order == "one by one" else 16)
    torch.testing.assert_close(other.predict(queries), filled().predict(queries), atol=1e-4, rtol=0)


def test_the_ridge_is_chosen_on_rows_held_back() -> None:
    memory = filled(ridge="auto", held_back=60)
    x, y = stream(300)
    held = memory.held
    mine = torch.cdist(held, x).argmin(1)
    assert len(set(mine.tolist())) == 60
    assert torch.equal(x[mine], held)
    targets, rest = np.eye(CLASSES)[y.numpy() - 2], np.setdiff1d(np.arange(300), mine.numpy())
    errors = []
    for ridge in RIDGES:
        fit = Ridge(alpha=ridge, fit_intercept=False).fit(projected(x[rest]), targets[rest])
        errors.append(((fit.predict(projected(held)) - targets[mine.numpy()]) ** 2).sum())
    assert memory.chosen_ridge() == RIDGES[int(np.argmin(errors))]
    fixed = filled(ridge=memory.chosen_ridge())
    queries = stream(50, seed=1)[0]
    torch.testing.assert_close(memory.predict(queries), fixed.predict(queries))


@pytest.mark.parametrize("rows", [1, 3, 30])
def test_few_rows_are_answered_too(rows: int) -> None:
    memory = filled(rows=rows, ridge="auto")
    x, y = stream(rows)
    assert memory.predict(x).argmax(1).tolist() == y.tolist()


def test_bytes_are_the_triangle_the_sums_the_solution_and_the_rows_held_back() -> None:
    triangle, sums, table = WIDTH * (WIDTH + 1) // 2, CLASSES * WIDTH, 32 * CLASSES
    assert filled().nbytes == 4 * (triangle + 2 * sums) + table
    assert filled(ridge="auto", held_back=20).nbytes == 4 * (triangle + 2 * sums + 20 * (FEATURES + 1)) + table
    assert filled().nbytes_fixed == 4 * WIDTH * FEATURES
    network = nn.Linear(FEATURES, 9)
    assert filled(embedding=network).nbytes_fixed == 4 * (9 * WIDTH + 9 * FEATURES + 9)


@pytest.mark.parametrize("nbytes", [9_000, 50_000, 400_000])
@pytest.mark.parametrize("ridge", [0.1, "auto"])
def test_of_a_budget_one_number_more_would_not_fit(nbytes: int, ridge: Any) -> None:
    memory = RandomProjectionMemory.from_budget(nbytes, classes=CLASSES, shape=(FEATURES,), ridge=ridge, seed=0)
    sizes = []
    for width in (memory.width, memory.width + 1):
        other = RandomProjectionMemory(width=width, ridge=ridge, seed=0)
        other.write(*stream(100))
        sizes.append(other.nbytes)
    assert sizes[0] <= nbytes < sizes[1]


def test_a_budget_below_a_width_of_one_is_told() -> None:
    with pytest.raises(ValueError, match="nbytes: expected at least the 164 bytes that 4 classes"):
        RandomProjectionMemory.from_budget(163, classes=4, shape=(2,), ridge=1.0)
    assert RandomProjectionMemory.from_budget(164, classes=4, shape=(2,), ridge=1.0).width == 1


def test_a_saved_memory_answers_alike_whatever_the_seed_of_the_other(tmp_path: Path) -> None:
    memory, queries = filled(ridge="auto"), stream(20, seed=1)[0]
    memory.save(tmp_path / "m")
    other = RandomProjectionMemory(width=WIDTH, seed=99).load(tmp_path / "m")
    assert torch.equal(other.predict(queries), memory.predict(queries))
    for one in (memory, other):
        one.write(*stream(40, seed=2))
    assert torch.equal(other.predict(queries), memory.predict(queries))
    with pytest.raises(ValueError, match="width=40"):
        RandomProjectionMemory(width=41, seed=3).load(tmp_path / "m")


def test_a_task_asks_its_own_classes_only() -> None:
    memory = RandomProjectionMemory(width=WIDTH, ridge=1.0, seed=0)
    x, y = stream(200)
    memory.write(x, y, (y > 3).long())
    answer = memory.predict(x, task=1, classes=9)
    assert answer.shape == (200, 9)
    assert set(answer.argmax(1).tolist()) == {4, 5}
    with pytest.raises(ValueError, match="task: expected one that was written, got 2"):
        memory.predict(x, task=2)
    with pytest.raises(ValueError, match="classes: expected more than 5"):
        memory.predict(x, classes=5)


def test_codes_of_a_codec_are_taken_in_the_place_of_rows() -> None:
    class Halves(nn.Module):
        code_size = 3

        def encode(self, x: Tensor) -> Tensor:
            return x[:, :3]

        def decode(self, z: Tensor) -> Tensor:
            return torch.cat([z, z], 1).sigmoid()

    codec = LatentCodec(Halves(), code_mean=torch.zeros(3), code_std=torch.ones(3), mean=0.0, std=1.0)
    x = stream(60)[0].sigmoid()
    y = (x[:, 0] > x[:, 1]).long()
    coded = RandomProjectionMemory(width=WIDTH, ridge=0.01, codec=codec, seed=0)
    plain = RandomProjectionMemory(width=WIDTH, ridge=0.01, seed=0)
    coded.write(x, y)
    plain.write(x[:, :3], y)
    torch.testing.assert_close(coded.predict(x), plain.predict(x[:, :3]))


def test_nothing_is_drawn_from_sums() -> None:
    with pytest.raises(ValueError, match="n: expected a memory that keeps or generates rows"):
        filled().sample(3)


def test_a_plugin_reads_it_in_evaluation() -> None:
    from avalanche_memplugins.testing.streams import SCENARIOS

    scenario = SCENARIOS["x, y, t"]
    memory = RandomProjectionMemory(width=60, seed=0)
    model = nn.Linear(8, 6)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        plugins=[MemoryPredictionPlugin(memory, writes=True)],
        train_mb_size=10,
    )
    for experience in scenario.stream():
        strategy.train(experience)
    rows = [row for experience in scenario.stream() for row in experience.dataset]
    right = [int(memory.predict(torch.as_tensor(x)[None]).argmax()) == int(y) for x, y, *_ in rows]
    assert sum(right) > 0.9 * len(right)
