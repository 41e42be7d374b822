"""MNIST, Fashion-MNIST and files of features as streams of bytes in memory, opened from a folder of this machine.

When to take which: ``split_mnist_tensors`` and its like give the rows of ``split_mnist`` and its like (:mod:`.local`),
bit for bit and in the same order, straight from the bytes: as tensors, without PIL and transforms, ready in a tenth of
the time. They know the three scenarios and can be cut to fewer rows; the lab runs on them. Take those of :mod:`.local`
for what only Avalanche's own functions do: other transforms, ``return_task_id``, augmented CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avalanche.benchmarks import CLScenario
from avalanche.benchmarks.datasets import default_dataset_location
from torchvision.datasets import MNIST, FashionMNIST

from .byte_rows import Bytes
from .roots import ENV
from .roots import data_root as find_root
from .streams import Scenario, permuted_stream, split_stream

MNIST_PIXELS, FASHION_PIXELS = (0.1307, 0.3081), (0.2860, 0.3530)
FEATURES = "cifar10-lite0-128.safetensors"
# A byte c of a feature file stands for the number 12 (c / 255 - 1/2).
FEATURE_PIXELS = (0.5, 1 / 12)


def split_mnist_tensors(
    n_experiences: int = 5,
    *,
    scenario: Scenario = "class-incremental",
    seed: int | None = None,
    fixed_class_order: Sequence[int] | None = None,
    normalise: bool = True,
    data_root: str | Path | None = None,
    train_rows: int | None = None,
    test_rows: int | None = None,
) -> CLScenario:
    """Split MNIST, 60,000 + 10,000 images ``(1, 28, 28)``: the rows of Avalanche's ``SplitMNIST``, bit for bit.

    Fast, in three scenarios, but without transforms; :func:`.split_mnist` is Avalanche's own with all its options.

    :param n_experiences: a divisor of 10.
    :param scenario: see :func:`.split_stream`.
    :param seed: of the order of classes.
    :param fixed_class_order: the order of all classes, in place of ``seed``.
    :param normalise: take out the mean 0.1307 and divide by 0.3081; else pixels are within [0, 1].
    :param data_root: folder with ``MNIST/raw``; see :func:`.data_root`.
    :param train_rows: only so many training rows of each experience, drawn by ``seed``; None: all.
    :param test_rows: likewise for tests.
    :raises ValueError: naming the argument that is out of range, or if the folder does not exist.

    >>> benchmark = split_mnist_tensors(5, seed=0, train_rows=4)  # from the folder that MEMPLUGINS_DATA names
    >>> [len(experience.dataset) for experience in benchmark.train_stream]
    [4, 4, 4, 4, 4]
    """
    options = _options(MNIST_PIXELS, normalise, seed, train_rows, test_rows)
    data = _torchvision(MNIST, "mnist", data_root)
    return split_stream(data, n_experiences, scenario=scenario, fixed_class_order=fixed_class_order, **options)


def split_fmnist_tensors(
    n_experiences: int = 5,
    *,
    scenario: Scenario = "class-incremental",
    seed: int | None = None,
    fixed_class_order: Sequence[int] | None = None,
    normalise: bool = True,
    data_root: str | Path | None = None,
    train_rows: int | None = None,
    test_rows: int | None = None,
) -> CLScenario:
    """Split Fashion-MNIST: the rows of Avalanche's ``SplitFMNIST``, bit for bit.

    Arguments of :func:`split_mnist_tensors`; :func:`.split_fmnist` is Avalanche's own with all its options.

    >>> benchmark = split_fmnist_tensors(5, seed=0, train_rows=4)  # from the folder that MEMPLUGINS_DATA names
    >>> [len(experience.dataset) for experience in benchmark.train_stream]
    [4, 4, 4, 4, 4]
    """
    options = _options(FASHION_PIXELS, normalise, seed, train_rows, test_rows)
    data = _torchvision(FashionMNIST, "fashionmnist", data_root)
    return split_stream(data, n_experiences, scenario=scenario, fixed_class_order=fixed_class_order, **options)


def permuted_mnist_tensors(
    n_experiences: int = 10,
    *,
    scenario: Scenario = "domain-incremental",
    seed: int | None = None,
    normalise: bool = True,
    data_root: str | Path | None = None,
    train_rows: int | None = None,
    test_rows: int | None = None,
) -> CLScenario:
    """Permuted MNIST: the rows of Avalanche's ``PermutedMNIST``, bit for bit.

    Fast, in three scenarios, but without transforms; :func:`.permuted_mnist` is Avalanche's own with all its options.

    :param n_experiences: number of permutations, >= 1.
    :param scenario: see :func:`.permuted_stream`.
    :param seed: of the permutations.
    :param normalise: as in :func:`split_mnist_tensors`.
    :param data_root: likewise.
    :param train_rows: likewise.
    :param test_rows: likewise.
    :raises ValueError: likewise.

    >>> benchmark = permuted_mnist_tensors(2, seed=0)  # from the folder that MEMPLUGINS_DATA names
    >>> len(benchmark.train_stream)
    2
    """
    options = _options(MNIST_PIXELS, normalise, seed, train_rows, test_rows)
    data = _torchvision(MNIST, "mnist", data_root)
    return permuted_stream(data, n_experiences, scenario=scenario, **options)


def split_cifar10_features(
    n_experiences: int = 5,
    *,
    scenario: Scenario = "class-incremental",
    seed: int | None = None,
    fixed_class_order: Sequence[int] | None = None,
    file: str = FEATURES,
    data_root: str | Path | None = None,
    train_rows: int | None = None,
    test_rows: int | None = None,
) -> CLScenario:
    """Split CIFAR-10 behind a frozen extractor: 128 numbers ``(128, 1, 1)`` for an image, from a file of bytes.

    The file is made once by ``python bench/cifar_features.py``: EfficientNet-Lite0, trained on ImageNet, its 1,280
    features through a fixed random projection. One of your own extractor does as well: safetensors ``train_x``,
    ``test_x`` ``(N, 128)`` uint8, ``train_y``, ``test_y`` ``(N,)`` int64; byte c stands for 12 (c / 255 - 1/2).

    :param n_experiences: a divisor of 10.
    :param scenario: see :func:`.split_stream`.
    :param seed: of the order of classes.
    :param fixed_class_order: the order of all classes, in place of ``seed``.
    :param file: its name in the data root.
    :param data_root: see :func:`.data_root`.
    :param train_rows: as in :func:`split_mnist_tensors`.
    :param test_rows: likewise.
    :raises ValueError: naming the argument that is out of range, or if there is no such file.

    >>> benchmark = split_cifar10_features(5, seed=0)  # from the folder that MEMPLUGINS_DATA names
    >>> benchmark.train_stream[0].dataset[0][0].shape
    torch.Size([128, 1, 1])
    """
    root = find_root(data_root)
    if root is None or not (root / file).is_file():
        where = f"the folder that {ENV} names" if root is None else str(root)
        raise ValueError(
            f"split-cifar10-features: expected {file} in {where}; python bench/cifar_features.py makes it from CIFAR-10"
        )
    from safetensors.numpy import load_file

    held = load_file(root / file)
    x_train, x_test = (held[name].reshape(len(held[name]), -1, 1, 1) for name in ("train_x", "test_x"))
    options = _options(FEATURE_PIXELS, True, seed, train_rows, test_rows)
    data = Bytes(x_train, held["train_y"], x_test, held["test_y"])
    return split_stream(data, n_experiences, scenario=scenario, fixed_class_order=fixed_class_order, **options)


def _options(
    pixels: tuple[float, float], normalise: bool, seed: int | None, train_rows: int | None, test_rows: int | None
) -> dict[str, Any]:
    """What every stream takes; ``pixels``: their mean and standard deviation."""
    mean, std = pixels if normalise else (0.0, 1.0)
    return {"seed": seed, "mean": mean, "std": std, "train_rows": train_rows, "test_rows": test_rows}


def _torchvision(kind: Any, name: str, root: str | Path | None) -> Bytes:
    folder = find_root(root) or default_dataset_location(name)
    parts = []
    for train in (True, False):
        data = kind(str(folder), train=train, download=True)
        parts += [data.data.numpy()[:, None], data.targets.numpy()]
    return Bytes(*parts)
