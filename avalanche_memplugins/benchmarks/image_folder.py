"""Images in one folder a class, as a class-incremental stream."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avalanche_memplugins import _checks as check
from avalanche_memplugins.benchmarks.byte_rows import Bytes
from avalanche_memplugins.benchmarks.registry import BenchmarkInfo
from avalanche_memplugins.benchmarks.streams import split_stream

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

MEAN, STD = 0.5, 0.25  # of all channels; fixed, so that codecs and runs do not depend on the images
_SIDES = {"train": "train", "training": "train", "test": "test", "val": "test", "valid": "test", "validation": "test"}
_MOST_NAMED = 3


def image_folder(
    folder: str | Path,
    n_experiences: int = 5,
    *,
    image_size: int = 64,
    test_share: float = 0.2,
    seed: int | None = None,
    train_rows: int | None = None,
    test_rows: int | None = None,
) -> CLScenario:
    """A few classes at a time, of images laid out as torchvision's ``ImageFolder`` expects: ``folder/class/file``.

    If there are subfolders ``train`` and ``test`` (or ``val``), they are used as they are. Otherwise the same share
    of each class is kept for tests, drawn once and for all: every seed tests on the same images. Images are
    scaled to their shorter side, cropped to the centre, and held in memory as bytes; ``x = (c / 255 - 0.5) / 0.25``.

    :param folder: of the images.
    :param n_experiences: 1 to the number of classes. If it is no divisor of it, the first experiences have one class
        more than the last.
    :param image_size: side of the square images, >= 1.
    :param test_share: of each class's images, 0 < share < 1; at least one image a class is kept, and one is trained on.
    :param seed: of the order of classes, as in :func:`.split_stream`.
    :param train_rows: only so many training rows of each experience, drawn by ``seed``; None: all.
    :param test_rows: likewise for tests.
    :returns: rows ``(1, S, S)`` if all images are grey, else ``(3, S, S)``.
    :raises ValueError: if there are no images, fewer than two classes, fewer classes than experiences, classes that
        are only tested, a class of one image that would have to be split, or a file that is no image.

    >>> import tempfile
    >>> from PIL import Image
    >>> place = Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (place / name).mkdir()
    ...     for k in range(5):
    ...         Image.new("RGB", (30, 20), (50 * k, 0, 0)).save(place / name / f"{k}.png")
    >>> stream = image_folder(place, 2, image_size=16, seed=0)
    >>> [len(experience.dataset) for experience in (*stream.train_stream, *stream.test_stream)]
    [4, 4, 1, 1]
    """
    data = _bytes(folder, image_size, test_share)
    n_classes = int(data.y_train.max()) + 1
    if not 1 <= check.integer("n_experiences", n_experiences) <= n_classes:
        raise ValueError(
            f"n_experiences: expected 1 to {n_classes}, the classes in {str(folder)!r}, got {n_experiences}"
        )
    return split_stream(
        data, n_experiences, seed=seed, mean=MEAN, std=STD, train_rows=train_rows, test_rows=test_rows, uneven=True
    )


def folder_info(folder: str | Path, *, name: str, image_size: int = 64, test_share: float = 0.2) -> BenchmarkInfo:
    """What a model and a codec need to know of a folder of images.

    :param folder: of the images.
    :param name: by which the benchmark goes.
    :param image_size: as in :func:`image_folder`.
    :param test_share: likewise.
    :raises ValueError: as :func:`image_folder`.
    """
    data = _bytes(folder, image_size, test_share)
    return BenchmarkInfo(
        name=name,
        summary=f"{len(data.x_train)} images to train on, {len(data.x_test)} to test on",
        factory=f"{__name__}:image_folder",
        scenario="class-incremental",
        input_shape=data.x_train.shape[1:],
        n_classes=int(data.y_train.max()) + 1,
        n_experiences=5,
        epochs=1,
        mean=(MEAN,),
        std=(STD,),
        local=True,
    )


def _bytes(folder: str | Path, image_size: int, test_share: float) -> Bytes:
    check.positive_integer("image_size", image_size)
    check.number("test_share", test_share, above=0, below=1)
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise ValueError(f"folder: expected an existing folder, got {str(folder)!r}")
    files = _files(place)
    stamp = hashlib.sha256(repr([(name, sorted(map(_stamp, own))) for name, own in files.items()]).encode()).hexdigest()
    return _read(place.absolute(), stamp, image_size, test_share)


def _stamp(file: Path) -> tuple[str, int, int]:
    found = file.stat()
    return str(file), found.st_size, found.st_mtime_ns


@lru_cache(maxsize=2)
def _read(folder: Path, stamp: str, image_size: int, test_share: float) -> Bytes:
    """All images; ``stamp`` tells another state of the folder apart."""
    files = _files(folder)
    named = {entry.name.lower(): entry for entry in _subfolders(folder)}
    sides = {side: named[name] for name, side in reversed(_SIDES.items()) if name in named}
    if sides.keys() == {"train", "test"}:
        parts = {side: _files(place) for side, place in sides.items()}
        if strange := sorted(parts["test"].keys() - parts["train"].keys()):
            raise ValueError(f"folder: expected classes to train on, got {_some(strange)} only in {sides['test'].name}")
    else:
        parts = _split(files, test_share)
    names = sorted(parts["train"])
    if len(names) < 2:
        raise ValueError(
            f"folder: expected at least 2 classes with images, one folder each, in {str(folder)!r}, "
            f"got {_some(names) or 'none'}"
        )
    listed = {
        side: [(file, names.index(name)) for name in sorted(own) for file in own[name]] for side, own in parts.items()
    }
    grey = all(_is_grey(file) for own in listed.values() for file, _ in own)
    rows: list[np.ndarray] = []
    for side in ("train", "test"):
        rows.append(np.stack([_image(file, image_size, grey) for file, _ in listed[side]]))
        rows.append(np.array([label for _, label in listed[side]], dtype=np.int64))
    return Bytes(*rows)


def _split(files: Mapping[str, list[Path]], test_share: float) -> dict[str, dict[str, list[Path]]]:
    """The same share of each class to test on, the same for every seed."""
    if alone := sorted(name for name, own in files.items() if len(own) == 1):
        raise ValueError(f"folder: expected at least 2 images a class, one to test on, got 1 in {_some(alone)}")
    draw = np.random.default_rng(0)
    parts: dict[str, dict[str, list[Path]]] = {"train": {}, "test": {}}
    for name in sorted(files):
        own = [files[name][i] for i in draw.permutation(len(files[name]))]
        n_test = min(max(1, round(test_share * len(own))), len(own) - 1)
        parts["test"][name], parts["train"][name] = sorted(own[:n_test]), sorted(own[n_test:])
    return parts


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path) -> dict[str, list[Path]]:
    """The images below each subfolder that has some, in the order of their names."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    found: dict[str, list[Path]] = {}
    for entry in _subfolders(folder):
        own = [
            Path(place) / file
            for place, _, names in os.walk(entry)
            for file in names
            if file.lower().endswith(IMG_EXTENSIONS) and not file.startswith(".")
        ]
        if own:
            found[entry.name] = sorted(own)
    if not found:
        raise ValueError(f"folder: expected images in one subfolder a class of {str(folder)!r}, got none")
    return found


def _is_grey(file: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.mode in ("1", "L", "I;16", "I", "F", "LA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise ValueError(f"folder: cannot read the image {str(file)!r}: {problem}") from problem


def _image(file: Path, size: int, grey: bool) -> np.ndarray:
    """``(C, size, size)`` uint8."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            square = ImageOps.fit(image.convert("L" if grey else "RGB"), (size, size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise ValueError(f"folder: cannot read the image {str(file)!r}: {problem}") from problem
    pixels = np.asarray(square, dtype=np.uint8)
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
