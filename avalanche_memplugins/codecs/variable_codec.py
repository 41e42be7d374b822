"""What a codec is whose rows differ in length."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Size, Tensor

VARIABLE_PARTS = ("variable", "check", "encode_rows", "decode_rows", "nbytes", "nbytes_fixed")
"""Names of what a variable codec has."""


@runtime_checkable
class VariableCodec(Protocol):
    """How a remembered row is stored in as many bytes as it needs: ``x -> bytes -> x``, on the CPU.

    Two codecs that decode differently have a different ``repr()``, or a different ``state_dict()`` if they learn.

    >>> from avalanche_memplugins.codecs import Bits, ImageFile
    >>> isinstance(ImageFile("png"), VariableCodec), isinstance(Bits(4), VariableCodec)
    (True, False)
    """

    variable: Literal[True]

    @property
    def nbytes(self) -> int:
        """Bytes that the codec has learned from the stream."""

    @property
    def nbytes_fixed(self) -> int:
        """Bytes that the codec itself takes, whatever the stream."""

    def check(self, x: Tensor) -> None:
        """Raise ``ValueError`` if ``x`` ``(B, *shape)`` cannot be stored faithfully."""

    def encode_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All bytes of the rows one after the other, uint8 ``(N,)``, and how many each takes, int64 ``(B,)``."""

    def decode_rows(self, buffer: Tensor, starts: Tensor, lengths: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """Rows ``(B, *shape)`` of type ``dtype``, each from ``lengths`` bytes of ``buffer`` from ``starts`` on."""
