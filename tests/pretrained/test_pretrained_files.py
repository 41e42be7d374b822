"""Pretrained auto-encoders: what is saved comes back, what is damaged or unknown is said to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from avalanche_memplugins import pretrained
from avalanche_memplugins.codecs import LatentCodec
from avalanche_memplugins.networks import VAE
from avalanche_memplugins.pretrained import _weights, files

MEAN, STD = torch.tensor([0.5, -1.0]), torch.tensor([2.0, 3.0])


@pretrained.register_architecture
class Small(nn.Module):
    def __init__(self, width: int = 2, flat: bool = True) -> None:
        super().__init__()
        self.code_size, self.kwargs = 2, {"width": width, "flat": flat}
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4 * (width // 2))

    def architecture(self) -> dict[str, Any]:
        return self.kwargs

    def encode(self, x: Tensor) -> Tensor:
        return self.down(x.flatten(1))

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.up(z)).view(-1, 1, 2, 2)


def saved(path: Path, **options: Any) -> Path:
    return pretrained.save(path, Small(), **{"code_mean": MEAN, "code_std": STD, **options})


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    network = Small()
    path = pretrained.save(
        tmp_path / "deep" / "mine", network, code_mean=MEAN, code_std=STD, manifest={"data": ["a", 1]}, card="# Mine\n"
    )
    assert sorted(p.name for p in path.parent.iterdir()) == ["mine.md", "mine.safetensors"]
    for name in (path, str(path), tmp_path / "deep" / "mine"):
        found = pretrained.load(name)
        assert isinstance(found.autoencoder, Small)
        assert not found.autoencoder.training
        for a, b in zip(found.autoencoder.state_dict().values(), network.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        assert torch.equal(found.code_mean, MEAN)
        assert torch.equal(found.code_std, STD)
        assert found.card == "# Mine\n"
        assert found.manifest == {"data": ["a", 1]}
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    assert header["architecture"] == "Small"
    assert json.loads(header["kwargs"]) == network.architecture()


def test_a_codec_is_made_of_a_file_of_your_own(tmp_path: Path) -> None:
    path = saved(tmp_path / "mine")
    codec = LatentCodec.from_pretrained(path, precision="float32", mean=0.5, std=0.5)
    found = pretrained.load(path)
    x = torch.rand(3, 1, 2, 2) * 2 - 1
    expected = (found.autoencoder.encode(0.5 * x + 0.5) - MEAN) / STD  # type: ignore[operator]
    torch.testing.assert_close(codec.encode(x), expected.detach())
    assert codec.fingerprint == LatentCodec.from_pretrained(path).fingerprint


def test_networks_of_the_library_are_known_by_name(tmp_path: Path) -> None:
    network = VAE(code_size=4, width=2)
    path = pretrained.save(tmp_path / "vae", network, code_mean=torch.zeros(4), code_std=torch.ones(4))
    codec = LatentCodec.from_pretrained(path)
    assert codec.image_shape == (1, 28, 28)
    assert codec.nbytes_fixed == 4 * (sum(p.numel() for p in network.parameters()) + 8)


def test_names_are_those_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    assert pretrained.names() == ()
    with pytest.raises(ValueError, match="expected one of none yet, got 'omniglot28-vae'"):
        pretrained.load("omniglot28-vae")
    path = pretrained.save("omniglot28-vae", Small(), code_mean=MEAN, code_std=STD)
    assert path == tmp_path / "omniglot28-vae.safetensors"
    assert pretrained.names() == ("omniglot28-vae",)
    assert pretrained.load("omniglot28-vae").card == ""
    with pytest.raises(ValueError, match=r"expected one of 'omniglot28-vae', got .* did you mean 'omniglot28-vae'\?"):
        pretrained.load("omniglot28vae")
    with pytest.raises(ValueError, match="expected the path of a file"):
        pretrained.load(tmp_path / "elsewhere" / "x")


def test_every_shipped_codec_loads_and_has_a_card() -> None:
    for name in pretrained.names():
        codec = LatentCodec.from_pretrained(name)
        held = pretrained.load(name)
        assert len(held.card) > 100
        x = torch.rand(2, *codec.image_shape)
        assert bool(torch.isfinite(codec.from_latent(codec.to_latent(x))).all())
    sizes = [path.stat().st_size for path in Path(pretrained.__file__).parent.glob("*.safetensors")]
    assert len(sizes) == len(pretrained.names())
    assert max(sizes) < 4_000_000
    assert sum(sizes) < 20_000_000


def edited(path: Path, change: Any) -> None:
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(header, tensors)
    save_file(tensors, path, metadata=header)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, t: h.update(format="2"), "has format 2, this version of the library reads 1"),
        (lambda h, t: t["code_std"].add_(1), "damaged: its tensors are not those that were saved"),
        (lambda h, t: t.pop("code_std"), "damaged: its tensors are not those"),
        (lambda h, t: h.pop("architecture"), "damaged or no pretrained network"),
        (lambda h, t: h.update(kwargs="{"), "damaged or no pretrained network"),
        (lambda h, t: h.update(architecture="Gone"), "architecture 'Gone', which is not known here .*Small"),
        (lambda h, t: h.update(kwargs='{"width": 8}'), "do not fit Small"),
        (lambda h, t: h.update(kwargs='{"depth": 8}'), "do not fit Small"),
    ],
)
def test_a_file_that_is_not_as_it_was_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "mine")
    edited(path, change)
    with pytest.raises(ValueError, match=message):
        pretrained.load(path)


@pytest.mark.parametrize("content", [b"", b"not a file of tensors", None])
def test_a_file_that_was_cut_or_is_something_else(content: bytes | None, tmp_path: Path) -> None:
    path = saved(tmp_path / "mine")
    path.write_bytes(path.read_bytes()[:-3] if content is None else content)
    with pytest.raises(ValueError, match="is damaged or no pretrained network"):
        pretrained.load(path)


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "mine")
    before = path.read_bytes()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(_weights, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        saved(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["mine.safetensors"]


def test_statistics_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"code_std: expected shape \(2,\), got \(3,\)"):
        saved(tmp_path / "mine", code_std=torch.ones(3))


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    network = Small()
    network.up.weight = nn.Parameter(network.down.weight.t())
    path = pretrained.save(tmp_path / "tied", network, code_mean=MEAN, code_std=STD)
    assert torch.equal(pretrained.load(path).autoencoder.up.weight, network.up.weight)  # type: ignore[union-attr]
