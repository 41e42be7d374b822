"""Streams of images that lie in memory as bytes: class-, domain- and task-incremental, split or permuted.

The rows are those of Avalanche's classic benchmarks, bit for bit and in the same order, ready in a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from avalanche.benchmarks import CLScenario, benchmark_from_datasets
from avalanche.benchmarks.utils import _make_taskaware_classification_dataset

from .byte_rows import ByteRows, Bytes, Draw

Scenario = Literal["class-incremental", "domain-incremental", "task-incremental"]
SCENARIOS = ("class-incremental", "domain-incremental", "task-incremental")


def split_stream(
    data: Bytes,
    n_experiences: int,
    *,
    scenario: Scenario = "class-incremental",
    seed: int | None = None,
    fixed_class_order: Sequence[int] | None = None,
    mean: float = 0.0,
    std: float = 1.0,
    train_rows: int | None = None,
    test_rows: int | None = None,
    uneven: bool = False,
) -> CLScenario:
    """A few classes at a time.

    :param data: the images.
    :param n_experiences: a divisor of the number of classes.
    :param scenario: ``"class-incremental"``: one head for all classes; ``"domain-incremental"``: in each experience the
        classes are told as 0, 1, ..., without a word of which experience it is; ``"task-incremental"``: classes keep
        their numbers, and the experience's number is told as the task label, in training and in tests.
    :param seed: of the order of classes, as Avalanche's ``nc_benchmark`` takes it. None: torch's global generator.
    :param fixed_class_order: the order of all classes; ``seed`` plays no part then.
    :param mean: taken out of the pixels [0, 1].
    :param std: by which they are divided then.
    :param train_rows: only so many training rows of each experience, drawn by ``seed``; None: all.
    :param test_rows: likewise for tests.
    :param uneven: whether the first experiences may have a class more than the last; ``n_experiences`` is then any
        number up to that of the classes.
    :raises ValueError: naming the argument that is out of range.

    Source: van de Ven & Tolias 2019, arXiv 1904.07734, section 2.
    """
    check_scenario(scenario)
    n_classes = int(data.y_train.max()) + 1
    order = _class_order(n_classes, seed, fixed_class_order)
    if n_experiences < 1 or n_experiences > n_classes or (n_classes % n_experiences and not uneven):
        raise ValueError(f"n_experiences: expected a divisor of the {n_classes} classes, got {n_experiences}")
    shares = [part.tolist() for part in np.array_split(np.array(order), n_experiences)]
    sides = _sides(data, train_rows, test_rows, seed)
    streams: dict[str, list[Any]] = {"train": [], "test": []}
    told: list[set[int]] = []
    for k in range(n_experiences):
        classes = shares[k]
        task = k if scenario == "task-incremental" else 0
        told.append(set(range(len(classes))) if scenario == "domain-incremental" else set(classes))
        for name, x, y, draw in sides:
            rows = draw(_by_class(y, classes))
            targets = y[rows]
            if scenario == "domain-incremental":
                targets = np.array([classes.index(label) for label in targets.tolist()])
            streams[name].append(_dataset(ByteRows(x, rows, targets, mean=mean, std=std), task))
    benchmark = assemble(streams["train"], streams["test"], told, tasks=scenario == "task-incremental")
    if scenario == "class-incremental":
        tell_order(benchmark, [len(share) for share in shares], order)
    return benchmark


def assemble(train: Sequence[Any], test: Sequence[Any], classes: Sequence[set[int]], *, tasks: bool) -> CLScenario:
    """A benchmark of data sets whose experiences know their classes and task labels.

    Avalanche's ``with_classes_timeline`` finds the classes by asking every row, which takes longer than a small run.

    :param train: a data set an experience.
    :param test: likewise.
    :param classes: of each experience.
    :param tasks: whether the experience's number is its task label; else all have 0.
    """
    benchmark = benchmark_from_datasets(train=train, test=test)
    for stream in (benchmark.train_stream, benchmark.test_stream):
        for k, experience in enumerate(stream):
            before: set[int] = set().union(*classes[:k])
            experience.classes_in_this_experience = set(classes[k])
            experience.previous_classes = before
            experience.classes_seen_so_far = before | classes[k]
            experience.future_classes = set().union(*classes) - before - classes[k]
            experience.task_label = k if tasks else 0
            experience.task_labels = [experience.task_label]
    return benchmark


def tell_order(benchmark: CLScenario, n_classes_per_exp: list[int], classes_order: list[int]) -> None:
    """Give a class-incremental stream what Avalanche's own benchmarks say of themselves; iCaRL asks its experiences.

    :param benchmark: with the streams ``train`` and ``test``.
    :param n_classes_per_exp: number of classes in each experience.
    :param classes_order: all classes in the order in which they arrive.
    """
    benchmark.n_classes_per_exp, benchmark.classes_order = n_classes_per_exp, classes_order
    for stream in (benchmark.train_stream, benchmark.test_stream):
        for experience in stream:
            experience.benchmark = benchmark


def permuted_stream(
    data: Bytes,
    n_experiences: int,
    *,
    scenario: Scenario = "domain-incremental",
    seed: int | None = None,
    mean: float = 0.0,
    std: float = 1.0,
    train_rows: int | None = None,
    test_rows: int | None = None,
) -> CLScenario:
    """All images in each experience, each time with their pixels in another order, the first time too.

    :param data: the images.
    :param n_experiences: number of permutations, >= 1.
    :param scenario: ``"domain-incremental"``: the classes are the same in each; ``"class-incremental"``: each
        permutation has classes of its own, class c of the k-th (from 0) is c + k times the number of classes;
        ``"task-incremental"``: the same, and the permutation's number is told as the task label.
    :param seed: of the permutations, those of Avalanche's ``PermutedMNIST``. None: random.
    :param mean: as in :func:`split_stream`.
    :param std: likewise.
    :param train_rows: likewise.
    :param test_rows: likewise.
    :raises ValueError: naming the argument that is out of range.

    Source: van de Ven & Tolias 2019, arXiv 1904.07734, section 2.
    """
    check_scenario(scenario)
    if n_experiences < 1:
        raise ValueError(f"n_experiences: expected an integer >= 1, got {n_experiences}")
    n_classes = int(data.y_train.max()) + 1
    rng = np.random.RandomState(seed)
    sides = _sides(data, train_rows, test_rows, seed)
    streams: dict[str, list[Any]] = {"train": [], "test": []}
    told: list[set[int]] = []
    for k in range(n_experiences):
        order, first = rng.permutation(data.x_train[0].size), k * n_classes
        shift, task = (0 if scenario == "domain-incremental" else first), (k if scenario == "task-incremental" else 0)
        told.append(set(range(shift, shift + n_classes)))
        for name, x, y, draw in sides:
            rows = draw(_by_class(y + first, range(first, first + n_classes)))
            pixels = ByteRows(x, rows, y[rows] + shift, mean=mean, std=std, order=order)
            streams[name].append(_dataset(pixels, task))
    benchmark = assemble(streams["train"], streams["test"], told, tasks=scenario == "task-incremental")
    if scenario == "class-incremental":
        tell_order(benchmark, [n_classes] * n_experiences, list(range(n_classes * n_experiences)))
    return benchmark


def check_scenario(scenario: str) -> None:
    """Raise for a scenario that is none of the three."""
    if scenario not in SCENARIOS:
        raise ValueError(f"scenario: expected one of {', '.join(SCENARIOS)}, got {scenario!r}")


def _class_order(n_classes: int, seed: int | None, fixed: Sequence[int] | None) -> list[int]:
    if fixed is None:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        order: list[int] = torch.randperm(n_classes, generator=generator).tolist()
        return order
    order = [int(label) for label in fixed]
    if sorted(order) != list(range(n_classes)):
        raise ValueError(f"fixed_class_order: expected each class of 0..{n_classes - 1} once, got {order}")
    return order


def _sides(
    data: Bytes, train_rows: int | None, test_rows: int | None, seed: int | None
) -> tuple[tuple[str, np.ndarray, np.ndarray, Draw], ...]:
    """Name, images, classes and the draw of rows, to train and to test on."""
    return (
        ("train", data.x_train, data.y_train, Draw(train_rows, seed)),
        ("test", data.x_test, data.y_test, Draw(test_rows, seed)),
    )


def _by_class(y: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Avalanche's order of rows: class by class, the classes as its set of them gives them."""
    return np.concatenate([np.flatnonzero(y == label) for label in set(classes)])


def _dataset(rows: ByteRows, task: int) -> Any:
    # A list for other tasks than 0: Avalanche cannot join constant sequences of different labels.
    labels = [task] * len(rows) if task else 0
    return _make_taskaware_classification_dataset(rows, task_labels=labels, targets=rows.targets)
