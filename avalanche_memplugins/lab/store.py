"""Results on disk, one file a run."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

from .result import RunResult
from .spec import PROTOCOL, RunSpec


class ResultStore:
    """A folder of results. A file is named by its run and written whole or not at all.

    :param folder: where to; made at the first write.
    """

    def __init__(self, folder: str | Path) -> None:
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
