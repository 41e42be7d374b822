"""Ridge regression over random features as a strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch.nn import Module

from avalanche_memplugins.memories import RandomProjectionMemory
from avalanche_memplugins.strategies._ready import Shared, ready_made
from avalanche_memplugins.strategies._untrained import Untrained, vectors

if TYPE_CHECKING:
    from typing_extensions import Unpack


@ready_made
class RanPAC(Untrained):
    r"""Least squares over random features of a frozen network, from sums over the stream.

    .. math:: o(x) = C (G + \lambda I)^{-1} h, \qquad h = \max(0, W f(x))

    One pass, in any order; nothing is trained. It is Avalanche's loop around a
    :class:`~avalanche_memplugins.memories.RandomProjectionMemory`, which says what is kept.

    :param num_classes: classes in the whole stream.
    :param model: f, makes vectors ``(B, F)`` of rows; it is copied and runs in eval mode. None: rows as they are.
    :param width: numbers in h. The paper takes 10,000; bytes grow with its square.
    :param ridge: :math:`\lambda`, or ``"auto"``: chosen on rows held back.
    :param seed: of W and of the rows held back. None: drawn from torch's global generator.
    :param train_mb_size: mini-batch size for training.

    Source: McDonnell et al., "RanPAC: random projections and pre-trained models for continual learning", 2023,
    arXiv 2307.02251, without its optional first training of adapters.

    >>> strategy = RanPAC(num_classes=10, width=500, evaluator=None)
    >>> strategy.memory.width
    500
    """

    def __init__(
        self,
        *,
        num_classes: int,
        model: Module | None = None,
        width: int = 1_000,
        ridge: float | Literal["auto"] = "auto",
        seed: int | None = None,
        train_mb_size: int = 64,
        **template: Unpack[Shared],
    ) -> None:
        memory = RandomProjectionMemory(vectors(model), width, ridge=ridge, seed=seed)
        super().__init__(num_classes=num_classes, memory=memory, train_mb_size=train_mb_size, **template)
