"""Benchmarks opened from a data root: no download when the files are there, a clear word when the root is not."""

from __future__ import annotations

import gzip
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from avalanche_memplugins.benchmarks import BENCHMARKS, data_root, permuted_mnist, split_mnist, split_omniglot


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened although the files are there")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def mnist_root(tmp_path: Path) -> Path:
    """Ten tiny "MNIST" images in the files' real format."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = np.arange(10 * 28 * 28, dtype=np.uint64).astype(np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 10, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 10) + bytes(range(10)))
        for kind in ("images-idx3", "labels-idx1"):
            plain = raw / f"{part}-{kind}-ubyte"
            plain.with_name(plain.name + ".gz").write_bytes(gzip.compress(plain.read_bytes()))
    return tmp_path


@pytest.fixture
def omniglot_root(tmp_path: Path) -> Path:
    """Four characters of two alphabets, twenty drawings each, without torchvision's zip."""
    for number in range(1, 5):
        alphabet, character = f"Alphabet{(number - 1) // 2}", f"character{(number - 1) % 2:02}"
        folder = tmp_path / "omniglot-py" / "images_background" / alphabet / character
        folder.mkdir(parents=True)
        for drawer in range(1, 21):
            Image.new("1", (105, 105), number % 2).save(folder / f"{number:04}_{drawer:02}.png")
    return tmp_path


def test_mnist_opens_from_the_argument(mnist_root: Path) -> None:
    benchmark = split_mnist(5, data_root=mnist_root, fixed_class_order=list(range(10)))
    assert [sorted(exp.classes_in_this_experience) for exp in benchmark.train_stream][1] == [2, 3]
    assert len(permuted_mnist(2, data_root=str(mnist_root), seed=0).test_stream) == 2


def test_mnist_opens_from_the_environment(mnist_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMPLUGINS_DATA", str(mnist_root))
    assert len(split_mnist(5, seed=0).train_stream) == 5
    assert data_root() == mnist_root


def test_omniglot_opens_without_the_zip_and_splits_by_drawer(omniglot_root: Path) -> None:
    benchmark = split_omniglot(2, data_root=omniglot_root, seed=0)
    assert [len(exp.dataset) for exp in benchmark.train_stream] == [2 * 16, 2 * 16]
    assert [len(exp.dataset) for exp in benchmark.test_stream] == [2 * 4, 2 * 4]
    for train, test in zip(benchmark.train_stream, benchmark.test_stream, strict=True):
        assert {row[1] for row in test.dataset} == set(train.classes_in_this_experience)
    assert benchmark.train_stream[0].dataset[0][0].shape == (1, 105, 105)


def test_omniglot_that_avalanche_has_downloaded_is_found(omniglot_root: Path) -> None:
    outer = omniglot_root / "outer"
    (outer / "omniglot-py").mkdir(parents=True)
    (omniglot_root / "omniglot-py").rename(outer / "omniglot-py" / "omniglot-py")
    assert len(split_omniglot(2, data_root=outer, seed=0).train_stream) == 2


def test_a_missing_root_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(ValueError, match="data_root: expected an existing folder, got"):
        split_mnist(5, data_root=missing)
    monkeypatch.setenv("MEMPLUGINS_DATA", str(missing))
    with pytest.raises(ValueError, match=r"MEMPLUGINS_DATA: expected an existing folder, got .*nowhere"):
        split_mnist(5)
    assert not missing.exists()


def test_without_a_root_avalanches_own_folder_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMPLUGINS_DATA", raising=False)
    assert data_root() is None


@pytest.mark.data
@pytest.mark.parametrize(
    "name", [name for name, info in BENCHMARKS.items() if name.startswith("split-") and not info.local]
)
def test_real_files_open_and_match_the_registry(name: str) -> None:
    info = BENCHMARKS[name]
    benchmark = info.build(seed=0)
    assert len(benchmark.train_stream) == info.n_experiences
    classes = {label for one in benchmark.train_stream for label in one.classes_in_this_experience}
    assert classes == set(range(info.n_classes))
    x, _, _ = benchmark.test_stream[0].dataset[0]
    assert tuple(x.shape) == info.input_shape
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (info.mean, info.std))
    levels = (x * std + mean) * 255
    assert float((levels - levels.round()).abs().max()) < 1e-2
