"""Gaussians that answer: log densities, shrinkage of covariances, and class posteriors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check


def gaussian_log_density(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    r"""Log densities of rows under K Gaussians.

    .. math:: \log \mathcal N(x; \mu_k, C_k) = -\tfrac12 \left( \| L_k^{-1} (x - \mu_k) \|^2 + C \log 2 \pi \right)
        - \sum_i \log (L_k)_{ii}, \qquad L_k L_k^T = C_k

    With one covariance a class this is the quadratic discriminant (QDA), with one for all the linear one (LDA).

    :param x: rows ``(B, C)``.
    :param mean: :math:`\mu`, ``(K, C)``.
    :param covariance: ``(K, C, C)``, or ``(C, C)`` for all alike, positive definite.
    :returns: ``(B, K)``.
    :raises ValueError: for shapes that do not fit, or a covariance that is not positive definite.

    >>> x, mean = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    >>> density = gaussian_log_density(x, mean, torch.eye(2))
    >>> (density[0, 0] - density[0, 1]).item()
    0.5
    """
    check.shaped(x=(x, "B C"), mean=(mean, "K C"), covariance=(covariance, f"{_lead(covariance)}C C"))
    return whitened_log_density(x, mean, inverse_factors(cholesky_factors(covariance)))


def cholesky_factors(covariance: Tensor) -> Tensor:
    r"""Lower triangles L with :math:`L L^T = C`.

    :param covariance: ``(..., C, C)``, positive definite.
    :returns: ``(..., C, C)``.
    :raises ValueError: if one is not positive definite.

    >>> cholesky_factors(torch.tensor([[4.0]]))
    tensor([[2.]])
    """
    check.shaped(covariance=(covariance, "... C C"))
    factor, info = torch.linalg.cholesky_ex(covariance)
    if bool((info != 0).any()) or not bool(torch.isfinite(factor).all()):
        raise ValueError(
            "covariance: expected positive definite matrices, got one that is not; add a ridge to its diagonal"
        )
    lower: Tensor = factor
    return lower


def inverse_factors(factor: Tensor) -> Tensor:
    """Inverses ``(..., C, C)`` of lower triangles ``(..., C, C)``, lower triangles themselves.

    >>> inverse_factors(torch.tensor([[2.0]]))
    tensor([[0.5000]])
    """
    check.shaped(factor=(factor, "... C C"))
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand_as(factor)
    inverse: Tensor = torch.linalg.solve_triangular(factor, eye, upper=False)
    return inverse


def whitened_log_density(x: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    r""":func:`gaussian_log_density` by :math:`W = L^{-1}`, which is worth keeping for many rows.

    :param x: rows ``(B, C)``.
    :param mean: ``(K, C)``.
    :param whitening: W, lower triangles ``(K, C, C)``, or ``(C, C)`` for all alike.
    :returns: ``(B, K)``.

    >>> whitened_log_density(torch.zeros(1, 2), torch.zeros(1, 2), 2 * torch.eye(2))  # log 4 / (2 pi)
    tensor([[-0.4516]])
    """
    check.shaped(x=(x, "B C"), mean=(mean, "K C"), whitening=(whitening, f"{_lead(whitening)}C C"))
    half = whitening.diagonal(dim1=-2, dim2=-1).log().sum(-1) - 0.5 * x.shape[1] * math.log(2 * math.pi)
    if whitening.ndim == 2:
        z, centres = x @ whitening.mT, mean @ whitening.mT
        # Differences, not products: these lose digits where means are far from 0.
        return half - 0.5 * torch.cdist(z, centres, compute_mode="donot_use_mm_for_euclid_dist").square()
    out = x.new_empty(len(x), len(mean))
    for k, matrix in enumerate(whitening):
        out[:, k] = half[k] - 0.5 * ((x - mean[k]) @ matrix.mT).square().sum(1)
    return out


def low_rank_log_density(x: Tensor, mean: Tensor, factors: Tensor, diagonal: Tensor) -> Tensor:
    r"""Log densities under Gaussians of covariance :math:`F_k^T F_k + \mathrm{diag}(d_k)`, which is never formed.

    .. math:: C^{-1} = D^{-1} - D^{-1} F^T (I + F D^{-1} F^T)^{-1} F D^{-1}, \qquad
        \log |C| = \log |D| + \log |I + F D^{-1} F^T|

    Without factors (r = 0) it is the diagonal discriminant (naive Bayes); with a diagonal of ones besides, the nearest
    mean.

    :param x: rows ``(B, C)``.
    :param mean: ``(K, C)``.
    :param factors: F, ``(K, r, C)``, r >= 0.
    :param diagonal: d, ``(K, C)``, > 0.
    :returns: ``(B, K)``.
    :raises ValueError: for shapes that do not fit.

    Source: the identities of Woodbury and of Sylvester.

    >>> x, mean = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    >>> low_rank_log_density(x, mean, torch.zeros(2, 0, 2), torch.ones(2, 2)).softmax(1)
    tensor([[0.5000, 0.5000]])
    """
    check.shaped(x=(x, "B C"), mean=(mean, "K C"), factors=(factors, "K r C"), diagonal=(diagonal, "K C"))
    root = diagonal.sqrt()
    scaled = factors / root[:, None]  # (K, r, C)
    inner = torch.eye(factors.shape[1], dtype=x.dtype, device=x.device) + scaled @ scaled.mT
    lower = cholesky_factors(inner) if factors.shape[1] else inner
    log_det = 2 * (root.log().sum(1) + lower.diagonal(dim1=-2, dim2=-1).log().sum(1))
    out = x.new_empty(len(x), len(mean))
    for k in range(len(mean)):
        z = (x - mean[k]) / root[k]
        distance = z.square().sum(1)
        if factors.shape[1]:
            inside = torch.linalg.solve_triangular(lower[k], scaled[k] @ z.mT, upper=False)
            distance = distance - inside.square().sum(0)
        out[:, k] = -0.5 * (distance + log_det[k] + x.shape[1] * math.log(2 * math.pi))
    return out


def shrink_covariance(covariance: Tensor, tied: Tensor, *, shrinkage: float, ridge: float) -> Tensor:
    r"""Covariances drawn towards a shared one, and away from being singular.

    .. math:: C_k = (1 - a) S_k + a \, T_k + r \, v_k I, \qquad v_k = \tfrac1C \operatorname{tr} T_k

    :param covariance: S, ``(..., C, C)``.
    :param tied: T, ``(C, C)`` or as S; as a rule the mean of the class covariances.
    :param shrinkage: a, 0 to 1; 1 is LDA, 0 QDA.
    :param ridge: r, >= 0.
    :returns: ``(..., C, C)``.

    Source: FeCAM, Goswami et al. 2023, arXiv 2309.14062, equation 8, with the shared matrix instead of its
    off-diagonal mean.

    >>> shrink_covariance(torch.eye(1), 3 * torch.eye(1), shrinkage=0.5, ridge=0.0)
    tensor([[2.]])
    """
    check.shaped(covariance=(covariance, "... C C"), tied=(tied, "... C C"))
    check.broadcast(covariance=covariance, tied=tied)
    check.number("shrinkage", shrinkage, least=0, most=1)
    check.number("ridge", ridge, least=0)
    mean_variance = tied.diagonal(dim1=-2, dim2=-1).mean(-1)
    eye = torch.eye(tied.shape[-1], dtype=tied.dtype, device=tied.device)
    return (1 - shrinkage) * covariance + shrinkage * tied + ridge * mean_variance[..., None, None] * eye


def extend_covariance(leading: Tensor, shared: Tensor) -> Tensor:
    r"""Covariances of all numbers, of those of the first k and a shared one, which says how the others follow them.

    .. math:: C = \begin{pmatrix} A & A R^T \\ R A & V + R A R^T \end{pmatrix}, \qquad
        R = T_{21} T_{11}^{-1}, \qquad V = T_{22} - R \, T_{12}

    The regression R of the others on the first, and what it leaves, V, are those of the shared covariance T.

    :param leading: A, ``(..., k, k)``, k <= C.
    :param shared: T, ``(..., C, C)``, positive definite.
    :returns: ``(..., C, C)``; T where A is its first block.
    :raises ValueError: for shapes that do not fit.

    >>> extend_covariance(torch.tensor([[4.0]]), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    tensor([[4.0000, 2.0000],
            [2.0000, 1.7500]])
    """
    check.shaped(leading=(leading, "... k k"), shared=(shared, "... C C"))
    k = leading.shape[-1]
    if k > shared.shape[-1]:
        raise ValueError(f"leading: expected at most the {shared.shape[-1]} numbers of the shared covariance, got {k}")
    first, beside = shared[..., :k, :k], shared[..., :k, k:]
    regression = torch.linalg.solve(first, beside).mT
    rest = shared[..., k:, k:] - regression @ beside
    upper = leading @ regression.mT
    top = torch.cat([leading, upper], -1)
    return torch.cat([top, torch.cat([upper.mT, rest + regression @ upper], -1)], -2)


def merge_scatters(
    first: tuple[Tensor, Tensor, Tensor], second: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Counts, means and scatters of two sets of rows as those of their union.

    .. math:: S = S_1 + S_2 + \tfrac{n_1 n_2}{n_1 + n_2} (\mu_1 - \mu_2) (\mu_1 - \mu_2)^T

    Exact, so that sums made apart - on several devices, or in any order - give what one pass over all rows gives. A
    side may be empty: count 0, and zeros.

    :param first: n ``(K,)``, :math:`\mu` ``(K, C)``, S ``(K, C, C)``.
    :param second: likewise.
    :returns: likewise.

    Source: Chan, Golub & LeVeque 1979.

    >>> one = torch.tensor([1]), torch.tensor([[0.0]]), torch.tensor([[[0.0]]])
    >>> other = torch.tensor([1]), torch.tensor([[2.0]]), torch.tensor([[[0.0]]])
    >>> [part.flatten().tolist() for part in merge_scatters(one, other)]
    [[2], [1.0], [2.0]]
    """
    for name, sums in (("first", first), ("second", second)):
        if not isinstance(sums, tuple | list) or len(sums) != 3:
            raise TypeError(f"{name}: expected counts, means and scatters, got {check.show(sums)}")
        count, mean, scatter = (check.tensor(name, part) for part in sums)
        shape = tuple(mean.shape)
        fits = mean.ndim == 2 and count.shape == shape[:1] and tuple(scatter.shape) == (*shape, shape[-1])
        if not fits or shape != tuple(first[1].shape) or not mean.is_floating_point():
            raise ValueError(
                f"{name}: expected (K,), (K, C) and (K, C, C), alike on both sides, got {tuple(count.shape)}, {shape} "
                f"and {tuple(scatter.shape)}"
            )
    (n, mean, scatter), (m, other, more) = first, second
    total = n + m
    share = m.to(mean.dtype) / total.clamp_min(1)
    gap = other - mean
    between = (n * share)[:, None, None] * gap[:, :, None] * gap[:, None, :]
    return total, mean + share[:, None] * gap, scatter + more + between


def class_log_posterior(log_density: Tensor, labels: Tensor, log_prior: Tensor, classes: int) -> Tensor:
    r"""Log posteriors of classes that hold one Gaussian or several.

    .. math:: \log p(c \mid x) = \log \sum_{g \in c} \pi_g \, p_g(x) - \log \sum_g \pi_g \, p_g(x)

    :param log_density: of G Gaussians, ``(B, G)``.
    :param labels: the class of each, int64 ``(G,)``, from 0 to ``classes - 1``.
    :param log_prior: :math:`\log \pi`, ``(G,)``; a constant more or less changes nothing.
    :param classes: N, >= 1. A class without a Gaussian has minus infinity.
    :returns: ``(B, N)``.
    :raises ValueError: for shapes that do not fit, or labels out of range.

    >>> density = torch.tensor([[0.0, 0.0, 0.0]])
    >>> class_log_posterior(density, torch.tensor([0, 0, 1]), torch.zeros(3), 2).exp()
    tensor([[0.6667, 0.3333]])
    """
    check.shaped(log_density=(log_density, "B G"), log_prior=(log_prior, "G"))
    check.positive_integer("classes", classes)
    check.labels("labels", labels, log_density.shape[1])
    check.label_range("labels", labels, classes - 1)
    joint = log_density + log_prior
    index = labels.to(joint.device, torch.int64)
    top = joint.new_full((len(joint), classes), -math.inf)
    top = top.scatter_reduce(1, index.expand(len(joint), -1), joint, "amax")
    inside = (joint - top[:, index]).exp().nan_to_num(0.0)  # of densities that are 0 throughout a class
    total = torch.zeros_like(top).index_add_(1, index, inside)
    return (top + total.log()).nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf).log_softmax(1)


def _lead(matrices: Tensor) -> str:
    """One matrix for all, or one each."""
    return "K " if isinstance(matrices, Tensor) and matrices.ndim > 2 else ""
