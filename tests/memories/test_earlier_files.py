"""Memories of rows draw, hold and save what the version drew, held and saved that wrote the folders in saved/."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_own_policies import Backwards
from torch import Tensor, nn

from avalanche_memplugins.codecs import Uint8
from avalanche_memplugins.memories import EpisodicMemory, RandomMemory, Recall

SAVED = Path(__file__).parent / "saved"


def embedding() -> nn.Module:
    network = nn.Linear(3, 2)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 2, 3], [-1, 0, 1]]))
        network.bias.zero_()
    return network


MEMORIES: dict[str, Any] = {
    "reservoir": lambda: RandomMemory(13, seed=4),
    "balanced": lambda: RandomMemory(
        11, write_policy="class_balanced", read_policy="class_balanced", codec=Uint8(), labels="int16", seed=5
    ),
    "by task, no tasks stored": lambda: RandomMemory(
        11, write_policy="task_balanced", read_policy="task_balanced", replacement=True, store_tasks=False, seed=6
    ),
    "logits": lambda: RandomMemory(
        10, write_policy="ring", read_policy="cycle", codec="int8", store_logits=True, seed=7
    ),
    "keys": lambda: EpisodicMemory(9, write_policy="reservoir", embedding=embedding(), seed=8),
    "targets": lambda: RandomMemory(8, codec="float16", seed=9),
    "gaps": lambda: RandomMemory(40, write_policy=Backwards(), read_policy="task_balanced", seed=10),
}
DRAWN = {
    "reservoir": "d9a0bc1177cc2711",
    "balanced": "c94956e13f63362f",
    "by task, no tasks stored": "31878e3085595c98",
    "logits": "22881bf1752c088d",
    "keys": "4d6b11ea5f77b805",
    "targets": "051c076cffa6c18c",
    "gaps": "99a4046f62a3942f",
}


def go_on(name: str, memory: RandomMemory, start: int, writes: int = 8) -> list[Recall]:
    drawn = []
    for step in range(start, start + writes):
        rows = 5 + step % 3
        number = torch.arange(7 * step, 7 * step + rows)
        x = (number[:, None] * 17 + torch.arange(3)).remainder(256).float()
        x = x / 255 if name == "balanced" else x
        y = number % 4 if name != "targets" else (number.float() / 8)[:, None]
        options = {"logits": x[:, :2] if step < 4 else x} if name == "logits" else {}
        t = 0 if name == "by task, no tasks stored" else number % 2
        memory.write(x, y, t, origin=step // 3, **options)
        if len(memory):
            drawn.append(memory.sample(4))
    return drawn


def digest(drawn: list[Recall]) -> str:
    found = hashlib.sha256()
    for recall in drawn:
        for part in recall:
            if part is not None:
                found.update(f"{part.dtype}{tuple(part.shape)}".encode())
                found.update(part.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "tensors.safetensors")


@pytest.mark.parametrize("name", MEMORIES)
def test_draws_and_files_are_those_of_before(name: str, tmp_path: Path) -> None:
    memory = MEMORIES[name]()
    drawn = go_on(name, memory, 0)
    memory.save(tmp_path / "now")
    before, now = (json.loads((folder / "manifest.json").read_text()) for folder in (SAVED / name, tmp_path / "now"))
    # Whether a plugin may still choose how rows are read; what was saved before then stays as it is.
    now["state"].pop("reads", None)
    assert json.dumps(before["state"]) == json.dumps(now["state"])
    held, wanted = tensors(tmp_path / "now"), tensors(SAVED / name)
    assert held.keys() == wanted.keys()
    for part, value in wanted.items():
        assert held[part].dtype == value.dtype
        assert torch.equal(held[part], value), part
    assert digest([*drawn, *go_on(name, memory, 8)]) == DRAWN[name]


@pytest.mark.parametrize("name", MEMORIES)
def test_folders_of_before_load_and_go_on(name: str) -> None:
    memory, loaded = MEMORIES[name](), MEMORIES[name]()
    go_on(name, memory, 0)
    go_on(name, loaded, 50, writes=3)
    loaded.load(SAVED / name)
    assert loaded.summary().per_experience == memory.summary().per_experience
    assert digest(go_on(name, loaded, 8)) == digest(go_on(name, memory, 8))
