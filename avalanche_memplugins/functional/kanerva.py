r"""The Kanerva machine's linear-Gaussian memory: Bayesian write, exact un-write, addressing, divergence.

A memory :math:`M` of :math:`K` rows and :math:`C` columns is matrix normal, :math:`p(M) = \mathcal{MN}(R, U, I)`; an
item with address :math:`w` and code :math:`z` obeys :math:`z = w^\top M + \mathcal N(0, \sigma^2 I)`. Everything here
takes any leading batch dimensions. Sources: Wu et al., "The Kanerva machine", 2018, section 3; Wu et al., "Learning
attractor dynamics for generative memory", 2018, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check


def kanerva_posterior(
    mean: Tensor, row_cov: Tensor, address: Tensor, code: Tensor, *, noise_var: float | Tensor, sequential: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Posterior of the memory after writing items: exact Bayes.

    .. math::
        S = W U W^\top + \sigma^2 I, \quad G = U W^\top S^{-1}, \quad
        R' = R + G (Z - W R), \quad U' = (I - G W) U (I - G W)^\top + \sigma^2 G G^\top

    The last is Joseph's form of :math:`U - G W U`: equal on paper, but it stays positive semi-definite in floating
    point. The order of the items does not matter.

    :param mean: :math:`R`, ``(..., K, C)``.
    :param row_cov: :math:`U`, ``(..., K, K)``, symmetric positive semi-definite.
    :param address: :math:`W`, ``(..., T, K)``.
    :param code: :math:`Z`, ``(..., T, C)``.
    :param noise_var: :math:`\sigma^2` > 0, a number or ``(...)``.
    :param sequential: write one item after the other, :math:`O(K^2 + K C)` each; else all at once.
    :returns: ``(R', U')``.
    :raises ValueError: if the shapes do not fit or ``noise_var`` is not positive, naming the argument.

    Source: Wu et al. 2018, equations 6 to 9.

    >>> mean, row_cov = torch.zeros(2, 3), torch.eye(2)
    >>> address, code = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 4.0, 6.0]])
    >>> mean, row_cov = kanerva_posterior(mean, row_cov, address, code, noise_var=1.0)
    >>> mean
    tensor([[1.0000, 2.0000, 3.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    check.flag("sequential", sequential)
    _check(mean, row_cov, address, code, noise_var)
    noise = _like(noise_var, mean)
    if not sequential:
        return _write(mean, row_cov, address, code, noise)
    for t in range(address.shape[-2]):
        mean, row_cov = _write_one(mean, row_cov, address[..., t, :], code[..., t, :], noise)
    return mean, row_cov


def kanerva_unwrite(
    mean: Tensor, row_cov: Tensor, address: Tensor, code: Tensor, *, noise_var: float | Tensor
) -> tuple[Tensor, Tensor]:
    r"""Exact inverse of :func:`kanerva_posterior`: the posterior as if the items had never been written.

    .. math::
        D = \sigma^2 I - W U' W^\top, \quad G = U' W^\top D^{-1}, \quad R = R' - G (Z - W R'), \quad U = U' + G W U'

    Items may be taken out in any order, whatever was written since. Computed in float64.

    :param mean: :math:`R'`, ``(..., K, C)``.
    :param row_cov: :math:`U'`, ``(..., K, K)``.
    :param address: :math:`W`, ``(..., T, K)``, with which the items were written.
    :param code: :math:`Z`, ``(..., T, C)``, that were written.
    :param noise_var: as at the write.
    :returns: ``(R, U)``.
    :raises ValueError: if the shapes do not fit, or the memory cannot hold items at these addresses: they were not
        written, or not with this ``noise_var``.

    Source: Bayes' rule read backwards; compare Larimar (Das et al. 2024), section 3, which forgets by a negative write.

    >>> mean, row_cov = torch.zeros(2, 3), torch.eye(2)
    >>> item = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 4.0, 6.0]])
    >>> written = kanerva_posterior(mean, row_cov, *item, noise_var=1.0)
    >>> torch.allclose(kanerva_unwrite(*written, *item, noise_var=1.0)[1], row_cov)
    True
    """
    _check(mean, row_cov, address, code, noise_var)
    held = (mean.dtype, row_cov.dtype)
    mean, row_cov, address, code = (part.double() for part in (mean, row_cov, address, code))
    noise = _like(noise_var, mean)
    cross = row_cov @ address.mT  # (..., K, T)
    left = noise * torch.eye(address.shape[-2], dtype=mean.dtype, device=mean.device) - address @ cross
    factor, failed = torch.linalg.cholesky_ex(left)
    if bool(failed.any()):
        raise ValueError(
            "address: expected addresses under which items were written, got others: the memory is surer there than it "
            "would be without them"
        )
    gain = torch.cholesky_solve(cross.mT, factor).mT
    mean = mean - gain @ (code - address @ mean)
    row_cov = _symmetric(row_cov + gain @ cross.mT)
    return mean.to(held[0]), row_cov.to(held[1])


def kanerva_address(mean: Tensor, code: Tensor, *, ridge: float | Tensor = 1.0, released: bool = False) -> Tensor:
    r"""Most probable address of a code under the memory's mean: least squares.

    .. math:: w = (R R^\top + \lambda I)^{-1} R z, \qquad \lambda = \sigma^2 / \sigma_w^2

    :param mean: :math:`R`, ``(..., K, C)``.
    :param code: :math:`Z`, ``(..., T, C)``.
    :param ridge: :math:`\lambda` > 0, noise variance over the prior variance of an address.
    :param released: solve :math:`((R R^\top)^2 + \lambda I)^{-1} R R^\top R z` instead, as the authors' released code
        does, where the ridge acts on the squared system; for parity tests only.
    :returns: :math:`W`, ``(..., T, K)``.

    Source: Wu et al., "Learning attractor dynamics", 2018, section 3.2.

    >>> mean = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> kanerva_address(mean, torch.tensor([[2.0, 4.0]]), ridge=1.0)
    tensor([[1., 2.]])
    """
    check.shaped(mean=(mean, "... K C"), code=(code, "... T C"))
    check.positive("ridge", ridge)
    check.flag("released", released)
    gram = mean @ mean.mT
    right = mean @ code.mT
    if released:
        gram, right = gram @ gram, gram @ right
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor, _ = torch.linalg.cholesky_ex(gram + _above_rounding(_like(ridge, mean), gram) * eye)
    return torch.cholesky_solve(right, factor).mT


def kanerva_dynamic_write(
    mean: Tensor, row_cov: Tensor, code: Tensor, *, noise_var: float | Tensor, ridge: float | Tensor = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Write items one after the other, each at its address under the mean that the earlier ones left.

    :param mean: :math:`R`, ``(..., K, C)``; not zero, or every address is zero and nothing is written.
    :param row_cov: :math:`U`, ``(..., K, K)``.
    :param code: :math:`Z`, ``(..., T, C)``.
    :param noise_var: :math:`\sigma^2` > 0.
    :param ridge: as in :func:`kanerva_address`.
    :returns: ``(R', U', W)`` with the addresses ``(..., T, K)`` that were used.

    Source: Wu et al., "Learning attractor dynamics", 2018, section 3.2, "dynamic addressing".

    >>> mean, row_cov = torch.eye(2), torch.eye(2)
    >>> code = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> mean, row_cov, address = kanerva_dynamic_write(mean, row_cov, code, noise_var=1.0)
    >>> address
    tensor([[1., 0.],
            [0., 1.]])
    """
    check.shaped(mean=(mean, "... K C"), code=(code, "... T C"), row_cov=(row_cov, "... K K"))
    check.positive("noise_var", noise_var)
    check.positive("ridge", ridge)
    noise = _like(noise_var, mean)
    addresses = []
    for item in code.unbind(-2):
        address = kanerva_address(mean, item.unsqueeze(-2), ridge=ridge).squeeze(-2)
        mean, row_cov = _write_one(mean, row_cov, address, item, noise)
        addresses.append(address)
    return mean, row_cov, torch.stack(addresses, -2)


