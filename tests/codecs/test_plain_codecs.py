"""Codecs against torchvision's own transforms and numpy."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import transforms

from avalanche_memplugins import RandomMemory
from avalanche_memplugins.codecs import Bits, Codec, Downsampled, Float16, Int8, Raw, Uint8

ALL_LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)


CODECS = [Raw(), Float16(), Uint8(), Int8(), Bits(4), Bits(1), Downsampled(14, Bits(4)), Downsampled(7, Uint8())]


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("rows", [2, 0])
def test_codecs_keep_the_protocol(codec: Codec, rows: int) -> None:
    """Also of no rows, which is what a search asks for that has them all already."""
    assert isinstance(codec, Codec)
    size = torch.Size((1, 28, 28))
    shape, dtype = codec.spec(size, torch.float32)
    code = codec.encode(torch.zeros(rows, *size))
    assert (code.shape, code.dtype) == ((rows, *shape), dtype)
    assert codec.decode(code, size, torch.float32).shape == (rows, *size)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.1307, 0.3081), (0.286, 0.353), (-0.5, 2.0)])
def test_uint8_gives_back_every_level_bit_for_bit(mean: float, std: float) -> None:
    pipeline = transforms.Compose([transforms.ToTensor(), transforms.Normalize((mean,), (std,))])
    x = pipeline(ALL_LEVELS[:, :, None])[None]
    codec = Uint8(mean=mean, std=std)
    codec.check(x)
    code = codec.encode(x)
    assert code.dtype == torch.uint8
    assert np.array_equal(code[0, 0].numpy(), ALL_LEVELS)
    assert torch.equal(codec.decode(code, x.shape[1:], x.dtype), x)


def test_uint8_knows_channels() -> None:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    image = np.stack([ALL_LEVELS, ALL_LEVELS.T, 255 - ALL_LEVELS], axis=-1)
    x = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])(image)[None]
    codec = Uint8(mean=mean, std=std)
    codec.check(x)
    assert torch.equal(codec.decode(codec.encode(x), x.shape[1:], x.dtype), x)
    with pytest.raises(ValueError, match="mean and std for 3 channels"):
        codec.check(x[:, :2])


def test_uint8_leaves_bytes_alone() -> None:
    x = torch.from_numpy(ALL_LEVELS)[None, None]
    codec = Uint8(mean=0.5, std=0.5)
    codec.check(x)
    assert torch.equal(codec.decode(codec.encode(x), x.shape[1:], x.dtype), x)


@pytest.mark.parametrize("lossy", [False, True])
def test_uint8_checks_and_encodes_at_once_as_it_does_one_after_the_other(lossy: bool) -> None:
    codec = Uint8(mean=0.4, std=0.7, lossy=lossy)
    x = ((torch.from_numpy(ALL_LEVELS)[None, None].float() / 255) - 0.4) / 0.7
    if lossy:
        x = torch.cat([x + 0.0013, torch.full_like(x, 90.0), torch.full_like(x, -90.0)])
    before = x.clone()
    assert torch.equal(codec.check_and_encode(x), codec.encode(x))
    assert torch.equal(x, before)
    if lossy:
        return
    assert np.array_equal(codec.encode(x)[0, 0].numpy(), ALL_LEVELS)
    for wrong in (0.1, -0.1):  # of a level, in one value
        off = x.clone()
        off[..., -1] += wrong / 255 / 0.7
        with pytest.raises(ValueError, match=r"up to 0\.1 levels off"):
            codec.check_and_encode(off)


@pytest.mark.parametrize("lossy", [False, True])
def test_uint8_takes_large_batches_in_blocks(lossy: bool) -> None:
    """Of rows larger than a block, and of many small ones; against one product in NumPy's float32."""
    mean, std = np.array([0.4, 0.5, 0.6], np.float32), np.array([0.2, 0.3, 0.7], np.float32)
    codec = Uint8(mean=mean.tolist(), std=std.tolist(), lossy=lossy)
    for rows, side in ((3, 240), (200, 24)):
        pixels = np.random.default_rng(0).integers(0, 256, (rows, 3, side, side), dtype=np.uint8)
        x = (pixels.astype(np.float32) / 255 - mean[:, None, None]) / std[:, None, None]
        found = codec.check_and_encode(torch.from_numpy(x))
        assert np.array_equal(found.numpy(), pixels)
        assert torch.equal(codec.encode(torch.from_numpy(x)), found)
        assert np.array_equal(codec.decode(found, torch.Size((3, side, side)), torch.float32).numpy(), x)
        for wrong in (np.nan, x.max() + 1, x[-1, 0, 0, 0] + 0.002):
            off = torch.from_numpy(x.copy())
            off[-1, 0, 0, 0] = float(wrong)
            if lossy and np.isfinite(wrong):
                assert np.array_equal(codec.check_and_encode(off)[:-1].numpy(), pixels[:-1])
                continue
            with pytest.raises(ValueError, match="finite" if np.isnan(wrong) else "levels off"):
                codec.check_and_encode(off)


@pytest.mark.parametrize(
    "codec", [Int8(), Uint8(), Uint8(lossy=True), Bits(4), Downsampled(2, Bits(4)), Downsampled(2, Int8())], ids=repr
)
def test_codes_of_whole_numbers_refuse_nan_also_without_a_memory(codec: Codec) -> None:
    x = torch.zeros(2, 1, 4, 4)
    codec.encode(x)
    x[1, 0, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="1 that are NaN"):
        codec.encode(x)
    infinite = torch.tensor([[torch.inf, -torch.inf]])
    assert Int8().encode(infinite).tolist() == [[127, -127]]  # saturates, as it says


