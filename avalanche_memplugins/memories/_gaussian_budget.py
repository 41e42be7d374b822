"""Which memory of Gaussians fits a budget, and which of those that fit answers best."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, unique

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional import packed_covariance_size
from avalanche_memplugins.memories._generative import TABLE_BYTES, slots

if TYPE_CHECKING:
    from avalanche_memplugins.memories.gaussian_memory import GaussianMemory

Precision = Literal["float32", 4, 6, 8]
SIZES = ("rank", "tied", "components", "by", "precision")
"""Arguments of a memory that decide its bytes."""
SHRINKAGES = (0.1, 0.3, 0.5, 0.7, 0.9)


def settled_nbytes(
    classes: int,
    width: int,
    experiences: int,
    *,
    rank: int | None = 16,
    tied: bool | Literal["unit"] = False,
    components: int = 1,
    by: str = "class",
    precision: Precision = "float32",
) -> int:
    """Bytes of a memory that is settled, with so many classes of codes of a width in so many experiences."""
    times, bare = (experiences if by == "experience" else 1), bool(tied) and rank == 0
    groups, triangle = classes * components * times, width * (width + 1) // 2
    rank = None if rank is None else min(rank, width)
    total = classes * TABLE_BYTES + (12 * groups if components > 1 or by == "experience" else 0)
    if precision == "float32":
        own = triangle if rank is None else (rank + (not bare)) * width
        return total + 4 * (groups * (width + own) + (times * triangle if tied is True else 0))
    own = 0 if bare else packed_covariance_size(width, precision, rank)
    shared = times * packed_covariance_size(width, precision) if tied is True else 0
    return total + 3 * width + groups * (width + 4 + own) + shared


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
    yield {"tied": True, "rank": 0, "components": 1}


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
