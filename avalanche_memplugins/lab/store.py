"""Results of runs, and the folder that keeps them, one file a run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from reprlib import repr as short
from typing import Any, TypeVar

from filelock import FileLock

from avalanche_memplugins._drafts import draft_of, real_place, sync, telling

from .spec import PROTOCOL, RunSpec

T = TypeVar("T")
_SEAL = "sha256"
_LARGEST = 64 << 20
_LONGEST_NAME = 80


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Numbers of a run that ended, or the traceback of one that failed.

    T is the number of experiences.

    :param spec: the run.
    :param untrained: ``(T,)``, [0, 1]: test accuracy on each experience before any training; empty if the model cannot
        tell it, and in results of earlier versions.
    :param accuracy: ``(T, T)``, [0, 1]: row i, column k is the test accuracy on experience k after training on i.
    :param train_seconds: ``(T,)``, wall-clock seconds of training on each experience, without evaluation.
    :param memory_bytes: ``(T,)``, bytes of stream data held after each experience.
    :param fixed_bytes: bytes needed besides, which do not depend on the stream, such as those of frozen networks.
    :param weights: SHA-256 of the model's final weights.
    :param warnings: warnings of the run, each once.
    :param environment: versions, machine, threads.
    :param error: traceback if the run failed; the numbers are then empty.

    >>> spec = RunSpec(benchmark="split-digits", strategy="naive", seed=0, n_experiences=2, epochs=1)
    >>> accuracy = ((0.9, 0.1), (0.6, 0.9))
    >>> result = RunResult(spec=spec, accuracy=accuracy, train_seconds=(1.0, 1.0), memory_bytes=(0, 0))
    >>> result.ok, result.final_accuracy
    (True, 0.75)
    """

    spec: RunSpec
    untrained: tuple[float, ...] = ()
    accuracy: tuple[tuple[float, ...], ...] = ()
    train_seconds: tuple[float, ...] = ()
    memory_bytes: tuple[int, ...] = ()
    fixed_bytes: int = 0
    weights: str = ""
    warnings: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the run ended."""
        return self.error is None

    @property
    def final_accuracy(self) -> float:
        """Mean over experiences of the accuracy after the last one, [0, 1]."""
        return sum(self.accuracy[-1]) / len(self.accuracy[-1])

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"protocol": PROTOCOL, "key": self.spec.key, **asdict(self), "spec": self.spec.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunResult:
        """Back from :meth:`to_json`.

        :raises ValueError: if the values are not those of a result, naming the field. Types, shapes and ranges are
            checked, so that numbers of a damaged file are never used.
        """
        if not isinstance(values, dict):
            raise ValueError(f"values: expected the JSON of a result, got {type(values).__name__}")
        known = {field.name for field in fields(cls)} | {"protocol", "key"}
        if strange := sorted(values.keys() - known, key=str):
            raise ValueError(f"values: expected the JSON of a result, got a field {short(strange[0])}")
        try:
            spec = RunSpec.from_result(values["spec"])
            error = values["error"]
            if error is not None and not isinstance(error, str):
                raise ValueError(f"error: expected text or null, got {short(error)}")
            if values.get("key", spec.key) != spec.key:
                raise ValueError(f"key: expected {spec.key}, got {short(values['key'])}")
            if not isinstance(values["environment"], dict):
                raise ValueError(f"environment: expected names and values, got {short(values['environment'])}")
            numbers = checked_numbers(values, spec.n_experiences, spec.n_experiences if error is None else 0)
            return cls(
                spec=spec,
                **numbers,
                fixed_bytes=_whole("fixed_bytes", values.get("fixed_bytes", 0)),
                weights=_text("weights", values["weights"]),
                warnings=tuple(_text("warnings", text) for text in _list("warnings", values["warnings"])),
                environment={
                    _text("environment", name): _text("environment", value)
                    for name, value in values["environment"].items()
                },
                error=error,
            )
        except (KeyError, TypeError, AttributeError) as problem:
            raise ValueError(f"values: expected the JSON of a result, got {problem!r:.200}") from problem


def checked_numbers(values: Mapping[str, Any], n_experiences: int, trained: int) -> dict[str, Any]:
    """The numbers of a run after some of its experiences, as tuples.

    :param values: ``untrained`` ``(T,)`` or empty, ``accuracy`` ``(trained, T)``, all [0, 1]; ``train_seconds``
        ``(trained,)`` >= 0; ``memory_bytes`` ``(trained,)`` integers >= 0.
    :param n_experiences: T.
    :param trained: how many experiences were trained on.
    :raises ValueError: naming what is missing, has another shape or is out of range.
    """
    try:
        untrained = _list("untrained", values.get("untrained", ()))
        if untrained:
            _list("untrained", untrained, n_experiences)
        accuracy = [_list("accuracy", row, n_experiences) for row in _list("accuracy", values["accuracy"], trained)]
        return {
            "untrained": tuple(_number("untrained", value, 1) for value in untrained),
            "accuracy": tuple(tuple(_number("accuracy", value, 1) for value in row) for row in accuracy),
            "train_seconds": tuple(
                _number("train_seconds", value) for value in _list("train_seconds", values["train_seconds"], trained)
            ),
            "memory_bytes": tuple(
                _whole("memory_bytes", value) for value in _list("memory_bytes", values["memory_bytes"], trained)
            ),
        }
    except KeyError as problem:
        raise ValueError(f"{problem.args[0]}: expected numbers, got none") from problem


class ResultStore:
    """A folder of results, one file a run. A file is written as a whole or not at all.

    :param folder: path of the folder, which is made at the first write.
    :raises TypeError: if that is no path.

    >>> import tempfile
    >>> spec = RunSpec(benchmark="split-digits", strategy="naive", seed=0, n_experiences=2, epochs=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = ResultStore(folder)
    ...     path = store.put(RunResult(spec=spec, error="out of memory"))
    ...     print(path.name, store.get(spec).error)
    split-digits--naive--seed0--c77fda47e4892313.json out of memory
    """

    def __init__(self, folder: str | Path) -> None:
        if not isinstance(folder, str | os.PathLike) or not str(folder) or "\0" in str(folder):
            raise TypeError(f"folder: expected a path, as a string or pathlib.Path, got {folder!r}")
        self.folder = Path(folder)

    def path(self, spec: RunSpec) -> Path:
        """The file of that run, whether it exists or not."""
        benchmark, strategy = _file_name(spec.benchmark), _file_name(spec.strategy)
        return self.folder / f"{benchmark}--{strategy}--seed{spec.seed}--{spec.key}.json"

    def get(self, spec: RunSpec) -> RunResult | None:
        """The result of the run, which may be a failure; None if the run was never done or its file is damaged."""
        result = self._read(self.path(spec))
        return result if result is not None and result.spec == spec else None

    def put(self, result: RunResult) -> Path:
        """Write a result; it replaces an earlier one of the same run."""
        path = self.path(result.spec)
        write_whole(path, sealed(result.to_json()))
        return path

    def keep(self, result: RunResult) -> RunResult:
        """Write a result, unless the store has a good one of the same run already; that one stays.

        :returns: the result that is kept.
        """
        known = self.get(result.spec)
        if known is not None and (known.ok or known == result):
            return known
        self.put(result)
        return result

    @contextlib.contextmanager
    def claim(self, spec: RunSpec) -> Iterator[Path]:
        """Make sure that no other process does this run until the block ends. Waits while another process has it.

        :returns: the folder for the state of the unfinished run. It stays when the process is killed, and is removed
            once the run has a result.
        """
        folder = self.folder / ".unfinished" / spec.key
        path = folder.with_suffix(".lock")
        with _locked(path):
            try:
                yield folder
            finally:
                if self.get(spec) is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                    # While it is still held: whoever waits for it finds the file gone, and takes a new one.
                    with contextlib.suppress(OSError):
                        path.unlink()
                        path.parent.rmdir()

    def results(self) -> list[RunResult]:
        """All results in the folder, also failures, sorted by the names of their files."""
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


def _locked(path: Path) -> contextlib.AbstractContextManager[object]:
    """Take the lock of that name, which the system frees when its holder dies; waits while another process has it."""
    lock = FileLock(path)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held = lock.acquire()
        except FileNotFoundError:
            continue  # another process has just removed the empty folder
        if path.exists():
            return held
        lock.release()


def sealed(values: dict[str, Any]) -> bytes:
    """JSON with its own checksum, for :func:`unsealed`, so that a flipped bit in a number is noticed.

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
    """What ``read`` returns; tried a second time if the first try fails.

    On a network's disk a file that another process is replacing may be missing for a moment, or seen in part.

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
    """Make a folder and write a file there, so that a bad place is reported before hours of work and not after.

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
    """Write a file such that readers, and crashes, see either the old content or the new one.

    The file gets the permissions that the user's umask gives. Drafts that a killed writer left behind are removed.

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


def _list(name: str, value: Any, length: int | None = None) -> list[Any]:
    if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
        much = "" if length is None else f" of {length}"
        raise ValueError(f"{name}: expected a list{much}, got {short(value)}")
    return list(value)


def _number(name: str, value: Any, most: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most or value == math.inf:
        raise ValueError(
            f"{name}: expected finite numbers from 0{f' to {most}' * (most < math.inf)}, got {short(value)}"
        )
    return float(value)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{name}: expected integers >= 0, got {short(value)}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected text, got {short(value)}")
    return value


def _file_name(name: str) -> str:
    """A name that may be of a user's own file or folder, as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", name)[-_LONGEST_NAME:]
