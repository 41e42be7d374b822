"""Whitening of images for energy networks, and the preconditioner that undoes it in reads."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check

Self = TypeVar("Self", bound="Whitening")


class Whitening(nn.Module):
    r"""Whitened coordinates :math:`u = (x - \mu) Z`, and the preconditioner :math:`A = P P^\top` of reads.

    .. math::
        C = U \Lambda U^\top, \quad Z = U_r (\Lambda_r + \epsilon \bar\lambda)^{-1/2}, \quad P = U_r \Lambda_r^{1/2}

    with :math:`C` the covariance of the training images and :math:`U_r` its first :math:`r` eigenvectors; for
    :math:`r` = D this is ZCA up to a rotation, which the layer behind takes up. Pixels of images share a strong mean
    and are correlated, so that the gradients of all patterns that are written are nearly parallel and one spoils the
    other; of whitened images they are not. A read's gradient comes back through :math:`Z`, and :math:`P P^\top` turns
    it from a doubly whitened pattern into the pattern. Mean, Z and P are parameters, meta-learned from there.

    :param mean: ``(D,)``.
    :param into: :math:`Z`, ``(D, r)``.
    :param out: :math:`P`, ``(D, r)``.

    >>> x = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)).cumsum(1)  # correlated
    >>> whitening = Whitening.of(x, eps=0.0)
    >>> torch.allclose(whitening(x).T.cov(), torch.eye(4), atol=1e-2)
    True
    """

    def __init__(self, mean: Tensor, into: Tensor, out: Tensor) -> None:
        if torch.get_default_device().type != "meta":  # there a network is made without data, to know its shapes
            check.floats(mean=mean, into=into, out=out)
        super().__init__()
        if into.shape != out.shape or into.ndim != 2 or mean.shape != into.shape[:1]:
            raise ValueError(
                f"into, out: expected the same shape (D, r) and mean (D,), got {tuple(into.shape)}, "
                f"{tuple(out.shape)} and {tuple(mean.shape)}"
            )
        # Row by row whatever they come from: products of another layout round differently, and then a network that was
        # loaded would not read bit for bit as the one saved.
        copies = (part.clone(memory_format=torch.contiguous_format) for part in (mean, into, out))
        self.mean, self.into, self.out = (nn.Parameter(part) for part in copies)

    @classmethod
    def of(cls: type[Self], x: Tensor, *, rank: int | None = None, eps: float = 0.05) -> Self:
        """Whitening of images.

        :param x: ``(N, *shape)``; flattened.
        :param rank: coordinates to keep; None: all.
        :param eps: share of the mean variance added to each, so that rare directions are not blown up.
        :raises ValueError: if there are fewer than two images, or ``rank`` is not in 1 ... D.
        """
        if not check.batch("x", x).is_floating_point():
            raise ValueError(f"x: expected floating-point images, got {x.dtype}")
        check.number("eps", eps, least=0)
        flat = x.flatten(1).double()
        if len(flat) < 2:
            raise ValueError(f"x: expected at least two images, got {len(flat)}")
        size = flat.shape[1]
        rank = size if rank is None else check.integer("rank", rank)
        if not bool(flat.isfinite().all()):
            raise ValueError("x: expected finite values, got others")
        if not 1 <= rank <= size:
            raise ValueError(f"rank: expected 1 to {size}, got {rank}")
        values, vectors = torch.linalg.eigh(flat.T.cov())
        values, vectors = values.flip(0).clamp(min=0)[:rank], vectors.flip(1)[:, :rank]
        floor = eps * float(flat.var(0).mean())
        return cls(flat.mean(0).float(), (vectors / (values + floor).sqrt()).float(), (vectors * values.sqrt()).float())

    @classmethod
    def empty(cls: type[Self], size: int, rank: int) -> Self:
        """Of the right shape, for weights that are loaded."""
        check.positive_integer("size", size)
        check.positive_integer("rank", rank)
        return cls(torch.zeros(size), torch.zeros(size, rank), torch.zeros(size, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Coordinates ``(..., r)`` of flat images ``(..., D)``."""
        check.rows("x", x, self.mean.shape, "...")
        return (x - self.mean) @ self.into

    def precondition(self, slope: Tensor) -> Tensor:
        """:math:`A` times gradients ``(..., D)``."""
        check.rows("slope", slope, self.mean.shape, "...")
        return (slope @ self.out) @ self.out.T
