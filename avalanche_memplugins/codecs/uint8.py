"""Eight bits a pixel, without loss for images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._normalisation import check_images, show, statistics
from avalanche_memplugins.codecs._stored import StoredCodec

_BLOCK = 1 << 17  # numbers


class Uint8(StoredCodec):
    r"""Stores images in one byte a value, and gives back exactly what ``ToTensor`` and ``Normalize`` made.

    .. math:: c = \mathrm{round}\left(255 (x \sigma + \mu)\right), \qquad x = (c / 255 - \mu) / \sigma

    The decoder does the arithmetic of torchvision's ``ToTensor`` and ``Normalize`` in their order, so
    images that came from bytes through those two are restored bit for bit.

    :param mean: :math:`\mu` of ``Normalize``: a number, or one a channel ``(C,)``. 0 if not normalised.
    :param std: :math:`\sigma` of ``Normalize``, > 0, like ``mean``. 1 if not normalised.
    :param lossy: allow rows that are not images of 256 levels; they are rounded to the nearest level.
    :raises ValueError: if ``std`` is not positive; when rows are written, if they are not on the 256
        levels and ``lossy`` is false.

    >>> import torch
    >>> codec = Uint8(mean=0.1307, std=0.3081)
    >>> x = (torch.tensor([[[[0, 1, 255]]]]) / 255 - 0.1307) / 0.3081
    >>> code = codec.encode(x)
    >>> code.flatten().tolist(), torch.equal(codec.decode(code, x.shape[1:], x.dtype), x)
    ([0, 1, 255], True)
    """

    def __init__(
        self, *, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0, lossy: bool = False
    ) -> None:
        self.mean, self.std = statistics(mean, std)
        self.lossy = check.flag("lossy", lossy)

    def _check_kind(self, x: Tensor) -> None:
        check_images(x, max(len(self.mean), len(self.std)), "the codec Uint8")

    def check(self, x: Tensor) -> None:
        """Raise if the rows are not images of 256 levels under this mean and std, or not finite if they are rounded."""
        self.check_and_encode(x)

    def check_and_encode(self, x: Tensor) -> Tensor:
        """Do :meth:`check` and :meth:`encode` at once: both need the levels."""
        self._check_kind(x)
        if x.dtype == torch.uint8:
            return x
        if self.lossy:
            check.finite("x", x)
        found, worst = [], 0.0
        for part in _blocks(x):
            levels = self._levels(part)
            nearest = levels.round().clamp_(0, 255)
            if not self.lossy and part.numel():
                worst = max(worst, *(abs(end.item()) for end in levels.sub_(nearest).aminmax()), key=_nan_last)
            found.append(_bytes(nearest))
        # A hundredth of a level: far above float32 rounding, far below the distance of two levels. NaN fails it.
        if not worst <= 0.01:
            raise ValueError(self._off_the_levels(x, worst))
        return _joined(found)

    def encode_checked(self, x: Tensor) -> Tensor:
        """Nearest of the 256 levels."""
        if x.dtype == torch.uint8:
            return x
        return _joined([_bytes(self._levels(part).round_().clamp_(0, 255)) for part in _blocks(x)])

    def decode_checked(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """Images as the transforms had made them."""
        if dtype == torch.uint8:
            return code
        x = code.to(dtype)
        mean, std = self._per_channel(x)
        for part in _blocks(x):
            part.div_(255).sub_(mean).div_(std)
        return x

    def _spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        return shape, torch.uint8

    def _off_the_levels(self, x: Tensor, off: float) -> str:
        got = f"got values up to {off:.3g} levels off in rows of {tuple(x.shape[1:])} under {self!r}"
        if not math.isfinite(off):
            return f"x: the codec Uint8 expected finite values, {got}"
        if x.ndim == 2:
            return f"x: the codec Uint8 expected the 256 levels of pixels, {got}; standardised vectors fit codec='int8'"
        return (
            f"x: the codec Uint8 expected the 256 levels of pixels, {got}; give the mean and std of your Normalize "
            "transform, or lossy=True to round; feature maps fit codec='int8'"
        )

    def _levels(self, x: Tensor) -> Tensor:
        mean, std = self._per_channel(x)
        return (x * std).add_(mean).mul_(255)

    def _per_channel(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.mean.device != x.device or self.mean.dtype != x.dtype:
            self.mean, self.std = self.mean.to(x), self.std.to(x)
        if len(self.mean) == 1 and len(self.std) == 1:
            return self.mean, self.std
        channels = (-1,) + (1,) * (x.ndim - 2)
        return self.mean.view(channels), self.std.view(channels)

    def __repr__(self) -> str:
        lossy = ", lossy=True" if self.lossy else ""
        return f"Uint8(mean={show(self.mean)}, std={show(self.std)}{lossy})"


def _blocks(x: Tensor) -> Sequence[Tensor]:
    """Rows so few at a time that what is worked out of them stays in the processor's cache; all at once on a GPU."""
    rows = max(1, _BLOCK // max(1, x[:1].numel()))
    return (x,) if x.is_cuda or rows >= len(x) else torch.split(x, rows)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _nan_last(number: float) -> float:
    return math.inf if math.isnan(number) else number


def _bytes(levels: Tensor) -> Tensor:
    # Twice as fast on a CPU as straight from float to uint8.
    return levels.to(torch.int16).to(torch.uint8)
