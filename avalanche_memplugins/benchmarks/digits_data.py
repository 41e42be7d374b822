"""The handwritten digits that scikit-learn carries, with one fixed train/test split."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

SPLIT_SEED = 1797
TEST_SHARE = 0.2


class DigitsData(NamedTuple):
    """The digits as tensors: x ``(N, 1, 8, 8)`` float32 in [0, 1], y ``(N,)`` int64 in 0..9.

    ``train_index`` and ``test_index`` are the rows' numbers in scikit-learn's order.

    >>> digits().x_train.shape, digits().y_test.shape
    (torch.Size([1438, 1, 8, 8]), torch.Size([359]))
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    train_index: Tensor
    test_index: Tensor


@lru_cache(maxsize=1)
def digits() -> DigitsData:
    r"""The 1,797 real images of 8x8 pixels, split once for all: 1,438 to train on, 359 to test on.

    Pixels are the 17 grey levels of the source, :math:`x = k / 16`. The split is stratified: of each class's
    :math:`n_c` images the first :math:`\mathrm{round}(n_c / 5)` of a random order are for testing.

    :returns: the tensors; they are shared, so do not write into them.

    >>> data = digits()
    >>> len(data.y_train), len(data.y_test), data.x_train.max()
    (1438, 359, tensor(1.))
    """
    bunch = load_digits()
    x = torch.from_numpy(bunch.images).to(torch.float32).div_(16).unsqueeze(1)
    y = torch.from_numpy(bunch.target).to(torch.int64)
    train, test = split_rows(bunch.target)
    return DigitsData(x[train], y[train], x[test], y[test], train, test)


def split_rows(labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Numbers of the rows to train on and to test on, each ascending; see :func:`digits` for the rule.

    :param labels: ``(N,)`` integers.
    """
    # RandomState and not default_rng: NumPy promises never to change its stream.
    rng = np.random.RandomState(SPLIT_SEED)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held_out[rng.permutation(rows)[: round(TEST_SHARE * len(rows))]] = True
    return torch.from_numpy(np.flatnonzero(~held_out)), torch.from_numpy(np.flatnonzero(held_out))
