"""Benchmarks by name, with the facts that a model and a codec need. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .names import look_up


@dataclass(frozen=True, kw_only=True)
class BenchmarkInfo:
    """A benchmark and the facts about it.

    :param name: as on the command line.
    :param summary: one line for a reader.
    :param factory: ``"module:function"``, taking ``n_experiences`` and the keyword ``seed``.
    :param scenario: ``"class-incremental"``, ``"domain-incremental"`` or ``"task-incremental"``.
    :param input_shape: ``(C, H, W)`` of an image.
    :param n_classes: size of the model's output.
    :param n_experiences: how many experiences the field takes it with.
    :param epochs: epochs an experience for which a small network is trained well.
    :param mean: pixel mean by which the images are normalised, one a channel.
    :param std: pixel standard deviation likewise; with ``mean`` it is what the codec ``Uint8`` needs.
    :param local: whether the data comes with the installation; else from the data root.
    :param parts: classes that the experiences share out, so that their number divides it; 0: any number will do.
    :param files: what has to be in the data root for the benchmark to be there, by their paths.
    :param draws_rows: whether the factory takes ``train_rows`` and ``test_rows``.
    :param settings: further keywords of the factory that make this benchmark, as pairs.

    >>> info = BENCHMARKS["split-digits"]
    >>> info.input_shape, len(info.build(n_experiences=2, seed=0).train_stream)
    ((1, 8, 8), 2)
    """

    name: str
    summary: str
    factory: str
    scenario: str
    input_shape: tuple[int, int, int]
    n_classes: int
    n_experiences: int
    epochs: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    local: bool
    parts: int = 0
    files: tuple[str, ...] = ()
    draws_rows: bool = False
    settings: tuple[tuple[str, Any], ...] = ()

    def build(self, *, n_experiences: int | None = None, seed: int | None = None, **options: Any) -> Any:
        """Open the benchmark.

        :param n_experiences: None: the registered number.
        :param seed: for the order of classes, or the permutations.
        :param options: further keywords of the factory, such as ``return_task_id``.
        """
        from avalanche_memplugins import _checks as check  # torch comes with it, which listing benchmarks does without

        if n_experiences is not None:
            check.positive_integer("n_experiences", n_experiences)
        check.optional_seed(seed)
        module, function = self.factory.split(":")
        return getattr(import_module(module), function)(
            self.n_experiences if n_experiences is None else n_experiences, seed=seed, **dict(self.settings), **options
        )


# The digits' pixels are k/16, k = 0..16: with this std level k is byte 15k, so eight bits hold them exactly.
_DIGITS_STD = (240 / 255,)
_HERE = __package__
# What all streams of these images share.
_GREY: dict[str, Any] = {"input_shape": (1, 28, 28), "epochs": 1, "local": False, "draws_rows": True}
_IDX = tuple(f"raw/{side}-{part}-ubyte" for side in ("train", "t10k") for part in ("images-idx3", "labels-idx1"))
_MNIST = {**_GREY, "mean": (0.1307,), "std": (0.3081,), "files": tuple(f"MNIST/{file}" for file in _IDX)}
_FASHION = {**_GREY, "mean": (0.2860,), "std": (0.3530,), "files": tuple(f"FashionMNIST/{file}" for file in _IDX)}
_CIFAR = tuple(f"cifar-10-batches-py/{part}" for part in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"))

BENCHMARKS: Mapping[str, BenchmarkInfo] = {
    info.name: info
    for info in (
        BenchmarkInfo(
            name="split-digits",
            parts=10,
            summary="scikit-learn's digits, 5 x 2 classes",
            factory=f"{_HERE}.split_digits:SplitDigits",
            scenario="class-incremental",
            input_shape=(1, 8, 8),
            n_classes=10,
            n_experiences=5,
            epochs=10,
            mean=(0.0,),
            std=_DIGITS_STD,
            local=True,
        ),
        BenchmarkInfo(
            name="permuted-digits",
            summary="scikit-learn's digits, 10 classes, 5 pixel permutations",
            factory=f"{_HERE}.permuted_digits:PermutedDigits",
            scenario="domain-incremental",
            input_shape=(1, 8, 8),
            n_classes=10,
            n_experiences=5,
            epochs=5,
            mean=(0.0,),
            std=_DIGITS_STD,
            local=True,
        ),
        BenchmarkInfo(
            name="split-mnist",
            parts=10,
            summary="MNIST, 5 x 2 classes",
            factory=f"{_HERE}.in_memory:split_mnist_tensors",
            scenario="class-incremental",
            n_classes=10,
            n_experiences=5,
            **_MNIST,
        ),
        BenchmarkInfo(
            name="permuted-mnist",
            summary="MNIST, 10 classes, 10 pixel permutations",
            factory=f"{_HERE}.in_memory:permuted_mnist_tensors",
            scenario="domain-incremental",
            n_classes=10,
            n_experiences=10,
            **_MNIST,
        ),
        BenchmarkInfo(
            name="split-fmnist",
            parts=10,
            summary="Fashion-MNIST, 5 x 2 classes",
            factory=f"{_HERE}.in_memory:split_fmnist_tensors",
            scenario="class-incremental",
            n_classes=10,
            n_experiences=5,
            **_FASHION,
        ),
        BenchmarkInfo(
            name="split-cifar10",
            files=_CIFAR,
            parts=10,
            summary="CIFAR-10, 5 x 2 classes",
            factory=f"{_HERE}.local:split_cifar10",
            scenario="class-incremental",
            input_shape=(3, 32, 32),
            n_classes=10,
            n_experiences=5,
            epochs=1,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2023, 0.1994, 0.2010),
            local=False,
        ),
        BenchmarkInfo(
            name="split-mnist-domain",
            parts=10,
            summary="MNIST, 5 x 2 classes, each time told as 0 and 1",
            factory=f"{_HERE}.in_memory:split_mnist_tensors",
            scenario="domain-incremental",
            n_classes=2,
            n_experiences=5,
            **_MNIST,
            settings=(("scenario", "domain-incremental"),),
        ),
        BenchmarkInfo(
            name="split-mnist-task",
            parts=10,
            summary="MNIST, 5 x 2 classes, the task told in tests",
            factory=f"{_HERE}.in_memory:split_mnist_tensors",
            scenario="task-incremental",
            n_classes=10,
            n_experiences=5,
            **_MNIST,
            settings=(("scenario", "task-incremental"),),
        ),
        BenchmarkInfo(
            name="permuted-mnist-class",
            summary="MNIST, 10 pixel permutations, 10 classes of its own each",
            factory=f"{_HERE}.in_memory:permuted_mnist_tensors",
            scenario="class-incremental",
            n_classes=100,
            n_experiences=10,
            **_MNIST,
            settings=(("scenario", "class-incremental"),),
        ),
        BenchmarkInfo(
            name="permuted-mnist-task",
            summary="MNIST, 10 pixel permutations, 10 classes of its own each, the task told in tests",
            factory=f"{_HERE}.in_memory:permuted_mnist_tensors",
            scenario="task-incremental",
            n_classes=100,
            n_experiences=10,
            **_MNIST,
            settings=(("scenario", "task-incremental"),),
        ),
        BenchmarkInfo(
            name="split-cifar10-features",
            files=("cifar10-lite0-128.safetensors",),
            parts=10,
            summary="CIFAR-10 behind a frozen EfficientNet-Lite0, 5 x 2 classes",
            factory=f"{_HERE}.in_memory:split_cifar10_features",
            scenario="class-incremental",
            input_shape=(128, 1, 1),
            n_classes=10,
            n_experiences=5,
            epochs=1,
            mean=(0.5,),
            std=(1 / 12,),
            local=False,
            draws_rows=True,
        ),
        BenchmarkInfo(
            name="split-omniglot",
            parts=964,
            files=("omniglot-py/images_background",),
            summary="Omniglot's background set, 4 x 241 characters",
            factory=f"{_HERE}.omniglot:split_omniglot",
            scenario="class-incremental",
            input_shape=(1, 105, 105),
            n_classes=964,
            n_experiences=4,
            epochs=5,
            mean=(0.9221,),
            std=(0.2681,),
            local=False,
        ),
    )
}


def get_benchmark(name: str) -> BenchmarkInfo:
    """The benchmark of that name.

    :raises ValueError: if there is none; suggests the nearest.

    >>> get_benchmark("permuted-mnist").scenario
    'domain-incremental'
    """
    return look_up("benchmark", name, BENCHMARKS)
