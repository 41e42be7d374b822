"""Results on disk, one file a run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from avalanche_memplugins._drafts import draft_of, real_place, sync, telling

from ._lock import locked
from .result import RunResult
from .spec import PROTOCOL, RunSpec

T = TypeVar("T")
_SEAL = "sha256"
_LARGEST = 64 << 20


class ResultStore:
    """A folder of results. A file is named by its run and written whole or not at all.

    :param folder: where to; made at the first write.
    """

    def __init__(self, folder: str | Path) -> None:
        if not isinstance(folder, str | os.PathLike) or not str(folder) or "\0" in str(folder):
            raise TypeError(f"folder: expected a path, as a string or pathlib.Path, got {folder!r}")
        self.folder = Path(folder)

    def path(self, spec: RunSpec) -> Path:
        """The file of that run, there or not."""
        return self.folder / f"{spec.benchmark}--{spec.strategy}--seed{spec.seed}--{spec.key}.json"

    def get(self, spec: RunSpec) -> RunResult | None:
        """The run's result, a failure too; None if it was never done or its file is damaged."""
        result = self._read(self.path(spec))
        return result if result is not None and result.spec == spec else None

    def put(self, result: RunResult) -> Path:
        """Write a result in place of an earlier one of the same run."""
        path = self.path(result.spec)
        write_whole(path, sealed(result.to_json()))
        return path

    def keep(self, result: RunResult) -> RunResult:
        """Write a result, unless the run has one that ended well: that one stays, whoever did it.

        :returns: the one that is kept.
        """
        known = self.get(result.spec)
        if known is not None and (known.ok or known == result):
            return known
        self.put(result)
        return result

    @contextlib.contextmanager
    def claim(self, spec: RunSpec) -> Iterator[Path]:
        """Be the only process that does this run, until the block ends; waits while another one is.

        :returns: the folder for what an unfinished run has so far. It outlives a process that is killed, and is
            removed once the run has a result.
        """
        folder = self.folder / ".unfinished" / spec.key
        with locked(folder.with_suffix(".lock")):
            try:
                yield folder
            finally:
                if self.get(spec) is not None:
                    shutil.rmtree(folder, ignore_errors=True)

    def results(self) -> list[RunResult]:
        """All results in the folder, failures too, in the order of their files' names."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            result = self._read(path)
            if result is not None and path == self.path(result.spec):
                found.append(result)
        return found

    def _read(self, path: Path) -> RunResult | None:
        """The result in a file; None if there is none, or the file is damaged or of another protocol."""

        def read() -> RunResult | None:
            values = unsealed(path)
            return RunResult.from_json(values) if values.get("protocol") == PROTOCOL else None

        try:
            return twice(read)
        except (FileNotFoundError, IsADirectoryError, ValueError):
            return None


def sealed(values: dict[str, Any]) -> bytes:
    """JSON with its own checksum, for :func:`unsealed`: a bit that flips in a number would else give another number.

    :raises ValueError: if a number is not finite.
    """
    return (json.dumps({**values, _SEAL: _digest(values)}, indent=1, allow_nan=False) + "\n").encode()


def unsealed(path: Path) -> dict[str, Any]:
    """The values that :func:`sealed` made, without the checksum. Files of earlier versions have none.

    :raises OSError: if the file cannot be read.
    :raises ValueError: if it is no JSON of names and values, or differs from its checksum.
    """
    with open(path, "rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"{path}: expected at most {_LARGEST} bytes")
    try:
        values = json.loads(content.decode())
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected names and values, got {type(values).__name__}")
        if (seal := values.pop(_SEAL, None)) is not None and seal != _digest(values):
            raise ValueError(f"{path}: is damaged: its checksum differs")
    except RecursionError:
        raise ValueError(f"{path}: is nested too deeply") from None
    return values


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def twice(read: Callable[[], T]) -> T:
    """What ``read`` gives, at the second try if need be: on a network's disk a file that another process is just
    replacing can be missing, or be seen in part.

    :raises OSError: as the second try raises it.
    :raises ValueError: likewise.
    """
    try:
        return read()
    except FileNotFoundError:
        raise
    except (OSError, ValueError):
        return read()


def check_writable(out: Path, name: str = "out") -> None:
    """Make a folder and write a file there, so that a bad place is told before hours of work and not after.

    :param out: the folder; made, with its parents.
    :param name: of the setting; the error begins with it.
    :raises ValueError: if no folder can be made there, or nothing written into it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    except (OSError, ValueError) as problem:
        why = problem.strerror if isinstance(problem, OSError) and problem.strerror else problem
        raise ValueError(f"{name}: expected a folder that can be written to, got {out}: {why}") from problem


def write_whole(path: Path, content: bytes, name: str = "out") -> None:
    """Write a file so that a reader, or a crash, meets either the old content or the new one.

    It has the rights that the user's umask gives. What a writer that was killed has left of the same file is removed.

    :param path: of the file; its folder is made, links are followed.
    :param content: of the file.
    :param name: of the setting; the error begins with it.
    :raises UnwritableError: an ``OSError`` and a ``ValueError``, if there is no room or no right to write.
    """
    place = real_place(name, path)
    with telling(name, place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(place) as draft:
            whole = draft / "whole"
            whole.write_bytes(content)
            sync(whole)
            os.replace(whole, place)
            sync(place.parent)
