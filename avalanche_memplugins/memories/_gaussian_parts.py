"""Parts of a memory of Gaussians: what is kept packed, how it answers, and what fits a budget."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn, unique

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional import (
    PackedCovariance,
    cholesky_factors,
    class_log_posterior,
    inverse_factors,
    low_rank_log_density,
    pack_covariance,
    pack_deviations,
    pack_factors,
    packed_covariance_size,
    shrink_covariance,
    unpack_covariance,
    unpack_deviations,
    unpack_factors,
    whitened_log_density,
)
from avalanche_memplugins.memories._generative import TABLE_BYTES, slots
from avalanche_memplugins.memories._saved import check_tensor, make_room

Precision = Literal["float32", 4, 6, 8]
_PARTS = ("codes", "scale", "deviation", "unit")
_NARROWEST = 2.0**-6  # of the scales of a mean's numbers, as a share of the widest
_TINY = 1e-10  # added to variances, so that rows that are all alike have a density, too


class PackedGaussians(nn.Module):
    r"""Gaussians in few bytes: int8 means and packed covariances, one a group and one a shared matrix.

    .. math:: \mu_g \approx m + 2^{e} \odot s_g q_g

    m (bfloat16) and e (int8), ``(C,)``, are found when the first groups come in, and then stay.

    :param bits: of a number of the covariances, 4, 6 or 8.
    :param rank: of the groups' factors; None: whole matrices.
    :param deviations: bits of a deviation, 16 or 4.
    :param leading: numbers that the groups' own covariances are of; None: all.
    """

    centre: Tensor
    exponent: Tensor
    mean: Tensor
    step: Tensor
    own_codes: Tensor
    shared_codes: Tensor

    def __init__(self, bits: int, rank: int | None, deviations: int = 16, leading: int | None = None) -> None:
        super().__init__()
        self.bits, self.rank, self.deviations, self.leading = bits, rank, deviations, leading
        kinds = {"centre": torch.bfloat16, "exponent": torch.int8, "mean": torch.int8, "step": torch.float32}
        for part, dtype in zip(_PARTS, (torch.uint8, torch.float16, torch.float16, torch.float32), strict=True):
            kinds |= {f"own_{part}": dtype, f"shared_{part}": dtype}
        if deviations == 4:
            kinds |= {f"{kind}_deviation": torch.uint8 for kind in ("own", "shared")}
            kinds |= {f"{kind}_least": torch.float16 for kind in ("own", "shared")}
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
        self._put_packed("own", index, packed)

    def factors(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """F ``(n, r, C)`` and d ``(n, C)`` of groups' covariances :math:`F^T F + diag(d)`; no d of whole matrices."""
        packed = self._packed("own", index)
        if self.rank is None:
            return unpack_covariance(packed, self.bits).mT, None
        return unpack_factors(packed, self.bits)

    def put_shared(self, index: Tensor, covariance: Tensor) -> None:
        """Keep shared covariances ``(n, C, C)``."""
        self._put_packed("shared", index, pack_covariance(covariance, self.bits))

    def shared_factors(self, index: Tensor) -> Tensor:
        """F ``(n, C, C)`` of shared covariances :math:`F^T F`."""
        return unpack_covariance(self._packed("shared", index), self.bits).mT

    def keep(self, index: Tensor) -> None:
        """Let go of all groups but these ``(n,)``. The scales of means told of all groups: they are chosen anew."""
        if not len(self.mean):
            return
        index = index.to(self.mean.device)
        if not len(index):
            for name, dtype in self.kinds.items():
                self.register_buffer(name, self.get_buffer(name).new_zeros(0, dtype=dtype))
            return
        mean, variance = self.means(index), torch.ones_like(self.mean[0], dtype=torch.float32)
        if len(self.own_codes):
            factors, diagonal = self.factors(index)
            own = factors.square().sum(1) + (0 if diagonal is None else diagonal)
            variance = own.mean(0)
        for name in self.kinds:
            held = self.get_buffer(name)
            if name.startswith("own_") and len(held):
                self.register_buffer(name, held[index])
            elif not name.startswith(("own_", "shared_")):
                self.register_buffer(name, held.new_zeros(0))
        self.put_means(torch.arange(len(index), device=mean.device), mean, variance.sqrt())

    def _put_packed(self, kind: str, index: Tensor, packed: PackedCovariance) -> None:
        if self.deviations == 4:
            codes, least = pack_deviations(packed.deviation)
            packed = packed._replace(deviation=codes)
            self._put(f"{kind}_least", index, least)
        for part, value in zip(_PARTS, packed, strict=True):
            self._put(f"{kind}_{part}", index, value)

    def _packed(self, kind: str, index: Tensor) -> PackedCovariance:
        packed = PackedCovariance(*(self.get_buffer(f"{kind}_{part}")[index] for part in _PARTS))
        if self.deviations == 4:
            least = self.get_buffer(f"{kind}_least")[index]
            wide = len(self.centre) if kind == "shared" or self.leading is None else min(self.leading, len(self.centre))
            packed = packed._replace(deviation=unpack_deviations(packed.deviation, least, wide))
        return packed

    def _put(self, name: str, index: Tensor, value: Tensor) -> None:
        held = self.get_buffer(name)
        rows = max(len(held), int(index.max()) + 1)
        grown = value.new_zeros(rows, *value.shape[1:])
        if len(held):
            grown[: len(held)] = held.to(grown.device)
        grown[index] = value
        self.register_buffer(name, grown)

    def check_sound(self, groups: int, shared: int, width: int, *, own: int | None) -> None:
        """Raise unless so many groups and shared matrices of a width are held.

        :param own: width of the groups' own covariances; None: they have none.
        :raises ValueError: saying what is wrong.
        """
        if not groups:
            for name, dtype in self.kinds.items():
                check_tensor(f"packed.{name}", self.get_buffer(name), (0,), dtype)
            return
        like: dict[str, tuple[int, ...]] = {"centre": (width,), "exponent": (width,), "mean": (groups, width)}
        like["step"] = (groups,)
        kinds = ("own", 0 if own is None else groups, own or width, self.rank), ("shared", shared, width, None)
        for kind, count, wide, rank in kinds:
            beside = 2 * (wide if rank is None else rank) + 2 * wide + 4
            codes = packed_covariance_size(wide, self.bits, rank) - beside
            rows = wide if rank is None else rank
            each = wide if self.deviations == 16 else (wide + 1) // 2
            for part, tail in zip(_PARTS, ((codes,), (rows,), (each,), ()), strict=True):
                like[f"{kind}_{part}"] = (count, *tail)
            if self.deviations == 4:
                like[f"{kind}_least"] = (count,)
        for name, shape in like.items():
            check_tensor(f"packed.{name}", self.get_buffer(name), shape, self.kinds[name])

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        make_room(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class Groups(NamedTuple):
    """All groups of a memory as they are read.

    ``mean`` ``(G, C)``; ``label`` int64 ``(G,)`` class of each; ``rows`` ``(G,)``; ``own``: F ``(G, r, C)`` and d
    ``(G, C)`` or None of their covariances :math:`F^T F + diag(d)`, which may be of the leading numbers alone; None:
    they have none; ``shared``: covariances ``(T, C, C)`` or None; ``of`` int64 ``(G,)``: the shared one of each.
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
        self.rest: list[Tensor] = []  # of each shared matrix, where groups have one of their leading numbers alone
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
        leading = own[0].shape[2] < width
        tied = shared.double() if shared is not None and not leading else self._mean_covariances(own)
        if leading and shared is not None:
            for matrix in shared:
                mixed = shrink_covariance(matrix.double(), matrix.double(), shrinkage=1, ridge=ridge)
                whole = inverse_factors(cholesky_factors(mixed + _TINY * eye)).float()
                self.rest.append(whole[own[0].shape[2] :])
            eye = eye[: own[0].shape[2], : own[0].shape[2]]
        if self.is_low_rank and own[1] is not None:
            extra = ridge * tied[0].diagonal().mean() + _TINY
            self.factors, self.diagonal = own[0].float(), (own[1] + extra).float()
            return
        for g, of in enumerate(groups.of.tolist()):
            mixed = shrink_covariance(self._covariance(own, g), tied[of], shrinkage=shrinkage, ridge=ridge)
            self.whitening.append(inverse_factors(cholesky_factors(mixed + _TINY * eye)).float())

    def log_density(self, x: Tensor) -> Tensor:
        """Of rows ``(B, C)`` under each group, ``(B, G)``."""
        mean, of = self.groups.mean, self.groups.of
        if self.rest:
            return self._by_parts(x)
        if self.is_low_rank:
            return low_rank_log_density(x, mean, self.factors, self.diagonal)
        out = x.new_empty(len(x), len(mean))
        for k, matrix in enumerate(self.whitening):
            mine = (of == k).nonzero().flatten() if self.groups.own is None else torch.tensor([k], device=x.device)
            if len(mine):
                out[:, mine] = whitened_log_density(x, mean[mine], matrix)
        return out

    def _by_parts(self, x: Tensor) -> Tensor:
        """The density of the leading numbers under each group, times that of the others given these."""
        mean, of, leading = self.groups.mean, self.groups.of, self.whitening[0].shape[1]
        head, out = x[:, :leading], x.new_empty(len(x), len(mean))
        for k, matrix in enumerate(self.rest):
            mine = (of == k).nonzero().flatten()
            # Differences, not products, as in whitened_log_density.
            ends = x @ matrix.mT, mean[mine] @ matrix.mT
            gaps = torch.cdist(*ends, compute_mode="donot_use_mm_for_euclid_dist").square()
            volume = matrix[:, leading:].diagonal().log().sum() - (x.shape[1] - leading) * math.log(2 * math.pi) / 2
            out[:, mine] = volume - gaps / 2
        for g, matrix in enumerate(self.whitening):
            out[:, g] += whitened_log_density(head, mean[g : g + 1, :leading], matrix)[:, 0]
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

    def _mean_covariances(self, own: tuple[Tensor, Tensor | None]) -> Tensor:
        """Of the groups of each shared matrix, ``(T, C', C')``; of all, if none is shared."""
        rows, of, width = self.groups.rows.double(), self.groups.of, own[0].shape[2]
        total = rows.new_zeros(int(of.max()) + 1, width, width)
        weight = rows / rows.new_zeros(len(total)).index_add_(0, of, rows)[of]
        for g, k in enumerate(of.tolist()):
            total[k] += weight[g] * self._covariance(own, g)
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


if TYPE_CHECKING:
    from avalanche_memplugins.memories.gaussian_memory import GaussianMemory

SIZES = ("rank", "tied", "leading", "components", "by", "precision", "deviations")
"""Arguments of a memory that decide its bytes."""
SHRINKAGES = (0.1, 0.3, 0.5, 0.7, 0.9)


def settled_nbytes(
    classes: int,
    width: int,
    experiences: int,
    *,
    rank: int | None = 16,
    tied: bool | Literal["unit"] = False,
    leading: int | None = None,
    components: int = 1,
    by: str = "class",
    precision: Precision = "float32",
    deviations: int = 16,
) -> int:
    """Bytes of a memory that is settled, with so many classes of codes of a width in so many experiences."""
    times, bare = (experiences if by == "experience" else 1), bool(tied) and rank == 0 and leading is None
    groups, triangle = classes * components * times, width * (width + 1) // 2
    wide = width if leading is None else min(leading, width)
    rank = None if rank is None or leading is not None else min(rank, width)
    total = classes * TABLE_BYTES + (12 * groups if components > 1 or by == "experience" else 0)
    if precision == "float32":
        own = wide * (wide + 1) // 2 if rank is None else (rank + (not bare)) * width
        return total + 4 * (groups * (width + own) + (times * triangle if tied is True else 0))
    own = 0 if bare else packed_covariance_size(wide, precision, rank)
    shared = times * packed_covariance_size(width, precision) if tied is True else 0
    if deviations == 4:
        own -= 0 if bare else _saved(wide)
        shared -= _saved(width) * times if tied is True else 0
    return total + 3 * width + groups * (width + 4 + own) + shared


def _saved(width: int) -> int:
    """Bytes that deviations in 4 bits, and the least of them, take less than in 16."""
    return 2 * width - (width + 1) // 2 - 2


def candidates(given: dict[str, Any], width: int, *, auto: bool, all_kinds: bool) -> Iterator[dict[str, Any]]:
    """What may be chosen, the best first as far as a rule can tell; what is given stays."""
    ranks = range(min(width, 256), -1, -1)
    if all_kinds:
        bits: tuple[Any, ...] = (given["precision"],) if "precision" in given else (8, 6, 4)
        kinds: list[dict[str, Any]] = [{"precision": b, **kind} for b in bits for kind in _kinds(width)]
    elif auto:
        kinds = [{"tied": False, "rank": None, "precision": b} for b in (6, 4)]
        kinds += [{"tied": True, "rank": rank, "precision": 6} for rank in ranks]
        kinds += [{"tied": True, "rank": 0, "precision": 4}]
    elif given.get("tied"):
        kinds = [{"rank": rank} for rank in ranks]
    else:
        kinds = [{"rank": None}, *({"rank": rank} for rank in ranks)]
    for kind in kinds:
        if all(given.get(name, value) == value for name, value in kind.items()):
            yield kind


def _kinds(width: int) -> Iterator[dict[str, Any]]:
    for components in (1, 2, 3, 4, 8):
        yield {"tied": False, "rank": None, "components": components}
    for rank in (2, 4, 8, 16, 32):
        if rank < width:
            yield {"tied": False, "rank": rank, "components": 1}
            yield {"tied": True, "rank": rank, "components": 1}
    yield {"tied": False, "rank": 0, "components": 1}
    for leading in (16, 32, 48, 64, 96, 128):
        if leading < width:
            yield {"tied": True, "rank": 0, "components": 1, "leading": leading}
    for components in (1, 2, 4, 8):
        yield {"tied": True, "rank": 0, "components": components}


def best_of(memories: list[GaussianMemory], rows: tuple[Tensor, Tensor], *, given: Sequence[str]) -> GaussianMemory:
    """The memory that answers best on every fifth row of a class when fitted to the others, still empty."""
    x, y = rows
    check.labels("rows", y, check.rows_of(x))
    number = slots(*unique(y.cpu(), return_inverse=True, return_counts=True)[1:])
    held_back = number % 5 == 4
    if not bool(held_back.any()):
        raise ValueError("rows: expected at least five of some class, to hold one back")
    best, most = memories[0], (-1, 0)
    for memory in memories:
        fitted = copy.deepcopy(memory)
        fitted.write(x[~held_back], y[~held_back])
        fitted.settle()
        for shrinkage in (memory.shrinkage,) if given else SHRINKAGES:
            fitted.shrinkage = shrinkage
            right = int((fitted.predict(x[held_back]).argmax(1) == y[held_back]).sum())
            if (right, -fitted.nbytes) > most:
                best, most = memory, (right, -fitted.nbytes)
                best.shrinkage = shrinkage
    return best
