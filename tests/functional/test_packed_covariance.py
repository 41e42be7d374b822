"""Packed covariances: bytes, losses, and that what is read is always a covariance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from avalanche_memplugins.functional import (
    pack_covariance,
    pack_deviations,
    pack_factors,
    packed_covariance_size,
    unpack_covariance,
    unpack_deviations,
    unpack_factors,
)


def covariances(width: int, rank: int, seed: int, decades: float = 6) -> Tensor:
    """Semi-definite, of a rank, with deviations over some orders of magnitude."""
    g = torch.Generator().manual_seed(seed)
    factor = torch.randn(3, rank, width, generator=g, dtype=torch.float64)
    factor = factor * 10 ** (decades * torch.rand(3, 1, width, generator=g, dtype=torch.float64) - 3)
    return factor.mT @ factor


def numpy_read(covariance: np.ndarray, bits: int) -> np.ndarray:
    """One matrix as a read sees it, number by number."""
    d = len(covariance)
    unit = np.float32(np.sqrt(np.diag(covariance).max()))
    share = np.float16(np.clip(np.sqrt(np.diag(covariance)) / unit, 2.0**-14, 1)).astype(float)
    sigma = share * float(unit)
    correlation = covariance / np.outer(sigma, sigma)
    np.fill_diagonal(correlation, 1)
    lower = np.linalg.cholesky((correlation + 1e-3 * np.eye(d)) / 1.001)
    read, most = np.zeros((d, d)), 2 ** (bits - 1) - 1
    for i in range(d):
        row = lower[i, :i]
        scale = float(np.float16(np.abs(row).max() / most)) if i else 0.0
        if scale:
            read[i, :i] = np.clip(np.round(row / scale), -most, most) * scale
        norm = (read[i, :i] ** 2).sum()
        read[i, :i] *= np.sqrt(min(1, 0.999 / max(norm, 1e-9)))
        read[i, i] = np.sqrt(max(1 - norm, 1e-3))
    return (read @ read.T) * np.outer(sigma, sigma)


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8, 33])
def test_what_is_read_is_what_numpy_reads_in_exactly_the_bytes_told(width: int, bits: int) -> None:
    given = covariances(width, 4 * width, 0)
    packed = pack_covariance(given, bits)
    assert sum(part.nbytes for part in packed) == 3 * packed_covariance_size(width, bits)
    numbers = width * (width - 1) // 2
    assert packed.codes[0].nbytes == -(-numbers * bits // 8)
    factor = unpack_covariance(packed, bits).double()
    for k in range(3):
        expected = numpy_read(given[k].numpy(), bits)
        sigma = np.sqrt(np.diag(expected))
        got = (factor[k] @ factor[k].T).numpy() / np.outer(sigma, sigma)
        np.testing.assert_allclose(got, expected / np.outer(sigma, sigma), rtol=0, atol=2e-6)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_every_matrix_stays_positive_definite(bits: int) -> None:
    """Of full and of low rank, of one row, and of none."""
    for seed in range(40):
        given = covariances(12, 1 + seed % 14, seed)
        if seed % 5 == 0:
            given[0] = 0
        if seed % 7 == 0:
            given[1, 3], given[1, :, 3] = 0, 0
        factor = unpack_covariance(pack_covariance(given, bits), bits).double()
        assert bool((factor.diagonal(dim1=1, dim2=2) > 0).all())
        assert bool((factor.triu(1) == 0).all())
        variance = (factor @ factor.mT).diagonal(dim1=1, dim2=2)
        own = given.diagonal(dim1=1, dim2=2)
        kept = own > 1e-7 * own.amax(1, keepdim=True)  # smaller ones are raised
        assert bool(((variance / own - 1).abs() < 2e-3)[kept].all())


def test_more_bits_lose_less() -> None:
    given = covariances(24, 100, 1, decades=3)
    sigma = given.diagonal(dim1=1, dim2=2).sqrt()
    lost = []
    for bits in (4, 6, 8):
        factor = unpack_covariance(pack_covariance(given, bits), bits).double()
        gap = (factor @ factor.mT - given) / (sigma[:, :, None] * sigma[:, None, :])
        lost.append(float(gap.abs().max()))
    assert lost[0] < 0.15
    assert lost[1] < 0.3 * lost[0]
    assert lost[2] < 0.01


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("rank", [0, 1, 3, 9])
def test_factors_and_diagonal_likewise(rank: int, bits: int) -> None:
    g = torch.Generator().manual_seed(rank)
    spread = 10 ** (4 * torch.rand(5, 1, 7, generator=g) - 2)
    factors = torch.randn(5, rank, 7, generator=g) * spread
    diagonal = torch.rand(5, 7, generator=g) * spread[:, 0].square()
    diagonal[0] = 0  # all of the variance in the factors
    packed = pack_factors(factors, diagonal, bits)
    assert sum(part.nbytes for part in packed) == 5 * packed_covariance_size(7, bits, rank)
    read, rest = unpack_factors(packed, bits)
    assert read.shape == (5, rank, 7)
    assert bool((rest > 0).all())
    given = factors.mT @ factors + torch.diag_embed(diagonal)
    got = read.mT @ read + torch.diag_embed(rest)
    sigma = given.diagonal(dim1=1, dim2=2).sqrt()
    if rank:
        live = sigma[:, :, None] * sigma[:, None, :]
        # Each factor is off by half a step, and so is the product of as many as there are.
        assert float(((got - given) / live)[1:].abs().max()) < 2.5 * rank / (2 ** (bits - 1) - 1)
    torch.testing.assert_close(got.diagonal(dim1=1, dim2=2)[1:], given.diagonal(dim1=1, dim2=2)[1:], rtol=4e-3, atol=0)


def test_bits_and_sizes_that_do_not_fit_are_told() -> None:
    packed = pack_covariance(torch.eye(5)[None], 6)
    with pytest.raises(ValueError, match="bits: expected one of 4, 6, 8, got 5"):
        pack_covariance(torch.eye(5)[None], 5)
    with pytest.raises(ValueError, match="packed: expected codes of 10 bytes for 10 numbers of 8 bits, got 8"):
        unpack_covariance(packed, 8)
    with pytest.raises(ValueError, match="covariance: expected variances >= 0, got -1"):
        pack_covariance(-torch.eye(2)[None], 4)


@pytest.mark.parametrize("width", [1, 2, 7, 60])
def test_deviations_in_four_bits_are_within_half_a_step(width: int) -> None:
    g = torch.Generator().manual_seed(width)
    for spread in (0.0, 1.0, 13.0):  # powers of two between the least and the largest
        given = torch.exp2(-spread * torch.rand(3, width, generator=g)).half()
        codes, least = pack_deviations(given)
        assert (codes.shape, codes.dtype, least.nbytes) == ((3, -(-width // 2)), torch.uint8, 6)
        got = unpack_deviations(codes, least, width).double().numpy()
        logs = np.log2(given.double().numpy())
        step = np.abs(logs.min(1, keepdims=True)) / 15
        assert (np.abs(np.log2(got) - logs) <= step / 2 + 2e-3).all()
        smallest = logs.argmin(1)
        np.testing.assert_array_equal(got[range(3), smallest], given.double().numpy()[range(3), smallest])
    with pytest.raises(ValueError, match=r"deviation: expected numbers in \(0, 1\]"):
        pack_deviations(torch.zeros(1, 2).half())
    with pytest.raises(ValueError, match="deviation: expected float16"):
        pack_deviations(torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"codes: expected uint8 \(1, 2\) for 3 numbers"):
        unpack_deviations(*pack_deviations(torch.ones(1, 2).half()), 3)
