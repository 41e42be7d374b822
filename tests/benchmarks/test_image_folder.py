"""Images in one folder a class: layouts, splits, pixels, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from avalanche_memplugins.benchmarks.image_folder import folder_info, image_folder
from avalanche_memplugins.codecs import Uint8

NAMES = ("ant", "bee", "cat", "dog", "eel")


def pixels(label: int, k: int) -> np.ndarray:
    return np.random.default_rng([label, k]).integers(0, 256, (12, 12, 3), dtype=np.uint8)


def write(
    folder: Path, *, images: int = 10, names: tuple[str, ...] = NAMES, grey: bool = False, first: int = 0
) -> Path:
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for k in range(first, first + images):
            image = Image.fromarray(pixels(label, k))
            (image.convert("L") if grey else image).save(folder / name / f"{k:02}.png")
    return folder


def rows(stream: Any) -> list[tuple[torch.Tensor, int]]:
    return [(row[0], int(row[1])) for experience in stream for row in experience.dataset]


def test_rows_are_the_files_pixels_and_every_image_is_on_one_side(tmp_path: Path) -> None:
    benchmark = image_folder(write(tmp_path), 5, image_size=12, seed=3)
    train, test = rows(benchmark.train_stream), rows(benchmark.test_stream)
    assert (len(train), len(test)) == (40, 10)
    expected = {pixels(label, k).tobytes(): label for label in range(5) for k in range(10)}
    seen = {}
    for x, label in train + test:
        image = ((x * 0.25 + 0.5) * 255).round().to(torch.uint8).numpy().transpose(1, 2, 0)
        seen[image.tobytes()] = label
    assert seen == expected
    assert sorted(label for _, label in test) == sorted([0, 1, 2, 3, 4] * 2), "the same share of each class"


def test_uint8_stores_rows_exactly(tmp_path: Path) -> None:
    info = folder_info(write(tmp_path), name="folder:x", image_size=9)
    assert (info.input_shape, info.n_classes) == ((3, 9, 9), 5)
    x = torch.stack([x for x, _ in rows(image_folder(tmp_path, 5, image_size=9, seed=0).train_stream)])
    codec = Uint8(mean=info.mean, std=info.std)
    codec.check(x)
    assert torch.equal(codec.decode(codec.encode(x), x.shape[1:], x.dtype), x)


def test_tests_are_the_same_for_every_seed_and_classes_are_shared_out(tmp_path: Path) -> None:
    write(tmp_path)
    one, other = (image_folder(tmp_path, 3, image_size=8, seed=seed) for seed in (1, 2))
    sets = [{(x.numpy().tobytes(), y) for x, y in rows(benchmark.test_stream)} for benchmark in (one, other)]
    assert sets[0] == sets[1]
    orders = [[sorted(e.classes_in_this_experience) for e in b.train_stream] for b in (one, other)]
    assert [len(classes) for classes in orders[0]] == [2, 2, 1]
    assert sorted(label for classes in orders[0] for label in classes) == [0, 1, 2, 3, 4]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("test", ["test", "val", "Validation"])
def test_folders_of_train_and_test_are_used_as_they_are(tmp_path: Path, test: str) -> None:
    write(tmp_path / "train", images=4)
    write(tmp_path / test, images=2, first=7)
    benchmark = image_folder(tmp_path, 5, image_size=12, seed=0)
    assert (len(rows(benchmark.train_stream)), len(rows(benchmark.test_stream))) == (20, 10)
    x, label = rows(benchmark.test_stream)[0]
    image = ((x * 0.25 + 0.5) * 255).round().to(torch.uint8).numpy().transpose(1, 2, 0)
    assert image.tobytes() in {pixels(label, k).tobytes() for k in (7, 8)}


def test_grey_images_have_one_channel_and_other_shapes_are_cropped(tmp_path: Path) -> None:
    write(tmp_path, grey=True, names=("a", "b"))
    Image.new("L", (40, 20), 255).save(tmp_path / "a" / "wide.png")
    stream = image_folder(tmp_path, 2, image_size=16, seed=0)
    assert {x.shape for x, _ in rows(stream.train_stream)} == {torch.Size((1, 16, 16))}
    Image.new("RGB", (9, 9)).save(tmp_path / "b" / "colour.png")
    assert folder_info(tmp_path, name="x", image_size=16).input_shape == (3, 16, 16)


def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folder: expected an existing folder, got 'no-such'"):
        image_folder("no-such")
    with pytest.raises(ValueError, match=r"folder: expected images in one subfolder a class .* got none"):
        image_folder(tmp_path)
    write(tmp_path, names=("ant",))
    with pytest.raises(ValueError, match=r"folder: expected at least 2 classes .* got ant"):
        image_folder(tmp_path)
    (tmp_path / "bee").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "bee" / "one.png")
    with pytest.raises(ValueError, match=r"folder: expected at least 2 images a class.* got 1 in bee"):
        image_folder(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "bee" / "two.png")
    with pytest.raises(ValueError, match=r"n_experiences: expected 1 to 2, the classes in .*, got 3"):
        image_folder(tmp_path, 3)
    with pytest.raises(ValueError, match="image_size: expected an integer >= 1, got 0"):
        image_folder(tmp_path, 2, image_size=0)
    with pytest.raises(ValueError, match="test_share: expected a number > 0 and < 1, got 1"):
        image_folder(tmp_path, 2, test_share=1)
    (tmp_path / "bee" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"folder: cannot read the image '.*broken\.png'"):
        image_folder(tmp_path, 2)
    whole = (tmp_path / "ant" / "00.png").read_bytes()
    (tmp_path / "bee" / "broken.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"folder: cannot read the image '.*broken\.png'"):
        image_folder(tmp_path, 2)


def test_classes_that_are_only_tested_are_named(tmp_path: Path) -> None:
    write(tmp_path / "train", images=2, names=("ant", "bee"))
    write(tmp_path / "test", images=2, names=("ant", "wasp"))
    with pytest.raises(ValueError, match="folder: expected classes to train on, got wasp only in test"):
        image_folder(tmp_path)
