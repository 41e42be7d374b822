"""The guide's code runs as it stands, and its table of bytes is what the codecs say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from avalanche_memplugins import RandomMemory
from avalanche_memplugins.codecs import Bits, Downsampled, Float16, Int8, LatentCodec, Raw, Uint8
from avalanche_memplugins.networks import VAE

GUIDE = (Path(__file__).parents[2] / "docs" / "codecs.md").read_text(encoding="utf-8")
SHAPES = ((1, 28, 28), (3, 32, 32))


def test_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) == 9
    exec("\n".join(blocks), {"__name__": "guide"})
    assert capsys.readouterr().out.split()[:7] == ["400", "2000", "True", "32", "512", "303", "9999"]


@pytest.mark.parametrize("column", [0, 1])
def test_the_bytes_of_a_row(column: int) -> None:
    channels, size, _ = SHAPES[column]

    def latent(code_size: int, precision: Any) -> LatentCodec:
        network = VAE(channels=channels, size=size, code_size=code_size, width=2)
        return LatentCodec(
            network, code_mean=torch.zeros(code_size), code_std=torch.ones(code_size), precision=precision
        )

    names = {kind.__name__: kind for kind in (Bits, Downsampled, Float16, Int8, Raw, Uint8)} | {"latent": latent}
    rows = re.findall(r"^\| `(.+?)` \| (\d+) \| (\d+) \|$", GUIDE, re.MULTILINE)
    assert len(rows) == 15
    for text, *bytes_said in rows:
        shape, dtype = eval(text, names).spec(torch.Size(SHAPES[column]), torch.float32)
        assert shape.numel() * dtype.itemsize == int(bytes_said[column]), text


def test_the_bytes_of_the_labels() -> None:
    rows = re.findall(r"^\| (\(default\)|`labels=.+?`) \| (\d+) \|", GUIDE, re.MULTILINE)
    assert len(rows) == 4
    for text, said in rows:
        options = {} if text == "(default)" else eval(f"dict({text.strip('`')})")
        memory = RandomMemory(1, **options)
        memory.write(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
        assert memory.nbytes - 8 == int(said)
