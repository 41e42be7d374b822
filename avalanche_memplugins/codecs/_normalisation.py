"""The user's ``Normalize`` transform, undone before a lossy codec and redone after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor

# What rounding may leave outside [0, 1]; a wrong mean or std is off by far more.
_TOLERANCE = 1e-3


class Normalisation:
    r"""Images as transforms made them, :math:`x = (p - \mu) / \sigma`, and their pixels :math:`p` in [0, 1].

    uint8 rows are pixels in 256 levels; mean and std do not touch them.

    :param mean: :math:`\mu`, a number or one a channel ``(C,)``.
    :param std: :math:`\sigma`, likewise, > 0.
    :raises ValueError: if they are not finite, or ``std`` is not positive.
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        self.mean, self.std = statistics(mean, std)

    def check(self, x: Tensor, codec: str) -> None:
        """Raise ``ValueError`` unless the pixels of ``x`` ``(B, *shape)`` lie within [0, 1]."""
        if x.dtype == torch.uint8:
            return
        if not x.is_floating_point():
            raise ValueError(f"x: the codec {codec} stores floating-point or uint8 images, got {x.dtype}")
        channels = max(len(self.mean), len(self.std))
        if channels > 1 and (x.ndim < 3 or x.shape[1] != channels):
            raise ValueError(
                f"x: the codec {codec} has the mean and std of {channels} channels, so it wants "
                f"(B, {channels}, H, W), got {tuple(x.shape)}"
            )
        if not x.numel():
            return
        low, high = (float(end) for end in self.undo(x).aminmax())
        # Written so that NaN fails it.
        if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
            raise ValueError(
                f"x: the codec {codec} stores pixels from 0 to 1, got {low:.4g} to {high:.4g} under {self}; "
                "give the mean and std of your Normalize transform"
            )

    def undo(self, x: Tensor) -> Tensor:
        """Pixels, float32, of images ``(B, *shape)``."""
        if x.dtype == torch.uint8:
            return x.float().div_(255)
        mean, std = self._on(x.device, x.ndim)
        return (x.float() * std).add_(mean)

    def redo(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """Images of type ``dtype`` from float32 pixels ``(B, *shape)``."""
        if dtype == torch.uint8:
            return (pixels * 255).round_().clamp_(0, 255).to(torch.uint8)
        mean, std = self._on(pixels.device, pixels.ndim)
        return (pixels - mean).div_(std).to(dtype)

    def _on(self, device: torch.device, ndim: int) -> tuple[Tensor, Tensor]:
        if self.mean.device != device:
            self.mean, self.std = self.mean.to(device), self.std.to(device)
        return tuple(v if len(v) == 1 else v.view((-1,) + (1,) * (ndim - 2)) for v in (self.mean, self.std))  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"mean={show(self.mean)}, std={show(self.std)}"


def statistics(mean: float | Sequence[float], std: float | Sequence[float]) -> tuple[Tensor, Tensor]:
    """Both as float32 ``(C,)``, or ``(1,)`` for all channels.

    :raises ValueError: if they are not finite, or ``std`` is not positive.
    """
    means, stds = (torch.as_tensor(value, dtype=torch.float32).reshape(-1) for value in (mean, std))
    if not bool(torch.isfinite(means).all()):
        raise ValueError(f"mean: wants finite numbers, got {mean}")
    if not bool((stds > 0).all()) or not bool(torch.isfinite(stds).all()):
        raise ValueError(f"std: wants numbers above 0, got {std}")
    return means, stds


def one_row(shape: Size) -> str:
    """Shape of a row for people to read."""
    return f"(B, {', '.join(map(str, shape))})"


def show(values: Tensor) -> str:
    """Numbers for people to read."""
    numbers = [f"{v:.6g}" for v in values.tolist()]
    return numbers[0] if len(numbers) == 1 else f"({', '.join(numbers)})"
