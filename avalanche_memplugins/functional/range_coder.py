"""Bits in as few bytes as their probabilities allow."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional import _coder_kernels as kernels
from avalanche_memplugins.functional._coder_kernels import BOTTOM, TOP, Bytes, Integers
from avalanche_memplugins.functional._compiled import compiled

ONE = 1 << 16
"""Probabilities are whole numbers from 1 to 65535, in units of 1 / 65536."""


def encode_bits(bits: Tensor, ones: Tensor) -> tuple[Tensor, Tensor]:
    r"""Rows of bits as bytes, by a range coder: row b takes at most one byte more than its ideal length.

    .. math:: L_b = -\sum_i \log_2 \big(v_{bi}\, p_{bi} + (1 - v_{bi}) (1 - p_{bi})\big) \text{ bits}

    The coder keeps an interval of whole numbers, 48 to 56 bits wide, and cuts it at each bit in proportion to the
    probabilities. A sum that overflows carries into bytes already written, so no probability can stall it, and coding
    is exact for all of them. Zero bytes at the end of a row are left out.

    :param bits: :math:`v`, uint8 ``(B, n)`` of 0 and 1, on the CPU.
    :param ones: :math:`65536\, p`, the probability of a 1, integers ``(B, n)`` from 1 to 65535.
    :returns: all bytes, one row after the other, uint8 ``(N,)``; bytes of each row, int64 ``(B,)``.
    :raises ValueError: if shapes do not fit or probabilities are out of range.

    Source: Martin, "Range encoding", 1979.

    >>> bits = torch.tensor([[0, 0, 0, 1, 0, 0, 0, 0] * 4], dtype=torch.uint8)
    >>> buffer, lengths = encode_bits(bits, torch.full(bits.shape, 8192))
    >>> lengths.tolist()  # 17.4 bits; zeros at the end are left out
    [2]
    >>> torch.equal(decode_bits(buffer, torch.tensor([0]), lengths, torch.full(bits.shape, 8192)), bits)
    True
    """
    check.tensors(bits=bits, ones=ones)
    if bits.ndim != 2 or bits.dtype != torch.uint8:
        raise ValueError(f"bits: expected uint8 (B, n), got {bits.dtype} {tuple(bits.shape)}")
    check.like("ones", ones, bits.shape, "one a bit")
    values, shares = bits.numpy(), _shares(ones)
    if bits.numel() and int(values.max()) > 1:
        raise ValueError(f"bits: expected 0 and 1, got {int(values.max())}")
    buffer, lengths = encode_rows(values, shares)
    return torch.from_numpy(buffer), torch.from_numpy(lengths)


def decode_bits(buffer: Tensor, starts: Tensor, lengths: Tensor, ones: Tensor) -> Tensor:
    """The inverse of :func:`encode_bits`, for any of its rows.

    :param buffer: uint8 ``(N,)`` on the CPU.
    :param starts: of the rows in it, int64 ``(B,)``.
    :param lengths: their bytes, int64 ``(B,)``.
    :param ones: as they were coded, ``(B, n)``.
    :returns: uint8 ``(B, n)``.
    :raises ValueError: if shapes do not fit, or a row does not lie within the buffer.

    >>> bits = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 0]], dtype=torch.uint8)
    >>> ones = torch.full((2, 4), 32768)
    >>> buffer, lengths = encode_bits(bits, ones)
    >>> decode_bits(buffer, lengths.cumsum(0) - lengths, lengths, ones).tolist()
    [[1, 0, 1, 1], [0, 0, 1, 0]]
    """
    check_pieces(buffer, starts, lengths)
    if check.tensor("ones", ones).ndim != 2 or len(ones) != len(starts):
        raise ValueError(f"ones: expected ({len(starts)}, n), got {tuple(ones.shape)}")
    shares = _shares(ones)
    bits = np.empty(shares.shape, dtype=np.uint8)
    decode = compiled(kernels.decode_rows)
    if decode is not None:
        decode(buffer.numpy(), starts.numpy(), lengths.numpy(), shares, bits)
    else:
        rows = RowsDecoder(buffer.numpy(), starts.numpy(), lengths.numpy())
        for i in range(shares.shape[1]):
            bits[:, i] = rows.next(shares[:, i])
    return torch.from_numpy(bits)


def check_pieces(buffer: Any, starts: Any, lengths: Any) -> None:
    """Raise unless these are rows of bytes within a buffer."""
    check.tensors(buffer=buffer, starts=starts, lengths=lengths)
    if buffer.ndim != 1 or buffer.dtype != torch.uint8:
        raise ValueError(f"buffer: expected uint8 (N,), got {buffer.dtype} {tuple(buffer.shape)}")
    if starts.ndim != 1 or starts.dtype != torch.int64:
        raise ValueError(f"starts: expected int64 (B,), got {starts.dtype} {tuple(starts.shape)}")
    if lengths.dtype != torch.int64:
        raise ValueError(f"lengths: expected int64, got {lengths.dtype}")
    check.like("lengths", lengths, starts.shape, "one a start")
    if len(starts):
        for name, value in (("starts", starts), ("lengths", lengths)):
            if int(value.min()) < 0:
                raise ValueError(f"{name}: expected numbers >= 0, got {int(value.min())}")
        if int((starts + lengths).max()) > len(buffer):
            raise ValueError(f"lengths: expected rows within {len(buffer)} bytes, got {int((starts + lengths).max())}")


def encode_rows(bits: Bytes, ones: NDArray[np.uint16]) -> tuple[Bytes, Integers]:
    """:func:`encode_bits` of arrays that were checked."""
    rows, count = bits.shape
    out = np.zeros((rows, 2 * count + 8), dtype=np.uint8)  # no bit takes more than 16
    lengths = np.zeros(rows, dtype=np.int64)
    encode = compiled(kernels.encode_rows)
    if encode is not None:
        encode(np.ascontiguousarray(bits), np.ascontiguousarray(ones), out, lengths)
    else:
        _encode_together(bits, ones, out, lengths)
    return out[np.arange(out.shape[1]) < lengths[:, None]], lengths


class RowsDecoder:
    """Many rows at once, bit by bit: each step decodes the next bit of every row, in plain NumPy.

    :param buffer: uint8 ``(N,)``.
    :param starts: int64 ``(B,)``.
    :param lengths: int64 ``(B,)``.
    """

    def __init__(self, buffer: Bytes, starts: Integers, lengths: Integers) -> None:
        self._bytes = np.append(buffer, np.uint8(0)).astype(np.int64)  # what lies past the end of a row is 0
        self._places, self._ends = starts.copy(), starts + lengths
        self._offset = np.zeros(len(starts), dtype=np.int64)
        self._width = np.full(len(starts), TOP, dtype=np.int64)
        for _ in range(7):
            self._offset = (self._offset << 8) | self._read(slice(None))

    def _read(self, rows: Any) -> Integers:
        places = self._places[rows]
        found = self._bytes[np.where(places < self._ends[rows], places, -1)]
        self._places[rows] += 1
        return found

    def next(self, ones: NDArray[np.uint16]) -> NDArray[np.bool_]:
        """The next bits ``(B,)``, given the probabilities ``(B,)`` they were coded with."""
        bound = (self._width >> 16) * ones.astype(np.int64)
        bits = self._offset < bound
        self._offset = np.where(bits, self._offset, self._offset - bound)
        self._width = np.where(bits, bound, self._width - bound)
        while len(rows := np.flatnonzero(self._width < BOTTOM)):
            self._offset[rows] = (self._offset[rows] << 8) | self._read(rows)
            self._width[rows] <<= 8
        return bits


def _encode_together(bits: Bytes, ones: NDArray[np.uint16], out: Bytes, lengths: Integers) -> None:
    """What the kernel does, for all rows at each step."""
    low, size = np.zeros(len(bits), dtype=np.int64), np.zeros(len(bits), dtype=np.int64)
    width = np.full(len(bits), TOP, dtype=np.int64)

    def carry(value: Integers) -> None:
        rows = np.flatnonzero(value >= TOP)
        value[rows] -= TOP
        places = size[rows] - 1
        while len(rows):
            out[rows, places] += np.uint8(1)  # 255 becomes 0, and the carry goes on
            over = out[rows, places] == 0
            rows, places = rows[over], places[over] - 1

    for i in range(bits.shape[1]):
        one = bits[:, i] != 0
        bound = (width >> 16) * ones[:, i].astype(np.int64)
        low = np.where(one, low, low + bound)
        width = np.where(one, bound, width - bound)
        carry(low)
        while len(rows := np.flatnonzero(width < BOTTOM)):
            out[rows, size[rows]] = low[rows] >> 48
            size[rows] += 1
            low[rows] = (low[rows] & (BOTTOM - 1)) << 8
            width[rows] <<= 8
    value = np.where(low == 0, 0, TOP)
    value = np.where(value < low + width, value, (low + BOTTOM - 1) >> 48 << 48)
    carry(value)
    out[np.arange(len(bits)), size] = value >> 48
    used = (out != 0) & (np.arange(out.shape[1]) <= size[:, None])
    lengths[:] = np.where(used.any(1), out.shape[1] - used[:, ::-1].argmax(1), 0)


def _shares(ones: Tensor) -> NDArray[np.uint16]:
    if ones.is_floating_point() or ones.dtype == torch.bool:
        raise ValueError(f"ones: expected integers from 1 to {ONE - 1}, got {ones.dtype}")
    if ones.numel() and not 1 <= int(ones.min()) <= int(ones.max()) < ONE:
        raise ValueError(f"ones: expected integers from 1 to {ONE - 1}, got {int(ones.min())} to {int(ones.max())}")
    return ones.numpy().astype(np.uint16)