def matrix_normal_kl(mean: Tensor, row_cov: Tensor, prior_mean: Tensor, prior_row_cov: Tensor) -> Tensor:
    r"""Divergence of one memory from another, columns independent, in nats.

    .. math::
        \mathrm{KL} = \tfrac12 \left[ C \,\mathrm{tr}(U_0^{-1} U) + \mathrm{tr}((R - R_0)^\top U_0^{-1} (R - R_0))
        - K C + C (\log|U_0| - \log|U|) \right]

    :param mean: :math:`R`, ``(..., K, C)``.
    :param row_cov: :math:`U`, ``(..., K, K)``, positive definite.
    :param prior_mean: :math:`R_0`, ``(..., K, C)``.
    :param prior_row_cov: :math:`U_0`, ``(..., K, K)``, positive definite.
    :returns: ``(...)``.

    Source: the standard form; the authors' released code lacks the half and takes only the diagonal of :math:`U` for
    its determinant.

    >>> prior = torch.zeros(2, 3), torch.eye(2)
    >>> matrix_normal_kl(torch.ones(2, 3), torch.eye(2), *prior)
    tensor(3.)
    """
    check.shaped(
        mean=(mean, "... K C"),
        prior_mean=(prior_mean, "... K C"),
        row_cov=(row_cov, "... K K"),
        prior_row_cov=(prior_row_cov, "... K K"),
    )
    rows, columns = mean.shape[-2:]
    prior = torch.linalg.cholesky(prior_row_cov)
    spread = torch.cholesky_solve(row_cov, prior).diagonal(dim1=-2, dim2=-1).sum(-1)
    moved = torch.linalg.solve_triangular(prior, mean - prior_mean, upper=False).square().sum((-2, -1))
    volume = _log_det(prior) - _log_det(torch.linalg.cholesky(row_cov))
    divergence: Tensor = 0.5 * (columns * spread + moved - rows * columns + columns * volume)
    return divergence


