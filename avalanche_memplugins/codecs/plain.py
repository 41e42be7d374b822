"""Codecs without parameters: the row as it is, and half precision."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from avalanche_memplugins import _checks as check


class Raw:
    """Stores rows as they are: :math:`c = x`.

    >>> import torch
    >>> codec, x = Raw(), torch.tensor([[1, 2]])
    >>> codec.decode(codec.encode(x), x.shape[1:], x.dtype)
    tensor([[1, 2]])
    """

    nbytes_fixed = 0

    def check(self, x: Tensor) -> None:
        """Every row of real numbers can be stored."""
        check.batch("x", x)

    def encode(self, x: Tensor) -> Tensor:
        """The rows themselves."""
        check.batch("x", x)
        return x

    def decode(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """The code itself."""
        check.coded(code, shape, dtype)
        return code

    def spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        """Shape and type of the row."""
        return check.coding(shape, dtype), dtype

    def __repr__(self) -> str:
        return "Raw()"


class Float16:
    """Stores floating-point rows in half precision: 2 bytes a value, relative error at most 2**-11.

    :raises ValueError: (when rows are written) if a value is outside the range of float16, +-65504, or
        if the rows are not of a floating-point type.

    >>> import torch
    >>> codec, x = Float16(), torch.tensor([[1.0, 1 / 3]])
    >>> codec.decode(codec.encode(x), x.shape[1:], x.dtype)
    tensor([[1.0000, 0.3333]])
    """

    nbytes_fixed = 0

    def check(self, x: Tensor) -> None:
        """Raise if a value would overflow."""
        if not check.batch("x", x).is_floating_point():
            raise ValueError(f"x: the codec Float16 expected floating-point rows, got {x.dtype}")
        if x.numel():
            largest = float(x.abs().max())
            # Written so that NaN fails it.
            if not largest <= torch.finfo(torch.float16).max:
                raise ValueError(f"x: the codec Float16 expected values within +-65504, got {largest:g}")

    def encode(self, x: Tensor) -> Tensor:
        """Rows rounded to float16."""
        check.floats(x=check.batch("x", x))
        return x.to(torch.float16)

    def decode(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """Rows of the type they had."""
        check.coded(code, shape, dtype)
        check.like("code", code, (len(code), *shape), "that of the rows")
        return code.to(dtype)

    def spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        """Shape of the row, float16."""
        return check.coding(shape, dtype), torch.float16

    def __repr__(self) -> str:
        return "Float16()"
