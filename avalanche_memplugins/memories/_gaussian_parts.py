"""Parts of a memory of Gaussians: what is kept packed, how it answers, and how a class falls into several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from avalanche_memplugins.functional import (
    PackedCovariance,
    cholesky_factors,
    class_log_posterior,
    inverse_factors,
    low_rank_log_density,
    pack_covariance,
    pack_factors,
    packed_covariance_size,
    shrink_covariance,
    unpack_covariance,
    unpack_factors,
    whitened_log_density,
)

_PARTS = ("codes", "scale", "deviation", "unit")
_NARROWEST = 2.0**-6  # of the scales of a mean's numbers, as a share of the widest
_TINY = 1e-10  # added to variances, so that rows that are all alike have a density, too


class PackedGaussians(nn.Module):
    r"""Gaussians in few bytes: int8 means and packed covariances, one a group and one a shared matrix.

    .. math:: \mu_g \approx m + 2^{e} \odot s_g q_g

    m (bfloat16) and e (int8), ``(C,)``, are found when the first groups come in, and then stay.

    :param bits: of a number of the covariances, 4, 6 or 8.
    :param rank: of the groups' factors; None: whole matrices.
    """

    centre: Tensor
    exponent: Tensor
    mean: Tensor
    step: Tensor
    shared_codes: Tensor

    def __init__(self, bits: int, rank: int | None) -> None:
        super().__init__()
        self.bits, self.rank = bits, rank
        kinds = {"centre": torch.bfloat16, "exponent": torch.int8, "mean": torch.int8, "step": torch.float32}
        for part, dtype in zip(_PARTS, (torch.uint8, torch.float16, torch.float16, torch.float32), strict=True):
            kinds |= {f"own_{part}": dtype, f"shared_{part}": dtype}
        self.kinds = kinds
        for name, dtype in kinds.items():
            self.register_buffer(name, torch.zeros(0, dtype=dtype))

    def put_means(self, index: Tensor, mean: Tensor, deviation: Tensor) -> None:
        """Keep the means ``(n, C)`` of groups ``(n,)``.

        :param deviation: of the rows, ``(C,)``, by which the scale of each number is chosen if none is.
        """
        if not len(self.centre):
            widest = deviation.max().clamp_min(2.0**-100)
            deviation = deviation.clamp(widest * _NARROWEST, widest)
            self.register_buffer("centre", mean.mean(0).to(torch.bfloat16))
            self.register_buffer("exponent", deviation.log2().round().clamp(-120, 120).to(torch.int8))
        centred = (mean - self.centre.float()) / torch.exp2(self.exponent.float())
        step = (centred.abs().amax(1) / 127).clamp_min(2.0**-100)
        self._put("mean", index, (centred / step[:, None]).round().clamp(-127, 127).to(torch.int8))
        self._put("step", index, step)

    def means(self, index: Tensor) -> Tensor:
        """Means ``(n, C)`` of groups ``(n,)``, float32."""
        scaled = self.mean[index].float() * self.step[index][:, None]
        return self.centre.float() + torch.exp2(self.exponent.float()) * scaled

    def put_own(self, index: Tensor, first: Tensor, diagonal: Tensor | None) -> None:
        """Keep covariances ``(n, C, C)``, or factors ``(n, r, C)`` and diagonals ``(n, C)``, of groups ``(n,)``."""
        packed = pack_covariance(first, self.bits) if diagonal is None else pack_factors(first, diagonal, self.bits)
        for part, value in zip(_PARTS, packed, strict=True):
            self._put(f"own_{part}", index, value)

    def factors(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """F ``(n, r, C)`` and d ``(n, C)`` of groups' covariances :math:`F^T F + diag(d)`; no d of whole matrices."""
        packed = self._packed("own", index)
        if self.rank is None:
            return unpack_covariance(packed, self.bits).mT, None
        return unpack_factors(packed, self.bits)

    def put_shared(self, index: Tensor, covariance: Tensor) -> None:
        """Keep shared covariances ``(n, C, C)``."""
        for part, value in zip(_PARTS, pack_covariance(covariance, self.bits), strict=True):
            self._put(f"shared_{part}", index, value)

    def shared_factors(self, index: Tensor) -> Tensor:
        """F ``(n, C, C)`` of shared covariances :math:`F^T F`."""
        return unpack_covariance(self._packed("shared", index), self.bits).mT

    def _packed(self, kind: str, index: Tensor) -> PackedCovariance:
        return PackedCovariance(*(self.get_buffer(f"{kind}_{part}")[index] for part in _PARTS))

    def _put(self, name: str, index: Tensor, value: Tensor) -> None:
        held = self.get_buffer(name)
        rows = max(len(held), int(index.max()) + 1)
        grown = value.new_zeros(rows, *value.shape[1:])
        if len(held):
            grown[: len(held)] = held.to(grown.device)
        grown[index] = value
        self.register_buffer(name, grown)

    def check_sound(self, groups: int, shared: int, width: int, *, own: bool) -> None:
        """Raise unless so many groups and shared matrices of a width are held.

        :raises ValueError: saying what is wrong.
        """
        like: dict[str, tuple[int, ...]] = {"centre": (width,), "exponent": (width,), "mean": (groups, width)}
        like["step"] = (groups,)
        for kind, count, rank in (("own", groups if own else 0, self.rank), ("shared", shared, None)):
            beside = 2 * (width if rank is None else rank) + 2 * width + 4
            codes = packed_covariance_size(width, self.bits, rank) - beside
            rows = width if rank is None else rank
            for part, tail in zip(_PARTS, ((codes,), (rows,), (width,), ()), strict=True):
                like[f"{kind}_{part}"] = (count, *tail)
        for name, shape in like.items():
            held = self.get_buffer(name)
            empty = not groups if name in ("centre", "exponent") else not shape[0]
            if held.dtype != self.kinds[name] or (held.numel() if empty else tuple(held.shape) != shape):
                raise ValueError(
                    f"state: expected packed.{name} of shape {(0,) if empty else shape} and {self.kinds[name]}, got "
                    f"{tuple(held.shape)} and {held.dtype}"
                )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name, buffer in list(self._buffers.items()):
            found = state_dict.get(prefix + name)
            # Of another type, too, so that check_sound sees it instead of a silent conversion.
            if buffer is not None and found is not None and (found.shape, found.dtype) != (buffer.shape, buffer.dtype):
                self.register_buffer(name, buffer.new_empty(found.shape, dtype=found.dtype))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class Groups(NamedTuple):
    """All groups of a memory as they are read.

    ``mean`` ``(G, C)``; ``label`` int64 ``(G,)`` class of each; ``rows`` ``(G,)``; ``own``: F ``(G, r, C)`` and d
    ``(G, C)`` or None of their covariances :math:`F^T F + diag(d)`; None: they have none; ``shared``: covariances
    ``(T, C, C)`` or None; ``of`` int64 ``(G,)``: the shared one of each.
    """

    mean: Tensor
    label: Tensor
    rows: Tensor
    own: tuple[Tensor, Tensor | None] | None
    shared: Tensor | None
    of: Tensor


