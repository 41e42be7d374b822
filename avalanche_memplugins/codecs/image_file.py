"""Images as the bytes of image files."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Size, Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.codecs.uint8 import Uint8
from avalanche_memplugins.functional.range_coder import check_pieces

Format = Literal["png", "jpeg", "webp"]
_PNG_HEAD, _PNG_END = 33, 12  # signature and IHDR; IEND
_WEBP_HEAD = 20  # RIFF, size, WEBP, kind of chunk, size of chunk
_SOS = 0xDA  # the marker before a JPEG's own data


class ImageFile:
    r"""Stores grey and colour images as PNG, JPEG or WebP files, without what all files of a stream share.

    PNG and lossless WebP come back exactly. A JPEG's header of some 600 bytes depends on size and quality alone: it is
    kept once, in :attr:`nbytes_fixed`, so that JPEG pays for small images, too. A CIFAR-10 image takes about 300 bytes
    as JPEG of quality 75, 280 as WebP of 50, 1,850 as lossless WebP, 3,072 raw.

    :param format: ``"png"``, ``"jpeg"`` or ``"webp"``.
    :param quality: 1 to 100, of JPEG and WebP. None: 75 for JPEG, lossless for WebP.
    :param mean: of the ``Normalize`` that the images went through: a number, or one a channel. 0 if none.
    :param std: of it, > 0, likewise. 1 if none.
    :raises ValueError: for arguments out of range; when rows are written, if they are no images ``(B, C, H, W)`` of 1
        or 3 channels, or not of 256 levels where the file is exact, or not from 0 to 1.

    >>> x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).mul(255).round().div(255)
    >>> codec = ImageFile("png")
    >>> buffer, lengths = codec.encode_rows(x)
    >>> starts = lengths.cumsum(0) - lengths
    >>> torch.equal(codec.decode_rows(buffer, starts, lengths, x.shape[1:], x.dtype), x)
    True
    """

    variable: Literal[True] = True
    nbytes = 0

    def __init__(
        self,
        format: Format,
        *,
        quality: int | None = None,
        mean: float | tuple[float, ...] = 0.0,
        std: float | tuple[float, ...] = 1.0,
    ) -> None:
        self.format = check.choice("format", format, ("png", "jpeg", "webp"))
        if quality is not None and format == "png":
            raise ValueError(f"quality: expected None for png, which is exact, got {check.show(quality)}")
        self.quality = None if quality is None else check.integer("quality", quality, least=1, most=100)
        if format == "jpeg" and quality is None:
            self.quality = 75
        self.exact = self.quality is None
        self._pixels = Uint8(mean=mean, std=std, lossy=not self.exact)
        self._heads: dict[tuple[int, ...], bytes] = {}

    @property
    def mean(self) -> Tensor:
        """Of the ``Normalize`` that is undone before storing."""
        return self._pixels.mean

    @property
    def std(self) -> Tensor:
        """Likewise."""
        return self._pixels.std

    @property
    def nbytes_fixed(self) -> int:
        """Bytes of the headers that files share, of the sizes of images stored so far."""
        return sum(map(len, self._heads.values()))

    def check(self, x: Tensor) -> None:
        """Raise unless the rows are images, and of 256 levels if they are to come back exactly."""
        self._check_images(x)
        self._pixels.check(x)
        if not self.exact and x.is_floating_point() and x.numel():
            low, high = (float(end) for end in self._to_pixels(x).aminmax())
            # Written so that NaN fails it.
            if not (low >= -1e-3 and high <= 1 + 1e-3):
                raise ValueError(
                    f"x: the codec ImageFile expected pixels from 0 to 1, got {low:.4g} to {high:.4g} under "
                    f"{self._pixels!r}; give the mean and std of your Normalize"
                )

    def encode_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Bytes of all rows, uint8 ``(N,)`` on the CPU; how many each takes, int64 ``(B,)``."""
        self._check_images(x)
        files = [self._stripped(image) for image in self._pixels.encode(x).cpu()]
        lengths = torch.tensor([len(file) for file in files], dtype=torch.int64)
        return _bytes_tensor(b"".join(files)), lengths

    def decode_rows(self, buffer: Tensor, starts: Tensor, lengths: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """Images as their files give them back."""
        check_pieces(buffer, starts, lengths)
        levels = torch.empty(len(starts), *check.coding(shape, dtype), dtype=torch.uint8)
        pieces = zip(starts.tolist(), lengths.tolist(), strict=True)
        for row, (start, length) in enumerate(pieces):
            levels[row] = self._image(buffer[start : start + length].numpy().tobytes(), Size(shape))
        return self._pixels.decode(levels, shape, dtype)

    def _stripped(self, image: Tensor) -> bytes:
        file = self._file(image)
        row = self._without_shared(file)
        if self._whole(row, image.shape) != file:
            raise RuntimeError(f"the {self.format} encoder gave a file of another layout than for a black image")
        return row

    def _without_shared(self, file: bytes) -> bytes:
        if self.format == "png":
            return file[_PNG_HEAD:-_PNG_END]
        if self.format == "jpeg":
            return file[_end_of_header(file) : -2]
        return file[_WEBP_HEAD : _WEBP_HEAD + int.from_bytes(file[16:20], "little")]

    def _whole(self, row: bytes, shape: Size) -> bytes:
        """The file of which a row was a part."""
        head = self._head(shape)
        if self.format == "png":
            return head + row + _png_end()
        if self.format == "jpeg":
            return head + row + b"\xff\xd9"
        filled = row + bytes(len(row) % 2)
        sizes = [size.to_bytes(4, "little") for size in (12 + len(filled), len(row))]
        return b"RIFF" + sizes[0] + head + sizes[1] + filled

    def _head(self, shape: Size) -> bytes:
        """What files of images of this shape begin with; of a WebP its kind alone."""
        key = tuple(shape)
        if key not in self._heads:
            file = self._file(torch.zeros(shape, dtype=torch.uint8))
            if self.format == "png":
                self._heads[key] = file[:_PNG_HEAD]
            elif self.format == "jpeg":
                self._heads[key] = file[: _end_of_header(file)]
            else:
                self._heads[key] = file[8:16]
        return self._heads[key]

    def _file(self, image: Tensor) -> bytes:
        """One uint8 image ``(C, H, W)`` as a file."""
        pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0).contiguous()
        file = io.BytesIO()
        options = {"lossless": True} if self.quality is None else {"quality": self.quality}
        Image.fromarray(pixels.numpy()).save(file, self.format, **({} if self.format == "png" else options))
        return file.getvalue()

    def _image(self, row: bytes, shape: Size) -> Tensor:
        image = Image.open(io.BytesIO(self._whole(row, shape)))
        pixels = torch.from_numpy(np.array(image.convert("L" if shape[0] == 1 else "RGB")))
        return pixels[None] if shape[0] == 1 else pixels.permute(2, 0, 1)

    def _to_pixels(self, x: Tensor) -> Tensor:
        channels = (-1, 1, 1)
        return x * self.std.to(x).view(channels) + self.mean.to(x).view(channels)

    def _check_images(self, x: Tensor) -> None:
        if check.tensor("x", x).ndim != 4 or x.shape[1] not in (1, 3) or 0 in x.shape[2:]:
            raise ValueError(f"x: the codec ImageFile expected images (B, 1 or 3, H, W), got {tuple(x.shape)}")
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise ValueError(f"x: the codec ImageFile expected floating-point or uint8 images, got {x.dtype}")

    def __repr__(self) -> str:
        quality = "" if self.quality is None else f", quality={self.quality}"
        return f"ImageFile({self.format!r}{quality}, {repr(self._pixels)[6:-1].removesuffix(', lossy=True')})"


def _bytes_tensor(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())


def _end_of_header(file: bytes) -> int:
    """Where a JPEG's segments end and its coded pixels begin."""
    place = 2
    while True:
        marker, length = file[place + 1], int.from_bytes(file[place + 2 : place + 4], "big")
        place += 2 + length
        if marker == _SOS:
            return place


def _png_end() -> bytes:
    return bytes(4) + b"IEND" + bytes((0xAE, 0x42, 0x60, 0x82))
