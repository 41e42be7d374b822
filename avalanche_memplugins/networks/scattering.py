"""Scattering: features of images from fixed wavelets, where nothing is learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.networks.random_projection import orthonormal

_ROWS = 128  # images through the wavelets at a time
_DRAWN = 1_000  # pictures of each kind


class Scattering(nn.Module):
    r"""Moduli of wavelet transforms of first and second order, averaged, as vectors: no number of it is learned.

    .. math:: x \star \phi, \quad |x \star \psi_{j a}| \star \phi, \quad
        ||x \star \psi_{j a}| \star \psi_{k b}| \star \phi \quad (k > j)

    with Morlet wavelets :math:`\psi_{j a}` of scale :math:`2^j` and angle a, and a Gaussian :math:`\phi` of the
    coarsest scale, read every :math:`2^J` pixels. The square root of each number is taken, which makes its spread more
    even; then an orthonormal projection made from ``seed`` leaves ``numbers`` of them. Images are padded with 0 to a
    multiple of :math:`2^J` pixels, and colours are transformed each by itself.

    Tables are made from the arguments: they are no parameters and in no ``state_dict``. What comes out hardly changes
    when the image moves by a pixel, and has no way back to it.

    :param shape: of an image, ``(C, H, W)``.
    :param numbers: of a vector; None: all, without a projection.
    :param scales: J, 1 to 6.
    :param angles: >= 1.
    :param seed: of the projection.
    :param basis: of the projection: ``"random"`` directions, or the principal ones of the vectors of ``"drawings"``,
        2,000 pictures of curves and filled shapes that are drawn at random from ``seed``. These come with the numbers
        that matter first, and tell more in few numbers; making them takes seconds.
    :param mean: of the ``Normalize`` that the images went through, a number or one a channel; it is undone.
    :param std: of that ``Normalize``.
    :raises ValueError: for arguments out of range, naming the argument.

    Source: Bruna & Mallat, "Invariant scattering convolution networks", 2013; filters as in Kymatio (Andreux et al.
    2020), without its subsampling.

    >>> features = Scattering((1, 28, 28), numbers=60, seed=0)
    >>> features(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 60])
    >>> Scattering((1, 28, 28)).width
    976
    """

    wavelets: Tensor
    rows: Tensor
    columns: Tensor
    projection: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        numbers: int | None = None,
        *,
        scales: int = 3,
        angles: int = 4,
        seed: int = 0,
        basis: Literal["random", "drawings"] = "random",
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        self.shape = check.integers("shape", shape, count=3)
        self.scales = check.integer("scales", scales, least=1, most=6)
        self.angles = check.integer("angles", angles, least=1, most=64)
        self.seed = check.integer("seed", seed, least=0, most=2**63 - 1)
        self.basis = check.choice("basis", basis, ("random", "drawings"))
        means, stds = check.channels("mean", mean), check.channels("std", std, above=0)
        for name, value in (("mean", means), ("std", stds)):
            if len(value) not in (1, self.shape[0]):
                raise ValueError(
                    f"{name}: expected a number, or one for each of {self.shape[0]} channels, got {len(value)}"
                )
        step = 2**scales
        height, width = (-(-side // step) * step for side in self.shape[1:])
        # Past these an image is 0, as many pixels before it as behind, and one more behind.
        self.padding = [
            p for side, full in ((self.shape[2], width), (self.shape[1], height)) for p in _halves(full - side)
        ]
        second = angles * angles * scales * (scales - 1) // 2
        self.paths = 1 + angles * scales + second
        self.width = self.shape[0] * self.paths * (height // step) * (width // step)
        self.numbers = self.width if numbers is None else check.integer("numbers", numbers, least=1, most=self.width)
        tables = {
            "wavelets": _wavelets(scales, angles, height, width),
            "rows": _average(scales, height),
            "columns": _average(scales, width),
            "projection": torch.zeros(0),
            "mean": means.view(-1, 1, 1),
            "std": stds.view(-1, 1, 1),
        }
        for name, value in tables.items():
            self.register_buffer(name, value.float(), persistent=False)
        if numbers is not None:
            made = orthonormal(self.width, self.numbers, seed) if basis == "random" else self._principal()
            self.projection = made.float()

    def extra_repr(self) -> str:
        """The arguments."""
        basis = "" if self.basis == "random" else f", basis={self.basis!r}"
        return (
            f"{self.shape}, numbers={self.numbers}, scales={self.scales}, angles={self.angles}, seed={self.seed}{basis}"
        )

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Vectors ``(B, numbers)``, float32, of images ``(B, C, H, W)``."""
        check.rows("x", x, self.shape)
        if not len(x):
            return x.new_zeros(0, self.numbers, dtype=torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([self._vectors(part.float() * self.std + self.mean) for part in torch.split(x, _ROWS)])

    def _principal(self) -> Tensor:
        """The principal directions of vectors of drawings, the widest first, ``(width, numbers)``."""
        generator = torch.Generator().manual_seed(self.seed)
        channels, height, width = self.shape
        images = torch.cat([draw(_DRAWN, channels, height, width, generator) for draw in (_curves, _shapes)])
        vectors = torch.cat([self._vectors(part) for part in torch.split(images, _ROWS)]).double()
        values, directions = torch.linalg.eigh(torch.cov(vectors.T).view(self.width, self.width))
        widest = directions[:, values.argsort(descending=True)[: self.numbers]]
        largest = widest.gather(0, widest.abs().argmax(0, keepdim=True))
        signed: Tensor = widest * largest.sign()  # signs are free
        return signed

    def _vectors(self, images: Tensor) -> Tensor:
        found = self._coefficients(nn.functional.pad(images, self.padding).flatten(0, 1))
        found = found.view(len(images), -1).clamp_min(0).sqrt()
        return found @ self.projection if len(self.projection) else found

    def _coefficients(self, x: Tensor) -> Tensor:
        """``(B, paths, h, w)`` of grey images ``(B, H, W)``: the average, first order, second order."""
        angles = self.angles
        waves = torch.fft.fft2(x)[:, None] * self.wavelets  # (B, J a, H, W)
        first = torch.fft.ifft2(waves).abs()
        averages = [self._averaged(x[:, None]), self._averaged(first)]
        for scale in range(self.scales - 1):
            coarser = self.wavelets[(scale + 1) * angles :]
            spectrum = torch.fft.fft2(first[:, scale * angles : (scale + 1) * angles])
            second = torch.fft.ifft2(spectrum[:, :, None] * coarser).abs()
            averages.append(self._averaged(second.flatten(1, 2)))
        return torch.cat(averages, 1)

    def _averaged(self, maps: Tensor) -> Tensor:
        # The Gaussian is a product of two: twice a matrix is less work than two Fourier transforms.
        averages: Tensor = self.rows @ maps @ self.columns.mT
        return averages


def _curves(count: int, channels: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Pictures ``(count, channels, height, width)`` in [0, 1] of one to three curves of a pen."""
    y, x = _grid(height, width)
    scale, t = min(height, width) / 28, torch.linspace(0, 1, 25)[:, None]
    curves = torch.randint(1, 4, (count,), generator=generator)
    ink = torch.zeros(count, channels, height, width)
    for number in range(3):
        ends = 0.14 + 0.72 * torch.rand(count, 3, 1, 2, generator=generator)
        path = ((1 - t) ** 2 * ends[:, 0] + 2 * t * (1 - t) * ends[:, 1] + t**2 * ends[:, 2]) - 0.5
        pen = scale * (1.1 + 1.2 * torch.rand(count, 1, 1, generator=generator))
        shade = torch.ones(count, channels, 1, 1)
        if channels > 1:
            shade = 0.3 + 0.7 * torch.rand(count, channels, 1, 1, generator=generator)
        for part in torch.split(torch.arange(count), _ROWS):  # each point of a curve from each pixel
            line = path[part] * torch.tensor([height, width])
            down, along = y[..., None] - line[:, None, None, :, 0], x[..., None] - line[:, None, None, :, 1]
            gap = (down.square() + along.square()).amin(-1)
            drawn = torch.sigmoid(2 * (pen[part] - gap.sqrt()) / scale) * (curves[part] > number)[:, None, None]
            ink[part] = torch.maximum(ink[part], drawn[:, None] * shade[part])
    return ink


def _shapes(count: int, channels: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Pictures ``(count, channels, height, width)`` in [0, 1] of one to three filled shapes with a texture."""
    y, x = _grid(height, width)
    scale = min(height, width) / 28
    frequency = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.fftfreq(width) ** 2).sqrt()
    frequency = frequency.clamp_min(1 / max(height, width))
    shapes = torch.randint(1, 4, (count,), generator=generator)
    ink = torch.zeros(count, channels, height, width)
    for number in range(3):
        centre = 4 * scale * torch.randn(count, 2, 1, 1, generator=generator)
        radius = scale * (3 + 9 * torch.rand(count, 2, 1, 1, generator=generator))
        angle, power = (torch.rand(count, 1, 1, generator=generator) for _ in range(2))
        angle, power = math.pi * angle, 2 + 4 * power
        along = (y - centre[:, 0]) * angle.cos() + (x - centre[:, 1]) * angle.sin()
        across = (x - centre[:, 1]) * angle.cos() - (y - centre[:, 0]) * angle.sin()
        inside = (along / radius[:, 0]).abs() ** power + (across / radius[:, 1]).abs() ** power
        mask = (torch.sigmoid(3 * (1 - inside)) * (shapes > number)[:, None, None])[:, None]
        noise = torch.randn(count, channels, height, width, generator=generator)
        texture = torch.fft.ifft2(torch.fft.fft2(noise) / frequency).real
        texture = texture / texture.std((2, 3), keepdim=True)
        shade = 0.3 + 0.7 * torch.rand(count, channels, 1, 1, generator=generator)
        ink = torch.where(mask > ink, mask * (shade + 0.2 * texture).clamp(0, 1), ink)
    return ink


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of pixels from the middle."""
    return torch.arange(height)[:, None] - (height - 1) / 2, torch.arange(width)[None] - (width - 1) / 2


def _halves(spare: int) -> tuple[int, int]:
    return spare // 2, spare - spare // 2


def _periodic(side: int) -> Tensor:
    """Angular frequencies of a side, ``(5, side)``: those of the discrete transform, and as much off by whole turns."""
    turns = 2 * math.pi * torch.arange(-2, 3, dtype=torch.float64)
    line: Tensor = torch.fft.fftfreq(side, dtype=torch.float64) * 2 * math.pi
    return line + turns[:, None]


def _wavelets(scales: int, angles: int, height: int, width: int) -> Tensor:
    """Fourier transforms of the Morlet wavelets, real, ``(scales * angles, height, width)``."""
    y, x = (side.flatten() for side in (_periodic(height), _periodic(width)))
    y, x = y[:, None], x[None, :]
    slant = max(4 / angles, 0.5)  # length across over length along

    def folded(values: Tensor) -> Tensor:
        return values.view(5, height, 5, width).sum((0, 2))

    found = []
    for scale in range(scales):
        sigma, frequency = 0.8 * 2**scale, 0.75 * math.pi / 2**scale
        for angle in range(angles):
            cos, sin = math.cos(math.pi * angle / angles), math.sin(math.pi * angle / angles)
            along, across = x * cos + y * sin, -x * sin + y * cos
            wave = folded(torch.exp(-0.5 * sigma**2 * ((along - frequency) ** 2 + (across / slant) ** 2)))
            bump = folded(torch.exp(-0.5 * sigma**2 * (along**2 + (across / slant) ** 2)))
            found.append(wave - wave[0, 0] / bump[0, 0] * bump)  # of mean 0
    return torch.stack(found)


def _average(scales: int, side: int) -> Tensor:
    """The matrix ``(side / 2^J, side)`` that smooths a line by the Gaussian and reads it every ``2^J`` pixels."""
    sigma, step = 0.8 * 2 ** (scales - 1), 2**scales
    spectrum = torch.exp(-0.5 * sigma**2 * _periodic(side) ** 2).sum(0)
    line: Tensor = torch.fft.ifft(spectrum).real
    at, pixel = torch.arange(step // 2, side, step)[:, None], torch.arange(side)
    return line[(at - pixel) % side]
