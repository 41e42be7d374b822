"""Covariances in few bytes: factors of the correlation in integers of 4, 6 or 8 bits, always positive definite."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.quantise import pack_bits, unpack_bits

_BITS = (4, 6, 8)
_LEAST = 1e-3  # of a variance of the correlation that its factors leave over
_FLOOR = 2.0**-14  # deviations below this share of the largest are no normal float16 numbers
_SMALLEST = 1e-12  # deviation; the square of its share is a float32 number
_RIDGE = 1e-3
_STEPS = 15  # of a deviation in four bits


class PackedCovariance(NamedTuple):
    """Covariances of K Gaussians of width C.

    ``codes`` uint8 ``(K, bytes)``; ``scale`` float16 ``(K, rows)``, one number a row of factors; ``deviation``
    float16 ``(K, C)``, as shares of ``unit`` float32 ``(K,)``.

    >>> packed = pack_covariance(torch.eye(8).repeat(3, 1, 1), 4)
    >>> packed.codes.shape, packed.deviation.shape  # 28 numbers of 4 bits
    (torch.Size([3, 14]), torch.Size([3, 8]))
    """

    codes: Tensor
    scale: Tensor
    deviation: Tensor
    unit: Tensor


def pack_covariance(covariance: Tensor, bits: int) -> PackedCovariance:
    r"""Cholesky factors of the correlation matrices in integers.

    .. math:: C_{ij} = \sigma_i \sigma_j (A A^T)_{ij}, \qquad A_{ij} \approx s_i q_{ij} \; (j < i), \qquad
        A_{ii} = \sqrt{1 - \textstyle\sum_{j < i} (s_i q_{ij})^2}

    The diagonal of A is not stored: rows of A have norm 1, so it follows from the rest. What is read back is
    positive definite, whatever the bits.

    :param covariance: ``(K, C, C)``, semi-definite.
    :param bits: of an integer q, 4, 6 or 8.
    :raises ValueError: for other bits, or matrices that are no covariances.

    >>> packed = pack_covariance(torch.eye(8)[None], 6)
    >>> packed.codes.shape  # 28 numbers of 6 bits
    torch.Size([1, 21])
    """
    check.shaped(covariance=(covariance, "K C C"))
    _check_bits(bits)
    check.finite("covariance", covariance)
    matrix = covariance.double()
    variance = matrix.diagonal(dim1=1, dim2=2)
    if matrix.numel() and float(variance.min()) < 0:
        raise ValueError(f"covariance: expected variances >= 0, got {float(variance.min()):g}")
    stored = _deviations(variance)
    sigma = _sigma(*stored)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    correlation = matrix / (sigma[:, :, None] * sigma[:, None, :])
    # Of a variance that was raised to the floor only a part is explained by the others.
    correlation = correlation - torch.diag_embed(correlation.diagonal(dim1=1, dim2=2)) + eye
    factor = _factor((correlation + _RIDGE * eye) / (1 + _RIDGE)).tril(-1)
    scale, integers = _quantised(factor, bits)
    width = matrix.shape[1]
    rows, columns = torch.tril_indices(width, width, offset=-1, device=matrix.device)
    return PackedCovariance(_packed(integers[:, rows, columns], bits), scale, *stored)


def unpack_covariance(packed: PackedCovariance, bits: int) -> Tensor:
    r"""Lower triangles L ``(K, C, C)`` with :math:`L L^T` the covariances, float32, from :func:`pack_covariance`.

    :param packed: what it gave.
    :param bits: as it was packed.
    :raises ValueError: for codes of another size.

    >>> unpack_covariance(pack_covariance(4 * torch.eye(2)[None], 8), 8)
    tensor([[[2., 0.],
             [0., 2.]]])
    """
    _check_bits(bits)
    codes, scale, deviation, unit = _parts(packed)
    width = deviation.shape[1]
    check.like("packed", scale, deviation.shape, "one scale a row")
    rows, columns = torch.tril_indices(width, width, offset=-1, device=codes.device)
    factor = torch.zeros(len(codes), width, width, dtype=torch.float64, device=codes.device)
    factor[:, rows, columns] = _unpacked(codes, bits, len(rows)).double()
    factor = factor * scale.double()[..., None]
    norm = factor.square().sum(2)
    rest = (1 - norm).clamp_min(_LEAST)
    factor = factor * _no_longer(norm)[..., None] + torch.diag_embed(rest.sqrt())
    return (factor * _sigma(deviation, unit)[..., None]).float()


def pack_factors(factors: Tensor, diagonal: Tensor, bits: int) -> PackedCovariance:
    r"""Covariances :math:`F^T F + \mathrm{diag}(d)` likewise, by the factors of the correlation.

    The diagonal is not stored: variances of a correlation are 1, so it is what the factors leave over.

    :param factors: F, ``(K, r, C)``, r >= 0.
    :param diagonal: d, ``(K, C)``, >= 0.
    :param bits: of a number of F, 4, 6 or 8.

    >>> packed = pack_factors(torch.ones(1, 2, 6), torch.ones(1, 6), 4)
    >>> packed.codes.shape, packed.scale.shape
    (torch.Size([1, 6]), torch.Size([1, 2]))
    """
    check.shaped(factors=(factors, "K r C"), diagonal=(diagonal, "K C"))
    _check_bits(bits)
    check.finite("factors", factors)
    check.finite("diagonal", diagonal)
    variance = factors.double().square().sum(1) + diagonal.double()
    if variance.numel() and float(diagonal.min()) < 0:
        raise ValueError(f"diagonal: expected variances >= 0, got {float(diagonal.min()):g}")
    stored = _deviations(variance)
    scale, integers = _quantised(factors.double() / _sigma(*stored)[:, None], bits)
    return PackedCovariance(_packed(integers.flatten(1), bits), scale, *stored)


def unpack_factors(packed: PackedCovariance, bits: int) -> tuple[Tensor, Tensor]:
    """Factors ``(K, r, C)`` and what they leave of the diagonal ``(K, C)``, > 0, float32, from :func:`pack_factors`.

    :param packed: what it gave.
    :param bits: as it was packed.

    >>> factors, diagonal = unpack_factors(pack_factors(torch.zeros(1, 0, 2), torch.ones(1, 2), 4), 4)
    >>> diagonal
    tensor([[1., 1.]])
    """
    _check_bits(bits)
    codes, scale, deviation, unit = _parts(packed)
    rank, width = scale.shape[1], deviation.shape[1]
    factors = _unpacked(codes, bits, rank * width).view(len(codes), rank, width).double() * scale.double()[..., None]
    factors = factors * _no_longer(factors.square().sum(1))[:, None]
    sigma = _sigma(deviation, unit)
    rest = (1 - factors.square().sum(1)) * sigma.square()
    return (factors * sigma[:, None]).float(), rest.float()


def packed_covariance_size(width: int, bits: int, rank: int | None = None) -> int:
    """Bytes that one packed covariance takes.

    :param width: C.
    :param bits: 4, 6 or 8.
    :param rank: of factors and diagonal; None: the whole matrix.

    >>> packed_covariance_size(32, 4), packed_covariance_size(32, 4, rank=8)
    (380, 212)
    """
    check.positive_integer("width", width)
    _check_bits(bits)
    if rank is None:
        return _size(width * (width - 1) // 2, bits) + 4 * width + 4
    check.integer("rank", rank, least=0)
    return _size(rank * width, bits) + 2 * rank + 2 * width + 4


def pack_deviations(deviation: Tensor) -> tuple[Tensor, Tensor]:
    r"""Deviations in four bits each, evenly spaced on a scale of logarithms from the least to 1.

    .. math:: \sigma_i \approx m^{1 - q_i / 15}, \qquad m = \min_i \sigma_i

    Deviations of a projection lie within a factor of two or so, where the steps are 5 %.

    :param deviation: float16 ``(K, C)``, shares of the largest as :func:`pack_covariance` makes them.
    :returns: uint8 ``(K, ceil(C / 2))``, and m, float16 ``(K,)``.
    :raises ValueError: for anything else.

    >>> codes, least = pack_deviations(torch.tensor([[1.0, 0.5, 0.7]]).half())
    >>> codes.shape, unpack_deviations(codes, least, 3)
    (torch.Size([1, 2]), tensor([[1.0000, 0.5000, 0.6909]], dtype=torch.float16))
    """
    check.shaped(deviation=(deviation, "K C"))
    if deviation.dtype != torch.float16 or not deviation.shape[1]:
        raise ValueError(f"deviation: expected float16 (K, C), got {deviation.dtype} {tuple(deviation.shape)}")
    check.finite("deviation", deviation)
    if deviation.numel() and not 0 < float(deviation.min()) <= float(deviation.max()) <= 1:
        raise ValueError(f"deviation: expected numbers in (0, 1], got from {float(deviation.min()):g} on")
    least = deviation.amin(1)
    low = least.double().log2()[:, None]
    share = 1 - deviation.double().log2() / low.masked_fill(low == 0, 1.0)
    return pack_bits((share * _STEPS).round().clamp(0, _STEPS).to(torch.uint8), 4), least


def unpack_deviations(codes: Tensor, least: Tensor, width: int) -> Tensor:
    """Deviations float16 ``(K, width)`` of what :func:`pack_deviations` gave.

    :param codes: uint8 ``(K, ceil(width / 2))``.
    :param least: ``(K,)``.
    :param width: C.

    >>> unpack_deviations(*pack_deviations(torch.ones(1, 2).half()), 2)
    tensor([[1., 1.]], dtype=torch.float16)
    """
    size = (check.positive_integer("width", width) + 1) // 2
    check.shaped(least=(least, "K"))
    if check.tensor("codes", codes).dtype != torch.uint8 or codes.shape != (len(least), size):
        raise ValueError(
            f"codes: expected uint8 ({len(least)}, {size}) for {width} numbers, got {codes.dtype} {tuple(codes.shape)}"
        )
    levels = unpack_bits(codes, 4, width).double()
    return torch.exp2(least.double().log2()[:, None] * (1 - levels / _STEPS)).half()


def _no_longer(norm: Tensor) -> Tensor:
    """What makes factors shorter that rounding made longer than a variance of 1 allows, from their squared norm."""
    return ((1 - _LEAST) / norm.clamp_min(1 - _LEAST)).sqrt()


def _deviations(variance: Tensor) -> tuple[Tensor, Tensor]:
    """Deviations as float16 shares of the largest, ``(K, C)``, and this, float32 ``(K,)``."""
    deviation = variance.sqrt()
    unit = deviation.amax(1).clamp_min(_SMALLEST).float()
    return (deviation / unit.double()[:, None]).clamp(_FLOOR, 1).half(), unit


def _sigma(deviation: Tensor, unit: Tensor) -> Tensor:
    return deviation.double() * unit.double()[:, None]


def _factor(correlation: Tensor) -> Tensor:
    """Cholesky factors; of a matrix that rounding made indefinite, those of its nearest definite one."""
    lower, info = torch.linalg.cholesky_ex(correlation)
    factor: Tensor = lower
    if not bool((info != 0).any()):
        return factor
    values, vectors = torch.linalg.eigh(correlation)
    nearest = (vectors * values.clamp_min(_RIDGE)[:, None]) @ vectors.mT
    norm = nearest.diagonal(dim1=1, dim2=2).sqrt()
    factor = torch.linalg.cholesky(nearest / (norm[:, :, None] * norm[:, None, :]))
    return factor


def _quantised(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Float16 scales ``(K, rows)`` and integers from -h to h, of the shape of ``rows`` ``(K, rows, C)``."""
    most = 2 ** (bits - 1) - 1
    scale = (rows.abs().amax(2) if rows.numel() else rows.new_zeros(rows.shape[:2])).div(most).half()
    step = scale.double().masked_fill(scale == 0, 1.0)[..., None]
    return scale, (rows / step).round().clamp(-most, most).to(torch.int8)


