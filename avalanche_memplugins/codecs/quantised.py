"""A few bits a number, for vectors."""

from __future__ import annotations

import torch
from torch import Size, Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.codecs._learned import Learned, check_vectors, check_width, vectors
from avalanche_memplugins.codecs._stored import StoredCodec
from avalanche_memplugins.functional.quantise import (
    gaussian_levels,
    nearest_levels,
    pack_bits,
    packed_size,
    unpack_bits,
)


class Quantised(StoredCodec, nn.Module):
    r"""Stores vectors, such as codes and features, in 2 to 8 bits a number; :math:`\lceil F b / 8 \rceil` bytes a row.

    .. math::
        z_f = \frac{x_f - m_f}{a\, s_f}, \qquad c_f = \arg\min_i |z_f - \ell_i|, \qquad
        \hat x_f = m_f + a\, s_f\, \ell_{c_f}

    The levels :math:`\ell` are those of Lloyd and Max for a normal distribution: at 2 bits they err a little less
    than evenly spaced ones, at 6 bits half as much. :math:`m` and :math:`s`, mean and standard deviation of each
    feature, come from the first rows of the stream (:meth:`fit`) and then stay as they are. They take 8 bytes a
    feature, :attr:`nbytes`, and are in the ``state_dict``. A memory takes a codec that is fitted, and loads rows that
    the same one has coded only.

    :param bits: :math:`b`, 2 to 8.
    :param spread: :math:`a` > 0. First rows are of the first classes and vary less than what follows, so the default is
        above 1.
    :raises ValueError: for arguments out of range; when rows are written, if they are not finite or there was no
        :meth:`fit`.

    >>> x = torch.randn(500, 32, generator=torch.Generator().manual_seed(0))
    >>> codec = Quantised(4)
    >>> codec.fit(x)
    >>> codec.encode(x).shape, codec.nbytes
    (torch.Size([500, 16]), 256)
    >>> error = (codec.decode(codec.encode(x), x.shape[1:], x.dtype) - x).square().mean()
    >>> print(f"{error:.3f}")
    0.011
    """

    nbytes_fixed = 0
    centre: Tensor
    scale: Tensor

    def __init__(self, bits: int = 4, *, spread: float = 1.2) -> None:
        super().__init__()
        self.bits = check.integer("bits", bits, least=2, most=8)
        self.spread = check.number("spread", spread, above=0)
        self._learned = Learned(self, "centre", "scale")
        self._levels = gaussian_levels(bits).float()

    @property
    def fitted(self) -> bool:
        """Whether it knows means and deviations."""
        return bool(len(self.centre))

    @property
    def nbytes(self) -> int:
        """Bytes of means and deviations, which the stream has made."""
        return self._learned.nbytes(self)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and deviation of each feature; codes made before are then worth nothing.

        :param x: rows ``(B, *shape)``, at least 2.
        :raises ValueError: if they are fewer, or not finite floating-point numbers.
        """
        rows = vectors(x, 2, "Quantised")
        self.centre, self.scale = rows.mean(0), self.spread * rows.std(0, correction=0)

    def check(self, x: Tensor) -> None:
        """Raise unless the rows are finite, and as long as those it was fitted to."""
        check_vectors(x, len(self.centre), "Quantised")

    _check_kind = check

    def encode_checked(self, x: Tensor) -> Tensor:
        """Packed levels, uint8 ``(B, ceil(F * bits / 8))``."""
        # A feature that never varied comes back as its mean, whatever is stored.
        z = (x.flatten(1).float() - self.centre) / torch.where(self.scale > 0, self.scale, 1)
        return pack_bits(nearest_levels(z, self._levels), self.bits)

    def decode_checked(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """Levels back to numbers."""
        levels = unpack_bits(code, self.bits, shape.numel()).int()
        if self._levels.device != code.device:
            self._levels = self._levels.to(code.device)
        return (self._levels[levels] * self.scale + self.centre).view(len(code), *shape).to(dtype)

    def _spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        check_width(shape, len(self.centre), "Quantised")
        return Size((packed_size(shape.numel(), self.bits),)), torch.uint8

    def __repr__(self) -> str:
        return f"Quantised({self.bits}, spread={self.spread:.6g}{self._learned.said(self)})"
