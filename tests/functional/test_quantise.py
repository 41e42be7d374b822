"""Packed bits against Python's own integers, value by value."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avalanche_memplugins.functional.quantise import from_scaled_int8, pack_bits, packed_size, scaled_int8, unpack_bits


def packed_by_hand(row: list[int], bits: int) -> list[int]:
    """One long integer, lowest value first, cut into bytes."""
    whole = sum(value << (bits * place) for place, value in enumerate(row))
    return list(whole.to_bytes((len(row) * bits + 7) // 8, "little"))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
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
        (lambda: pack_bits(torch.zeros(2, 3, dtype=torch.uint8), 3), "bits: expected one of 1, 2, 4, 8, got 3"),
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
