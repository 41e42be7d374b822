"""Whole numbers in as few bytes as hold them."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.codecs._stored import StoredCodec
from avalanche_memplugins.functional.quantise import pack_bits, packed_size, unpack_bits

_PACKED = {"1bit": 1, "2bit": 2, "4bit": 4}
_TYPES = {"uint8": torch.uint8, "int8": torch.int8, "int16": torch.int16, "int32": torch.int32}


class Integers(StoredCodec):
    """Stores rows of integers or bools without loss in 1, 2 or 4 bits, or 1, 2 or 4 bytes a number.

    For masks, tokens, boxes and several labels a row.

    :param kind: ``"1bit"``, ``"2bit"``, ``"4bit"``, ``"uint8"``: numbers from 0 to 1, 3, 15, 255; ``"int8"``,
        ``"int16"``, ``"int32"``: numbers of these types.
    :raises ValueError: for another kind; when rows are written, if one holds a number beyond that.

    >>> codec, mask = Integers("1bit"), torch.tensor([[1, 0, 1, 1, 0, 0, 0, 0, 1]])
    >>> code = codec.encode(mask)
    >>> code.shape, codec.decode(code, mask.shape[1:], mask.dtype)
    (torch.Size([1, 2]), tensor([[1, 0, 1, 1, 0, 0, 0, 0, 1]]))
    """

    def __init__(self, kind: str = "int32") -> None:
        self.kind = check.choice("kind", kind, (*_PACKED, *_TYPES))
        self._bits = _PACKED.get(kind)
        self._type = _TYPES.get(kind, torch.uint8)
        ends = torch.iinfo(self._type)
        self._least, self._most = (ends.min, ends.max) if self._bits is None else (0, (1 << self._bits) - 1)

    def _check_kind(self, x: Tensor) -> None:
        if not check.tensor("x", x).ndim:
            raise ValueError("x: expected a batch (B, *shape), got ()")
        if x.is_floating_point():
            raise ValueError(f"x: the codec {self!r} expected integers or bools, got {x.dtype}")

    def check(self, x: Tensor) -> None:
        """Raise if a number is out of range."""
        self._check_kind(x)
        if x.numel():
            low, high = (int(end) for end in x.long().aminmax())
            if low < self._least or high > self._most:
                wrong = low if low < self._least else high
                raise ValueError(f"x: the codec {self!r} expected {self._least} to {self._most}, got {wrong}")

    def encode_checked(self, x: Tensor) -> Tensor:
        """The numbers in the smaller type, packed below a byte."""
        small = x.to(self._type)
        return small if self._bits is None else pack_bits(small.reshape(len(x), -1), self._bits)

    def decode_checked(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """The numbers in the type they had."""
        if self._bits is not None:
            code = unpack_bits(code, self._bits, shape.numel())
        return code.view(len(code), *shape).to(dtype)

    def spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        """Shape and type of the code of one row; of rows that are one number, too."""
        return self._spec(Size(), dtype) if shape == () else super().spec(shape, dtype)

    def _spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        return (shape if self._bits is None else Size((packed_size(shape.numel(), self._bits),))), self._type

    def __repr__(self) -> str:
        return f"Integers({self.kind!r})"
