"""What codecs with an auto-encoder share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Size, Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._loading import LoadsWhole
from avalanche_memplugins._normalisation import Normalisation, one_row
from avalanche_memplugins.codecs._stored import StoredCodec
from avalanche_memplugins.functional.quantise import (
    gaussian_levels,
    nearest_levels,
    pack_bits,
    packed_size,
    round_to_int8,
    unpack_bits,
)

Precision = Literal["2bit", "3bit", "4bit", "6bit", "int8", "float16", "float32"]
BITS: dict[str, int] = {f"{bits}bit": bits for bits in (2, 3, 4, 6)}
DTYPES: dict[str, torch.dtype] = {
    **dict.fromkeys(BITS, torch.uint8),
    "int8": torch.int8,
    "float16": torch.float16,
    "float32": torch.float32,
}
STEP = 1 / 24
_ROWS = 1024  # through the network at a time
Self = TypeVar("Self", bound="LatentCoding")


class LatentSpace(nn.Module):
    """An auto-encoder, in eval mode and without gradient, and the statistics of its codes."""

    code_mean: Tensor
    code_std: Tensor

    def __init__(self, autoencoder: Any, code_mean: Tensor, code_std: Tensor) -> None:
        super().__init__()
        self.autoencoder = autoencoder.float().eval().requires_grad_(False)
        size = int(autoencoder.code_size)
        for name, value in (("code_mean", code_mean), ("code_std", code_std)):
            value = check.tensor(name, value).to("cpu", torch.float32, copy=True).detach()
            if value.shape != (size,) or not bool(torch.isfinite(value).all()):
                raise ValueError(
                    f"{name}: expected finite numbers ({size},), one a dimension of the code, "
                    f"got shape {tuple(value.shape)}"
                )
            self.register_buffer(name, value)
        if not bool((self.code_std > 0).all()):
            raise ValueError(f"code_std: expected numbers > 0, got {float(self.code_std.min()):g}")
        self.to(next((p.device for p in autoencoder.parameters()), torch.device("cpu")))

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.code_mean.device

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters and buffers."""
        return sum(t.nbytes for t in (*self.parameters(), *self.buffers()))


