"""Latent codecs against numpy, on networks whose codes are known, and what they promise as a part of a memory."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avalanche_memplugins import RandomMemory
from avalanche_memplugins.codecs import Codec, Downsampled, LatentCodec
from avalanche_memplugins.functional import gaussian_levels


class Tiny(nn.Module):
    """A linear auto-encoder of 4 x 4 images, with what would misbehave in train mode."""

    def __init__(self, code_size: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.code_size = code_size
        torch.manual_seed(seed)
        self.down, self.norm, self.up = nn.Linear(16, code_size), nn.BatchNorm1d(code_size), nn.Linear(code_size, 16)
        self.norm.running_mean.uniform_()  # type: ignore[union-attr,operator]

    def encode(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.norm(self.down(x.flatten(1))), 0.5, self.training)

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.up(z)).view(-1, 1, 4, 4)


MEAN, STD = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.5, 1.0, 2.0])


def make(seed: int = 0, **options: Any) -> LatentCodec:
    return LatentCodec(Tiny(seed=seed), **{"code_mean": MEAN, "code_std": STD, **options})


def images(n: int = 5, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def numpy_latent(pixels: np.ndarray) -> np.ndarray:
    net = Tiny().double()
    p = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    h = pixels.reshape(len(pixels), -1) @ p["down.weight"].T + p["down.bias"]
    h = (h - p["norm.running_mean"]) / np.sqrt(p["norm.running_var"] + net.norm.eps)
    return (h - MEAN.double().numpy()) / STD.double().numpy()


def numpy_images(z: np.ndarray) -> np.ndarray:
    p = {name: value.detach().numpy() for name, value in Tiny().double().state_dict().items()}
    raw = (z * STD.double().numpy() + MEAN.double().numpy()) @ p["up.weight"].T + p["up.bias"]
    return (1 / (1 + np.exp(-raw))).reshape(-1, 1, 4, 4)


@pytest.mark.parametrize("precision", ["int8", "float16", "float32"])
def test_codes_and_images_are_those_of_numpy(precision: Any) -> None:
    pixels = images()
    x = (pixels - 0.3) / 0.2
    codec = make(precision=precision, mean=0.3, std=0.2)
    codec.check(x)
    z = numpy_latent(pixels.double().numpy())
    np.testing.assert_allclose(codec.to_latent(x).numpy(), z, atol=1e-5)
    code = codec.encode(x)
    shape, dtype = codec.spec(x.shape[1:], x.dtype)
    assert (code.shape[1:], code.dtype) == (shape, dtype)
    if precision == "int8":
        assert np.array_equal(code.numpy(), np.round(24 * z).clip(-127, 127))
        stored = np.round(24 * z).clip(-127, 127) / 24
    else:
        stored = z.astype(precision).astype(float)
    expected = (numpy_images(stored) - 0.3) / 0.2
    np.testing.assert_allclose(codec.decode(code, x.shape[1:], x.dtype).numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(codec.from_latent(torch.from_numpy(z)).numpy(), (numpy_images(z) - 0.3) / 0.2, atol=1e-5)


def test_int8_codes_stop_at_the_ends_and_the_step_is_as_told() -> None:
    codec = make(step=0.1)
    assert codec.quantise(torch.tensor([[100.0, -100.0, 0.26]])).tolist() == [[127, -127, 3]]
    torch.testing.assert_close(codec.dequantise(torch.tensor([[3]], dtype=torch.int8)), torch.tensor([[0.3]]))


@pytest.mark.parametrize(("bits", "width"), [(2, 1), (3, 2), (4, 2), (6, 3)])
def test_codes_below_a_byte_are_the_nearest_of_lloyds_levels_packed(bits: int, width: int) -> None:
    codec: Any = make(precision=f"{bits}bit")
    x = images(50)
    z, levels = codec.to_latent(x).numpy(), gaussian_levels(bits).numpy()
    code = codec.encode(x)
    assert (code.shape, code.dtype) == ((50, width), torch.uint8)
    assert codec.spec(x.shape[1:], x.dtype) == (torch.Size((width,)), torch.uint8)
    nearest = levels[abs(z[..., None] - levels).argmin(-1)]
    np.testing.assert_allclose(codec.dequantise(code).numpy(), nearest, rtol=1e-6)
    back = codec.decode(code, x.shape[1:], x.dtype).numpy()
    np.testing.assert_allclose(back, numpy_images(nearest), atol=1e-5)
    with pytest.raises(ValueError, match="code: expected uint8"):
        codec.decode(code.repeat(1, 2), x.shape[1:], x.dtype)


def test_many_rows_go_through_in_parts_and_come_out_in_order() -> None:
    codec, x = make(precision="float32"), images(2500)
    codes = codec.to_latent(x)
    torch.testing.assert_close(codes[2300:], codec.to_latent(x[2300:]))
    torch.testing.assert_close(codec.from_latent(codes)[2300:], codec.from_latent(codes[2300:]))
    assert codec.encode(x[:0]).shape == (0, 3)


def test_it_is_frozen_and_apart_from_the_network_it_was_made_of() -> None:
    network, x = Tiny(), images()
    codec = LatentCodec(network, code_mean=MEAN, code_std=STD, precision="float32")
    before = codec.to_latent(x)
    parent = nn.ModuleList([codec]).train()
    assert not codec.training
    assert not any(m.training for m in codec.autoencoder.modules())
    assert list(parent.parameters()) == list(parent.buffers()) == []
    assert all(p.requires_grad for p in network.parameters())
    assert network.training
    nn.init.zeros_(network.down.weight)
    assert torch.equal(codec.to_latent(x), before)
    state = torch.get_rng_state()
    assert not codec.from_latent(before.clone().requires_grad_()).requires_grad
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_changes_no_code_and_half_changes_no_weight() -> None:
    codec, x = make(precision="float32"), images()
    code, back = codec.encode(x), codec.decode(codec.encode(x), x.shape[1:], x.dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codec.encode(x), code)
        assert torch.equal(codec.decode(code, x.shape[1:], x.dtype), back)
    assert torch.equal(nn.ModuleList([codec]).half()[0].encode(x), code)
    codec.to("meta")
    assert codec.autoencoder.down.weight.device.type == "meta"


def test_its_bytes_are_those_of_weights_buffers_and_statistics() -> None:
    floats = (16 * 3 + 3) + 4 * 3 + (3 * 16 + 16) + 2 * 3  # two layers, the norm, the statistics
    codec = make()
    assert codec.nbytes_fixed == 4 * floats + 8  # the norm counts its batches in an int64
    assert isinstance(codec, Codec)
    memory = RandomMemory(10, codec=codec, embedding=nn.Linear(4, 2), labels="uint8", store_tasks=False, keep="both")
    assert memory.nbytes_fixed == codec.nbytes_fixed + 4 * 10
    assert Downsampled(4, codec).nbytes_fixed == codec.nbytes_fixed


def test_a_row_in_a_memory_takes_its_code_and_a_byte() -> None:
    for precision, each in (("int8", 1), ("float16", 2), ("float32", 4)):
        codec = make(precision=precision)
        row = 3 * each + 1
        memory = RandomMemory.from_budget(10 * row, shape=(1, 4, 4), codec=codec, labels="uint8", store_tasks=False)
        memory.write(images(), torch.arange(5))
        assert memory.capacity == 10
        assert memory.nbytes == 10 * row
        recall = memory.rows(torch.arange(5))
        assert recall.y.tolist() == [0, 1, 2, 3, 4]
        assert torch.equal(recall.x, codec.decode(codec.encode(images()), images().shape[1:], torch.float32))


@pytest.mark.parametrize("way", ["state_dict", "folder", "pickle", "deepcopy"])
def test_a_memory_of_codes_comes_back_without_the_weights_in_its_state(way: str, tmp_path: Path) -> None:
    memory = RandomMemory(8, codec=make(), seed=1)
    memory.write(images(12), torch.arange(12))
    assert not [name for name in memory.state_dict() if "weight" in name]
    assert sum(p.numel() for p in memory.parameters()) == 0
    if way == "state_dict":
        restored = RandomMemory(8, codec=make())
        restored.load_state_dict(memory.state_dict())
    elif way == "folder":
        memory.save(tmp_path / "m")
        restored = RandomMemory(8, codec=make()).load(tmp_path / "m")
    else:
        restored = pickle.loads(pickle.dumps(memory)) if way == "pickle" else copy.deepcopy(memory)
    for m in (memory, restored):
        m.write(images(5, seed=3), torch.arange(5))
    assert torch.equal(memory.sample(5).x, restored.sample(5).x)


def test_rows_of_other_weights_are_refused(tmp_path: Path) -> None:
    memory, other = RandomMemory(8, codec=make()), RandomMemory(8, codec=make(seed=1))
    for m in (memory, other):
        m.write(images(), torch.arange(5))
    memory.save(tmp_path / "m")
    before = other.rows(torch.arange(5)).x
    with pytest.raises(ValueError, match=r"parts.*LatentCodec.*fingerprint="):
        other.load(tmp_path / "m")
    with pytest.raises(ValueError, match=r"parts.*LatentCodec.*fingerprint="):
        other.load_state_dict(memory.state_dict())
    assert torch.equal(other.rows(torch.arange(5)).x, before)
    with pytest.raises(ValueError, match="its codes were made with an auto-encoder of fingerprint"):
        make(seed=1).load_state_dict(make().state_dict())
    assert make().fingerprint == make().fingerprint != make(code_std=2 * STD).fingerprint


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 4, 4), r"LatentCodec expected \(B, 1, 4, 4\), got \(2, 3, 4, 4\)"),
        (torch.zeros(2, 1, 5, 4), r"expected \(B, 1, 4, 4\), got"),
        (torch.full((2, 1, 4, 4), float("nan")), "expected finite values, got nan"),
        (torch.full((2, 1, 4, 4), float("inf")), "expected finite values, got inf"),
        (torch.full((2, 1, 4, 4), -1.0), "pixels from 0 to 1, got -1 to -1.* mean and std"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.int64), "floating-point or uint8"),
    ],
)
def test_what_is_no_image_of_its_kind_is_refused(x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().check(x)
    memory = RandomMemory(4, codec=make())
    with pytest.raises(ValueError, match="x: "):
        memory.write(x, torch.zeros(2, dtype=torch.int64))
    assert memory.seen == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"precision": "int4"},
            ValueError,
            "precision: expected one of '2bit', .*'float32', got 'int4'",
        ),
        ({"step": 0.0}, ValueError, "step: expected a number > 0, got 0"),
        ({"code_mean": torch.zeros(2)}, ValueError, r"code_mean: expected finite numbers \(3,\).*got shape \(2,\)"),
        ({"code_mean": MEAN * float("nan")}, ValueError, "code_mean: expected finite"),
        ({"code_std": torch.zeros(3)}, ValueError, "code_std: expected numbers > 0, got 0"),
        ({"std": -1.0}, ValueError, "std: expected a finite number > 0"),
        ({"autoencoder": nn.Linear(2, 2)}, TypeError, "got Linear without encode, decode, code_size"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LatentCodec(**{"autoencoder": Tiny(), "code_mean": MEAN, "code_std": STD, **options})
