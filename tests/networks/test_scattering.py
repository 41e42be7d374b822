"""Scattering against NumPy's sums over pixels, and what it does not see."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from avalanche_memplugins.networks import Scattering

Maps = NDArray[np.complex128]


def wavelet(j: int, k: int, angles: int, side: int) -> Maps:
    """A Morlet wavelet in space, from its formula, wrapped round a square of ``side`` pixels."""
    sigma, xi, theta, slant = 0.8 * 2**j, 0.75 * math.pi / 2**j, math.pi * k / angles, max(4 / angles, 0.5)
    out, envelope = np.zeros((side, side), complex), np.zeros((side, side))
    for wrap_y in range(-3, 4):
        for wrap_x in range(-3, 4):
            y, x = np.mgrid[:side, :side].astype(float)
            y, x = y + wrap_y * side, x + wrap_x * side
            u, v = x * math.cos(theta) + y * math.sin(theta), -x * math.sin(theta) + y * math.cos(theta)
            bump = slant / (2 * math.pi * sigma**2) * np.exp(-(u**2 + (slant * v) ** 2) / (2 * sigma**2))
            out += bump * np.exp(1j * xi * u)
            envelope += bump
    return out - out.sum() / envelope.sum() * envelope


def convolved(image: Maps, kernel: Maps) -> Maps:
    """Round a torus, pixel by pixel."""
    side = len(image)
    out = np.zeros((side, side), complex)
    for dy in range(side):
        for dx in range(side):
            out += kernel[dy, dx] * np.roll(image, (dy, dx), (0, 1))
    return out


def smooth(image: Maps, scales: int) -> NDArray[np.float64]:
    side, sigma, step = len(image), 0.8 * 2 ** (scales - 1), 2**scales
    y, x = np.mgrid[:side, :side].astype(float)
    kernel = np.zeros((side, side))
    for wrap_y in range(-3, 4):
        for wrap_x in range(-3, 4):
            kernel += np.exp(-((y + wrap_y * side) ** 2 + (x + wrap_x * side) ** 2) / (2 * sigma**2))
    kernel /= 2 * math.pi * sigma**2
    return convolved(image, kernel).real[step // 2 :: step, step // 2 :: step]


@pytest.mark.parametrize(("scales", "angles", "side"), [(2, 3, 16), (1, 4, 8), (2, 4, 13)])
def test_coefficients_are_those_of_sums_over_pixels(scales: int, angles: int, side: int) -> None:
    x = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    full = -(-side // 2**scales) * 2**scales
    before = (full - side) // 2
    image = np.zeros((full, full), complex)
    image[before : before + side, before : before + side] = x[0, 0].double().numpy()
    maps, firsts = [smooth(image, scales)], {}
    for j in range(scales):
        for k in range(angles):
            firsts[j, k] = np.abs(convolved(image, wavelet(j, k, angles, full))).astype(complex)
            maps.append(smooth(firsts[j, k], scales))
    for (j, _), first in firsts.items():
        for finer in range(j + 1, scales):
            for b in range(angles):
                second = np.abs(convolved(first, wavelet(finer, b, angles, full))).astype(complex)
                maps.append(smooth(second, scales))
    expected = np.sqrt(np.stack(maps).clip(0)).ravel()
    got = Scattering((1, side, side), scales=scales, angles=angles)(x)[0]
    # A wavelet so narrow that pixels hardly sample it is another in space than in frequency.
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=0.02 * expected.max())
    np.testing.assert_allclose(got.numpy()[:1], expected[:1], rtol=1e-4)


def features(x: Tensor, **options: object) -> Tensor:
    return Scattering(tuple(x.shape[1:]), **options)(x)  # type: ignore[arg-type]


def blobs(rows: int) -> Tensor:
    g = torch.Generator().manual_seed(1)
    x = torch.zeros(rows, 1, 32, 32)
    x[:, :, 8:24, 8:24] = torch.rand(rows, 1, 4, 4, generator=g).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return x


def test_a_small_shift_changes_little_and_another_image_much() -> None:
    x = blobs(20)
    found, moved = features(x), features(x.roll(1, 3))
    pixels = (x - x.roll(1, 3)).flatten(1).norm(dim=1) / (x - x.roll(1, 0)).flatten(1).norm(dim=1)
    ratio = (found - moved).norm(dim=1) / (found - found.roll(1, 0)).norm(dim=1)
    assert float(ratio.median()) < 0.6 * float(pixels.median())


def test_a_shift_by_the_step_shifts_the_maps() -> None:
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = features(x).view(2, 61, 4, 4)
    torch.testing.assert_close(features(x.roll(8, 2)).view(2, 61, 4, 4), maps.roll(1, 2), rtol=1e-4, atol=1e-5)


def test_a_quarter_turn_changes_places_and_angles_only() -> None:
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    found = [features(part).view(61, 16).square().mean(1) for part in (x, x.rot90(1, (2, 3)))]
    order = [0, *(1 + 4 * j + (k + 2) % 4 for j in range(3) for k in range(4))]
    # Reading points are not symmetric about the image's middle, so their means are near, not equal.
    torch.testing.assert_close(found[0][:13], found[1][order], rtol=0.05, atol=1e-4)


def test_brighter_images_have_longer_vectors_and_black_ones_none() -> None:
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(features(4 * x), 2 * features(x), rtol=1e-4, atol=1e-5)
    assert float(features(torch.zeros(1, 1, 28, 28)).abs().max()) < 1e-3


def test_colours_are_transformed_each_by_itself_and_normalised_images_as_pixels() -> None:
    x = torch.rand(2, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    together = features(x)
    apart = torch.cat([features(x[:, c : c + 1]) for c in range(3)], 1)
    torch.testing.assert_close(together, apart)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    normalised = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(features(normalised, mean=mean, std=std), together, rtol=1e-4, atol=1e-5)


def test_the_projection_comes_from_its_seed_and_keeps_lengths() -> None:
    x = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    whole = Scattering((1, 28, 28))
    first, again, other = (Scattering((1, 28, 28), 40, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first(x), again(x))
    assert not torch.allclose(first(x), other(x))
    basis = first.projection
    torch.testing.assert_close(basis.T @ basis, torch.eye(40), rtol=0, atol=1e-5)
    torch.testing.assert_close(first(x), whole(x) @ basis, rtol=1e-4, atol=1e-4)


def test_nothing_of_it_is_learned_or_saved() -> None:
    network = Scattering((1, 28, 28), 10)
    assert not list(network.parameters())
    assert not network.state_dict()
    x = torch.rand(300, 1, 28, 28)
    assert torch.equal(copy.deepcopy(network)(x), network(x))
    torch.testing.assert_close(network(x)[200:], network(x[200:]), rtol=1e-4, atol=1e-4)
    assert network(x[:0]).shape == (0, 10)
    with pytest.raises(ValueError, match="x: expected"):
        network(x[:, :, 1:])
    with pytest.raises(ValueError, match="numbers: expected"):
        Scattering((1, 28, 28), 977)


@pytest.mark.parametrize("shape", [(1, 12, 16), (3, 16, 16)])
def test_a_basis_of_drawings_is_orthonormal_the_same_again_and_tells_more_of_pictures(shape: tuple[int, ...]) -> None:
    first, again, other = (Scattering(shape, 20, scales=2, seed=seed, basis="drawings") for seed in (3, 3, 4))
    assert torch.equal(first.projection, again.projection)
    assert not torch.equal(first.projection, other.projection)
    torch.testing.assert_close(first.projection.T @ first.projection, torch.eye(20), atol=1e-5, rtol=0)
    # Pictures of another kind: bars.
    x = torch.zeros(60, *shape)
    for i in range(60):
        x[i, :, :, i % shape[2] : i % shape[2] + 3] = 0.2 + 0.01 * i
        x[i, :, i % 7 : i % 7 + 2] += 0.3
    random = Scattering(shape, 20, scales=2, seed=3)
    kept, by_chance = (float(features(x).var(0).sum()) for features in (first, random))
    assert kept > 2 * by_chance
    assert float(first(x).var(0)[:10].sum()) > float(first(x).var(0)[10:].sum())
    assert "basis='drawings'" in first.extra_repr()
    assert "basis" not in random.extra_repr()
