"""Saved folders: whole or not at all, and nothing in them that runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from avalanche_memplugins import _folders
from avalanche_memplugins._folders import CorruptedFolderError, flatten, load_folder, save_folder, unflatten

ONE = {"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.int8)}


def test_round_trip(tmp_path: Path) -> None:
    save_folder(tmp_path / "deep" / "f", ONE, {"kind": "k", "n": 3})
    tensors, manifest = load_folder(tmp_path / "deep" / "f", kind="k")
    assert all(torch.equal(tensors[name], ONE[name]) for name in ONE)
    assert manifest["n"] == 3
    assert sorted(p.name for p in (tmp_path / "deep" / "f").iterdir()) == ["manifest.json", "tensors.safetensors"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["f"]


def test_tensors_that_share_memory(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    save_folder(tmp_path / "f", {"whole": whole, "part": whole[2:4], "same": whole}, {"kind": "k"})
    tensors, _ = load_folder(tmp_path / "f", kind="k")
    assert tensors["part"].tolist() == [2.0, 3.0]
    assert torch.equal(tensors["same"], whole)


@pytest.mark.parametrize("fails_at", ["save_file", "_digest", "rename"])
def test_an_interrupted_save_leaves_the_old_folder(tmp_path: Path, fails_at: str, monkeypatch: Any) -> None:
    save_folder(tmp_path / "f", ONE, {"kind": "k", "version": 1})

    def fail(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    if fails_at == "rename":
        monkeypatch.setattr(Path, "rename", fail)
    else:
        monkeypatch.setattr(_folders, fails_at, fail)
    with pytest.raises(KeyboardInterrupt):
        save_folder(tmp_path / "f", {}, {"kind": "k", "version": 2})
    monkeypatch.undo()
    assert load_folder(tmp_path / "f", kind="k")[1]["version"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    save_folder(tmp_path / "f", ONE, {"kind": "k", "version": 1})
    rename = Path.rename

    def die_on_the_second(self: Path, target: Path) -> Path:
        if target.name == "f":
            raise SystemExit
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", die_on_the_second)
    with pytest.raises(SystemExit):
        save_folder(tmp_path / "f", {}, {"kind": "k", "version": 2})
    monkeypatch.undo()
    assert load_folder(tmp_path / "f", kind="k")[1]["version"] == 1
    save_folder(tmp_path / "f", {}, {"kind": "k", "version": 3})
    assert load_folder(tmp_path / "f", kind="k")[1]["version"] == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "no tensors", "no manifest", "not json", "a list", "another kind"])
def test_damage_is_told(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "f"
    save_folder(folder, ONE, {"kind": "k"})
    tensors, manifest = folder / "tensors.safetensors", folder / "manifest.json"
    content = tensors.read_bytes()
    if damage == "flip":
        tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        tensors.write_bytes(content[:-5])
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "not json":
        manifest.write_text("{")
    elif damage == "a list":
        manifest.write_text("[]")
    else:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "kind": "other"}))
    with pytest.raises(CorruptedFolderError, match="folder: "):
        load_folder(folder, kind="k")


@pytest.mark.parametrize("content", ["a thesis", "another kind", "a stranger beside it", "a file"])
def test_other_peoples_folders_are_left_alone(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "f"
    if content == "a file":
        folder.write_text("years of work")
    elif content == "a thesis":
        folder.mkdir()
        (folder / "thesis.tex").write_text("years of work")
    else:
        save_folder(folder, ONE, {"kind": "other" if content == "another kind" else "k"})
        if content == "a stranger beside it":
            (folder / "thesis.tex").write_text("years of work")
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match="folder: wants a"):
        save_folder(folder, ONE, {"kind": "k"})
    assert sorted(folder.rglob("*")) == before


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    save_folder(tmp_path, ONE, {"kind": "k"})
    assert load_folder(tmp_path, kind="k")[1]["kind"] == "k"


def test_the_folder_set_aside_does_not_outlive_the_next_save(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    save_folder(folder, ONE, {"kind": "k", "version": 1})
    folder.rename(_folders.set_aside(folder))  # what a crash between the renames leaves
    save_folder(folder, ONE, {"kind": "k", "version": 2})
    (folder / "manifest.json").unlink()
    (folder / "tensors.safetensors").unlink()
    folder.rmdir()
    with pytest.raises(CorruptedFolderError):
        load_folder(folder, kind="k")


def test_nested_state_comes_back(tmp_path: Path) -> None:
    state = {"n": 1, "x": torch.eye(2), "deep": {"list": [1.5, None, {"t": torch.zeros(1)}], "s": "a", "b": True}}
    tensors: dict[str, torch.Tensor] = {}
    plain = json.loads(json.dumps(flatten(state, tensors)))
    back = unflatten(plain, tensors)
    assert torch.equal(back["x"], torch.eye(2))
    assert torch.equal(back["deep"]["list"][2]["t"], torch.zeros(1))
    assert back["deep"]["list"][:2] == [1.5, None]
    assert (back["n"], back["deep"]["s"], back["deep"]["b"]) == (1, "a", True)
    with pytest.raises(TypeError, match=r"deep.f: cannot be saved without pickle, got function"):
        flatten({"deep": {"f": flatten}}, {})
