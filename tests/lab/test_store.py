"""Results on disk."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from avalanche_memplugins._drafts import UnwritableError
from avalanche_memplugins.lab import ResultStore, RunResult, RunSpec
from avalanche_memplugins.lab import store as module
from avalanche_memplugins.lab.store import write_whole


def test_what_is_put_is_got(spec: Callable[..., RunSpec], result: Callable[..., RunResult], tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "a" / "b")
    for stored in (
        result(spec(), warnings=("UserWarning: x",), environment={"torch": "2"}),
        RunResult(spec=spec(seed=1), error="Traceback: ü"),
    ):
        assert store.get(stored.spec) is None
        path = store.put(stored)
        assert path == store.path(stored.spec)
        assert stored.spec.key in path.name
        assert store.get(stored.spec) == stored
    assert len(list(store.folder.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"seed": 0', '"seed": 1'),
        lambda text: text.replace('"protocol": ', '"protocol": 9'),
        lambda text: text.replace('"split-digits"', '"no such"'),
    ],
)
def test_a_damaged_or_foreign_file_is_not_a_result(
    damage: Callable[[str], str], spec: Callable[..., RunSpec], result: Callable[..., RunResult], tmp_path: Path
) -> None:
    store = ResultStore(tmp_path)
    path = store.put(result(spec()))
    whole = path.read_text()
    assert damage(whole) != whole
    path.write_text(damage(whole))
    assert store.get(spec()) is None
    store.put(result(spec()))
    assert store.get(spec()) == result(spec())


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_whole(path, b"old")

    def broken(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(UnwritableError, match=r"^out: .* could not be written: disk full"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_files_are_plain_json_that_colleagues_may_read(
    spec: Callable[..., RunSpec], result: Callable[..., RunResult], tmp_path: Path
) -> None:
    path = ResultStore(tmp_path).put(result(spec()))
    values = json.loads(path.read_text())
    assert values["spec"]["strategy"] == "naive"
    assert values["accuracy"] == [[0.9, 0.1], [0.6, 0.8]]


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077, 0o007])
def test_files_have_the_rights_of_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "folder" / "file.json", b"new")
        (tmp_path / "plain").write_bytes(b"")
    finally:
        os.umask(before)
    for name in ("folder/file.json", "plain"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_killed_writer_leaves_nothing_after_the_next_one(tmp_path: Path) -> None:
    writer = os.fork()
    if not writer:
        try:
            while True:
                write_whole(tmp_path / "file.json", b"x" * 1000)
        finally:
            os._exit(1)
    while not list(tmp_path.glob(".file.json-*.draft")):
        time.sleep(0.0005)
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    (tmp_path / ".file.json-0123abcd.draft").mkdir(exist_ok=True)
    write_whole(tmp_path / "file.json", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to("real")
    (tmp_path / "file.json").symlink_to("real/file.json")
    write_whole(tmp_path / "file.json", b"one")
    assert (tmp_path / "real" / "file.json").read_bytes() == b"one"
    write_whole(tmp_path / "linked" / "file.json", b"two")
    assert (tmp_path / "file.json").is_symlink()
    assert (tmp_path / "file.json").read_bytes() == b"two"


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "file/x"])
def test_what_cannot_be_written_is_told_by_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnwritableError, match=r"^out: "):
        write_whole(tmp_path / name, b"new")


def test_a_claim_waits_for_its_holder_whose_death_frees_it(spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    reading, writing = os.pipe()
    holder = os.fork()
    if not holder:
        try:
            with store.claim(spec()) as folder:
                folder.mkdir()
                os.write(writing, b"x")
                time.sleep(60)
        finally:
            os._exit(1)
    os.read(reading, 1)
    found: list[bool] = []

    def wait() -> None:
        with store.claim(spec()) as folder:
            found.append(folder.exists())

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    with store.claim(spec(seed=1)):
        waiter.join(0.3)
    assert found == [], "another run is free all the same"
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    waiter.join(10)
    assert found == [True], "the state of the killed process is still there"


def test_a_lock_whose_file_has_just_been_removed_is_not_taken(
    spec: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder before removes the file: who has opened it by then holds a lock that nobody else finds."""
    late = []

    class Late(FileLock):
        def acquire(self, *args: Any, **options: Any) -> Any:
            held = super().acquire(*args, **options)
            if not late:
                late.append(Path(self.lock_file).unlink())
            return held

    monkeypatch.setattr(module, "FileLock", Late)
    with ResultStore(tmp_path).claim(spec()) as folder:
        assert late
        assert folder.with_suffix(".lock").exists()


def test_a_run_with_a_result_leaves_no_lock(
    spec: Callable[..., RunSpec], result: Callable[..., RunResult], tmp_path: Path
) -> None:
    store = ResultStore(tmp_path)
    for done in (RunResult(spec=spec(), error="no"), result(spec())):
        with store.claim(spec()) as folder:
            folder.mkdir()
            store.put(done)
        assert not (tmp_path / ".unfinished").exists()
