"""Image files as rows: exact where they say so, near elsewhere, and without what files share."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision import transforms

from avalanche_memplugins.codecs import ImageFile, VariableCodec

COLOUR: dict[str, Any] = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
EXACT: dict[str, Any] = {"png": {}, "webp": {}}
LOSSY: dict[str, Any] = {"jpeg": {"quality": 90}, "webp": {"quality": 90}}


def colours(count: int = 12, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    """Smooth colours with edges, of 256 levels."""
    x = torch.rand(count, 3, height // 4 + 1, width // 4 + 1, generator=torch.Generator().manual_seed(seed))
    x = interpolate(x, (height, width), mode="bilinear")
    x[:, :, : height // 2] = x[:, :, :1]
    return x.mul(255).round().div(255)


def digits(count: int = 20) -> Tensor:
    x = torch.from_numpy(load_digits().images[:count]).float()[:, None] / 16
    return interpolate(x, (28, 28), mode="bilinear").mul(255).round().div(255)


def there_and_back(codec: ImageFile, x: Tensor) -> tuple[Tensor, Tensor]:
    codec.check(x)
    buffer, lengths = codec.encode_rows(x)
    assert (buffer.dtype, len(buffer)) == (torch.uint8, int(lengths.sum()))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    starts = lengths.cumsum(0) - lengths
    back = codec.decode_rows(buffer, starts[order], lengths[order], x.shape[1:], x.dtype)
    return back[order.argsort()], lengths


@pytest.mark.parametrize("format", EXACT)
def test_exact_files_give_back_what_was_stored(format: Any) -> None:
    for x in (colours(), colours(3, 9, 13), digits(), colours(4, 1, 5), torch.rand(0, 3, 8, 8)):
        back, _ = there_and_back(ImageFile(format), x)
        assert torch.equal(back, x)
        whole = (x * 255).round().to(torch.uint8)
        assert torch.equal(there_and_back(ImageFile(format), whole)[0], whole)
    normalised = transforms.Normalize(**COLOUR)(colours())
    assert torch.equal(there_and_back(ImageFile(format, **COLOUR), normalised)[0], normalised)


@pytest.mark.parametrize("format", LOSSY)
def test_lossy_files_come_near(format: Any) -> None:
    for x in (colours(), digits()):
        codec = ImageFile(format, quality=90)
        back, fine = there_and_back(codec, x)
        assert back.shape == x.shape
        assert 0 < float((back - x).abs().mean()) < 0.03
        _, coarse = there_and_back(ImageFile(format, quality=20), x)
        assert float(coarse.sum()) < 0.7 * float(fine.sum())
    normalised = transforms.Normalize(**COLOUR)(colours())
    back, _ = there_and_back(ImageFile(format, quality=90, **COLOUR), normalised)
    expected, _ = there_and_back(ImageFile(format, quality=90), colours())
    torch.testing.assert_close(back, transforms.Normalize(**COLOUR)(expected))


def test_a_jpegs_header_is_kept_once() -> None:
    x, codec = colours(), ImageFile("jpeg", quality=75)
    _, lengths = there_and_back(codec, x)
    for row, length in zip(x, lengths.tolist(), strict=True):
        file = io.BytesIO()
        Image.fromarray((row.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()).save(file, "jpeg", quality=75)
        assert codec.nbytes_fixed + length + 2 == pytest.approx(len(file.getvalue()), abs=30)
    assert 500 < codec.nbytes_fixed < 700
    there_and_back(codec, colours(2, 16, 16))
    assert codec.nbytes_fixed > 1000  # of another size


@pytest.mark.parametrize(("format", "quality"), [("png", None), ("webp", None), ("webp", 50), ("jpeg", 50)])
def test_rows_are_parts_of_files_that_others_read(format: Any, quality: int | None) -> None:
    x, codec = colours(4), ImageFile(format, quality=quality)
    buffer, lengths = codec.encode_rows(x)
    back, _ = there_and_back(codec, x)
    for row, start, length in zip(back, (lengths.cumsum(0) - lengths).tolist(), lengths.tolist(), strict=True):
        file = codec._whole(bytes(buffer[start : start + length].tolist()), x.shape[1:])
        pixels = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
        assert abs(pixels / 255 - row.permute(1, 2, 0).numpy()).max() <= 1 / 255 + 1e-6


def test_sizes_are_as_told() -> None:
    x = digits()
    sizes = {
        name: float(there_and_back(codec, x)[1].float().mean())
        for name, codec in {
            "png": ImageFile("png"),
            "webp": ImageFile("webp"),
            "jpeg": ImageFile("jpeg", quality=50),
        }.items()
    }
    assert sizes["png"] < 784
    assert sizes["webp"] < sizes["png"]
    assert sizes["jpeg"] < 0.5 * sizes["png"]


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match="format: expected one of 'png', 'jpeg', 'webp'"):
        ImageFile("gif")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="quality: expected None for png"):
        ImageFile("png", quality=50)
    with pytest.raises(ValueError, match="quality: expected"):
        ImageFile("jpeg", quality=101)
    with pytest.raises(ValueError, match=r"expected images \(B, 1 or 3, H, W\)"):
        ImageFile("png").check(torch.rand(2, 4, 8, 8))
    with pytest.raises(ValueError, match="256 levels"):
        ImageFile("png").check(torch.rand(2, 3, 8, 8))
    for wrong in (torch.full((1, 3, 4, 4), 2.0), torch.full((1, 3, 4, 4), torch.nan)):
        with pytest.raises(ValueError, match="x: "):
            ImageFile("jpeg").check(wrong)
    ImageFile("jpeg").check(torch.rand(2, 3, 8, 8))
    assert isinstance(ImageFile("png"), VariableCodec)
    assert repr(ImageFile("jpeg", quality=60)) == "ImageFile('jpeg', quality=60, mean=0, std=1)"
    assert ImageFile("webp").exact
    assert not ImageFile("webp", quality=50).exact
