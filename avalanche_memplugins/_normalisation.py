"""The user's ``Normalize`` transform, undone before a lossy codec and redone after it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor

from avalanche_memplugins import _checks as check

# What rounding may leave outside [0, 1]; a wrong mean or std is off by far more.
_TOLERANCE = 1e-3
_NORMALISED = (
    "images that went through Normalize want its mean and std here, such as Uint8(mean=0.1307, std=0.3081), and "
    "feature maps fit codec='int8'"
)


class Normalisation:
    r"""Images as transforms made them, :math:`x = (p - \mu) / \sigma`, and their pixels :math:`p` in [0, 1].

    uint8 rows are pixels in 256 levels; mean and std do not touch them.

    :param mean: :math:`\mu`, a number or one a channel ``(C,)``.
    :param std: :math:`\sigma`, likewise, > 0.
    :raises ValueError: if they are not finite, or ``std`` is not positive.
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        self._set(mean, std)
        self.given = not self._changes_nothing
        self.found: tuple[list[float], list[float]] | None = None

    def find(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        """Take those that the data was found to go through; what was given at the making stays the ``repr``."""
        self._set(mean, std)
        self.found = self.mean.tolist(), self.std.tolist()

    def _set(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        self.mean, self.std = statistics(mean, std)
        self._changes_nothing = not bool(self.mean.any()) and bool((self.std == 1).all())

    def check(self, x: Tensor, holder: str) -> None:
        """Raise ``ValueError`` unless the pixels of ``x`` ``(B, *shape)`` lie within [0, 1].

        :param holder: what stores them, for the error.
        """
        channels = max(len(self.mean), len(self.std))
        check_images(x, channels, holder)
        if x.dtype == torch.uint8 or not x.numel():
            return
        low, high = (float(end) for end in self.undo(x).aminmax())
        # Written so that NaN fails it.
        if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
            got = f"{low:.4g} to {high:.4g} in rows of {tuple(x.shape[1:])} under {self.said()}"
            if not math.isfinite(low) or not math.isfinite(high):
                raise ValueError(f"x: {holder} expected finite values, got {got}")
            if x.ndim == 2:
                raise ValueError(
                    f"x: {holder} expected values from 0 to 1, got {got}; vectors that are standardised, such as "
                    "features, fit codec='int8'"
                )
            raise ValueError(f"x: {holder} expected pixels from 0 to 1, got {got}; {_NORMALISED}")

    def undo(self, x: Tensor) -> Tensor:
        """Pixels, float32, of images ``(B, *shape)``."""
        check.batch("x", x)
        if x.dtype == torch.uint8:
            return x.float().div_(255)
        mean, std = self._on(x.device, x.ndim)
        return (x.float() * std).add_(mean)

    def redo(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """Images of type ``dtype`` from float32 pixels ``(B, *shape)``."""
        if dtype == torch.uint8:
            return (pixels * 255).round_().clamp_(0, 255).to(torch.uint8)
        if self._changes_nothing:
            return pixels.to(dtype)
        mean, std = self._on(pixels.device, pixels.ndim)
        return (pixels - mean).div_(std).to(dtype)

    def _on(self, device: torch.device, ndim: int) -> tuple[Tensor, Tensor]:
        if self.mean.device != device:
            self.mean, self.std = self.mean.to(device), self.std.to(device)
        return tuple(v if len(v) == 1 else v.view((-1,) + (1,) * (ndim - 2)) for v in (self.mean, self.std))  # type: ignore[return-value]

    def said(self) -> str:
        """Both, for people to read."""
        return f"mean={show(self.mean)}, std={show(self.std)}"

    def __repr__(self) -> str:
        # What a memory was made with, by which it knows whose state it loads; what was found later is in the state.
        return self.said() if self.found is None else "mean=0, std=1"


def statistics(mean: float | Sequence[float], std: float | Sequence[float]) -> tuple[Tensor, Tensor]:
    """Both as float32 ``(C,)``, or ``(1,)`` for all channels.

    :raises ValueError: if they are not finite, or ``std`` is not positive.
    """
    means, stds = check.channels("mean", mean), check.channels("std", std, above=0)
    if len(means) > 1 and len(stds) > 1 and len(means) != len(stds):
        raise ValueError(f"std: expected one number, or one a channel as mean has ({len(means)}), got {len(stds)}")
    return means, stds


def check_images(x: Tensor, channels: int, holder: str) -> None:
    """Raise unless ``x`` is of a type and shape that pixels have.

    :param channels: for which there are means and deviations; 1: any number.
    """
    check.tensor("x", x)
    if x.ndim < 2:
        raise ValueError(f"x: {holder} expected (B, *shape), got {tuple(x.shape)}")
    if channels > 1 and (x.ndim < 3 or x.shape[1] != channels):
        raise ValueError(
            f"x: {holder} expected (B, {channels}, H, W), as it has a mean and std for {channels} channels, got "
            f"{tuple(x.shape)}"
        )
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise ValueError(f"x: {holder} expected floating-point or uint8 images, got {x.dtype}")


def one_row(shape: Size) -> str:
    """Shape of a row for people to read."""
    return f"(B, {', '.join(map(str, shape))})"


def show(values: Tensor) -> str:
    """Numbers for people to read."""
    numbers = [f"{v:.6g}" for v in values.tolist()]
    return numbers[0] if len(numbers) == 1 else f"({', '.join(numbers)})"
