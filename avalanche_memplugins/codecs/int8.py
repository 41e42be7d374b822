"""Eight bits a number, for vectors."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.codecs._latent_space import STEP
from avalanche_memplugins.codecs._stored import StoredCodec
from avalanche_memplugins.functional.quantise import round_to_int8


class Int8(StoredCodec):
    r"""Stores rows of numbers of about unit size, such as normalised codes and features, in one byte a number.

    .. math:: c = \min(127, \max(-127, \mathrm{round}(x / \Delta))), \qquad \hat x = \Delta\, c

    A number within :math:`127 \Delta` of 0 moves by at most half a step. One beyond comes back as that end: it
    saturates, without an error, since a few such among normal numbers do no harm. Choose the step for the data.

    :param step: :math:`\Delta` > 0. The default, that of a :class:`~avalanche_memplugins.codecs.LatentCodec`, reaches
        5.3 either way: so many standard deviations of normalised codes.
    :raises ValueError: if ``step`` is not a number above 0; when rows are written, if they are not of a
        floating-point type or hold NaN.

    >>> import torch
    >>> codec, x = Int8(step=0.1), torch.tensor([[0.12, -1.0, 99.0]])
    >>> codec.decode(codec.encode(x), x.shape[1:], x.dtype)
    tensor([[ 0.1000, -1.0000, 12.7000]])
    """

    def __init__(self, *, step: float = STEP) -> None:
        self.step = check.number("step", step, above=0)

    def _check_kind(self, x: Tensor) -> None:
        check.floats(x=check.batch("x", x))

    def check(self, x: Tensor) -> None:
        """Raise for integers and NaN; every other row can be stored."""
        self._check_kind(x)
        if bool(x.isnan().any()):
            raise ValueError(f"x: the codec Int8 expected numbers, got {int(x.isnan().sum())} that are NaN")

    def encode_checked(self, x: Tensor) -> Tensor:
        """Nearest steps, at most 127 off 0."""
        return round_to_int8(x, self.step)

    def decode_checked(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """Steps back to numbers."""
        return code.to(dtype) * self.step

    def _spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        return shape, torch.int8

    def __repr__(self) -> str:
        return f"Int8(step={self.step:.6g})"
