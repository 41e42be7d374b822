"""What a codec is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Size, Tensor

PARTS = ("check", "encode", "decode", "spec", "nbytes_fixed")
"""Names of what a codec has."""


@runtime_checkable
class Codec(Protocol):
    """How a remembered row is stored: ``x -> code -> x``.

    A codec has no state of its own that grows with the stream, so one codec may serve several memories.
    Two codecs that decode differently have a different ``repr()``: by it a memory knows whose rows it loads.

    A codec may have ``encode_checked(x)`` and ``decode_checked(code, shape, dtype)``: ``encode`` and ``decode`` without
    checks of their arguments. Memories call them for rows that ``check`` has passed, and for codes of such rows.

    >>> from avalanche_memplugins.codecs import Bits, Quantised
    >>> isinstance(Bits(4), Codec), isinstance(Quantised(4), Codec), isinstance("4bit", Codec)
    (True, True, False)
    """

    @property
    def nbytes_fixed(self) -> int:
        """Bytes that the codec itself takes, whatever the stream: of its networks; 0 if it has none."""

    def check(self, x: Tensor) -> None:
        """Raise ``ValueError`` if ``x`` ``(B, *shape)`` cannot be stored faithfully."""

    def encode(self, x: Tensor) -> Tensor:
        """Code ``(B, *code_shape)`` of the rows ``x`` ``(B, *shape)``."""

    def decode(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """Rows ``(B, *shape)`` of type ``dtype`` from their code ``(B, *code_shape)``."""

    def spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        """Shape and type of the code of one row of the given shape and type."""
