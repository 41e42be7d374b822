"""Images as bytes, and rows of them as the model gets them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class Bytes(NamedTuple):
    """A data set: images ``(N, C, H, W)`` uint8 and classes ``(N,)`` int64, to train and to test on."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class ByteRows(Dataset[tuple[Tensor, int]]):
    r"""Some rows of an array of bytes, as ``ToTensor`` and ``Normalize`` would make them.

    .. math:: x = (c / 255 - \mu) / \sigma

    :param x: images ``(N, C, H, W)`` uint8; shared, not copied.
    :param rows: which of them, ``(n,)``.
    :param targets: classes of these, ``(n,)``.
    :param mean: :math:`\mu`, one for all channels.
    :param std: :math:`\sigma` > 0, likewise.
    :param order: order of the values of an image, ``(C * H * W,)``; None: as they lie.
    """

    def __init__(
        self,
        x: np.ndarray,
        rows: np.ndarray,
        targets: np.ndarray,
        *,
        mean: float = 0.0,
        std: float = 1.0,
        order: np.ndarray | None = None,
    ) -> None:
        self.x, self.rows, self.order = x, rows, order
        self.mean, self.std = mean, std
        self.targets: list[int] = targets.tolist()
        # What the two transforms make of each byte, by their own arithmetic.
        levels = torch.arange(256, dtype=torch.float32).div_(255)
        self.levels = levels.sub_(torch.tensor(mean)).div_(torch.tensor(std)).numpy()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = self.x[self.rows[i]]
        if self.order is not None:
            image = image.reshape(-1)[self.order].reshape(image.shape)
        return torch.from_numpy(self.levels[image]), self.targets[i]


class Draw:
    """Some of each experience's rows, without replacement; the same for the same seed.

    :param rows: how many; None: all, in their order.
    :param seed: None: torch's global generator decides.
    """

    def __init__(self, rows: int | None, seed: int | None) -> None:
        self.rows = rows
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __call__(self, found: np.ndarray) -> np.ndarray:
        """Those of ``found`` ``(n,)`` that are drawn."""
        if self.rows is None:
            return found
        order = torch.randperm(len(found), generator=self.generator)[: self.rows]
        drawn: np.ndarray = found[order.numpy()]
        return drawn
