"""What codecs share whose code is a tensor: the checks of what they are given."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Size, Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._normalisation import one_row


class StoredCodec(ABC):
    """Base of codecs: arguments are checked here, and codecs say what they make of them.

    A codec defines ``encode_checked``, ``decode_checked`` and ``_spec``, and ``check`` or ``_check_kind``. Memories
    call the first two for rows that they have checked and codes that they hold, unless a subclass has an ``encode`` or
    ``decode`` of its own.
    """

    nbytes_fixed = 0
    _keeps_nan = False

    def _check_kind(self, x: Tensor) -> None:
        """Raise unless type and number of dimensions are those of rows to encode; values are not looked at."""
        check.batch("x", x)

    def check(self, x: Tensor) -> None:
        """Raise unless the rows can be stored."""
        self._check_kind(x)

    def encode(self, x: Tensor) -> Tensor:
        """Code ``(B, *code_shape)`` of rows ``(B, *shape)``.

        :raises ValueError: for rows of another kind; for NaN, if the code has none. On a GPU, where looking means
            waiting, only :meth:`check` tells that.
        """
        self._check_kind(x)
        looks = not self._keeps_nan and x.device.type == "cpu" and x.is_floating_point()
        # A sum tells most of the time, and costs little beside a code.
        if looks and x.sum().isnan() and (wrong := int(x.isnan().sum())):
            raise ValueError(f"x: the codec {type(self).__name__} expected numbers, got {wrong} that are NaN")
        return self.encode_checked(x)

    def decode(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """Rows ``(B, *shape)`` of type ``dtype`` from their code.

        :raises ValueError: for a code that is not one of such rows.
        """
        check.coded(code, shape, dtype)
        like, kind = self._spec(Size(shape), dtype)
        if code.shape[1:] != like or code.dtype != kind:
            expected = f"{str(kind).removeprefix('torch.')} {one_row(like)}"
            raise ValueError(
                f"code: expected {expected} for rows of {tuple(shape)}, got {code.dtype} {tuple(code.shape)}"
            )
        return self.decode_checked(code, shape, dtype)

    def spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        """Shape and type of the code of one row of the given shape and type."""
        return self._spec(check.coding(shape, dtype), dtype)

    @abstractmethod
    def encode_checked(self, x: Tensor) -> Tensor:
        """:meth:`encode` of rows that :meth:`check` has passed."""

    @abstractmethod
    def decode_checked(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """:meth:`decode` of a code that :meth:`encode` made of such rows."""

    @abstractmethod
    def _spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        """:meth:`spec` of a shape and type that have been checked."""
