"""Eight bits a number, for vectors."""

from __future__ import annotations

import math

import torch
from torch import Size, Tensor

from avalanche_memplugins.codecs._latent_space import STEP
from avalanche_memplugins.functional.quantise import round_to_int8


class Int8:
    r"""Stores rows of numbers of about unit size, such as normalised codes and features, in one byte a number.

    .. math:: c = \min(127, \max(-127, \mathrm{round}(x / \Delta))), \qquad \hat x = \Delta\, c

    A number within :math:`127 \Delta` of 0 moves by at most half a step. One beyond comes back as that end: it
    saturates, without an error, since a few such among normal numbers do no harm. Choose the step for the data.

    :param step: :math:`\Delta` > 0. The default, that of a :class:`~avalanche_memplugins.codecs.LatentCodec`, reaches
        5.3 either way: so many standard deviations of normalised codes.
    :raises ValueError: if ``step`` is not a number above 0; when rows are written, if they are not of a
        floating-point type or hold NaN.
    """

    nbytes_fixed = 0

    def __init__(self, *, step: float = STEP) -> None:
        if isinstance(step, bool) or not isinstance(step, int | float) or not (math.isfinite(step) and step > 0):
            raise ValueError(f"step: wants a number > 0, got {step!r}")
        self.step = float(step)

    def check(self, x: Tensor) -> None:
        """Raise for integers and NaN; every other row can be stored."""
        if not x.is_floating_point():
            raise ValueError(f"x: the codec Int8 stores floating-point rows, got {x.dtype}")
        if bool(x.isnan().any()):
            raise ValueError(f"x: the codec Int8 stores numbers, got {int(x.isnan().sum())} that are NaN")

    def encode(self, x: Tensor) -> Tensor:
        """Nearest steps, at most 127 off 0."""
        return round_to_int8(x, self.step)

    def decode(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """Steps back to numbers."""
        return code.to(dtype) * self.step

    def spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        """Shape of the row, int8."""
        return shape, torch.int8

    def __repr__(self) -> str:
        return f"Int8(step={self.step:.6g})"
