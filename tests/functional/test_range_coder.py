"""The range coder: exact for any probabilities, close to the ideal length, the same with and without numba."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from avalanche_memplugins.functional import decode_bits, encode_bits, range_coder

PROBABILITIES: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "uniform": lambda rng, shape: rng.integers(1, 65536, shape),
    "halves": lambda rng, shape: np.full(shape, 32768),
    "extremes": lambda rng, shape: rng.choice([1, 2, 65534, 65535], shape),
    "mixed": lambda rng, shape: np.where(
        rng.random(shape) < 0.5, rng.choice([1, 65535], shape), rng.integers(1, 65536, shape)
    ),
    "skewed": lambda rng, shape: (65535 / (1 + np.exp(-rng.normal(0, 6, shape)))).round().clip(1, 65535).astype(int),
}


@pytest.fixture(params=["numba", "numpy"])
def _path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numba":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(range_coder, "compiled", lambda kernel: None)


def drawn(kind: str, likely: bool, shape: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Bits and probabilities; bits drawn by these, or against them."""
    rng = np.random.default_rng(seed)
    ones = PROBABILITIES[kind](rng, shape)
    share = ones / 65536
    bits = rng.random(shape) < (share if likely else 1 - share)
    return torch.from_numpy(bits.astype(np.uint8)), torch.from_numpy(ones.astype(np.int64))


def ideal_bytes(bits: Tensor, ones: Tensor) -> np.ndarray:
    share = ones.numpy().astype(np.float64) / 65536
    return -np.log2(np.where(bits.numpy() == 1, share, 1 - share)).sum(1) / 8


@pytest.mark.usefixtures("_path")
@pytest.mark.parametrize("likely", [True, False])
@pytest.mark.parametrize("kind", PROBABILITIES)
def test_rows_come_back_and_are_as_short_as_can_be(kind: str, likely: bool) -> None:
    bits, ones = drawn(kind, likely, (1500, 240))
    buffer, lengths = encode_bits(bits, ones)
    assert buffer.dtype == torch.uint8
    assert len(buffer) == int(lengths.sum())
    starts = lengths.cumsum(0) - lengths
    order = torch.randperm(1500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(decode_bits(buffer, starts[order], lengths[order], ones[order]), bits[order])
    assert (lengths.numpy() <= ideal_bytes(bits, ones) * 1.0001 + 1).all()
    if likely:  # bits of the other kind may end in many bytes of zeros, which are left out
        assert lengths.sum() >= (ideal_bytes(bits, ones) - 1).clip(0).sum()


def test_both_paths_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    for kind in PROBABILITIES:
        bits, ones = drawn(kind, True, (300, 90), seed=3)
        buffer, lengths = encode_bits(bits, ones)
        with monkeypatch.context() as patch:
            patch.setattr(range_coder, "compiled", lambda kernel: None)
            plain, sizes = encode_bits(bits, ones)
        assert torch.equal(buffer, plain)
        assert torch.equal(lengths, sizes)


@pytest.mark.usefixtures("_path")
def test_a_carry_runs_through_full_bytes() -> None:
    """Unlikely zeros at the upper end of the interval leave bytes of 255, over which a later carry has to go."""
    rng = np.random.default_rng(0)
    carried = 0
    for _ in range(40):
        prefix = np.zeros(int(rng.integers(1, 40)), dtype=np.uint8)
        tail = rng.integers(0, 2, 60).astype(np.uint8)
        bits = torch.from_numpy(np.concatenate([prefix, tail]))[None]
        ones = torch.cat([torch.full((len(prefix),), 65535), torch.full((60,), int(rng.integers(1, 65536)))])[None]
        buffer, lengths = encode_bits(bits, ones)
        carried += int((buffer[:-1] == 255).any())
        assert torch.equal(decode_bits(buffer, torch.tensor([0]), lengths, ones), bits)
    assert carried > 20


@pytest.mark.usefixtures("_path")
def test_rows_of_no_bits_and_no_rows() -> None:
    for shape in ((0, 5), (3, 0)):
        buffer, lengths = encode_bits(torch.zeros(shape, dtype=torch.uint8), torch.ones(shape, dtype=torch.int64))
        assert lengths.tolist() == [0] * shape[0]
        again = decode_bits(buffer, lengths.clone(), lengths, torch.ones(shape, dtype=torch.int64))
        assert again.shape == shape
    certain = torch.ones(1, 9, dtype=torch.uint8)
    assert encode_bits(certain, torch.full((1, 9), 65535))[1].tolist() == [0]


def test_what_does_not_fit_is_told() -> None:
    bits, ones = torch.zeros(2, 3, dtype=torch.uint8), torch.ones(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="bits: expected uint8"):
        encode_bits(bits.float(), ones)
    with pytest.raises(ValueError, match="bits: expected 0 and 1, got 2"):
        encode_bits(bits + 2, ones)
    with pytest.raises(ValueError, match="ones: expected shape"):
        encode_bits(bits, ones[:1])
    for wrong in (ones * 0, ones + 65535):
        with pytest.raises(ValueError, match="ones: expected integers from 1 to 65535"):
            encode_bits(bits, wrong)
    zero = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="lengths: expected rows within 0 bytes, got 1"):
        decode_bits(torch.zeros(0, dtype=torch.uint8), zero, zero + 1, ones)
    with pytest.raises(ValueError, match="starts: expected numbers >= 0, got -1"):
        decode_bits(torch.zeros(0, dtype=torch.uint8), zero - 1, zero, ones)