def _packed(integers: Tensor, bits: int) -> Tensor:
    values = (integers.to(torch.int16) + 2 ** (bits - 1)).to(torch.uint8)  # (K, n)
    if bits != 6:
        return pack_bits(values, bits)
    # Four numbers in three bytes: the upper two bits of the fourth, third and second go with the others.
    four = torch.nn.functional.pad(values, (0, -values.shape[1] % 4)).view(len(values), values.shape[1] // -4 * -1, 4)
    spare = four[..., 3:]
    shifts = torch.tensor([0, 2, 4], dtype=torch.uint8, device=values.device)
    code = four[..., :3] | (((spare >> shifts) & 3) << 6)
    return code.flatten(1)[:, : _size(values.shape[1], 6)]


def _unpacked(codes: Tensor, bits: int, count: int) -> Tensor:
    if codes.shape[1] != _size(count, bits):
        raise ValueError(
            f"packed: expected codes of {_size(count, bits)} bytes for {count} numbers of {bits} bits, got "
            f"{codes.shape[1]}"
        )
    if bits != 6:
        values = unpack_bits(codes, bits, count)
    else:
        three = torch.nn.functional.pad(codes, (0, -codes.shape[1] % 3)).view(len(codes), codes.shape[1] // -3 * -1, 3)
        shifts = torch.tensor([0, 2, 4], dtype=torch.uint8, device=codes.device)
        spare = ((three >> 6) << shifts).sum(-1, keepdim=True, dtype=torch.uint8)
        values = torch.cat([three & 63, spare], -1).flatten(1)[:, :count]
    signed: Tensor = values.to(torch.int16) - 2 ** (bits - 1)
    return signed


def _size(count: int, bits: int) -> int:
    """Bytes; of 6 bits, those that the last numbers need of their three."""
    if bits != 6:
        return (count * bits + 7) // 8
    return count // 4 * 3 + count % 4


def _parts(packed: PackedCovariance) -> PackedCovariance:
    if not isinstance(packed, tuple) or len(packed) != 4:
        raise TypeError(f"packed: expected a PackedCovariance, got {check.show(packed)}")
    codes, scale, deviation, unit = (check.tensor("packed", part) for part in packed)
    fits = codes.ndim == scale.ndim == deviation.ndim == 2 and unit.ndim == 1
    if not fits or len({len(part) for part in packed}) != 1 or codes.dtype != torch.uint8:
        raise ValueError(f"packed: expected the parts of pack_covariance, got {[tuple(part.shape) for part in packed]}")
    return packed


def _check_bits(bits: int) -> None:
    if isinstance(bits, bool) or bits not in _BITS:
        raise ValueError(f"bits: expected one of {', '.join(map(str, _BITS))}, got {check.show(bits)}")
