"""Vectors as the numbers of their parts' nearest centres."""

from __future__ import annotations

import torch
from torch import Size, Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.codecs._learned import Learned, check_vectors, check_width, vectors
from avalanche_memplugins.codecs._stored import StoredCodec
from avalanche_memplugins.functional.clustering import k_means
from avalanche_memplugins.functional.quantise import pack_bits, packed_size, unpack_bits


class ProductQuantised(StoredCodec, nn.Module):
    r"""Stores vectors in :math:`\lceil P b / 8 \rceil` bytes a row: cut into P parts, the nearest of 2**b centres each.

    .. math::
        c_p = \arg\min_i \lVert x^{(p)} - \mu^{(p)}_i \rVert, \qquad \hat x = (\mu^{(1)}_{c_1}, \dots, \mu^{(P)}_{c_P})

    The centres come from k-means over rows of the stream (:meth:`fit`), best of a whole experience, and then stay as
    they are. They take ``2**b * F`` numbers of half precision, :attr:`nbytes`, and are in the ``state_dict``: 16 kB for
    32 features at 8 bits, 1 kB at 4. A memory takes a codec that is fitted, and loads rows that the same one has coded
    only.

    :param parts: P, at most as many as there are features; where they do not divide them, the first parts are longer.
    :param bits: :math:`b`, 1 to 8.
    :param steps: of k-means, >= 1.
    :param seed: of k-means.
    :raises ValueError: for arguments out of range; when rows are written, if they are not finite or there was no
        :meth:`fit`.

    Source: Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", 2011.

    >>> x = torch.randn(500, 32, generator=torch.Generator().manual_seed(0))
    >>> codec = ProductQuantised(8, bits=4)
    >>> codec.fit(x)
    >>> codec.encode(x).shape, codec.nbytes
    (torch.Size([500, 4]), 1024)
    """

    centres: Tensor  # (2**bits, F)

    def __init__(self, parts: int, *, bits: int = 8, steps: int = 25, seed: int = 0) -> None:
        super().__init__()
        self.parts = check.positive_integer("parts", parts)
        self.bits = check.integer("bits", bits, least=1, most=8)
        self.steps = check.positive_integer("steps", steps)
        self.seed = check.seed(check.integer("seed", seed))
        self._learned = Learned(self, "centres")

    @property
    def fitted(self) -> bool:
        """Whether it knows centres."""
        return bool(len(self.centres))

    @property
    def nbytes(self) -> int:
        """Bytes of the centres, which the stream has made."""
        return self._learned.nbytes(self)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Find the centres; codes made before are then worth nothing.

        :param x: rows ``(B, *shape)``, at least ``2**bits``.
        :raises ValueError: if they are fewer, have fewer features than there are parts, or are not finite.
        """
        rows = vectors(x, 1 << self.bits, "ProductQuantised")
        if rows.shape[1] < self.parts:
            raise ValueError(f"x: expected at least {self.parts} features, one a part, got {rows.shape[1]}")
        generator = torch.Generator().manual_seed(self.seed)
        found = [
            k_means(part, 1 << self.bits, steps=self.steps, generator=generator)
            for part in rows.tensor_split(self.parts, 1)
        ]
        self.centres = torch.cat(found, 1).half()

    def check(self, x: Tensor) -> None:
        """Raise unless the rows are finite, and as long as those it was fitted to."""
        check_vectors(x, self._width, "ProductQuantised")

    _check_kind = check

    def encode_checked(self, x: Tensor) -> Tensor:
        """Packed numbers of centres, uint8 ``(B, ceil(parts * bits / 8))``."""
        pieces = x.flatten(1).float().tensor_split(self.parts, 1)
        centres = self.centres.float().tensor_split(self.parts, 1)
        nearest = [torch.cdist(piece, centre).argmin(1) for piece, centre in zip(pieces, centres, strict=True)]
        return pack_bits(torch.stack(nearest, 1).to(torch.uint8), self.bits)

    def decode_checked(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """Centres instead of their numbers."""
        nearest = unpack_bits(code, self.bits, self.parts).int()
        centres = self.centres.tensor_split(self.parts, 1)
        rows = torch.cat([centre[nearest[:, part]] for part, centre in enumerate(centres)], 1)
        return rows.view(len(code), *shape).to(dtype)

    def _spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        check_width(shape, self._width, "ProductQuantised")
        return Size((packed_size(self.parts, self.bits),)), torch.uint8

    @property
    def _width(self) -> int:
        return self.centres.shape[1] if len(self.centres) else 0

    def __repr__(self) -> str:
        made = f"{self.parts}, bits={self.bits}, steps={self.steps}, seed={self.seed}"
        return f"ProductQuantised({made}{self._learned.said(self)})"
