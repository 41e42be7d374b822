"""The streams of runs: ours by name, a folder of images, or the user's own. Imports nothing heavy by itself."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_memplugins.benchmarks.registry import BENCHMARKS, BenchmarkInfo
from avalanche_memplugins.lab import doors

if TYPE_CHECKING:
    from avalanche_memplugins.lab.spec import RunSpec

__all__ = ["BENCHMARKS", "check_name", "content_of", "defaults_of", "find_benchmark", "folder_of", "open_benchmark"]

_FOLDER = "folder:"


def folder_of(name: str) -> Path | None:
    """The folder that ``"folder:DIR"`` names; None for other names.

    >>> folder_of("folder:pictures").name, folder_of("split-digits")
    ('pictures', None)
    """
    if isinstance(name, str) and name.startswith(_FOLDER):
        return Path(name.removeprefix(_FOLDER)).expanduser()
    return None


def content_of(folder: Path) -> str:
    """Hash of the names and sizes of all files below a folder."""
    found = sorted(
        (os.path.relpath(os.path.join(place, file), folder), os.path.getsize(os.path.join(place, file)))
        for place, _, files in os.walk(folder)
        for file in files
    )
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def check_name(name: str) -> None:
    """Raise ``ValueError`` unless a benchmark has that name."""
    if (folder := folder_of(name)) is not None:
        if not folder.is_dir():
            raise ValueError(f"benchmark: expected folder:DIR with an existing folder, got {name!r}")
    elif doors.is_own(name, BENCHMARKS) or name not in BENCHMARKS:
        doors.load("benchmark", name, BENCHMARKS)


def scenario_of(name: str) -> str:
    """Scenario of a benchmark, for a reader; a user's own is not opened for it.

    >>> scenario_of("permuted-digits"), scenario_of("mypackage.streams:make")
    ('domain-incremental', 'a stream of your own')
    """
    if folder_of(name) is not None:
        return "class-incremental"
    return BENCHMARKS[name].scenario if name in BENCHMARKS else "a stream of your own"


def defaults_of(name: str, benchmark_options: Any = ()) -> tuple[int, int]:
    """Usual length of a stream, and usual epochs an experience.

    :raises ValueError: if there is no such benchmark, or a user's own has no usual length.

    >>> defaults_of("split-digits")
    (5, 10)
    """
    check_name(name)
    if name in BENCHMARKS:
        return BENCHMARKS[name].n_experiences, BENCHMARKS[name].epochs
    if folder_of(name) is not None:
        info = find_benchmark(name, 1, tuple(dict(benchmark_options).items()))
        return min(5, info.n_classes), info.epochs
    function = doors.load("benchmark", name, BENCHMARKS)
    first = next(iter(inspect.signature(function).parameters.values()))
    if not isinstance(first.default, int):
        raise ValueError(f"experiences: expected a number, since {name} has no usual one")
    return first.default, 1


def find_benchmark(name: str, n_experiences: int, benchmark_options: Any) -> BenchmarkInfo:
    """Facts about a benchmark.

    :param name: of ours, ``"folder:DIR"``, or of the user's own, which is opened for them.
    :param n_experiences: length of the stream.
    :param benchmark_options: as pairs.
    :raises ValueError: if there is none, or it is no benchmark.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if (folder := folder_of(name)) is not None:
        from avalanche_memplugins.benchmarks.image_folder import folder_info

        return folder_info(folder, name=name, **_of_folder(dict(benchmark_options)))
    return _facts(name, n_experiences, tuple(benchmark_options))


def _of_folder(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key in ("image_size", "test_share")}


@lru_cache(maxsize=64)
def _facts(name: str, n_experiences: int, benchmark_options: Any) -> BenchmarkInfo:
    function = doors.load("benchmark", name, BENCHMARKS)
    benchmark = _opened(name, n_experiences, 0, dict(benchmark_options))
    return BenchmarkInfo(
        name=name,
        summary=doors.summary_of(function),
        factory=name,
        scenario="task-incremental" if _task_labels(benchmark) else "class-incremental",
        input_shape=tuple(benchmark.train_stream[0].dataset[0][0].shape),
        n_classes=1 + max(_classes(benchmark)),
        n_experiences=n_experiences,
        epochs=1,
        mean=getattr(benchmark, "mean", (0.0,)),
        std=getattr(benchmark, "std", (1.0,)),
        local=True,
    )


def _task_labels(benchmark: Any) -> bool:
    return any(set(experience.task_labels) != {0} for experience in benchmark.train_stream)


def _classes(benchmark: Any) -> set[int]:
    streams = (benchmark.train_stream, benchmark.test_stream)
    return {int(label) for stream in streams for experience in stream for label in experience.dataset.targets}


def _opened(name: str, n_experiences: int, seed: int, options: dict[str, Any]) -> Any:
    found = doors.make("benchmark", name, BENCHMARKS, n_experiences, seed=seed, **options)
    if not hasattr(found.train_stream[0], "task_labels"):
        # What Avalanche's `benchmark_from_datasets` leaves out and its strategies ask for.
        from avalanche.benchmarks import with_classes_timeline, with_task_labels

        found = with_task_labels(with_classes_timeline(found))
    lengths = len(found.train_stream), len(found.test_stream)
    if lengths != (n_experiences, n_experiences):
        raise ValueError(
            f"benchmark: expected {name} to return {n_experiences} experiences to train and to test on, got {lengths}"
        )
    return found


def open_benchmark(spec: RunSpec) -> Any:
    """The stream of a run."""
    from avalanche_memplugins.benchmarks.streams import assemble, tell_order

    options = dict(spec.benchmark_options)
    if (folder := folder_of(spec.benchmark)) is not None:
        from avalanche_memplugins.benchmarks.image_folder import image_folder

        options |= {"train_rows": spec.train_rows, "test_rows": spec.test_rows}
        return image_folder(folder, spec.n_experiences, seed=spec.seed, **options)
    if spec.benchmark in BENCHMARKS:
        info = BENCHMARKS[spec.benchmark]
        if info.draws_rows:
            options |= {"train_rows": spec.train_rows, "test_rows": spec.test_rows}
        benchmark = info.build(n_experiences=spec.n_experiences, seed=spec.seed, **options)
        if info.draws_rows:
            return benchmark
    else:
        benchmark = _opened(spec.benchmark, spec.n_experiences, spec.seed, options)
    if spec.train_rows is None and spec.test_rows is None:
        return benchmark
    sides = (benchmark.train_stream, spec.train_rows), (benchmark.test_stream, spec.test_rows)
    train, test = (_some(stream, rows, spec.seed) for stream, rows in sides)
    classes = [set(experience.classes_in_this_experience) for experience in benchmark.train_stream]
    fewer = assemble(train, test, classes, tasks=spec.info.scenario == "task-incremental")
    if hasattr(benchmark, "n_classes_per_exp"):
        tell_order(fewer, benchmark.n_classes_per_exp, benchmark.classes_order)
    return fewer


def _some(stream: Any, rows: int | None, seed: int) -> list[Any]:
    """The experiences' data sets, or so many rows of each."""
    import numpy as np

    from avalanche_memplugins.benchmarks.byte_rows import Draw

    draw = Draw(rows, seed)
    datasets = [experience.dataset for experience in stream]
    if rows is None:
        return datasets
    return [data.subset(draw(np.arange(len(data))).tolist()) for data in datasets]
