"""Results on disk, one file a run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ._lock import locked
from .result import RunResult
from .spec import PROTOCOL, RunSpec


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
        try:
            values = json.loads(self.path(spec).read_text(encoding="utf-8"))
            result = RunResult.from_json(values)
        except (FileNotFoundError, ValueError):
            return None
        return result if result.spec == spec and values.get("protocol") == PROTOCOL else None

    def put(self, result: RunResult) -> Path:
        """Write a result in place of an earlier one of the same run."""
        path = self.path(result.spec)
        text = json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n"
        write_whole(path, text.encode())
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
            with contextlib.suppress(ValueError, OSError):
                values = json.loads(path.read_text(encoding="utf-8"))
                result = RunResult.from_json(values)
                if values.get("protocol") == PROTOCOL and path == self.path(result.spec):
                    found.append(result)
        return found


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, meets either the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)  # mkstemp's own 0o600 would lock colleagues out
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise
