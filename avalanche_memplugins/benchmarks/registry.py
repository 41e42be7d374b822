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
_DIGITS: dict[str, Any] = {
    "input_shape": (1, 8, 8),
    "n_classes": 10,
    "n_experiences": 5,
    "mean": (0.0,),
    "std": (240 / 255,),
    "local": True,
}
_IDX = tuple(f"raw/{side}-{part}-ubyte" for side in ("train", "t10k") for part in ("images-idx3", "labels-idx1"))
_CIFAR = tuple(f"cifar-10-batches-py/{part}" for part in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"))


def _class_split(name: str, summary: str, factory: str, **facts: Any) -> BenchmarkInfo:
    """Ten classes, two at a time, each experience for one epoch, from the data root."""
    plan = {"scenario": "class-incremental", "n_classes": 10, "n_experiences": 5, "epochs": 1, "parts": 10}
    factory = f"{__package__}.{factory}"
    return BenchmarkInfo(name=name, summary=summary, factory=factory, **{**plan, "local": False, **facts})


def _grey(folder: str, mean: float, std: float) -> dict[str, Any]:
    """Facts of images of 28 x 28 bytes in files of a folder."""
    files = tuple(f"{folder}/{file}" for file in _IDX)
    return {"input_shape": (1, 28, 28), "mean": (mean,), "std": (std,), "files": files, "draws_rows": True}


_MNIST = _grey("MNIST", 0.1307, 0.3081)


def _split_mnist(name: str, summary: str, scenario: str = "", **facts: Any) -> BenchmarkInfo:
    """MNIST in experiences of two digits; a scenario other than the factory's own is told to it."""
    told = {"scenario": scenario, "settings": (("scenario", scenario),)} if scenario else {}
    return _class_split(name, summary, "in_memory:split_mnist_tensors", **{**_MNIST, **told, **facts})


def _permuted_mnist(name: str, summary: str, scenario: str = "", **facts: Any) -> BenchmarkInfo:
    """MNIST in ten permutations, likewise."""
    told = {"scenario": scenario, "settings": (("scenario", scenario),)} if scenario else {}
    facts = {**_MNIST, "scenario": "domain-incremental", "n_experiences": 10, "parts": 0, **told, **facts}
    return _class_split(name, summary, "in_memory:permuted_mnist_tensors", **facts)


BENCHMARKS: Mapping[str, BenchmarkInfo] = {
    info.name: info
    for info in (
        _class_split(
            "split-digits", "scikit-learn's digits, 5 x 2 classes", "split_digits:SplitDigits", **_DIGITS, epochs=10
        ),
        _class_split(
            "permuted-digits",
            "scikit-learn's digits, 10 classes, 5 pixel permutations",
            "permuted_digits:PermutedDigits",
            scenario="domain-incremental",
            epochs=5,
            parts=0,
            **_DIGITS,
        ),
        _split_mnist("split-mnist", "MNIST, 5 x 2 classes"),
        _permuted_mnist("permuted-mnist", "MNIST, 10 classes, 10 pixel permutations"),
        _class_split(
            "split-fmnist",
            "Fashion-MNIST, 5 x 2 classes",
            "in_memory:split_fmnist_tensors",
            **_grey("FashionMNIST", 0.2860, 0.3530),
        ),
        _class_split(
            "split-cifar10",
            "CIFAR-10, 5 x 2 classes",
            "local:split_cifar10",
            files=_CIFAR,
            input_shape=(3, 32, 32),
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2023, 0.1994, 0.2010),
        ),
        _split_mnist(
            "split-mnist-domain",
            "MNIST, 5 x 2 classes, each time told as 0 and 1",
            "domain-incremental",
            n_classes=2,
        ),
        _split_mnist("split-mnist-task", "MNIST, 5 x 2 classes, the task told in tests", "task-incremental"),
        _permuted_mnist(
            "permuted-mnist-class",
            "MNIST, 10 pixel permutations, 10 classes of its own each",
            "class-incremental",
            n_classes=100,
        ),
        _permuted_mnist(
            "permuted-mnist-task",
            "MNIST, 10 pixel permutations, 10 classes of its own each, the task told in tests",
            "task-incremental",
            n_classes=100,
        ),
        _class_split(
            "split-cifar10-features",
            "CIFAR-10 behind a frozen EfficientNet-Lite0, 5 x 2 classes",
            "in_memory:split_cifar10_features",
            files=("cifar10-lite0-128.safetensors",),
            input_shape=(128, 1, 1),
            mean=(0.5,),
            std=(1 / 12,),
            draws_rows=True,
        ),
        _class_split(
            "split-omniglot",
            "Omniglot's background set, 4 x 241 characters",
            "omniglot:split_omniglot",
            files=("omniglot-py/images_background",),
            input_shape=(1, 105, 105),
            n_classes=964,
            n_experiences=4,
            epochs=5,
            parts=964,
            mean=(0.9221,),
            std=(0.2681,),
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
