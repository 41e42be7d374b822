"""Packed bits against Python's own integers, value by value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from avalanche_memplugins.functional.quantise import (
    from_scaled_int8,
    gaussian_levels,
    nearest_levels,
    pack_bits,
    packed_size,
    scaled_int8,
    unpack_bits,
)


def packed_by_hand(row: list[int], bits: int) -> list[int]:
    """One long integer, lowest value first, cut into bytes."""
    whole = sum(value << (bits * place) for place, value in enumerate(row))
    return list(whole.to_bytes((len(row) * bits + 7) // 8, "little"))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 49, 196])
@pytest.mark.parametrize("batch", [(), (3,), (0,), (2, 1, 3)])
def test_packing_is_that_of_one_long_integer_and_comes_undone(bits: int, count: int, batch: tuple[int, ...]) -> None:
    values = np.random.default_rng(count).integers(0, 2**bits, (*batch, count)).astype(np.uint8)
    code = pack_bits(torch.from_numpy(values), bits)
    assert code.shape == (*batch, packed_size(count, bits))
    expected = [packed_by_hand(row.tolist(), bits) for row in values.reshape(-1, count)]
    assert code.reshape(-1, code.shape[-1]).tolist() == expected
    assert np.array_equal(unpack_bits(code, bits, count).numpy(), values)


def test_a_view_is_packed_as_its_values() -> None:
    values = torch.arange(32, dtype=torch.uint8).view(4, 8) % 16
    assert torch.equal(pack_bits(values.t(), 4), pack_bits(values.t().contiguous(), 4))
    before = values.clone()
    unpack_bits(pack_bits(values, 8), 8, 8).add_(1)
    assert torch.equal(values, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pack_bits(torch.zeros(2, 3, dtype=torch.uint8), 9), "bits: expected an integer from 1 to 8, got 9"),
        (lambda: pack_bits(torch.zeros(2, 3), 4), "values: expected uint8"),
        (lambda: unpack_bits(torch.zeros(2, 3, dtype=torch.uint8), 4, 7), "expected rows of 4 bytes"),
        (lambda: unpack_bits(torch.zeros(2, 3), 4, 6), "code: expected uint8"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


def test_int8_rows_have_steps_of_their_own() -> None:
    sizes = torch.tensor([1e-4, 1.0, 3.0, 50.0, 0.0]).view(5, 1, 1)
    values = sizes * torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    codes, steps = scaled_int8(values)
    top = np.abs(values.double().numpy()).max((1, 2))
    np.testing.assert_allclose(steps[:4].double().numpy(), top[:4] / 127, rtol=1e-6)
    assert codes.dtype == torch.int8
    assert codes[:4].abs().flatten(1).amax(1).tolist() == [127] * 4
    want = np.round(values[:4].double().numpy() / steps[:4, None, None].double().numpy())
    assert np.abs(codes[:4].numpy() - want).max() <= 0
    back = from_scaled_int8(codes, steps)
    assert bool(((back - values).abs().amax((1, 2)) <= 0.5001 * steps).all())
    assert torch.equal(back[4], values[4])


@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497)])
def test_levels_for_normal_numbers_are_those_of_max(bits: int, error: float) -> None:
    """Each level is the mean of what is nearest to it, and the squared error is that of Max's table."""
    levels = gaussian_levels(bits).numpy()
    ends = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    share = np.diff(norm.cdf(ends))
    np.testing.assert_allclose(levels, -np.diff(norm.pdf(ends)) / share, atol=1e-6)
    assert 1 - (share * levels**2).sum() == pytest.approx(error, rel=2e-3)
    np.testing.assert_allclose(levels, -levels[::-1])


@pytest.mark.parametrize("bits", [6, 8])
def test_many_levels_come_near_the_limit(bits: int) -> None:
    z = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    levels = gaussian_levels(bits).numpy()
    error = z - levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, z)]
    limit = np.sqrt(3) * np.pi / 2 / 4**bits  # Panter and Dite 1951
    assert 0.9 * limit < (error**2).mean() < 1.03 * limit


def test_the_nearest_level_is_found() -> None:
    levels = torch.tensor([-2.0, -0.5, 0.0, 3.0])
    values = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 2
    found = nearest_levels(values, levels)
    assert np.array_equal(found.numpy(), abs(values.numpy()[..., None] - levels.numpy()).argmin(-1))
    with pytest.raises(ValueError, match="levels: expected 1 to 256 numbers"):
        nearest_levels(values, levels[:0])
