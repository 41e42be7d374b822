"""Streams from memory: Avalanche's rows bit for bit, and the three scenarios."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from avalanche_memplugins import benchmarks
from avalanche_memplugins.benchmarks import in_memory, local
from avalanche_memplugins.benchmarks.byte_rows import Draw
from avalanche_memplugins.benchmarks.registry import BENCHMARKS


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty images, six of each class in mixed order, as MNIST and as Fashion-MNIST."""
    rng = np.random.default_rng(0)
    for name in ("MNIST", "FashionMNIST"):
        raw = tmp_path / name / "raw"
        raw.mkdir(parents=True)
        for part in ("train", "t10k"):
            images = rng.integers(0, 256, (60, 28, 28), dtype=np.uint8)
            labels = rng.permutation(np.arange(60) % 10).astype(np.uint8)
            (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 60, 28, 28) + images.tobytes())
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 60) + labels.tobytes())
    monkeypatch.setenv("MEMPLUGINS_DATA", str(tmp_path))
    return tmp_path


def rows(experience: Any) -> list[tuple[bytes, int, int]]:
    return [(x.numpy().tobytes(), int(y), int(t)) for x, y, t in experience.dataset]


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("name", ["split_mnist", "split_fmnist", "permuted_mnist"])
def test_rows_are_those_of_avalanche_bit_for_bit(name: str, seed: int, root: Path) -> None:
    theirs, ours = (getattr(benchmarks, function)(5, seed=seed) for function in (name, f"{name}_tensors"))
    assert type(theirs) is not type(ours)  # Avalanche's own, and not ours twice
    for stream in ("train_stream", "test_stream"):
        for one, other in zip(getattr(theirs, stream), getattr(ours, stream), strict=True):
            assert rows(other) == rows(one)
            assert set(other.classes_in_this_experience) == set(one.classes_in_this_experience)
            assert list(other.dataset.targets) == [y for _, y, _ in rows(one)]
    if name != "permuted_mnist":
        assert ours.classes_order == theirs.classes_order
        assert ours.train_stream[1].benchmark.n_classes_per_exp == theirs.n_classes_per_exp


def test_raw_pixels_are_those_of_avalanche_without_transforms(root: Path) -> None:
    theirs = local.split_mnist(5, seed=1, train_transform=None, eval_transform=None)
    ours = in_memory.split_mnist_tensors(5, seed=1, normalise=False)
    assert rows(ours.train_stream[0]) == rows(theirs.train_stream[0])


def test_domains_have_the_same_classes_and_nothing_else_tells_them_apart(root: Path) -> None:
    order = [3, 8, 0, 1, 2, 4, 5, 6, 7, 9]
    domains = in_memory.split_mnist_tensors(5, scenario="domain-incremental", fixed_class_order=order)
    classes = in_memory.split_mnist_tensors(5, fixed_class_order=order)
    for k, (domain, known) in enumerate(zip(domains.train_stream, classes.train_stream, strict=True)):
        of = {x: y for x, y, _ in rows(known)}
        assert [(y, t) for _, y, t in rows(domain)] == [
            (order[2 * k : 2 * k + 2].index(of[x]), 0) for x, _, _ in rows(domain)
        ]
        assert domain.classes_in_this_experience == {0, 1}
    assert not hasattr(domains, "n_classes_per_exp")


def test_tasks_are_told_and_classes_keep_their_numbers(root: Path) -> None:
    tasks = in_memory.split_mnist_tensors(5, scenario="task-incremental", seed=2)
    classes = in_memory.split_mnist_tensors(5, seed=2)
    for stream in ("train_stream", "test_stream"):
        for k, (task, known) in enumerate(zip(getattr(tasks, stream), getattr(classes, stream), strict=True)):
            assert rows(task) == [(x, y, k) for x, y, _ in rows(known)]
            assert task.task_labels == [k]


