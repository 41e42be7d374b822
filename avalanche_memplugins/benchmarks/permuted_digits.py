"""Permuted Digits: the same ten classes, each time under another order of the pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from avalanche.benchmarks import NCScenario, nc_benchmark
from torch import Tensor
from torch.utils.data import TensorDataset

from avalanche_memplugins import _checks as check

from .digits_data import digits

Transform = Callable[[Tensor], Tensor]


def PermutedDigits(
    n_experiences: int = 5,
    *,
    return_task_id: bool = False,
    seed: int | None = None,
    train_transform: Transform | None = None,
    eval_transform: Transform | None = None,
) -> NCScenario:
    """Permuted MNIST's protocol on scikit-learn's digits: all ten classes in every experience.

    As in Avalanche's ``PermutedMNIST`` every experience has its own random permutation of the pixels, the
    first one too. 1,438 images to train on and 359 to test on in each experience, always the same ones
    (:func:`.digits`); x ``(1, 8, 8)`` float32 in [0, 1]. No download and no image decoding.

    :param n_experiences: number of permutations, >= 1.
    :param return_task_id: give each experience its own task label; else all have 0.
    :param seed: for the permutations; the first n are the same whatever ``n_experiences`` is. None: random.
    :param train_transform: applied to each permuted training image ``(1, 8, 8)``.
    :param eval_transform: applied to each permuted test image ``(1, 8, 8)``.
    :returns: a benchmark with ``train_stream`` and ``test_stream`` whose batches are ``[x, y, t]``.
    :raises ValueError: if ``n_experiences`` is below 1.

    >>> benchmark = PermutedDigits(3, seed=0)
    >>> [len(experience.classes_in_this_experience) for experience in benchmark.train_stream]
    [10, 10, 10]
    """
    check.integer("n_experiences", n_experiences, least=1, most=10**6)
    if seed is not None:
        check.integer("seed", seed, least=0, most=2**32 - 1)
    check.flag("return_task_id", return_task_id)
    check.optional_function(train_transform=train_transform, eval_transform=eval_transform)
    data = digits()
    # The generator and the calls of Avalanche's PermutedMNIST.
    rng = np.random.RandomState(seed)
    orders = [torch.from_numpy(rng.permutation(64)) for _ in range(n_experiences)]
    return nc_benchmark(
        [TensorDataset(_permute(data.x_train, order), data.y_train) for order in orders],
        [TensorDataset(_permute(data.x_test, order), data.y_test) for order in orders],
        n_experiences=n_experiences,
        task_labels=return_task_id,
        shuffle=False,
        class_ids_from_zero_in_each_exp=True,
        one_dataset_per_exp=True,
        train_transform=train_transform,
        eval_transform=eval_transform,
    )


def _permute(x: Tensor, order: Tensor) -> Tensor:
    return x.flatten(1)[:, order].view_as(x)
