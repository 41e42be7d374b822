"""Codecs without parameters: the row as it is, and half precision."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.codecs._stored import StoredCodec


class Raw(StoredCodec):
    """Stores rows of real numbers as they are: :math:`c = x`.

    >>> import torch
    >>> codec, x = Raw(), torch.tensor([[1, 2]])
    >>> codec.decode(codec.encode(x), x.shape[1:], x.dtype)
    tensor([[1, 2]])
    """

    _keeps_nan = True

    def encode_checked(self, x: Tensor) -> Tensor:
        """The rows themselves."""
        return x

    def decode_checked(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """The code itself."""
        return code

    def _spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        return shape, dtype

    def __repr__(self) -> str:
        return "Raw()"


class Float16(StoredCodec):
    """Stores floating-point rows in half precision: 2 bytes a value, relative error at most 2**-11.

    :raises ValueError: (when rows are written) if a value is outside the range of float16, +-65504, or
        if the rows are not of a floating-point type.

    >>> import torch
    >>> codec, x = Float16(), torch.tensor([[1.0, 1 / 3]])
    >>> codec.decode(codec.encode(x), x.shape[1:], x.dtype)
    tensor([[1.0000, 0.3333]])
    """

    _keeps_nan = True

    def _check_kind(self, x: Tensor) -> None:
        check.floats(x=check.batch("x", x))

    def check(self, x: Tensor) -> None:
        """Raise if a value would overflow."""
        self._check_kind(x)
        if x.numel():
            largest = float(x.abs().max())
            # Written so that NaN fails it.
            if not largest <= torch.finfo(torch.float16).max:
                raise ValueError(f"x: the codec Float16 expected values within +-65504, got {largest:g}")

    def encode_checked(self, x: Tensor) -> Tensor:
        """Rows rounded to float16."""
        return x.to(torch.float16)

    def decode_checked(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """Rows of the type they had."""
        return code.to(dtype)

    def _spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        return shape, torch.float16

    def __repr__(self) -> str:
        return "Float16()"
