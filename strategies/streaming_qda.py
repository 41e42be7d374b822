"""The quadratic discriminant as a strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch.nn import Module

from avalanche_memplugins.memories import GaussianMemory
from avalanche_memplugins.strategies._ready import Shared, ready_made
from avalanche_memplugins.strategies._untrained import Untrained, vectors

if TYPE_CHECKING:
    from typing_extensions import Unpack


@ready_made
class StreamingQDA(Untrained):
    r"""A Gaussian a class, or several, with covariances drawn towards their mean (QDA, FeCAM).

    .. math:: p(c \mid x) \propto \mathcal N(f(x); \mu_c, (1 - a) S_c + a \bar S + r \bar v I)

    One pass, in any order; nothing is trained. Strongest where features come from a network that stays as it is.

    :param num_classes: classes in the whole stream.
    :param model: makes vectors ``(B, C)`` of rows, such as a frozen network or
        :class:`~avalanche_memplugins.networks.Scattering`; it is copied and runs in eval mode. None: rows as they are.
    :param rank: factors of a covariance; None: whole matrices.
    :param components: Gaussians a class at most.
    :param by: a Gaussian for each ``"class"``, or for each in each ``"experience"``: for classes that come back in
        other guises.
    :param precision: of what is kept: ``"float32"``, or 8, 6 or 4 bits, packed at the end of each experience.
    :param shrinkage: of covariances, 0 to 1, see :class:`~avalanche_memplugins.memories.GaussianMemory`.
    :param ridge: added to their diagonals, as a share of the mean variance.
    :param seed: of the start of mixtures. None: drawn from torch's global generator.
    :param train_mb_size: rows of a batch in training.

    Source: Goswami et al., "FeCAM: exploiting the heterogeneity of class distributions", 2023, with S as their mean.

    >>> strategy = StreamingQDA(num_classes=10, evaluator=None)
    >>> strategy.memory.predict  # doctest: +ELLIPSIS
    <bound method GaussianMemory.predict of ...>
    """

    def __init__(
        self,
        *,
        num_classes: int,
        model: Module | None = None,
        rank: int | None = None,
        components: int = 1,
        by: Literal["class", "experience"] = "class",
        precision: Literal["float32", 4, 6, 8] = "float32",
        shrinkage: float = 0.1,
        ridge: float = 3e-3,
        seed: int | None = None,
        train_mb_size: int = 64,
        **template: Unpack[Shared],
    ) -> None:
        memory = GaussianMemory(
            embedding=vectors(model),
            rank=rank,
            components=components,
            by=by,
            precision=precision,
            shrinkage=shrinkage,
            ridge=ridge,
            seed=seed,
        )
        super().__init__(num_classes=num_classes, memory=memory, train_mb_size=train_mb_size, **template)
