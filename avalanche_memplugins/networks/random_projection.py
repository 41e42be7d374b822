"""A projection drawn from a seed: fewer numbers of a row, where nothing is learned or stored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check


class RandomProjection(nn.Module):
    r"""Rows as vectors of fewer numbers, by an orthonormal matrix that is drawn from a seed.

    .. math:: f(x) = P^T x, \qquad P^T P = I

    Distances are kept on average. P is made anew from its seed: it is no parameter and in no ``state_dict``.

    :param shape: of a row.
    :param numbers: of a vector, from 1 to the numbers of a row.
    :param seed: of P.
    :raises ValueError: for arguments out of range, naming the argument.

    Source: Johnson & Lindenstrauss, "Extensions of Lipschitz mappings into a Hilbert space", 1984.

    >>> project = RandomProjection((1, 28, 28), 60)
    >>> project(torch.rand(2, 1, 28, 28)).shape, len(project.state_dict())
    (torch.Size([2, 60]), 0)
    """

    matrix: Tensor

    def __init__(self, shape: Sequence[int], numbers: int, *, seed: int = 0) -> None:
        super().__init__()
        self.shape = check.row_shape(shape)
        self.numbers = check.integer("numbers", numbers, least=1, most=self.shape.numel())
        self.seed = check.integer("seed", seed, least=0, most=2**63 - 1)
        self.register_buffer("matrix", orthonormal(self.shape.numel(), self.numbers, seed).float(), persistent=False)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{tuple(self.shape)}, {self.numbers}, seed={self.seed}"

    def forward(self, x: Tensor) -> Tensor:
        """Vectors ``(B, numbers)``, float32, of rows ``(B, *shape)``."""
        check.rows("x", x, self.shape)
        with torch.autocast(x.device.type, enabled=False):
            return x.flatten(1).float() @ self.matrix


def orthonormal(width: int, numbers: int, seed: int) -> Tensor:
    """Columns ``(width, numbers)`` of an orthonormal matrix drawn from a seed, float64."""
    drawn = torch.randn(width, numbers, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis, upper = torch.linalg.qr(drawn)
    signed: Tensor = basis * upper.diagonal().sign()  # signs are free in a QR decomposition
    return signed
