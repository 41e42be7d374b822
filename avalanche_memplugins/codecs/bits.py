"""A few bits a pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._normalisation import Normalisation, check_images
from avalanche_memplugins.codecs._stored import StoredCodec
from avalanche_memplugins.functional.quantise import pack_bits, packed_size, unpack_bits


class Bits(StoredCodec):
    r"""Stores images in 1, 2 or 4 bits a pixel, packed; :math:`\lceil n b / 8 \rceil` bytes a row of n values.

    .. math::
        p = x \sigma + \mu, \qquad q = \left\lfloor (2^b - 1)\, p + \tfrac{1}{2} \right\rfloor, \qquad
        \hat x = (q / (2^b - 1) - \mu) / \sigma

    Levels are uniform on [0, 1], both ends among them; a pixel moves by at most half a level. One bit is a
    threshold at 0.5.

    :param bits: :math:`b`, one of 1, 2, 4.
    :param mean: :math:`\mu` of the ``Normalize`` that the images went through: a number, or one a channel. 0 if none.
    :param std: :math:`\sigma` of it, > 0, likewise. 1 if none.
    :raises ValueError: for arguments out of range; when rows are written, if their pixels are not within [0, 1].

    >>> import torch
    >>> codec, x = Bits(2), torch.tensor([[[[0.0, 0.3, 0.7, 1.0]]]])
    >>> code = codec.encode(x)
    >>> code.shape, codec.decode(code, x.shape[1:], x.dtype)
    (torch.Size([1, 1]), tensor([[[[0.0000, 0.3333, 0.6667, 1.0000]]]]))
    """

    def __init__(
        self, bits: int = 4, *, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0
    ) -> None:
        if isinstance(bits, bool) or bits not in (1, 2, 4):
            raise ValueError(f"bits: expected 1, 2 or 4, got {check.show(bits)}; for 8 there is the codec Uint8")
        self.bits = bits
        self.normalisation = Normalisation(mean, std)
        # One look-up a byte gives all its pixels, several times faster than shifts and masks.
        every_byte = torch.arange(256, dtype=torch.uint8)[:, None]
        self._pixels = unpack_bits(every_byte, bits, 8 // bits).float().div_((1 << bits) - 1)

    @property
    def nbytes_fixed(self) -> int:  # type: ignore[override]
        """Bytes of the table of all bytes' pixels."""
        return self._pixels.nbytes

    def _check_kind(self, x: Tensor) -> None:
        check_images(x, 1, "the codec Bits")

    def check(self, x: Tensor) -> None:
        """Raise unless the rows are images with pixels from 0 to 1 under this mean and std."""
        self.normalisation.check(x, f"the codec {type(self).__name__}({self.bits})")

    def encode_checked(self, x: Tensor) -> Tensor:
        """Packed levels, uint8 ``(B, ceil(n * bits / 8))``."""
        top = (1 << self.bits) - 1
        levels = self.normalisation.undo(x).mul_(top).add_(0.5).clamp_(0, top).to(torch.uint8)
        return pack_bits(levels.flatten(1), self.bits)

    def decode_checked(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """Images as the transforms would have made them from the levels."""
        if self._pixels.device != code.device:
            self._pixels = self._pixels.to(code.device)
        pixels = self._pixels.index_select(0, code.flatten().int()).view(len(code), code.shape[1] * (8 // self.bits))
        return self.normalisation.redo(pixels[:, : shape.numel()].view(len(code), *shape), dtype)

    def from_levels(self, levels: Tensor, dtype: torch.dtype) -> Tensor:
        """Images of type ``dtype`` from unpacked levels, uint8 ``(B, *shape)``."""
        check.dtype_of("dtype", dtype)
        pixels = check.tensor("levels", levels).float().div_((1 << self.bits) - 1)
        return self.normalisation.redo(pixels, dtype)

    def _spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        return Size((packed_size(shape.numel(), self.bits),)), torch.uint8

    def __repr__(self) -> str:
        return f"Bits({self.bits}, {self.normalisation})"
