"""Few-bit codecs against numpy, and their bytes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Size
from torchvision import transforms

from avalanche_memplugins.codecs import Bits, Codec, Downsampled, Uint8

COLOUR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def back(codec: Codec, x: torch.Tensor) -> torch.Tensor:
    codec.check(x)
    shape, dtype = codec.spec(x.shape[1:], x.dtype)
    code = codec.encode(x)
    assert code.shape == (len(x), *shape)
    assert code.dtype == dtype
    return codec.decode(code, x.shape[1:], x.dtype)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5, 7), (9,), (2, 3)])
def test_levels_are_those_of_numpy(bits: int, shape: tuple[int, ...]) -> None:
    pixels, top = images(6, *shape).astype(np.float64), 2**bits - 1
    x = torch.from_numpy(((pixels - 0.286) / 0.353).astype(np.float32))
    expected = (np.floor(pixels * top + 0.5) / top - 0.286) / 0.353
    np.testing.assert_allclose(back(Bits(bits, mean=0.286, std=0.353), x).numpy(), expected, atol=1e-6)


def test_channels_are_normalised_each_by_its_own() -> None:
    pixels = images(4, 3, 8, 8)
    x = transforms.Normalize(**COLOUR)(torch.from_numpy(pixels))
    expected = transforms.Normalize(**COLOUR)(torch.from_numpy(np.floor(pixels * 15 + 0.5) / 15))
    torch.testing.assert_close(back(Bits(4, **COLOUR), x), expected)


def test_one_bit_is_a_threshold_at_a_half_and_both_ends_are_levels() -> None:
    x = torch.tensor([[0.0, 0.499, 0.5, 0.501, 1.0]])
    assert back(Bits(1), x).tolist() == [[0, 0, 1, 1, 1]]
    assert back(Bits(4), torch.tensor([[0.0, 1.0]])).tolist() == [[0.0, 1.0]]
    again = back(Bits(2), x)
    assert torch.equal(back(Bits(2), again), again)  # what is on a level stays there


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.uint8])
def test_rows_keep_their_type(dtype: torch.dtype) -> None:
    x = torch.from_numpy(images(3, 1, 6, 6))
    x = (x * 255).to(dtype) if dtype == torch.uint8 else x.to(dtype)
    for codec in (Bits(4), Downsampled(3, Bits(4))):
        y = back(codec, x)
        assert y.dtype == dtype
        assert y.shape == x.shape
    error = (back(Bits(4), x).double() - x.double()).abs().max() / (255 if dtype == torch.uint8 else 1)
    assert 0 < float(error) <= 0.5 / 15 + 0.5 / 255


def test_reducing_takes_means_and_enlarging_is_bilinear() -> None:
    """Against sums of blocks, and against interpolation written out along one line."""
    pixels = images(2, 1, 4, 4)
    small = pixels.reshape(2, 1, 2, 2, 2, 2).mean(axis=(3, 5))
    codec = Downsampled(2, Uint8(lossy=True))
    code = codec.encode(torch.from_numpy(pixels))
    assert np.array_equal(code.numpy(), np.round(small * 255).astype(np.uint8))
    large = codec.decode(code, Size((1, 4, 4)), torch.float32).numpy()
    weights = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])  # of two centres, for four pixels
    np.testing.assert_allclose(large, weights @ (np.round(small * 255) / 255) @ weights.T, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 13)])
def test_enlarging_is_torchs_bilinear_interpolation_under_autocast_too(shape: tuple[int, ...]) -> None:
    x = torch.from_numpy(images(3, *shape))
    codec, inner = Downsampled(5, Bits(4)), Bits(4)
    code = codec.encode(x)
    small = inner.decode(code, Size((shape[0], 5, 5)), torch.float32)
    expected = torch.nn.functional.interpolate(small, shape[1:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(codec.decode(code, x.shape[1:], x.dtype), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(codec.decode(code, x.shape[1:], x.dtype), expected)


def test_other_ways_of_reducing_differ_and_an_image_of_that_size_is_left_alone() -> None:
    x = torch.from_numpy(images(2, 1, 9, 9))
    area, bilinear, nearest = (back(Downsampled(4, Bits(4), mode=m), x) for m in ("area", "bilinear", "nearest"))
    assert not torch.equal(area, bilinear)
    assert not torch.equal(area, nearest)
    assert torch.equal(back(Downsampled(9, Bits(4)), x), back(Bits(4), x))


@pytest.mark.parametrize(
    ("codec", "grey", "colour"),
    [
        (Bits(4), 392, 1536),
        (Bits(2), 196, 768),
        (Bits(1), 98, 384),
        (Downsampled(14, Bits(4)), 98, 294),
        (Downsampled(7, Uint8(lossy=True)), 49, 147),
    ],
)
def test_bytes_of_a_row(codec: Codec, grey: int, colour: int) -> None:
    for shape, expected in (((1, 28, 28), grey), ((3, 32, 32), colour)):
        code_shape, dtype = codec.spec(Size(shape), torch.float32)
        assert code_shape.numel() * dtype.itemsize == expected
    assert isinstance(codec, Codec)


@pytest.mark.parametrize(
    ("codec", "x", "message"),
    [
        (
            Bits(4),
            torch.tensor([[-0.5, 0.2]]),
            r"from 0 to 1, got -0.5 to 0.2 in rows of",
        ),
        (Bits(4), torch.tensor([[float("nan")]]), "expected finite values, got nan"),
        (Bits(4), torch.zeros(1, 2, dtype=torch.int64), r"Bits\(4\) expected floating-point or uint8 images, got"),
        (Bits(4, **COLOUR), torch.zeros(1, 1, 4, 4), "mean and std for 3 channels, got"),
        (Downsampled(4, Bits(4)), torch.zeros(1, 16), r"expected floating-point or uint8 images \(B, C, H, W\), got"),
        (Downsampled(4, Bits(4)), torch.zeros(1, 1, 3, 9), "expected images .* at least 4 x 4, got"),
        (Downsampled(2, Bits(4)), torch.full((1, 1, 4, 4), 2.0), "pixels from 0 to 1, got 2 to 2"),
        (Downsampled(2, Bits(4)), torch.zeros(1, 1, 4, 4, dtype=torch.int32), "floating-point or uint8"),
    ],
)
def test_what_cannot_be_stored_is_refused(codec: Codec, x: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec.check(x)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (Bits, {"bits": 3}, "bits: expected 1, 2 or 4, got 3"),
        (Bits, {"bits": True}, "bits: expected 1, 2 or 4, got True"),
        (Bits, {"std": 0}, "std: expected a finite number > 0"),
        (Bits, {"mean": float("inf")}, "mean: expected a finite number"),
        (Downsampled, {"size": 0, "codec": Bits()}, "size: expected an integer >= 1, got 0"),
        (Downsampled, {"size": 4, "codec": Bits(), "mode": "cubic"}, "mode: expected one of .* got 'cubic'"),
    ],
)
def test_bad_arguments(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_codecs_tell_themselves_apart_and_can_be_copied() -> None:
    codecs = [Bits(4), Bits(2), Bits(4, mean=0.1), Downsampled(4, Bits(4)), Downsampled(5, Bits(4))]
    assert len({repr(codec) for codec in codecs}) == len(codecs)
    assert repr(Downsampled(14, Bits(4))) == "Downsampled(14, Bits(4, mean=0, std=1), mode='area')"
    x = 0.5 + 0.4 * torch.from_numpy(images(2, 1, 8, 8))
    for codec in codecs:
        assert torch.equal(back(copy.deepcopy(codec), x), back(codec, x))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_look_up_table_counts_as_fixed(bits: int) -> None:
    assert Bits(bits).nbytes_fixed == Downsampled(14, Bits(bits)).nbytes_fixed == 256 * (8 // bits) * 4
