"""Every public class and function has an example in its docstring, and every example runs and gives what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import avalanche_memplugins

ROOTS = {"avalanche_memplugins": Path(avalanche_memplugins.__file__).parent}
ROOTS["avalanche_memplugins.strategies"] = ROOTS["avalanche_memplugins"].parent / "strategies"


def files() -> Iterator[tuple[str, Path]]:
    """All modules by name."""
    for root, folder in ROOTS.items():
        for path in sorted(folder.rglob("*.py")):
            yield ".".join([root, *path.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__"), path


EXAMPLES = [name for name, path in files() if ">>> " in path.read_text(encoding="utf-8")]
REFERENCE = (ROOTS["avalanche_memplugins"].parent / "docs" / "api.rst").read_text(encoding="utf-8")
PUBLIC = re.findall(r"automodule:: (\S+)", REFERENCE)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each data set that is opened from files, with a few images of its own format."""
    root = tmp_path_factory.mktemp("data")
    labels = (np.arange(60) % 10).astype(np.uint8)
    for name in ("MNIST", "FashionMNIST"):
        raw = root / name / "raw"
        raw.mkdir(parents=True)
        for part in ("train", "t10k"):
            images = np.zeros((60, 28, 28), dtype=np.uint8)
            (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 60, 28, 28) + images.tobytes())
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 60) + labels.tobytes())
    for number in range(1, 5):
        folder = root / "omniglot-py" / "images_background" / "Alphabet" / f"character{number:02}"
        folder.mkdir(parents=True)
        for drawer in range(1, 21):
            Image.new("1", (105, 105)).save(folder / f"{number:04}_{drawer:02}.png")
    x, y = np.zeros((60, 128), dtype=np.uint8), labels.astype(np.int64)
    save_file({"train_x": x, "train_y": y, "test_x": x, "test_y": y}, root / "cifar10-lite0-128.safetensors")
    return root


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run_and_give_what_they_say(name: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMPLUGINS_DATA", str(data))
    module = importlib.import_module(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        failed, tried = doctest.testmod(module, extraglobs={"torch": torch}, optionflags=doctest.ELLIPSIS)
    assert tried
    assert not failed


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_class_and_function_has_an_example(name: str) -> None:
    module = importlib.import_module(name)
    own = [key for key, thing in vars(module).items() if getattr(thing, "__module__", None) == name and key[0] != "_"]
    things: dict[str, Any] = {key: getattr(module, key) for key in getattr(module, "__all__", own)}
    described = {key: thing for key, thing in things.items() if inspect.isclass(thing) or inspect.isroutine(thing)}
    assert [key for key, thing in described.items() if ">>> " not in (inspect.getdoc(thing) or "")] == []
