"""Results on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from avalanche_memplugins.lab import ResultStore, RunResult, RunSpec
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
    with pytest.raises(OSError, match="disk full"):
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
    assert path.stat().st_mode & 0o777 == 0o644