def address_second_moment(row_cov: Tensor, prior_row_cov: Tensor, *, noise_var: float | Tensor) -> Tensor:
    r"""Sum of the outer products of all addresses written so far: the memory already holds it.

    .. math:: W^\top W = \sigma^2 (U^{-1} - U_0^{-1})

    So the distribution of addresses needs no second pass over the data, only their sum beside :math:`U`.

    :param row_cov: :math:`U` after the writes, ``(..., K, K)``, positive definite.
    :param prior_row_cov: :math:`U_0` before them.
    :param noise_var: :math:`\sigma^2` of the writes.
    :returns: ``(..., K, K)``, in float64. Where U is too small for its type, after many rows with little noise, the sum
        is larger than what comes back: U cannot tell it any more.

    Source: the posterior above in its information form.

    >>> mean, prior, address = torch.zeros(2, 1), torch.eye(2), torch.tensor([[1.0, 2.0]])
    >>> row_cov = kanerva_posterior(mean, prior, address, torch.ones(1, 1), noise_var=1.0)[1]
    >>> address_second_moment(row_cov, prior, noise_var=1.0).round()  # address times itself
    tensor([[1., 2.],
            [2., 4.]], dtype=torch.float64)
    """
    check.shaped(row_cov=(row_cov, "... K K"), prior_row_cov=(prior_row_cov, "... K K"))
    check.positive("noise_var", noise_var)
    after, before = row_cov.double(), prior_row_cov.double()
    information = _inverse(after, torch.finfo(row_cov.dtype).eps) - _inverse(before, torch.finfo(before.dtype).eps)
    return _like(noise_var, after) * information


def _write(mean: Tensor, row_cov: Tensor, address: Tensor, code: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    cross = row_cov @ address.mT  # (..., K, T)
    eye = torch.eye(address.shape[-2], dtype=mean.dtype, device=mean.device)
    seen = address @ cross
    noise = _above_rounding(noise, seen)
    # Never fails: its smallest eigenvalue is the noise. So nobody has to wait for a GPU to say so.
    factor, _ = torch.linalg.cholesky_ex(seen + noise * eye)
    gain = torch.cholesky_solve(cross.mT, factor).mT
    kept = torch.eye(row_cov.shape[-1], dtype=mean.dtype, device=mean.device) - gain @ address
    row_cov = kept @ row_cov @ kept.mT + noise * (gain @ gain.mT)
    return mean + gain @ (code - address @ mean), _symmetric(row_cov)


def _write_one(mean: Tensor, row_cov: Tensor, address: Tensor, code: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    cross = (row_cov @ address.unsqueeze(-1)).squeeze(-1)  # (..., K)
    total = (cross * address).sum(-1, keepdim=True) + noise.squeeze(-1)
    gain = cross / total
    missing = code - (address.unsqueeze(-2) @ mean).squeeze(-2)
    mean = mean + gain.unsqueeze(-1) * missing.unsqueeze(-2)
    row_cov = row_cov - gain.unsqueeze(-1) * cross.unsqueeze(-2)
    return mean, _symmetric(row_cov)


def _above_rounding(noise: Tensor, matrix: Tensor) -> Tensor:
    """Noise for the diagonal of a semi-definite matrix, at least what rounding may have taken from it."""
    size = matrix.shape[-1]
    largest = matrix.detach().diagonal(dim1=-2, dim2=-1).amax(-1)
    floor: Tensor = (4 * size * torch.finfo(matrix.dtype).eps * largest)[..., None, None]
    return noise.maximum(floor)


def _inverse(matrix: Tensor, resolution: float) -> Tensor:
    """Inverse of covariances ``(..., K, K)``; directions that are below their rounding count as being at it."""
    values, vectors = torch.linalg.eigh(matrix)
    floor = resolution * matrix.shape[-1] * values[..., -1:].clamp_min(torch.finfo(matrix.dtype).tiny)
    inverse: Tensor = (vectors / values.maximum(floor).unsqueeze(-2)) @ vectors.mT
    return inverse


def _symmetric(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.mT)


def _log_det(factor: Tensor) -> Tensor:
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _like(value: float | Tensor, mean: Tensor) -> Tensor:
    """A number, or one for each leading index ``(...)``, that multiplies matrices."""
    number = torch.as_tensor(value, dtype=mean.dtype, device=mean.device)
    return number[..., None, None] if number.ndim else number.reshape(1, 1)


def _check(mean: Tensor, row_cov: Tensor, address: Tensor, code: Tensor, noise_var: float | Tensor) -> None:
    check.shaped(
        mean=(mean, "... K C"), row_cov=(row_cov, "... K K"), address=(address, "... T K"), code=(code, "... T C")
    )
    check.positive("noise_var", noise_var)
