"""Integers of a few bits, packed into bytes, and numbers as single bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check

_WIDTHS = (1, 2, 4, 8)


def pack_bits(values: Tensor, bits: int) -> Tensor:
    r"""Rows of small integers in as few bytes as hold them.

    .. math:: c_j = \sum_{i=0}^{8/b - 1} 2^{b i}\, v_{j \cdot 8/b + i}

    The first value of a byte has its lowest bits; what the last byte has to spare is zero.

    :param values: uint8 ``(*batch, n)``, each from 0 to 2**bits - 1.
    :param bits: :math:`b`, one of 1, 2, 4, 8.
    :return: uint8 ``(*batch, ceil(n * bits / 8))``.
    :raises ValueError: for another type or another number of bits.

    >>> pack_bits(torch.tensor([[1, 0, 1, 1, 0, 0, 0, 0]], dtype=torch.uint8), 1)  # 1 + 4 + 8
    tensor([[13]], dtype=torch.uint8)
    """
    _check("values", values, bits)
    per_byte = 8 // bits
    spare = -values.shape[-1] % per_byte
    if spare:
        values = torch.nn.functional.pad(values, (0, spare))
    code = values[..., 0::per_byte].clone()
    for i in range(1, per_byte):
        code |= values[..., i::per_byte] << (bits * i)
    return code


def unpack_bits(code: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of :func:`pack_bits`.

    :param code: uint8 ``(*batch, ceil(count * bits / 8))``.
    :param bits: as it was packed.
    :param count: values in a row, n.
    :return: uint8 ``(*batch, count)``.
    :raises ValueError: for another type, number of bits or width of a row.

    >>> unpack_bits(torch.tensor([[13]], dtype=torch.uint8), 1, 5)
    tensor([[1, 0, 1, 1, 0]], dtype=torch.uint8)
    """
    check.integer("count", count, least=0)
    _check("code", code, bits)
    if code.shape[-1] != packed_size(count, bits):
        raise ValueError(
            f"code: expected rows of {packed_size(count, bits)} bytes for {count} values of {bits} bits, "
            f"got {tuple(code.shape)}"
        )
    if bits == 8:
        return code.clone()
    per_byte = 8 // bits
    values = code.new_empty(*code.shape, per_byte)
    for i in range(per_byte):
        torch.bitwise_and(code >> (bits * i), (1 << bits) - 1, out=values[..., i])
    return values.flatten(-2)[..., :count]


def packed_size(count: int, bits: int) -> int:
    """Bytes of ``count`` packed values."""
    return (count * bits + 7) // 8


def round_to_int8(values: Tensor, step: float | Tensor) -> Tensor:
    r"""Numbers as multiples of a step, int8 of the same shape.

    .. math:: c = \min(127, \max(-127, \mathrm{round}(v / \Delta)))

    Halves go to the even multiple; -128 is left out, so both signs reach equally far.

    :param values: floating-point, without NaN.
    :param step: :math:`\Delta` > 0, one for all, or a tensor that fits beside the values.

    >>> round_to_int8(torch.tensor([0.26, -0.5, 99.0]), 0.25)
    tensor([  1,  -2, 127], dtype=torch.int8)
    """
    check.floats(values=values)
    if isinstance(step, Tensor):
        check.floats(step=step)
    else:
        check.number("step", step, above=0)
    return (values / step).round_().clamp_(-127, 127).to(torch.int8)


def scaled_int8(values: Tensor) -> tuple[Tensor, Tensor]:
    r"""Each row as multiples of a step of its own, int8, and the steps.

    .. math:: \Delta_b = \max_i |v_{bi}| / 127, \qquad c_{bi} = \mathrm{round}(v_{bi} / \Delta_b)

    :param values: floating-point ``(B, *shape)``, finite.
    :returns: codes ``(B, *shape)``; steps ``(B,)``, > 0, so that a row of zeros comes back as zeros.

    >>> scaled_int8(torch.tensor([[1.27, -0.5], [0.0, 0.0]]))[0]
    tensor([[127, -50],
            [  0,   0]], dtype=torch.int8)
    """
    check.floats(values=values)
    if values.ndim < 2:
        raise ValueError(f"values: expected (B, *shape), got {tuple(values.shape)}")
    step = values.abs().flatten(1).amax(1).clamp(min=127 * torch.finfo(values.dtype).tiny) / 127
    return round_to_int8(values, _beside(step, values)), step


def from_scaled_int8(codes: Tensor, step: Tensor) -> Tensor:
    """The inverse of :func:`scaled_int8` but for rounding by at most half a step, ``(B, *shape)``.

    >>> codes, step = scaled_int8(torch.tensor([[1.27, -0.5]]))
    >>> from_scaled_int8(codes, step)
    tensor([[ 1.2700, -0.5000]])
    """
    check.tensor("codes", codes)
    check.floats(step=step)
    if not codes.ndim:
        raise ValueError("codes: expected (B, *shape), got a single number")
    check.like("step", step, codes.shape[:1], "one number a row of codes")
    return codes.to(step.dtype) * _beside(step, codes)


def _beside(step: Tensor, rows: Tensor) -> Tensor:
    return step.view(-1, *[1] * (rows.ndim - 1))


def _check(name: str, tensor: Tensor, bits: int) -> None:
    if isinstance(bits, bool) or bits not in _WIDTHS:
        raise ValueError(f"bits: expected one of {', '.join(map(str, _WIDTHS))}, got {check.show(bits)}")
    check.tensor(name, tensor)
    if tensor.dtype != torch.uint8 or tensor.ndim < 1:
        raise ValueError(f"{name}: expected uint8 (*batch, n), got {tensor.dtype} {tuple(tensor.shape)}")
