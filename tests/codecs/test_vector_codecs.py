"""Codecs for vectors against NumPy in float64, their bytes, and their state."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from avalanche_memplugins import RandomMemory
from avalanche_memplugins.codecs import Codec, ProductQuantised, Quantised
from avalanche_memplugins.functional import gaussian_levels, k_means


def rows(count: int = 400, width: int = 13, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-2, 2, width)
    return torch.randn(count, width, generator=generator) * scale + 3 * scale * torch.randn(width, generator=generator)


@pytest.mark.parametrize("bits", range(2, 9))
def test_numbers_are_the_nearest_levels_of_numpy(bits: int) -> None:
    x, codec = rows(), Quantised(bits, spread=1.3)
    codec.fit(x[:100])
    codec.check(x)
    code = codec.encode(x)
    shape, dtype = codec.spec(x.shape[1:], x.dtype)
    assert (code.shape[1:], code.dtype) == (shape, dtype) == (((13 * bits + 7) // 8,), torch.uint8)
    first = x[:100].double().numpy()
    levels = first.mean(0) + 1.3 * first.std(0) * gaussian_levels(bits).numpy()[:, None]  # (2**bits, 13)
    distances = abs(x.double().numpy()[:, None] - levels)
    back = codec.decode(code, x.shape[1:], x.dtype).double().numpy()
    # Of two levels equally near within float32 either may be stored.
    np.testing.assert_allclose(abs(back - x.double().numpy()), distances.min(1), atol=2e-5 * first.std(0).max())
    inside = (x.numpy() > levels.min(0)) & (x.numpy() < levels.max(0))
    half_gap = np.diff(levels, axis=0).max(0) / 2
    assert (abs(back - x.double().numpy()) <= 1.001 * half_gap + 1e-4)[inside].all()


def test_more_bits_err_less_and_constant_features_come_back_exactly() -> None:
    x = rows()
    x[:, 4] = 2.5
    errors = []
    for bits in range(2, 9):
        codec = Quantised(bits)
        codec.fit(x)
        back = codec.decode(codec.encode(x), x.shape[1:], x.dtype)
        assert torch.equal(back[:, 4], x[:, 4])
        errors.append(float(((back - x) / x.std(0).clamp_min(1e-6)).square().mean()))
    assert all(b < 0.4 * a for a, b in itertools.pairwise(errors))
    assert errors[0] < 0.14


def test_rows_of_other_shapes_and_types() -> None:
    x = rows(50, 12).view(50, 3, 2, 2)
    for make in (lambda: Quantised(3), lambda: ProductQuantised(5, bits=3)):
        for dtype in (torch.float16, torch.float64):
            codec: Any = make()
            codec.fit(x.to(dtype))
            back = codec.decode(codec.encode(x.to(dtype)), x.shape[1:], dtype)
            assert (back.shape, back.dtype) == (x.shape, dtype)
            assert codec.encode(x[:0]).shape[0] == 0


def test_parts_are_the_nearest_centres() -> None:
    x, codec = rows(), ProductQuantised(4, bits=5, seed=3)
    codec.fit(x)
    code = codec.encode(x)
    assert code.shape == (400, 3)
    assert codec.nbytes == 2 * 32 * 13
    back = codec.decode(code, x.shape[1:], x.dtype).numpy()
    centres = codec.centres.double().numpy()
    for part in np.array_split(np.arange(13), 4):
        distances = ((x.double().numpy()[:, None, part] - centres[:, part]) ** 2).sum(-1)
        np.testing.assert_allclose(((back - x.numpy())[:, part] ** 2).sum(1), distances.min(1), rtol=2e-3, atol=1e-7)


def test_centres_are_about_as_good_as_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 4, generator=generator) + 6 * torch.randn(12, 4, generator=generator).repeat(50, 1)
    centres = [k_means(x, 12, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    inertia = [float(torch.cdist(x, found).min(1).values.square().sum()) for found in centres]
    reference = KMeans(12, init="random", n_init=8, random_state=0).fit(x.numpy()).inertia_
    assert min(inertia) < 1.05 * reference
    assert all(value < 3 * reference for value in inertia)
    once = k_means(x, 600, steps=1)
    assert torch.cdist(x, once).min(1).values.max() < 0.05  # as many centres as rows


def test_a_centre_without_rows_moves_to_the_row_farthest_off() -> None:
    x = torch.tensor([[0.0], [0.0], [0.0], [0.1], [50.0]])
    for seed in range(5):
        found = k_means(x, 3, generator=torch.Generator().manual_seed(seed)).flatten().sort().values
        assert found.tolist() == pytest.approx([0.0, 0.1, 50.0], abs=1e-6)


@pytest.mark.parametrize("make", [lambda: Quantised(4), lambda: ProductQuantised(3, bits=4)])
def test_what_was_learned_is_in_the_state_and_counts(make: Any) -> None:
    x, codec = rows(), make()
    assert isinstance(codec, Codec)
    assert (codec.fitted, codec.nbytes, codec.nbytes_fixed) == (False, 0, 0)
    for call in (codec.encode, codec.check):
        with pytest.raises(ValueError, match=r"call fit\(rows\) first"):
            call(x)
    codec.fit(x)
    assert codec.fitted
    assert codec.nbytes == sum(value.nbytes for value in codec.state_dict().values())
    again = make()
    again.load_state_dict(codec.state_dict())
    assert torch.equal(again.encode(x), codec.encode(x))
    assert torch.equal(copy.deepcopy(codec).encode(x), codec.encode(x))
    assert repr(again) == repr(codec)
    other = make()
    assert repr(other) != repr(codec)
    other.fit(x[:100])
    assert repr(other) != repr(codec)  # by it a memory knows whose rows it loads


@pytest.mark.parametrize("make", [lambda: Quantised(2), lambda: ProductQuantised(3, bits=4)])
def test_a_memory_counts_what_was_learned_and_loads_no_others_rows(make: Any, tmp_path: Path) -> None:
    x, codec, other = rows(), make(), make()
    codec.fit(x)
    other.fit(x[:50])
    memory = RandomMemory.from_budget(3000, shape=(13,), codec=codec, labels="uint8", store_tasks=False, seed=0)
    memory.write(x, torch.zeros(400, dtype=torch.int64))
    row = codec.encode(x).shape[1] + 1
    assert memory.nbytes == memory.capacity * row + codec.nbytes
    assert 3000 - row < memory.nbytes <= 3000
    held = memory.rows(memory.slots()).x
    memory.save(tmp_path / "memory")
    again = RandomMemory(memory.capacity, codec=codec, labels="uint8", store_tasks=False)
    assert torch.equal(again.load(tmp_path / "memory").rows(memory.slots()).x, held)
    with pytest.raises(ValueError, match="folder: does not fit"):
        RandomMemory(memory.capacity, codec=other, labels="uint8", store_tasks=False).load(tmp_path / "memory")


def test_what_does_not_fit_is_told() -> None:
    x, codec, parts = rows(), Quantised(4), ProductQuantised(3, bits=4)
    with pytest.raises(ValueError, match="expected at least 2 rows"):
        codec.fit(x[:1])
    with pytest.raises(ValueError, match="expected at least 16 rows"):
        parts.fit(x[:15])
    with pytest.raises(ValueError, match="expected at least 3 features"):
        parts.fit(x[:, :2])
    for made in (codec, parts):
        with pytest.raises(ValueError, match="x: expected finite"):
            made.fit(torch.full((40, 4), torch.nan))
        made.fit(x)
        with pytest.raises(ValueError, match="expected rows of 13 numbers"):
            made.encode(x[:, :5])
        with pytest.raises(ValueError, match="x: expected finite"):
            made.check(x * torch.inf)
        with pytest.raises(ValueError, match="code: expected uint8"):
            made.decode(made.encode(x)[:, 1:], x.shape[1:], x.dtype)
    with pytest.raises(ValueError, match="bits: expected an integer >= 2, got 1"):
        Quantised(1)
    with pytest.raises(ValueError, match="count: expected at most 3"):
        k_means(x[:3], 4)
