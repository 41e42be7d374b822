"""The linear discriminant as a strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch.nn import Module

from avalanche_memplugins.memories import GaussianMemory
from avalanche_memplugins.strategies._ready import Shared, ready_made
from avalanche_memplugins.strategies._untrained import Untrained, vectors

if TYPE_CHECKING:
    from typing_extensions import Unpack


@ready_made
class StreamingLDA(Untrained):
    r"""Gaussians of one shared covariance: mean and count a class, and one matrix (LDA).

    .. math:: p(c \mid x) \propto \mathcal N(f(x); \mu_c, C + r \bar v I)

    One pass, in any order; nothing is trained. Avalanche has a strategy of the same name, which takes rows one by one
    and keeps float32; this one takes batches, packs what it keeps, and needs no ``input_size``. Import it from where
    you mean: ``avalanche_memplugins.strategies`` or ``avalanche.training.supervised``.

    :param num_classes: classes in the whole stream.
    :param model: makes vectors ``(B, C)`` of rows, such as a frozen network or
        :class:`~avalanche_memplugins.networks.Scattering`; it is copied and runs in eval mode. None: rows as they are.
    :param precision: of what is kept: ``"float32"``, or 8, 6 or 4 bits, packed at the end of each experience.
    :param ridge: r, added to the diagonal, as a share of the mean variance.
    :param train_mb_size: rows of a batch in training.

    Source: Hayes & Kanan, "Lifelong machine learning with deep streaming linear discriminant analysis", 2020.

    >>> strategy = StreamingLDA(num_classes=10, evaluator=None)
    >>> strategy.memory.predict  # doctest: +ELLIPSIS
    <bound method GaussianMemory.predict of ...>
    """

    def __init__(
        self,
        *,
        num_classes: int,
        model: Module | None = None,
        precision: Literal["float32", 4, 6, 8] = "float32",
        ridge: float = 3e-3,
        train_mb_size: int = 64,
        **template: Unpack[Shared],
    ) -> None:
        memory = GaussianMemory(embedding=vectors(model), tied=True, rank=0, precision=precision, ridge=ridge)
        super().__init__(num_classes=num_classes, memory=memory, train_mb_size=train_mb_size, **template)