def test_uint8_refuses_what_it_would_spoil() -> None:
    x = torch.tensor([[[[0.5, 0.3]]]])
    with pytest.raises(
        ValueError, match=r"256 levels of pixels, got values up to 0.5 levels off.*mean and std.*lossy=True"
    ):
        Uint8().check(x)
    with pytest.raises(ValueError, match="levels off"):  # a negative value means a normalised image
        Uint8().check(torch.tensor([[-1.0, 0.0]]))
    lossy = Uint8(lossy=True)
    lossy.check(x)
    assert (lossy.decode(lossy.encode(x), x.shape[1:], x.dtype) - x).abs().max() <= 0.5 / 255 + 1e-7
    with pytest.raises(ValueError, match=r"floating-point or uint8.*int64"):
        Uint8().check(torch.zeros(1, 2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"std": 0.0}, "std: expected a finite number > 0"), ({"mean": float("nan")}, "mean: expected a finite number")],
)
def test_uint8_bad_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Uint8(**arguments)


def test_float16_rounds_like_numpy_and_refuses_overflow() -> None:
    x = torch.randn(3, 5)
    back = Float16().decode(Float16().encode(x), x.shape[1:], torch.float32)
    assert np.array_equal(back.numpy(), x.numpy().astype(np.float16).astype(np.float32))
    with pytest.raises(ValueError, match=r"within \+-65504, got 70000"):
        Float16().check(torch.tensor([[7e4]]))
    with pytest.raises(ValueError, match=r"floating-point numbers, got torch\.int64"):
        Float16().check(torch.zeros(1, 2, dtype=torch.int64))


@pytest.mark.parametrize("step", [1 / 24, 0.5, 3])
def test_int8_gives_back_the_nearest_of_255_levels(step: float) -> None:
    levels = np.arange(-127, 128) * float(step)
    x = np.random.default_rng(0).uniform(-150 * step, 150 * step, (40, 30)).astype(np.float32)
    x[0, :6] = [0, 127 * step, 1e9, -1e9, np.inf, -np.inf]
    nearest = levels[np.abs(np.clip(x, -1e3, 1e3)[..., None].astype(np.float64) - levels).argmin(-1)]
    codec = Int8(step=step)
    rows = torch.from_numpy(x)
    codec.check(rows)
    code = codec.encode(rows)
    assert code.dtype == torch.int8
    np.testing.assert_allclose(codec.decode(code, rows.shape[1:], rows.dtype).numpy(), nearest, rtol=1e-6)
    assert torch.equal(rows, torch.from_numpy(x)), "the rows themselves are as before"
    again = codec.encode(codec.decode(code, rows.shape[1:], rows.dtype))
    assert torch.equal(again, code)


def test_int8_steps_are_in_its_name_and_types_come_back() -> None:
    assert repr(Int8()) != repr(Int8(step=0.1))
    x = torch.linspace(-5, 5, 12).view(2, 6).double()
    codec = Int8()
    back = codec.decode(codec.encode(x), x.shape[1:], x.dtype)
    assert back.dtype == torch.float64
    assert float((back - x).abs().max()) <= 1 / 48 + 1e-12


def test_int8_by_name_takes_a_byte_a_number() -> None:
    memory = RandomMemory.from_budget(1_000, shape=(9,), codec="int8", labels="uint8", store_tasks=False)
    assert memory.capacity == 100
    x = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    memory.write(x, torch.arange(4))
    found = memory.sample(4)
    torch.testing.assert_close(found.x, x[found.y], atol=1 / 48 + 1e-6, rtol=0)


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf"), True, "1/24"])
def test_int8_wants_a_step_above_0(step: float) -> None:
    with pytest.raises(ValueError, match=r"step: expected a .*number > 0, got"):
        Int8(step=step)


def test_int8_refuses_what_it_would_spoil() -> None:
    with pytest.raises(ValueError, match=r"floating-point numbers, got torch\.int64"):
        Int8().check(torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="got 1 that are NaN"):
        Int8().check(torch.tensor([[0.0, torch.nan]]))


@pytest.mark.parametrize("codec", [Raw(), Float16(), Int8(), Uint8(lossy=True), Bits(4)], ids=repr)
def test_a_memory_leaves_out_checks_but_not_a_method_of_the_users_own(codec: Any) -> None:
    x = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    code = codec.encode(x)
    assert torch.equal(codec.encode_checked(x), code)
    assert torch.equal(codec.decode_checked(code, x.shape[1:], x.dtype), codec.decode(code, x.shape[1:], x.dtype))
    with pytest.raises(ValueError, match="code: expected"):
        codec.decode(code[:, :3], x.shape[1:], x.dtype)

    class Doubled(type(codec)):  # type: ignore[misc]
        def decode(self, code: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
            return 2 * super().decode(code, shape, dtype)

    own = copy.copy(codec)
    own.__class__ = Doubled
    plain, doubled = (RandomMemory(6, codec=kind, seed=0) for kind in (codec, own))
    for memory in (plain, doubled):
        memory.write(x, torch.zeros(6, dtype=torch.int64))
    assert torch.equal(doubled.sample(3).x, 2 * plain.sample(3).x)
