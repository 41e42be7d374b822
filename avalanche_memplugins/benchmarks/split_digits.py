"""Split Digits: the classes arrive a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from avalanche.benchmarks import NCScenario, nc_benchmark
from torch import Tensor
from torch.utils.data import TensorDataset

from avalanche_memplugins import _checks as check

from .digits_data import digits

Transform = Callable[[Tensor], Tensor]


def SplitDigits(
    n_experiences: int = 5,
    *,
    return_task_id: bool = False,
    seed: int | None = None,
    fixed_class_order: Sequence[int] | None = None,
    shuffle: bool = True,
    class_ids_from_zero_in_each_exp: bool = False,
    class_ids_from_zero_from_first_exp: bool = False,
    train_transform: Transform | None = None,
    eval_transform: Transform | None = None,
) -> NCScenario:
    """Split MNIST's protocol on scikit-learn's digits: by default five experiences of two classes.

    1,438 images to train on, 359 to test on, always the same ones (:func:`.digits`); x ``(1, 8, 8)``
    float32 in [0, 1]. No download and no image decoding. Arguments as in Avalanche's ``SplitMNIST``.

    :param n_experiences: number of experiences, a divisor of the number of classes.
    :param return_task_id: give each experience its own task label; else all have 0.
    :param seed: for the order of the classes. None: torch's global generator decides.
    :param fixed_class_order: the order of the classes, or of those wanted; ``seed`` is then ignored.
    :param shuffle: whether the order of the classes is random.
    :param class_ids_from_zero_in_each_exp: relabel the classes of each experience from 0.
    :param class_ids_from_zero_from_first_exp: relabel the classes in the order in which they arrive.
    :param train_transform: applied to each training image ``(1, 8, 8)``.
    :param eval_transform: applied to each test image ``(1, 8, 8)``.
    :returns: a benchmark with ``train_stream`` and ``test_stream`` whose batches are ``[x, y, t]``.
    :raises ValueError: if ``n_experiences`` does not divide the number of classes, or ``fixed_class_order``
        holds anything but distinct classes of 0..9.

    >>> benchmark = SplitDigits(5, fixed_class_order=list(range(10)))
    >>> [sorted(experience.classes_in_this_experience) for experience in benchmark.train_stream][:2]
    [[0, 1], [2, 3]]
    """
    check.positive_integer("n_experiences", n_experiences)
    check.optional_seed(seed)
    check.flags(
        return_task_id=return_task_id,
        shuffle=shuffle,
        class_ids_from_zero_in_each_exp=class_ids_from_zero_in_each_exp,
        class_ids_from_zero_from_first_exp=class_ids_from_zero_from_first_exp,
    )
    check.optional_function(train_transform=train_transform, eval_transform=eval_transform)
    order = None if fixed_class_order is None else list(check.integers("fixed_class_order", fixed_class_order, least=0))
    if order is not None and (len(set(order)) != len(order) or not set(order) <= set(range(10))):
        raise ValueError(f"fixed_class_order: expected distinct classes of 0..9, got {order}")
    n_classes = 10 if order is None else len(order)
    if n_experiences < 1 or n_classes % n_experiences:
        raise ValueError(f"n_experiences: expected a divisor of the {n_classes} classes, got {n_experiences}")
    data = digits()
    return nc_benchmark(
        TensorDataset(data.x_train, data.y_train),
        TensorDataset(data.x_test, data.y_test),
        n_experiences=n_experiences,
        task_labels=return_task_id,
        seed=seed,
        fixed_class_order=order,
        shuffle=shuffle,
        class_ids_from_zero_in_each_exp=class_ids_from_zero_in_each_exp,
        class_ids_from_zero_from_first_exp=class_ids_from_zero_from_first_exp,
        train_transform=train_transform,
        eval_transform=eval_transform,
    )
