"""The Gaussians of a memory: which there are, in float32 while they are written to, packed once they rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional import (
    extend_covariance,
    merge_low_rank,
    merge_moments,
    pack_triangle,
    symmetric_factors,
    unpack_triangle,
)
from avalanche_memplugins.memories._gaussian_parts import Groups, PackedGaussians, Precision, k_means
from avalanche_memplugins.memories._generative import Held, slots
from avalanche_memplugins.memories._saved import check_tensor

_START = 80  # rows of a class from which its mixture starts
_EACH = 10  # rows a part of a mixture has at least when it starts with fewer
_TABLES = ("groups", "open", "open_shared", "waits")


class GaussianBank:
    """Gaussians in groups of rows: a group is a class, or a part of one by experience or of its mixture.

    The float tensors are of the groups in ``open``; all others are packed. Without packing they are of all groups.
    Tables lie on the CPU and are replaced, not changed, so that whoever holds an old one finds it as it was.

    :param buffers: of the memory whose part this is.
    :param rank: of the groups' factors; None: whole scatters.
    :param leading: numbers of a code that the groups' own whole scatters are of; None: all.
    :param tied: keep a scatter that groups share; ``"unit"``: keep no spread at all.
    :param components: most groups of a class.
    :param by: ``"class"``, or a group for each class in each ``"experience"``.
    :param precision: ``"float32"``, or bits of a packed number.
    :param deviations: bits of a packed deviation.
    """

    mean = Held()  # (G, C)
    spread = Held()  # (G, r, C) factors F, or (G, C (C + 1) / 2) triangles of the scatter
    residual = Held()  # (G, C)
    shared = Held()  # (T, C (C + 1) / 2) triangles of shared scatters, if tied
    waiting = Held()  # (w, C): first rows of mixtures that are still to start

    def __init__(
        self,
        buffers: dict[str, Tensor | None],
        *,
        rank: int | None,
        leading: int | None,
        tied: bool | Literal["unit"],
        components: int,
        by: str,
        precision: Precision,
        deviations: int,
    ) -> None:
        self.buffers = cast("dict[str, Tensor]", buffers)
        self.rank, self.components, self.by = (None if leading else rank), components, by
        self.leading = leading
        self.is_tied, self.is_unit = tied is True, tied == "unit"
        self.is_bare = bool(tied) and self.rank == 0  # groups have no covariance of their own
        self.of_classes = components == 1 and by == "class"  # group i is the class of index i
        self.packed = None if precision == "float32" else PackedGaussians(precision, self.rank, deviations, leading)
        self._floats = ("mean", "spread", "residual", *(("shared",) if self.is_tied else ()))
        for name in (*self._floats, *(("waiting",) if components > 1 else ())):
            buffers[name] = torch.zeros(0)
        self.groups = torch.zeros(0, 3, dtype=torch.int32)  # class's index, experience, rows; where they are no classes
        self._class_rows = torch.zeros(0, dtype=torch.int64)  # a column of the memory's own table
        self.open, self.open_shared, self.waits = (torch.zeros(0, dtype=torch.int32) for _ in range(3))

    # ---------------------------------------------------------------- what it holds

    @property
    def is_plain(self) -> bool:
        """Whether all is float32, one Gaussian a class."""
        return self.of_classes and self.packed is None

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return sum(getattr(self, name).nbytes for name in _TABLES)

    @property
    def width(self) -> int:
        """Numbers of a code, C."""
        if self.packed is not None and len(self.packed.centre):
            return len(self.packed.centre)
        return self.mean.shape[1]

    def _own_width(self, width: int) -> int:
        """Numbers of a code that a group's own scatter is of."""
        return width if self.leading is None else min(self.leading, width)

    @property
    def rows(self) -> Tensor:
        """Rows ``(G,)`` of each group."""
        return self._class_rows if self.of_classes else self.groups[:, 2].long()

    def _shared_of(self, index: Tensor) -> Tensor:
        """Number ``(n,)`` of the shared matrix of groups ``(n,)``: one for all, or one an experience as they came."""
        if self.by == "class":
            return torch.zeros_like(index)
        came: dict[int, int] = {}
        for number in self.groups[:, 1].tolist():
            came.setdefault(number, len(came))
        return torch.tensor([came[number] for number in self.groups[index, 1].tolist()], dtype=torch.int64)

    def _shared_rows(self) -> Tensor:
        """Rows ``(T,)`` of each shared matrix."""
        of = self._shared_of(torch.arange(len(self.rows)))
        return torch.zeros(self._shared_count(), dtype=torch.int64).index_add_(0, of, self.rows)

    def _shared_count(self) -> int:
        return 1 if self.by == "class" else len(set(self.groups[:, 1].tolist()))

    def _shared_open(self) -> Tensor:
        """Numbers of the shared scatters that are in the float tensor."""
        return torch.arange(len(self.shared)) if self.packed is None else self.open_shared.long()

    def _at(self, index: Tensor) -> Tensor:
        """Places ``(n,)`` of groups in the float tensors; -1: it is packed only."""
        if self.packed is None:
            return index
        place = torch.full((max(1, len(self.rows)),), -1, dtype=torch.int64)
        place[self.open.long()] = torch.arange(len(self.open))
        return place[index]

    # ---------------------------------------------------------------- write

    def write(
        self,
        codes: Tensor,
        enrolled: tuple[Tensor, Tensor, Tensor],
        table: Tensor,
        origin: Tensor | int,
        generator: torch.Generator,
    ) -> None:
        """Merge codes ``(B, C)`` into the groups of their classes.

        :param enrolled: indices ``(K,)`` of the classes, each row's place ``(B,)`` among these, rows ``(K,)`` of each.
        :param table: of the classes, int64 ``(K, 4)``, with their rows in the second column, these among them.
        :param origin: experience of each row ``(B,)``, or one for all.
        """
        index, places, rows = enrolled
        if self.of_classes:
            self._class_rows = table[:, 1]
        else:
            index, places, rows = self._grouped(codes, index[places], origin)
            self.groups = self.groups.clone()
            self.groups[index, 2] += rows.int()
        self._take_in(codes, index, places, rows, self.rows[index] - rows)
        if len(self.waits):
            for group, held in zip(*(v.tolist() for v in torch.unique(self.waits, return_counts=True)), strict=True):
                if held >= max(_START, 2 * self.components):
                    self._start(group, generator)

    def _grouped(self, codes: Tensor, classes: Tensor, origin: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
        """The groups of rows of classes ``(B,)``, new ones entered without rows: as ``write`` has them enrolled."""
        of, numbers = torch.zeros_like(classes), torch.zeros_like(classes)
        if self.by == "experience":
            numbers += origin.cpu().long() if isinstance(origin, Tensor) else origin
        for kind, number in torch.unique(torch.stack([classes, numbers], 1), dim=0).tolist():
            mine = ((classes == kind) & (numbers == number)).nonzero().flatten()
            held = ((self.groups[:, 0] == kind) & (self.groups[:, 1] == number)).nonzero().flatten()
            if not len(held):
                held = torch.tensor([len(self.groups)])
                self.groups = torch.cat([self.groups, torch.tensor([[kind, number, 0]], dtype=torch.int32)])
                waits = self.components > 1
            else:
                waits = len(held) == 1 and bool((self.waits == held[0]).any())
            if waits:
                rows = codes[mine.to(codes.device)].float()
                self.waiting = torch.cat([self.waiting, rows]) if len(self.waiting) else rows
                self.waits = torch.cat([self.waits, held.int().expand(len(mine))])
            of[mine] = held[0]
            if len(held) > 1:
                distance = torch.cdist(codes[mine.to(codes.device)].float(), self.gaussians(held)[0])
                of[mine] = held[distance.argmin(1).cpu()]
        index, places, rows = torch.unique(of, return_inverse=True, return_counts=True)
        return index, places, rows

    def _take_in(self, codes: Tensor, index: Tensor, places: Tensor, rows: Tensor, count: Tensor) -> None:
        """Merge rows into groups ``index`` ``(K,)``, of which they have ``count``; ``places`` ``(B,)`` among these."""
        at, width = self._opened(index, count, codes), codes.shape[1]
        batch = codes.new_zeros(len(index), int(rows.max()), width, dtype=torch.float64)
        batch[places, slots(places, rows)] = codes.double()
        device, sizes = self.mean.device, rows
        at, count, rows = (v.to(device) for v in (at, count, rows))
        _, mean, growth = merge_moments(count, self.mean[at].double(), batch, rows)
        self.mean[at] = mean.float()
        if self.is_tied:
            of, total = self._shared_of(index), self._shared_rows()
            for number in torch.unique(of).tolist():
                mine = of == number
                place = self._opened_shared(number, float(total[number] - sizes[mine].sum()), growth)
                grown = growth[mine.to(growth.device)].flatten(0, 1)
                self.shared[place] += pack_triangle(grown.mT @ grown).float()
        if self.rank is None:
            own = growth[..., : self._own_width(width)]
            self.spread[at] += pack_triangle(own.mT @ own).float()
        elif not self.is_bare:
            factors, residual = merge_low_rank(self.spread[at].double(), self.residual[at].double(), growth)
            self.spread[at], self.residual[at] = factors.float(), residual.float()

    def _start(self, group: int, generator: torch.Generator) -> None:
        """Let the rows of a group that wait, which are all it has, fall into several groups."""
        mine = self.waits == group
        rows = self.waiting[mine.to(self.waiting.device)]
        parts = max(1, min(self.components, len(rows) // _EACH))
        if parts > 1:
            nearest = k_means(rows, parts, generator).cpu()
            _, places, sizes = torch.unique(nearest, return_inverse=True, return_counts=True)
            index = torch.tensor([group, *range(len(self.groups), len(self.groups) + len(sizes) - 1)])
            self.groups = torch.cat([self.groups, self.groups[group].repeat(len(sizes) - 1, 1)])
            self.groups[index, 2] = sizes.int()
            nothing = torch.zeros_like(sizes)
            if self.is_tied:  # what its parts spread about their own means takes the place of its spread about one
                centred = rows.double() - rows.double().mean(0)
                place = self._shared_open().tolist().index(int(self._shared_of(index[:1])))
                self.shared[place] -= pack_triangle(centred.mT @ centred).float()
            at = self._opened(index, nothing, rows).to(rows.device)
            for name in self._tails(rows.shape[1]):
                self.buffers[name][at] = 0
            self._take_in(rows, index, places, sizes, nothing)
        self.waiting = self.waiting[~mine.to(self.waiting.device)]
        self.waits = self.waits[~mine]

    def keep_classes(self, index: Tensor) -> None:
        """Let go of all classes but those of these indices ``(K,)``; nothing that groups share may be held."""
        of = torch.arange(len(self._class_rows)) if self.of_classes else self.groups[:, 0].long()
        stays = torch.isin(of, index)
        now = stays.cumsum(0) - 1  # number of each group that stays
        if self.of_classes:
            self._class_rows = self._class_rows[index]
        else:
            self.groups = self.groups[stays].clone()
            self.groups[:, 0] = torch.searchsorted(index, self.groups[:, 0].long()).int()
        waits = stays[self.waits.long()]
        if self.components > 1:
            self.waiting = self.waiting[waits.to(self.waiting.device)]
        self.waits = now[self.waits[waits].long()].int()
        floats = stays
        if self.packed is not None:
            floats = stays[self.open.long()]
            self.open = now[self.open[floats].long()].int()
            self.packed.keep(stays[: len(self.packed.mean)].nonzero().flatten())
        for name in self._floats:
            self.buffers[name] = self.buffers[name][floats.to(self.mean.device)]
        if not len(index):
            for name in (*self._floats, *(("waiting",) if self.components > 1 else ())):
                self.buffers[name] = self.buffers[name].new_zeros(0)

    # ---------------------------------------------------------------- open and pack

    def _opened(self, index: Tensor, count: Tensor, codes: Tensor) -> Tensor:
        """Places ``(n,)`` of groups of so many rows ``(n,)`` in the float tensors, with room made for them."""
        if self.packed is None:
            self._allocate(codes, len(self.rows) - len(self.mean))
            return index
        closed = self._at(index) < 0
        if bool(closed.any()):
            fresh, rows, first = index[closed], count[closed], len(self.open)
            known = fresh < len(self.packed.mean)
            held = self._unpacked(self.packed, fresh[known], rows[known]) if bool(known.any()) else {}
            self._allocate(codes, len(fresh))
            to = first + known.nonzero().flatten().to(codes.device)
            for name, value in held.items():
                self.buffers[name][to] = value
            self.open = torch.cat([self.open, fresh.int()])
        return self._at(index)

    def _unpacked(self, packed: PackedGaussians, index: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """The float tensors of packed groups ``(n,)`` of so many rows ``(n,)``."""
        index, weight = index.to(self.mean.device), rows.to(self.mean.device).double()
        held = {"mean": packed.means(index)}
        if self.is_bare:
            return held
        factors, diagonal = packed.factors(index)
        if diagonal is None:
            scatter = factors.double().mT @ factors.double() * weight[:, None, None]
            return {**held, "spread": pack_triangle(scatter).float()}
        spread = factors.double() * weight.sqrt()[:, None, None]
        return {**held, "spread": spread.float(), "residual": (diagonal.double() * weight[:, None]).float()}

    def _opened_shared(self, number: int, rows: float, like: Tensor) -> int:
        """Place of a shared matrix of so many rows in the float tensor, with room made for it."""
        held = self._shared_open().tolist()
        if number in held:
            return held.index(number)
        fresh = torch.zeros(1, like.shape[-1] * (like.shape[-1] + 1) // 2, device=like.device)
        if self.packed is not None:
            if number < len(self.packed.shared_codes):
                factors = self.packed.shared_factors(torch.tensor([number], device=like.device)).double()
                fresh = pack_triangle(factors.mT @ factors * rows).float()
            self.open_shared = torch.cat([self.open_shared, torch.tensor([number], dtype=torch.int32)])
        self.shared = torch.cat([self.shared, fresh]) if len(self.shared) else fresh
        return len(self.shared) - 1

    def _allocate(self, codes: Tensor, new: int) -> None:
        for name, shape in self._tails(codes.shape[1]).items() if new else ():
            held, rows = self.buffers[name], torch.zeros(new, *shape, device=codes.device)
            self.buffers[name] = torch.cat([held, rows]) if len(held) else rows

    def _tails(self, width: int) -> dict[str, tuple[int, ...]]:
        """Shapes of a group's mean, spread and residual."""
        own = self._own_width(width)
        spread = (own * (own + 1) // 2,) if self.rank is None else (min(self.rank, width), width)
        return {"mean": (width,), "spread": spread, "residual": (0 if self.rank is None or self.is_bare else width,)}

    def settle(self, generator: torch.Generator) -> None:
        """Start mixtures that wait for rows, and pack what is open."""
        for group in torch.unique(self.waits).tolist():
            self._start(group, generator)
        packed, device = self.packed, self.mean.device
        own = self.open.long().to(device)
        if packed is None or not len(own):
            return
        rows = self.rows[self.open.long()].to(device).double()
        variances: list[Tensor] = []
        if self.is_tied:
            covariance = self._shared_covariance()
            variances.append(covariance.diagonal(dim1=1, dim2=2).mean(0))
            packed.put_shared(self.open_shared.long().to(device), covariance)
        if not self.is_bare:
            diagonal = None
            if self.rank is None:
                own_width = self._own_width(self.mean.shape[1])
                first = unpack_triangle(self.spread.double(), own_width) / rows[:, None, None]
                variances.append(first.diagonal(dim1=1, dim2=2).mean(0))
            else:
                first = self.spread.double() / rows.sqrt()[:, None, None]
                diagonal = self.residual.double() / rows[:, None]
                variances.append((first.square().sum(1) + diagonal).mean(0))
            packed.put_own(own, first, diagonal)
        if not variances:
            variances.append(torch.ones_like(self.mean[0]))
        packed.put_means(own, self.mean, variances[0].sqrt().float())
        for name in self._floats:
            self.buffers[name] = self.buffers[name].new_zeros(0)
        self.open, self.open_shared = self.open[:0], self.open_shared[:0]

    # ---------------------------------------------------------------- read

    def read(self, labels: Tensor) -> Groups:
        """All groups that hold rows, of the float tensors and the packed ones.

        :param labels: of the classes by their index, ``(K,)``.
        """
        rows, device = self.rows, self.mean.device
        live = (rows > 0).nonzero().flatten()
        mean, own = self.gaussians(live)
        shared, of = None, torch.zeros(len(live), dtype=torch.int64)
        if self.is_tied:
            of, shared = self._shared_of(live), self._all_shared()
        label = labels[live if self.of_classes else self.groups[live, 0].long()].to(device)
        return Groups(mean, label, rows[live].to(device), None if self.is_bare else own, shared, of.to(device))

    def gaussians(self, index: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
        """Means ``(n, C)`` and F, d of the own covariances :math:`F^T F + diag(d)` of groups ``(n,)``, n >= 1."""
        at, width, device = self._at(index), self.width, self.mean.device
        own_width = self._own_width(width)
        rank = own_width if self.rank is None else 0 if self.is_bare else min(self.rank, width)
        mean = torch.zeros(len(index), width, device=device)
        first = torch.zeros(len(index), rank, own_width, device=device)
        diagonal = None if self.rank is None else torch.zeros(len(index), width, device=device)
        rest, mine = (at < 0).nonzero().flatten(), (at >= 0).nonzero().flatten()
        if self.packed is not None and len(rest):
            place, to = index[rest].to(device), rest.to(device)
            mean[to] = self.packed.means(place)
            if not self.is_bare:
                first[to], left = self.packed.factors(place)
                if diagonal is not None and left is not None:
                    diagonal[to] = left
        if len(mine):
            place, to = at[mine].to(device), mine.to(device)
            rows = self.rows[index[mine]].to(device).double()
            mean[to] = self.mean[place]
            if self.rank is None:
                scatter = unpack_triangle(self.spread[place].double(), own_width)
                first[to] = (symmetric_factors(scatter) / rows.sqrt()[:, None, None]).float()
            elif not self.is_bare and diagonal is not None:
                first[to] = (self.spread[place] / rows.sqrt()[:, None, None]).float()
                diagonal[to] = (self.residual[place] / rows[:, None]).float()
        return mean, (first, diagonal)

    def _all_shared(self) -> Tensor:
        """Shared covariances ``(T, C, C)``, float64."""
        count, where = self._shared_count(), self._shared_open()
        out = torch.zeros(count, self.width, self.width, dtype=torch.float64, device=self.mean.device)
        still = torch.tensor(sorted({*range(count)} - {*where.tolist()}), dtype=torch.int64)
        if self.packed is not None and len(still):
            factors = self.packed.shared_factors(still.to(out.device)).double()
            out[still.to(out.device)] = factors.mT @ factors
        if len(where):
            out[where.to(out.device)] = self._shared_covariance()
        return out

    def _shared_covariance(self) -> Tensor:
        """Of the shared scatters that are open, ``(T', C, C)`` float64."""
        rows = self._shared_rows()[self._shared_open()].to(self.shared.device).double()
        return unpack_triangle(self.shared.double(), self.width) / rows[:, None, None]

    # ---------------------------------------------------------------- sample

    def drawn(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """A group ``(n,)`` of each class drawn ``(n,)``, by its rows."""
        if self.of_classes:
            return classes
        weights = (self.groups[:, 0].long()[None] == classes[:, None]) * self.rows.double()
        return torch.multinomial(weights, 1, generator=generator)[:, 0]

    def generators(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Means, factors and residuals of groups ``(n,)`` to draw from."""
        if self.is_bare:
            mean, (factors, _) = self.gaussians(index)
            if not self.is_unit:
                of, place = torch.unique(self._shared_of(index), return_inverse=True)
                factors = symmetric_factors(self._all_shared()[of.to(mean.device)]).float()[place.to(mean.device)]
            return mean, factors, None
        if self.leading is not None:
            mean, (head, _) = self.gaussians(index)
            shared = self._all_shared()[self._shared_of(index).to(mean.device)]
            whole = extend_covariance(head.double().mT @ head.double(), shared)
            return mean, symmetric_factors(whole).float(), None
        if self.packed is not None:
            mean, (own, diagonal) = self.gaussians(index)
            return mean, own, diagonal
        at = index.to(self.mean.device)
        scale = self.rows[index].to(at.device, torch.float32)
        # Kept, the factors of whole matrices would take twice the bytes of all else.
        if self.rank is None:
            factors = symmetric_factors(unpack_triangle(self.spread[at].double(), self.mean.shape[1])).float()
        else:
            factors = self.spread[at]
        residual = None if self.rank is None else self.residual[at] / scale[:, None]
        return self.mean[at], factors / scale.sqrt()[:, None, None], residual

    # ---------------------------------------------------------------- state

    def state(self) -> dict[str, Tensor]:
        """The tables, but for those that a plain bank has no need of."""
        return {} if self.is_plain else {name: getattr(self, name) for name in _TABLES}

    def restore(self, state: Mapping[str, Any], table: Tensor) -> None:
        """Take up what :meth:`state` gave.

        :param table: of the classes, as ``write`` has it.
        """
        self._class_rows = table[:, 1]
        for name in () if self.is_plain else _TABLES:
            setattr(self, name, state[name].cpu().clone())

    def check_sound(self, table: Tensor, row_width: int | None) -> None:
        """Raise unless this is a bank of the classes of a table.

        :param row_width: numbers of a code; None: any.
        :raises ValueError: saying what is wrong.
        """
        self._check_tables(table)
        groups = len(self.rows)
        width = self.width if groups and (len(self.mean) or self.packed is not None) else 0
        if groups and row_width is not None and width != row_width:
            raise ValueError(f"state: expected codes of {row_width} numbers, got {width}")
        open_groups = groups if self.packed is None else len(self.open)
        like = {name: (open_groups, *tail) for name, tail in self._tails(width).items()}
        count = self._shared_count() if groups else 0
        if self.is_tied:
            like["shared"] = (count if self.packed is None else len(self.open_shared), width * (width + 1) // 2)
        if self.components > 1:
            like["waiting"] = (len(self.waits), width)
        for name, shape in like.items():
            check_tensor(name, self.buffers[name], shape)
        if self.packed is not None:
            packed, shared = len(self.packed.mean), len(self.packed.shared_codes)
            for kind, there, held, opened in (
                ("groups", groups, packed, self.open),
                *((("shared matrices", count, shared, self.open_shared),) if self.is_tied else ()),
            ):
                if held > there or set(range(held, there)) - set(opened.tolist()):
                    raise ValueError(f"state: expected each of {there} {kind} packed or open, got {held} packed")
            self.packed.check_sound(packed, shared, width, own=None if self.is_bare else self._own_width(width))
        variances = self.residual
        if self.rank is None and len(self.spread):
            variances = unpack_triangle(self.spread, self._own_width(width)).diagonal(dim1=-2, dim2=-1)
        if variances.numel() and float(variances.min()) < 0:
            raise ValueError("state: expected variances >= 0")

    def _check_tables(self, table: Tensor) -> None:
        groups = self.groups
        for name in _TABLES:
            held, tail = getattr(self, name), (3,) if name == "groups" else ()
            if held.dtype != torch.int32 or tuple(held.shape[1:]) != tail or held.ndim != len(tail) + 1:
                raise ValueError(f"state: expected {name} of int32, got {held.dtype} {tuple(held.shape)}")
        if self.of_classes and len(groups):
            raise ValueError("state: expected no groups, as each class is one")
        if not self.of_classes:
            check.label_range("state: groups", groups[:, 0], max(0, len(table) - 1))
            check.label_range("state: groups", groups[:, 1:])
            sums = torch.zeros(len(table), dtype=torch.int64)
            if not torch.equal(sums.index_add_(0, groups[:, 0].long(), self.rows), table[:, 1]):
                raise ValueError("state: expected groups that hold the rows of the classes")
        for name, most in (("open", len(self.rows)), ("open_shared", self._shared_count()), ("waits", len(groups))):
            held = getattr(self, name)
            if len(held):
                check.label_range(f"state: {name}", held, most - 1)
            if name != "waits" and len(set(held.tolist())) != len(held):
                raise ValueError(f"state: expected each of {name} once")
