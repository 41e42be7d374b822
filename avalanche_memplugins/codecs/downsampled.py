"""Fewer pixels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Size, Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.codecs._stored import StoredCodec
from avalanche_memplugins.codecs.codec import PARTS, Codec

_MODES = ("area", "bilinear", "nearest")


class Downsampled(StoredCodec, nn.Module):
    """Stores images reduced to ``size`` x ``size`` by another codec, and enlarges them bilinearly when read.

    ``Downsampled(14, Bits(4))`` takes 98 bytes for a grey image of 28 x 28. It is a module only so that a
    learned inner codec moves with the memory.

    :param size: side of what is stored, >= 1 and no larger than the images.
    :param codec: stores the reduced images ``(B, C, size, size)``.
    :param mode: how they are reduced: ``"area"``, means over the pixels that fall together; ``"bilinear"`` or
        ``"nearest"``, samples. Enlarging has the centres of pixels aligned, not the corners.
    :raises ValueError: for arguments out of range; when rows are written, if they are no images ``(B, C, H, W)``
        of at least that size, or the inner codec cannot store them reduced.

    >>> import torch
    >>> from avalanche_memplugins.codecs import Bits
    >>> codec, x = Downsampled(14, Bits(4)), torch.zeros(2, 1, 28, 28)
    >>> codec.encode(x).shape, codec.decode(codec.encode(x), x.shape[1:], x.dtype).shape
    (torch.Size([2, 98]), torch.Size([2, 1, 28, 28]))
    """

    def __init__(self, size: int, codec: Codec, *, mode: Literal["area", "bilinear", "nearest"] = "area") -> None:
        super().__init__()
        check.choice("mode", mode, _MODES)
        check.having("codec", codec, PARTS, "a codec")
        self.size = check.integer("size", size, least=1, most=1 << 16)
        self.codec = codec
        self.mode = mode
        self._weights: dict[tuple[int, torch.device], Tensor] = {}

    @property
    def nbytes_fixed(self) -> int:  # type: ignore[override]
        """The inner codec's."""
        return self.codec.nbytes_fixed

    def check(self, x: Tensor) -> None:
        """Raise unless the rows are images that the inner codec can store reduced."""
        self._check_kind(x)
        if min(x.shape[2:]) < self.size:
            raise ValueError(
                f"x: the codec Downsampled expected images (B, C, H, W) of at least {self.size} x {self.size}, "
                f"got {tuple(x.shape)}"
            )
        self.codec.check(self._reduce(x))

    def _check_kind(self, x: Tensor) -> None:
        if check.tensor("x", x).ndim != 4 or not (x.is_floating_point() or x.dtype == torch.uint8):
            raise ValueError(
                f"x: the codec Downsampled expected floating-point or uint8 images (B, C, H, W), got {x.dtype} "
                f"{tuple(x.shape)}"
            )

    def encode_checked(self, x: Tensor) -> Tensor:
        """The inner codec's code of the reduced images."""
        return check.unchecked(self.codec, "encode")(self._reduce(x))  # type: ignore[no-any-return]

    def decode_checked(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """Images ``(B, C, H, W)``, enlarged."""
        small: Tensor = check.unchecked(self.codec, "decode")(code, self._small(shape), dtype)
        return self.enlarge(small, shape, dtype)

    def enlarge(self, small: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """Images ``(B, C, H, W)`` of type ``dtype`` from reduced ones ``(B, C, size, size)``."""
        check.coding(shape, dtype)
        check.like("small", check.tensor("small", small), (*small.shape[:1], *self._small(shape)), "reduced")
        if tuple(shape[1:]) == (self.size, self.size):
            return small
        # Bilinear is linear along one side, then along the other: as two products it takes a third of the time.
        with torch.autocast(small.device.type, enabled=False):
            rows, columns = (self._enlarging(side, small.device) for side in shape[1:])
            large = rows @ small.float() @ columns.t()
        return large.round_().to(dtype) if dtype == torch.uint8 else large.to(dtype)

    def _spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        return self.codec.spec(self._small(shape), dtype)

    def _enlarging(self, side: int, device: torch.device) -> Tensor:
        """Weights ``(side, size)`` of the stored pixels along a side of the image."""
        if (side, device) not in self._weights:
            every_pixel = torch.eye(self.size, device=device)[None]
            weights = nn.functional.interpolate(every_pixel, side, mode="linear", align_corners=False)
            self._weights[side, device] = weights[0].t().contiguous()
        return self._weights[side, device]

    def _small(self, shape: Size) -> Size:
        if len(shape) != 3:
            raise ValueError(
                f"shape: the codec Downsampled expected that of images (C, H, W), got rows of {tuple(shape)}"
            )
        return Size((shape[0], self.size, self.size))

    def _reduce(self, x: Tensor) -> Tensor:
        side = (self.size, self.size)
        if tuple(x.shape[2:]) == side:
            return x
        if self.mode == "bilinear":
            small = nn.functional.interpolate(x.float(), side, mode="bilinear", align_corners=False)
        else:
            small = nn.functional.interpolate(x.float(), side, mode=self.mode)
        return small.round_().to(torch.uint8) if x.dtype == torch.uint8 else small.to(x.dtype)

    def __repr__(self) -> str:
        return f"Downsampled({self.size}, {self.codec!r}, mode={self.mode!r})"