class Discriminant:
    """What a memory of Gaussians answers by: made once from all groups, used for many rows.

    :param groups: what is held.
    :param shrinkage: a of :func:`~avalanche_memplugins.functional.shrink_covariance`.
    :param ridge: r of it.
    """

    def __init__(self, groups: Groups, shrinkage: float, ridge: float) -> None:
        self.groups = groups
        self.whitening: list[Tensor] = []  # of each group, or of each shared matrix
        own, shared = groups.own, groups.shared
        self.is_low_rank = own is not None and own[1] is not None and shared is None and shrinkage == 0
        width = groups.mean.shape[1]
        eye = torch.eye(width, dtype=torch.float64, device=groups.mean.device)
        if own is None and shared is not None:
            for matrix in shared:
                mixed = shrink_covariance(matrix.double(), matrix.double(), shrinkage=1, ridge=ridge)
                self.whitening.append(inverse_factors(cholesky_factors(mixed + _TINY * eye)).float())
            return
        if own is None:
            self.whitening.append(eye.float())  # nearest mean
            return
        tied = shared.double() if shared is not None else self._mean_covariance(own)[None]
        if self.is_low_rank and own[1] is not None:
            extra = ridge * tied[0].diagonal().mean() + _TINY
            self.factors, self.diagonal = own[0].float(), (own[1] + extra).float()
            return
        for g, of in enumerate(groups.of.tolist() if shared is not None else [0] * len(groups.mean)):
            mixed = shrink_covariance(self._covariance(own, g), tied[of], shrinkage=shrinkage, ridge=ridge)
            self.whitening.append(inverse_factors(cholesky_factors(mixed + _TINY * eye)).float())

    def log_density(self, x: Tensor) -> Tensor:
        """Of rows ``(B, C)`` under each group, ``(B, G)``."""
        mean, of = self.groups.mean, self.groups.of
        if self.is_low_rank:
            return low_rank_log_density(x, mean, self.factors, self.diagonal)
        out = x.new_empty(len(x), len(mean))
        for k, matrix in enumerate(self.whitening):
            mine = (of == k).nonzero().flatten() if self.groups.own is None else torch.tensor([k], device=x.device)
            if len(mine):
                out[:, mine] = whitened_log_density(x, mean[mine], matrix)
        return out

    def log_posterior(self, x: Tensor, classes: int, *, by_count: bool, allowed: Tensor | None) -> Tensor:
        """Of classes, ``(B, classes)``.

        :param by_count: prior by the rows of a class; else all alike.
        :param allowed: bool ``(G,)``, groups that may answer; None: all.
        """
        label, rows = self.groups.label, self.groups.rows.float()
        prior = rows.log()
        if not by_count:
            total = torch.zeros(classes, device=rows.device).index_add_(0, label, rows)
            prior = prior - total.log()[label]
        prior = prior if allowed is None else prior.masked_fill(~allowed, -math.inf)
        return class_log_posterior(self.log_density(x), label, prior, classes)

    def _covariance(self, own: tuple[Tensor, Tensor | None], g: int) -> Tensor:
        factors = own[0][g].double()
        covariance = factors.mT @ factors
        return covariance if own[1] is None else covariance + own[1][g].double().diag()

    def _mean_covariance(self, own: tuple[Tensor, Tensor | None]) -> Tensor:
        share = self.groups.rows.double() / self.groups.rows.sum()
        total = share[0] * self._covariance(own, 0)
        for g in range(1, len(share)):
            total += share[g] * self._covariance(own, g)
        return total


def k_means(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The cluster of each row, int64 ``(n,)``, by Lloyd's algorithm from rows drawn by ``generator``.

    :param rows: ``(n, C)``.
    :param count: clusters at most; an empty one leaves a gap in the numbers.
    """
    start = torch.randperm(len(rows), generator=generator)[:count].to(rows.device)
    centres, nearest = rows[start].clone(), rows.new_zeros(len(rows), dtype=torch.int64)
    for _ in range(20):
        found = torch.cdist(rows, centres).argmin(1)
        if torch.equal(found, nearest):
            break
        nearest = found
        sizes = torch.bincount(nearest, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp_min(1)[:, None], centres)
    return nearest
