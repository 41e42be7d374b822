"""The nearest class mean as a strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch.nn import Module

from avalanche_memplugins.memories import GaussianMemory
from avalanche_memplugins.strategies._ready import Shared, ready_made
from avalanche_memplugins.strategies._untrained import Untrained, vectors

if TYPE_CHECKING:
    from typing_extensions import Unpack


@ready_made
class NearestMean(Untrained):
    r"""Every row belongs to the class whose mean is nearest: the least that a memory can answer by.

    .. math:: c(x) = \arg\min_c \| f(x) - \mu_c \|^2

    One pass, in any order; nothing is trained.

    :param num_classes: classes in the whole stream.
    :param model: makes vectors ``(B, C)`` of rows, such as a frozen network or
        :class:`~avalanche_memplugins.networks.Scattering`; it is copied and runs in eval mode. None: rows as they are.
    :param precision: of what is kept: ``"float32"``, or 8, 6 or 4 bits, packed at the end of each experience.
    :param train_mb_size: rows of a batch in training.

    Source: the last step of iCaRL, Rebuffi et al. 2017, over all rows instead of exemplars.

    >>> strategy = NearestMean(num_classes=10, evaluator=None)
    >>> strategy.memory.predict  # doctest: +ELLIPSIS
    <bound method GaussianMemory.predict of ...>
    """

    def __init__(
        self,
        *,
        num_classes: int,
        model: Module | None = None,
        precision: Literal["float32", 4, 6, 8] = "float32",
        train_mb_size: int = 64,
        **template: Unpack[Shared],
    ) -> None:
        memory = GaussianMemory(embedding=vectors(model), tied="unit", rank=0, precision=precision)
        super().__init__(num_classes=num_classes, memory=memory, train_mb_size=train_mb_size, **template)
