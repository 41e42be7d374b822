"""Saved folders: whole or not at all, and nothing in them that runs."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from avalanche_memplugins import _drafts, _folders
from avalanche_memplugins._drafts import UnwritableError
from avalanche_memplugins._folders import (
    CorruptedFolderError,
    flatten,
    holds_folder,
    load_folder,
    save_folder,
    unflatten,
)

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


@pytest.mark.parametrize("fails_at", ["save_file", "_digest", "_exchange", "rename"])
def test_an_interrupted_save_leaves_the_old_folder(tmp_path: Path, fails_at: str, monkeypatch: Any) -> None:
    save_folder(tmp_path / "f", ONE, {"kind": "k", "version": 1})

    def fail(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    if fails_at == "rename":
        monkeypatch.setattr(_drafts, "_exchange", lambda one, other: False)
        monkeypatch.setattr(Path, "rename", fail)
    elif fails_at == "_exchange":
        monkeypatch.setattr(_drafts, fails_at, fail)
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
    monkeypatch.setattr(_drafts, "_exchange", lambda one, other: False)

    def die_on_the_second(self: Path, target: Path) -> Path:
        if target.name == "f":
            raise SystemExit
        return rename(self, target)

    # A kill runs no clean-up.
    monkeypatch.setattr(Path, "rename", die_on_the_second)
    monkeypatch.setattr(_drafts.shutil, "rmtree", lambda path, ignore_errors: None)
    with pytest.raises(SystemExit):
        save_folder(tmp_path / "f", {}, {"kind": "k", "version": 2})
    assert sorted(path.name[:3] for path in tmp_path.iterdir()) == [".f-", ".f."]
    monkeypatch.undo()
    assert holds_folder(tmp_path / "f")
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
    with pytest.raises(ValueError, match="folder: expected a"):
        save_folder(folder, ONE, {"kind": "k"})
    assert sorted(folder.rglob("*")) == before


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    save_folder(tmp_path, ONE, {"kind": "k"})
    assert load_folder(tmp_path, kind="k")[1]["kind"] == "k"


def test_the_folder_set_aside_does_not_outlive_the_next_save(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    save_folder(folder, ONE, {"kind": "k", "version": 1})
    shutil.copytree(folder, _folders.set_aside(folder))  # what a crash after the renames left, in earlier versions
    save_folder(folder, ONE, {"kind": "k", "version": 2})
    shutil.rmtree(folder)
    assert not holds_folder(folder)
    with pytest.raises(CorruptedFolderError, match="holds no readable k"):
        load_folder(folder, kind="k")


def test_what_was_set_aside_does_not_come_back_for_a_folder_that_was_removed(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    save_folder(folder, ONE, {"kind": "k"})
    folder.rename(_folders.set_aside(folder))
    assert holds_folder(folder)  # so that nobody begins anew and writes over it, either
    with pytest.raises(CorruptedFolderError, match="an interrupted save may have left"):
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


@pytest.mark.parametrize("exchange", [True, False])
def test_links_are_followed_and_stay(tmp_path: Path, exchange: bool, monkeypatch: Any) -> None:
    if not exchange:
        monkeypatch.setattr(_drafts, "_exchange", lambda one, other: False)
    (tmp_path / "disk").mkdir()
    link, dangling = tmp_path / "link", tmp_path / "dangling"
    link.symlink_to(tmp_path / "disk" / "f")
    dangling.symlink_to(Path("disk") / "g")
    for version in range(3):
        for place in (link, dangling):
            save_folder(place, ONE, {"kind": "k", "version": version})
            assert place.is_symlink()
            assert load_folder(place, kind="k")[1]["version"] == version
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["f", "g"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "disk", "link"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o027])
def test_the_umask_is_honoured(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        save_folder(tmp_path / "f", ONE, {"kind": "k"})
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "f", *(tmp_path / "f").iterdir())}
    assert modes == {"f": 0o777 & ~umask, "manifest.json": 0o666 & ~umask, "tensors.safetensors": 0o666 & ~umask}


def test_killed_writers_leave_a_whole_folder_and_nothing_beside_it_for_long(tmp_path: Path) -> None:
    folder, tensors = tmp_path / "f", {"a": torch.zeros(500_000)}
    for number in range(12):
        writer = os.fork()
        if not writer:
            while True:
                save_folder(folder, tensors, {"kind": "k"})
        time.sleep(0.02 + 0.005 * number)
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        if folder.exists():
            load_folder(folder, kind="k")
    save_folder(folder, ONE, {"kind": "k"})
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_drafts_of_the_living_and_of_others_stay(tmp_path: Path) -> None:
    folder, long_ago = tmp_path / "f", time.time() - 1e6
    save_folder(folder, ONE, {"kind": "k"})
    for name in (".f-settings", ".f-abc_efgh", ".f-0123abcd.draft", ".f-2-0123abcd.draft", ".g-0123abcd.draft"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("mine.txt" if name == ".f-settings" else "manifest.json")).write_text("{}")
        os.utime(tmp_path / name, (long_ago, long_ago))
    with _drafts.draft_of(folder) as living:
        save_folder(folder, ONE, {"kind": "k"})
        assert living.exists()
    # Abandoned were a draft of an earlier version, which holds what drafts hold and nothing else, and one of this.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".f-2-0123abcd.draft",
        ".f-settings",
        ".g-0123abcd.draft",
        "f",
    ]


def test_a_reader_beside_a_writer_sees_a_whole_folder(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    done = threading.Event()

    def write() -> None:
        version = 0
        while not done.is_set():
            save_folder(folder, {"version": torch.full((20_000,), version)}, {"kind": "k", "version": version})
            version += 1

    save_folder(folder, {"version": torch.zeros(1)}, {"kind": "k", "version": 0})
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(60):
            tensors, manifest = load_folder(folder, kind="k")
            assert int(tensors["version"][0]) == manifest["version"]
    finally:
        done.set()
        writer.join()


def test_a_damaged_manifest_is_told(tmp_path: Path) -> None:
    save_folder(tmp_path / "f", ONE, {"kind": "k", "n": 60})
    manifest = tmp_path / "f" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("60", "70"))
    with pytest.raises(CorruptedFolderError, match=r"manifest in .* is damaged: its checksum differs"):
        load_folder(tmp_path / "f", kind="k")


def test_folders_of_earlier_versions_have_no_checksum_of_the_manifest(tmp_path: Path) -> None:
    save_folder(tmp_path / "f", ONE, {"kind": "k", "n": 60})
    manifest = tmp_path / "f" / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["manifest_sha256"]
    manifest.write_text(json.dumps(content))
    assert load_folder(tmp_path / "f", kind="k")[1]["n"] == 60


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"kind": "k", "kind": "k"}',
        b'{"kind": ' + b"9" * 10_000 + b"}",
        b'{"kind": "' + b"x" * 1_000_000 + b'"}',
    ],
    ids=["bad UTF-8", "deep list", "deep dict", "a key twice", "a huge number", "a long name"],
)
def test_manifests_that_nobody_wrote(tmp_path: Path, content: bytes) -> None:
    save_folder(tmp_path / "f", ONE, {"kind": "k"})
    (tmp_path / "f" / "manifest.json").write_bytes(content)
    with pytest.raises(CorruptedFolderError, match="folder: ") as told:
        load_folder(tmp_path / "f", kind="k")
    assert len(str(told.value)) < 500
    with pytest.raises(ValueError, match="folder: expected a new folder"):
        save_folder(tmp_path / "f", ONE, {"kind": "k"})


@pytest.mark.parametrize("name", ["manifest.json", "tensors.safetensors"])
@pytest.mark.parametrize("other", ["device", "pipe", "folder", "loop"])
def test_what_is_no_file_is_not_read(tmp_path: Path, name: str, other: str) -> None:
    save_folder(tmp_path / "f", ONE, {"kind": "k"})
    path = tmp_path / "f" / name
    path.unlink()
    if other == "pipe":
        os.mkfifo(path)
    elif other == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if other == "device" else name)
    with pytest.raises(CorruptedFolderError, match="folder: "):
        load_folder(tmp_path / "f", kind="k")


def test_places_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    places = [tmp_path / "file", tmp_path / "file" / "f", tmp_path / ("x" * 300), tmp_path / "loop", "a\0b", "", "/"]
    if os.path.isdir("/proc/self"):
        places.append("/proc/self/f")
    for place in places:
        with pytest.raises(ValueError, match=r"^folder: ") as told:
            save_folder(place, ONE, {"kind": "k"})
        assert len(str(told.value)) < 600
        with pytest.raises(CorruptedFolderError, match=r"^folder: "):
            load_folder(place, kind="k")
    for place in (None, 3, ["f"]):
        for call in (
            lambda place: save_folder(place, ONE, {"kind": "k"}),
            lambda place: load_folder(place, kind="k"),
        ):
            with pytest.raises(TypeError, match="folder: expected a path, got"):
                call(place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]
    assert (tmp_path / "file").read_text() == "mine"


def test_names_as_long_as_they_may_be(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 255)
    for version in range(2):
        save_folder(folder, ONE, {"kind": "k", "version": version})
    assert load_folder(folder, kind="k")[1]["version"] == 1
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_read_only_folder_is_told_before_any_work(tmp_path: Path, monkeypatch: Any) -> None:
    save_folder(tmp_path / "f", ONE, {"kind": "k"})
    monkeypatch.setattr(_drafts.os, "access", lambda path, mode: False)  # as for anybody but root
    monkeypatch.setattr(_folders, "save_file", None)
    with pytest.raises(UnwritableError, match=r"folder: cannot be written at .* is read-only"):
        save_folder(tmp_path / "f", ONE, {"kind": "k"})
    monkeypatch.undo()
    assert load_folder(tmp_path / "f", kind="k")


@pytest.mark.parametrize("when", ["before", "at the tensors", "at the manifest", "at the end"])
def test_a_full_disk(tmp_path: Path, when: str, monkeypatch: Any) -> None:
    save_folder(tmp_path / "f", ONE, {"kind": "k", "version": 1})

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    said = "No space left on device"
    if when == "before":
        monkeypatch.setattr(_drafts, "free_bytes", lambda folder: 10)
        said = r"expected 4\d\d,\d\d\d free bytes for .*, got 10"
    elif when == "at the tensors":
        monkeypatch.setattr(_folders, "save_file", full)
    elif when == "at the manifest":
        monkeypatch.setattr(Path, "write_text", full)
    else:
        monkeypatch.setattr(_drafts, "_exchange", full)
    with pytest.raises(UnwritableError, match=f"^folder: .*{said}"):
        save_folder(tmp_path / "f", {"a": torch.zeros(100_000)}, {"kind": "k", "version": 2})
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert load_folder(tmp_path / "f", kind="k")[1]["version"] == 1


def test_state_that_flatten_did_not_make() -> None:
    for state in ([1], {"a": {}}, {"a": {"tensor": "x"}}, {"a": {"tensor": 3}}, {"a": {"dict": 3}}, {"a": {"x": 1}}):
        with pytest.raises(CorruptedFolderError, match="folder: "):
            unflatten(state, {})  # type: ignore[arg-type]