def test_permutations_get_classes_of_their_own_where_they_are_to_be_told_apart(root: Path) -> None:
    plain, classes, tasks = (
        in_memory.permuted_mnist_tensors(3, scenario=scenario, seed=5)
        for scenario in ("domain-incremental", "class-incremental", "task-incremental")
    )
    for k in range(3):
        wanted = [(x, y + 10 * k) for x, y, _ in rows(plain.train_stream[k])]
        # Rows come class by class in the order of a set, which other numbers change.
        assert sorted((x, y) for x, y, _ in rows(classes.train_stream[k])) == sorted(wanted)
        assert {t for _, _, t in rows(tasks.train_stream[k])} == {k}
        assert classes.train_stream[k].classes_in_this_experience == set(range(10 * k, 10 * k + 10))
    assert classes.classes_order == list(range(30))


def test_some_rows_are_drawn_by_the_seed_without_replacement(root: Path) -> None:
    whole = in_memory.split_mnist_tensors(5, seed=0)
    some, same = (in_memory.split_mnist_tensors(5, seed=0, train_rows=7, test_rows=3) for _ in range(2))
    for k in range(5):
        drawn = rows(some.train_stream[k])
        assert len(set(drawn)) == len(drawn) == 7
        assert set(drawn) <= set(rows(whole.train_stream[k]))
        assert rows(some.test_stream[k]) == rows(same.test_stream[k])
        assert len(some.test_stream[k].dataset) == 3
    assert len(in_memory.split_mnist_tensors(5, seed=0, train_rows=1_000).train_stream[0].dataset) == 12
    found = np.arange(100)
    assert not np.array_equal(Draw(10, 0)(found), Draw(10, 1)(found))


def test_wrong_arguments_are_named(root: Path) -> None:
    with pytest.raises(ValueError, match="scenario: expected one of class-incremental"):
        in_memory.split_mnist_tensors(5, scenario="class")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_experiences: expected a divisor of the 10 classes, got"):
        in_memory.split_mnist_tensors(3)
    with pytest.raises(ValueError, match="n_experiences: expected an integer >= 1, got"):
        in_memory.permuted_mnist_tensors(0)
    with pytest.raises(ValueError, match=r"fixed_class_order: expected each class of 0\.\.9 once"):
        in_memory.split_mnist_tensors(5, fixed_class_order=[0, 1])


def test_features_come_from_a_file_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMPLUGINS_DATA", raising=False)
    with pytest.raises(ValueError, match=r"cifar10-lite0-128.safetensors in the folder that MEMPLUGINS_DATA names"):
        in_memory.split_cifar10_features()
    with pytest.raises(ValueError, match=r"bench/cifar_features.py makes it"):
        in_memory.split_cifar10_features(data_root=tmp_path)
    x = np.random.default_rng(0).integers(0, 256, (40, 128), dtype=np.uint8)
    y = np.arange(40) % 10
    save_file({"train_x": x, "train_y": y, "test_x": x[:20], "test_y": y[:20]}, tmp_path / in_memory.FEATURES)
    monkeypatch.setenv("MEMPLUGINS_DATA", str(tmp_path))
    info = BENCHMARKS["split-cifar10-features"]
    benchmark = info.build(seed=0)
    row, label, _ = benchmark.train_stream[0].dataset[0]
    assert tuple(row.shape) == info.input_shape
    source = x[next(i for i in range(40) if y[i] == label)]
    np.testing.assert_allclose(row.flatten().numpy(), 12 * (source / 255.0 - 0.5), atol=1e-5)
    assert torch.equal(row, benchmark.train_stream[0].dataset[0][0])


@pytest.mark.parametrize("name", [name for name, info in BENCHMARKS.items() if info.settings])
def test_registered_scenarios_are_as_registered(name: str, root: Path) -> None:
    info = BENCHMARKS[name]
    benchmark = info.build(seed=0)
    labels = {y for experience in benchmark.train_stream for _, y, _ in rows(experience)}
    tasks = {t for experience in benchmark.train_stream for _, _, t in rows(experience)}
    assert labels == set(range(info.n_classes))
    assert len(tasks) == (info.n_experiences if info.scenario == "task-incremental" else 1)
    assert len(benchmark.train_stream) == info.n_experiences
