"""The fixed split of the digits and the two benchmarks made of it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from avalanche_memplugins.benchmarks import PermutedDigits, SplitDigits, digits


def test_the_split_is_the_same_on_every_machine() -> None:
    data = digits()
    indices = torch.cat([data.train_index, data.test_index]).numpy().astype("<i8").tobytes()
    assert hashlib.sha256(indices).hexdigest() == "bd464a57cee4bea816fad523d005d860398ac621c179956b2deb6f3a90dca3bc"


def test_split_is_stratified_and_leaves_nothing_out() -> None:
    data, labels = digits(), load_digits().target
    assert sorted([*data.train_index.tolist(), *data.test_index.tolist()]) == list(range(1797))
    for label in range(10):
        total, held_out = int((labels == label).sum()), int((data.y_test == label).sum())
        assert held_out == round(total / 5)


def test_tensors_are_scikit_learns_images() -> None:
    data, images = digits(), load_digits().images
    assert data.x_train.dtype == torch.float32
    assert data.x_train.shape == (1438, 1, 8, 8)
    assert data.x_test.shape == (359, 1, 8, 8)
    assert (float(data.x_train.min()), float(data.x_train.max())) == (0.0, 1.0)
    row = int(data.test_index[17])
    np.testing.assert_array_equal(data.x_test[17, 0].numpy() * 16, images[row])
    assert int(data.y_test[17]) == load_digits().target[row]


def test_split_digits_has_each_class_once_and_yields_x_y_t() -> None:
    benchmark = SplitDigits(5, seed=3)
    classes = [exp.classes_in_this_experience for exp in benchmark.train_stream]
    assert [len(found) for found in classes] == [2] * 5
    assert sorted(label for found in classes for label in found) == list(range(10))
    assert sum(len(exp.dataset) for exp in benchmark.train_stream) == 1438
    for train, test in zip(benchmark.train_stream, benchmark.test_stream, strict=True):
        x, y, t = next(iter(DataLoader(test.dataset, batch_size=500)))
        assert x.shape[1:] == (1, 8, 8)
        assert set(y.tolist()) == set(train.classes_in_this_experience)
        assert set(t.tolist()) == {0}


def test_split_digits_takes_the_arguments_of_the_classic_benchmarks() -> None:
    order = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    fixed = SplitDigits(5, fixed_class_order=order, return_task_id=True)
    assert sorted(fixed.train_stream[0].classes_in_this_experience) == [8, 9]
    assert [exp.task_label for exp in fixed.train_stream] == [0, 1, 2, 3, 4]
    assert SplitDigits(2, seed=5).classes_order == SplitDigits(5, seed=5).classes_order
    assert SplitDigits(5, seed=5).classes_order != SplitDigits(5, seed=6).classes_order
    relabelled = SplitDigits(5, fixed_class_order=order, class_ids_from_zero_in_each_exp=True)
    assert {int(row[1]) for row in relabelled.train_stream[2].dataset} == {0, 1}
    few = SplitDigits(2, fixed_class_order=[3, 1, 4, 5])
    assert [sorted(exp.classes_in_this_experience) for exp in few.train_stream] == [[1, 3], [4, 5]]
    shifted = SplitDigits(5, seed=0, eval_transform=lambda x: x + 10)
    assert float(shifted.test_stream[0].dataset[0][0].min()) >= 10
    assert float(shifted.train_stream[0].dataset[0][0].max()) <= 1


def _rows(x: torch.Tensor, y: torch.Tensor) -> list[list[float]]:
    # Avalanche groups an experience's rows by class, so rows are compared as a set.
    return sorted([float(label), *pixels] for pixels, label in zip(x.flatten(1).tolist(), y.tolist(), strict=True))


def test_permuted_digits_follows_avalanches_permuted_mnist() -> None:
    data, benchmark = digits(), PermutedDigits(3, seed=11)
    rng = np.random.RandomState(11)
    for exp_train, exp_test in zip(benchmark.train_stream, benchmark.test_stream, strict=True):
        order = rng.permutation(64)
        assert not np.array_equal(order, np.arange(64)), "the first experience is permuted, too"
        x, y, t = next(iter(DataLoader(exp_train.dataset, batch_size=2000)))
        assert _rows(x, y) == _rows(data.x_train.flatten(1)[:, order], data.y_train)
        assert set(t.tolist()) == {0}
        x, y, _ = next(iter(DataLoader(exp_test.dataset, batch_size=2000)))
        assert _rows(x, y) == _rows(data.x_test.flatten(1)[:, order], data.y_test)


def test_permuted_digits_gives_task_labels_on_request() -> None:
    assert [exp.task_label for exp in PermutedDigits(3, return_task_id=True).train_stream] == [0, 1, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SplitDigits(3), "n_experiences: expected a divisor of the 10 classes, got"),
        (lambda: SplitDigits(0), "n_experiences: .* got 0"),
        (
            lambda: SplitDigits(2, fixed_class_order=[1, 1, 2, 3]),
            r"fixed_class_order: expected distinct classes of 0\.\.9, got",
        ),
        (
            lambda: SplitDigits(2, fixed_class_order=[1, 10]),
            r"fixed_class_order: expected distinct classes of 0\.\.9, got",
        ),
        (lambda: PermutedDigits(0), "n_experiences: expected an integer >= 1, got"),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
