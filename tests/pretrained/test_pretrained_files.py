"""Pretrained auto-encoders: what is saved comes back, what is damaged or unknown is said to be."""

from __future__ import annotations

import json
import os
import shutil
import stat
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


def edited(path: Path, change: Any, *, agreeing: bool = True) -> None:
    """Change a file; if ``agreeing``, as somebody would who knows of the checksums."""
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(header, tensors)
    if agreeing:
        header["header_sha256"] = _weights._digest(header)
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


@pytest.mark.parametrize("entry", ["architecture", "kwargs", "manifest", "format", "card", "fingerprint"])
def test_a_header_that_is_not_as_it_was_is_refused(entry: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "mine", card="# Mine")
    edited(path, lambda h, t: h.update({entry: h[entry] + " "}), agreeing=False)
    with pytest.raises(ValueError, match=r"name: .* is damaged"):
        pretrained.load(path)


def test_shipped_headers_have_checksums_though_they_were_written_before(tmp_path: Path) -> None:
    for path in sorted(path for path in files.FOLDER.rglob("*.safetensors") if path.parent.name != "contexts"):
        copy = tmp_path / path.name
        shutil.copy(path, copy)
        edited(copy, lambda h, t: h.update(kwargs=h["kwargs"].replace("1", "2", 1)), agreeing=False)
        for load in (pretrained.load, pretrained.load_energy):
            with pytest.raises(ValueError, match="the checksum of its header differs"):
                load(copy)


def test_files_of_earlier_versions_have_no_checksum_of_the_header(tmp_path: Path) -> None:
    path = saved(tmp_path / "mine", card="# Mine")
    edited(path, lambda h, t: (h.pop("header_sha256"), h.pop("card")), agreeing=False)
    assert pretrained.load(path).card == "# Mine"


@pytest.mark.parametrize(
    "kwargs",
    ['{"width": 1e9}', '{"width": 1000000000}', '{"width": NaN}', '{"width": "x"}', '{"width": [[[[1]]]]}', "[]", "3"],
)
def test_arguments_that_nobody_would_give_are_refused(kwargs: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "mine")
    edited(path, lambda h, t: h.update(kwargs=kwargs))
    with pytest.raises(ValueError, match=r"^name: "):
        pretrained.load(path)


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a":' * 100_000])
@pytest.mark.parametrize("entry", ["kwargs", "manifest"])
def test_deep_json_is_refused(entry: str, deep: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "mine")
    edited(path, lambda h, t: h.update({entry: deep}))
    with pytest.raises(ValueError, match=r"^name: ") as told:
        pretrained.load(path)
    assert len(str(told.value)) < 1_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["code_std"].zero_(), "code_std above 0"),
        (lambda t: t["code_mean"].fill_(float("nan")), "finite weights, got others in code_mean"),
        (lambda t: t["autoencoder.up.weight"].fill_(float("inf")), "finite weights, got others in autoencoder.up"),
        (lambda t: t.update(code_mean=torch.zeros(3)), "code_mean and code_std of 2 numbers"),
        (lambda t: t.pop("code_mean"), "code_mean and code_std of 2 numbers"),
        (lambda t: t.update(more=torch.zeros(3)), "code_mean and code_std of 2 numbers"),
    ],
)
def test_tensors_that_nobody_would_save_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "mine")

    def agreeing(header: dict[str, str], tensors: dict[str, Tensor]) -> None:
        change(tensors)
        header["fingerprint"] = _weights.fingerprint(tensors)

    edited(path, agreeing)
    with pytest.raises(ValueError, match=message):
        pretrained.load(path)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    network = Small()
    with torch.no_grad():
        network.up.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"network: expected finite weights, got others in autoencoder.up.weight"):
        pretrained.save(tmp_path / "mine", network, code_mean=MEAN, code_std=STD)
    assert not list(tmp_path.iterdir())


def test_a_crash_between_weights_and_card_gives_no_wrong_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "mine", card="old")
    replace = os.replace

    def die_at_the_card(draft: Any, place: Any) -> None:
        if str(place).endswith(".md"):
            raise SystemExit
        replace(draft, place)

    monkeypatch.setattr(os, "replace", die_at_the_card)
    with pytest.raises(SystemExit):
        saved(path, card="new", manifest={"version": 2})
    monkeypatch.undo()
    assert path.with_suffix(".md").read_text() == "old"
    found = pretrained.load(path)
    assert (found.card, found.manifest) == ("new", {"version": 2})
    saved(path)  # a card that is there stays
    assert pretrained.load(path).card == "new"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_is_honoured_and_links_are_followed(umask: int, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "mine.safetensors"
    link.symlink_to(tmp_path / "disk" / "weights.safetensors")
    before = os.umask(umask)
    try:
        saved(link, card="a card")
        saved(link, card="another")
    finally:
        os.umask(before)
    assert link.is_symlink()
    for path in (link, tmp_path / "mine.md"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert pretrained.load(link).card == "another"


def test_places_where_no_weights_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "card.md").mkdir()
    for name in ("file/x", "x" * 300, "folder", "card"):
        with pytest.raises(ValueError, match=r"^name: "):
            saved(tmp_path / name)
        with pytest.raises(ValueError, match=r"^name: "):
            pretrained.load(tmp_path / name)
    for wrong in (None, 3, ["a"]):
        with pytest.raises(TypeError, match=r"name: expected a path, as a string or pathlib.Path, got"):
            pretrained.load(wrong)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.md", "file", "folder.safetensors"]


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