class LatentCoding(StoredCodec, LoadsWhole):
    """Pixels to quantised codes and back through ``self._space``, which the codecs derived from this one keep.

    :param precision: of a stored code.
    :param step: of int8 codes, > 0.
    :param mean: of the user's Normalize.
    :param std: of the user's Normalize.
    """

    _space: LatentSpace

    def __init__(
        self, precision: Precision, step: float, mean: float | Sequence[float], std: float | Sequence[float]
    ) -> None:
        super().__init__()
        check.choice("precision", precision, tuple(DTYPES))
        self.precision: Precision = precision
        self.step = check.number("step", step, above=0)
        self.normalisation = Normalisation(mean, std)
        self.image_shape = Size()

    @torch.no_grad()
    def _find_image_shape(self) -> None:
        zero = torch.zeros(1, self.code_size, device=self._space.device)
        self.image_shape = Size(self._space.autoencoder.decode(zero).shape[1:])

    @property
    def code_size(self) -> int:
        """Numbers in a code."""
        return int(self._space.autoencoder.code_size)

    @property
    def _width(self) -> int:
        """Elements of a stored code."""
        return packed_size(self.code_size, BITS[self.precision]) if self.precision in BITS else self.code_size

    @property
    def autoencoder(self) -> Any:
        """The network itself, frozen and in eval mode."""
        return self._space.autoencoder

    # ---------------------------------------------------------------- latent space

    @torch.no_grad()
    def to_latent(self, x: Tensor) -> Tensor:
        """Codes ``(B, code_size)``, float32, of mean 0 and deviation 1 over the data of the statistics.

        :param x: images ``(B, C, H, W)`` as the user's transforms make them.
        """
        self._check_kind(x)
        space = self._space

        def codes(rows: Tensor) -> Tensor:
            raw: Tensor = space.autoencoder.encode(self.normalisation.undo(rows))
            return (raw - space.code_mean) / space.code_std

        return _by_parts(codes, x)

    @torch.no_grad()
    def from_latent(self, z: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Images ``(B, C, H, W)`` as the user's transforms would make them, from codes of :meth:`to_latent`.

        :param z: ``(B, code_size)``.
        :param dtype: of the images.
        """
        check.floats(z=z)
        if z.ndim != 2 or z.shape[1] != self.code_size:
            raise ValueError(f"z: expected codes (B, {self.code_size}), got {tuple(z.shape)}")
        check.dtype_of("dtype", dtype)
        space = self._space

        def images(codes: Tensor) -> Tensor:
            pixels = space.autoencoder.decode(codes.float() * space.code_std + space.code_mean)
            return self.normalisation.redo(pixels, dtype)

        return _by_parts(images, z)

    def quantise(self, z: Tensor) -> Tensor:
        """Codes as they are stored, ``(B, code_size)`` of the type that ``precision`` names; below a byte packed."""
        check.floats(z=z)
        if self.precision in BITS:
            if z.ndim != 2 or z.shape[1] != self.code_size:
                raise ValueError(f"z: expected codes (B, {self.code_size}), got {tuple(z.shape)}")
            bits = BITS[self.precision]
            return pack_bits(nearest_levels(z, gaussian_levels(bits)), bits)
        if self.precision == "int8":
            return round_to_int8(z, self.step)
        return z.to(DTYPES[self.precision])

    def dequantise(self, code: Tensor) -> Tensor:
        """Codes of :meth:`to_latent`, up to rounding."""
        if self.precision in BITS:
            bits = BITS[self.precision]
            levels = unpack_bits(check.tensor("code", code), bits, self.code_size)
            return gaussian_levels(bits).to(code.device, torch.float32)[levels.int()]
        z = check.tensor("code", code).float()
        return z * self.step if self.precision == "int8" else z

    # ---------------------------------------------------------------- codec

    def check(self, x: Tensor) -> None:
        """Raise unless the rows are images of the auto-encoder's size with pixels from 0 to 1."""
        self._check_kind(x)
        self.normalisation.check(x, f"the codec {type(self).__name__}")

    def _check_kind(self, x: Tensor) -> None:
        check.tensor("x", x)
        if x.shape[1:] != self.image_shape or not x.ndim:
            raise ValueError(
                f"x: the codec {type(self).__name__} expected {one_row(self.image_shape)}, got {tuple(x.shape)}"
            )
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise ValueError(
                f"x: the codec {type(self).__name__} expected floating-point or uint8 images, got {x.dtype}"
            )

    def encode_checked(self, x: Tensor) -> Tensor:
        """Quantised codes ``(B, code_size)``."""
        return self.quantise(self.to_latent(x))

    def decode_checked(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """Images from quantised codes."""
        return self.from_latent(self.dequantise(code), dtype)

    def _spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        if shape != self.image_shape:
            raise ValueError(
                f"shape: the codec {type(self).__name__} expected rows of {tuple(self.image_shape)}, got {tuple(shape)}"
            )
        return Size((self._width,)), DTYPES[self.precision]

    # ---------------------------------------------------------------- as a part of modules

    def train(self: Self, mode: bool = True) -> Self:
        """Stays in eval mode, whatever mode the module takes that it is a part of."""
        return super().train(False)

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Devices only: codes stored under float32 weights are not those of the same weights in half precision.
        self._space.to(fn(torch.empty(0, device=self._space.device)).device)
        return self

    def _facts(self) -> str:
        step = f", step={self.step:.6g}" if self.precision == "int8" else ""
        name = type(self._space.autoencoder).__name__
        return f"{name}, {self.code_size} x {self.precision}{step}, {self.normalisation}"


def _by_parts(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """``function`` of the rows, a bounded number at a time, in full precision."""
    with torch.autocast(rows.device.type, enabled=False):
        if len(rows) <= _ROWS:
            return function(rows)
        return torch.cat([function(part) for part in torch.split(rows, _ROWS)])
