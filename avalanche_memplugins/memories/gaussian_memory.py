"""Gaussians of classes: they answer, and they generate."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins._fingerprint import fingerprint
from avalanche_memplugins._modes import eval_mode
from avalanche_memplugins.functional import (
    draw_low_rank,
    merge_low_rank,
    merge_moments,
    pack_triangle,
    symmetric_factors,
    unpack_triangle,
)
from avalanche_memplugins.memories._gaussian_budget import SIZES, Precision, best_of, candidates, settled_nbytes
from avalanche_memplugins.memories._gaussian_parts import Discriminant, Groups, PackedGaussians, k_means
from avalanche_memplugins.memories._generative import GenerativeMemory, check_count, slots
from avalanche_memplugins.memories.recall import Recall

_START = 80  # rows of a class from which its mixture starts
_EACH = 10  # rows a part of a mixture has at least when it starts with fewer


class GaussianMemory(GenerativeMemory):
    r"""Every class c as one Gaussian over its codes, or several, fitted in one pass: it answers, and it generates.

    .. math:: z \sim \mathcal N\left(\mu_c, \tfrac{1}{n_c} (F_c^T F_c + \mathrm{diag}(d_c)) \right), \qquad
        x = \mathrm{decode}(z), \qquad p(c \mid x) \propto \pi_c \, \mathcal N(z; \mu_c, C_c)

    Each batch is merged into mean and scatter as it comes: any number of classes a batch, from one row on,
    new ones at any time. Mean and variances are exact; covariances too, as long as the rows of a class span
    no more than ``rank`` directions, or with ``rank=None``. What a write and a draw cost does not depend on
    what was written before. Read by :meth:`predict` it is the discriminant: quadratic, linear with ``tied=True,
    rank=0``, diagonal with ``rank=0``. It is the plain control for every memory that models codes.

    State is float32, sums are made in float64. Labels are looked at on the CPU: if they are on a GPU, each
    write waits for them.

    With a ``precision`` in bits a Gaussian that has rested takes a tenth of that (see
    :mod:`~avalanche_memplugins.functional.packed_covariance`). Those that the running experience writes to are float32
    meanwhile: this work space is counted in :attr:`nbytes` until :meth:`settle` packs it, which the first row of
    another ``origin`` does, too. ``settle="write"`` packs after every write: no work space is left, but rounding adds
    up: 8 bits lose nothing then, 6 bits little without ``tied``, 4 bits some points.

    :param rank: r, rows of F, >= 0; 0: variances only. None: the full covariance, kept as its triangle of
        C (C + 1) / 2 numbers; each draw factors it anew, which takes time that grows with C cubed.
    :param balance: what ``sample`` draws, and how often ``predict`` expects it: every ``"class"`` as often as the
        others, or in proportion to the ``"count"`` of its rows.
    :param tied: keep one full covariance that all share (LDA), beside ``rank`` factors and the variances of each;
        with ``rank=0`` it stands alone. ``"unit"``, with ``rank=0``: keep means alone and take every covariance to be
        the identity (nearest mean); samples are these means.
    :param components: M, Gaussians a class at most, found by one-pass k-means: from the class's first 80 rows, which
        are kept until then, and then by the nearest running mean.
    :param by: a Gaussian for each ``"class"``, or for each class in each ``"experience"``, for streams where classes
        come back in other guises. The class's density is then their sum, and ``tied`` means one an experience.
    :param precision: ``"float32"``; or 8, 6 or 4 bits a number of the factors, means in int8.
    :param settle: when bits are made of it: at the end of an ``"experience"``, or after each ``"write"``.
    :param shrinkage: a, 0 to 1, and
    :param ridge: r, >= 0, of :func:`~avalanche_memplugins.functional.shrink_covariance`: what ``predict`` does to a
        covariance before it is used. They can be changed at any time.
    :param embedding: a module that makes vectors ``(B, C)`` of rows, which are modelled in their place, such as
        :class:`~avalanche_memplugins.networks.Scattering`. It is copied, and nothing can be sampled.
    :param codec: a :class:`~avalanche_memplugins.codecs.LatentCodec`, whose codes are modelled; None: the
        rows themselves, flattened.
    :param seed: of the memory's generator. None: drawn from torch's global generator.
    :raises ValueError: for arguments out of range or that exclude each other, naming the argument.
    :raises TypeError: for a codec without a latent space.

    Sources: FeCAM, Goswami et al. 2023, arXiv 2309.14062; streaming LDA, Hayes & Kanan 2020, arXiv 1909.01520.

    >>> memory = GaussianMemory(rank=None, precision=8, seed=0)
    >>> memory.write(torch.tensor([[0.0], [1.0], [5.0], [7.0]]), torch.tensor([0, 0, 1, 1]))
    >>> memory.predict(torch.tensor([[0.5], [6.0]])).argmax(1)
    tensor([0, 1])
    """

    _fixed = ("codec.", "embedding.")
    mean: Tensor
    spread: Tensor
    residual: Tensor
    shared: Tensor
    waiting: Tensor
    packed: PackedGaussians | None

    def __init__(
        self,
        *,
        rank: int | None = 16,
        balance: Literal["class", "count"] = "class",
        tied: bool | Literal["unit"] = False,
        components: int = 1,
        by: Literal["class", "experience"] = "class",
        precision: Precision = "float32",
        settle: Literal["experience", "write"] = "experience",
        shrinkage: float = 0.1,
        ridge: float = 3e-3,
        embedding: nn.Module | None = None,
        codec: Any | None = None,
        seed: int | None = None,
    ) -> None:
        if tied != "unit":
            check.flag("tied", tied)
        super().__init__(codec=codec, seed=seed)
        self.rank = None if rank is None else check.integer("rank", rank, least=0)
        self.balance = check.choice("balance", balance, ("class", "count"))
        self.tied = tied
        self.components = check.integer("components", components, least=1, most=2**15)
        self.by = check.choice("by", by, ("class", "experience"))
        self.precision: Precision = _precision(precision)
        self.settles_at = check.choice("settle", settle, ("experience", "write"))
        self.shrinkage = check.number("shrinkage", shrinkage, least=0, most=1)
        self.ridge = check.number("ridge", ridge, least=0)
        if tied is True and rank is None:
            raise ValueError("rank: with tied=True expected an integer >= 0, as whole matrices have a mean, got None")
        if tied is True and components > 1:
            raise ValueError(f"components: with tied=True expected 1, got {components}")
        if tied == "unit" and rank != 0:
            raise ValueError(f"rank: with tied='unit' expected 0, as no spread is kept, got {rank}")
        self.embedding: nn.Module | None = None
        if embedding is not None:
            check.instance("embedding", embedding, nn.Module, "a module or None")
            if codec is not None:
                raise ValueError("embedding: expected None beside a codec, which makes the codes, got both")
            self.embedding = copy.deepcopy(embedding).requires_grad_(False).eval()
        # spread: (K, r, C) factors F, or (K, C (C + 1) / 2) triangles of the scatter; shared: such triangles.
        names = [
            "mean",
            "spread",
            "residual",
            *(["shared"] if tied is True else []),
            *(["waiting"] if components > 1 else []),
        ]
        for name in names:
            self.register_buffer(name, torch.zeros(0))
        self.packed = None if self.precision == "float32" else PackedGaussians(self.precision, self.rank)
        self._groups = torch.zeros(
            0, 3, dtype=torch.int32
        )  # class's index, experience, rows; where they are no classes
        self._open = torch.zeros(0, dtype=torch.int32)  # groups that the float tensors are of; where some are packed
        self._open_shared = torch.zeros(0, dtype=torch.int32)
        self._waits = torch.zeros(0, dtype=torch.int32)  # groups that the waiting rows are of
        self._experience: int | None = None
        self._reader: tuple[list[tuple[Tensor, int]], tuple[float, float], Discriminant] | None = None

    @classmethod
    def from_budget(
        cls,
        nbytes: int | str,
        *,
        classes: int,
        shape: tuple[int, ...] | None = None,
        codec: Any | None = None,
        experiences: int = 1,
        rows: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> GaussianMemory:
        """The best memory whose :attr:`nbytes`, once settled, stay within a budget.

        With a ``precision`` that is given, or float32: whole covariances if they fit, else the largest rank that does.
        ``precision="auto"``: whole covariances of 6 bits, or of 4; else shared ones with the largest rank of 6 bits;
        else shared ones alone, of 6 or 4 bits. With ``rows`` nothing is supposed: all that fits - a covariance a class,
        whole or by rank, one for all, mixtures of 2 to 8 - is fitted to four fifths of them, and what answers best on
        the last fifth is taken, with the shrinkage that did best there.

        :param nbytes: the budget in bytes, a number or as in ``"2MB"``, everything that grows with the classes counted.
        :param classes: how many are expected; more of them take more bytes.
        :param shape: of one row of x, or of what the embedding makes of it; wanted without a codec.
        :param codec: as for :class:`GaussianMemory`.
        :param experiences: how many a class is expected in, with ``by="experience"``.
        :param rows: x and y to choose by, ``(n, *shape)`` and ``(n,)``, from what may be looked at: never test data.
        :param kwargs: the other arguments of :class:`GaussianMemory`; what is given is not chosen.
        :raises ValueError: if nothing fits.
        """
        nbytes = parse_bytes(nbytes, "nbytes")
        check.positive_integer("classes", classes)
        check.positive_integer("experiences", experiences)
        check.latent_codec(codec)
        width = int(codec.code_size) if codec is not None else check.row_shape(shape).numel()
        made = {"codec": codec, **kwargs}
        if (auto := made.get("precision") == "auto") or (rows is not None and "precision" not in made):
            made.pop("precision", None)
        fitting, least = [], None
        for options in candidates(made, width, auto=auto, all_kinds=rows is not None):
            told = {name: value for name, value in {**made, **options}.items() if name in SIZES}
            takes = settled_nbytes(classes, width, experiences, **told)
            least = takes if least is None else min(least, takes)
            if takes <= nbytes:
                fitting.append(options)
                if rows is None:
                    break
        if not fitting:
            raise ValueError(
                f"nbytes: expected at least the {least} bytes that mean and variances of {classes} classes take, got "
                f"{nbytes}"
            )
        if rows is None:
            return cls(**{**made, **fitting[0]})
        made["seed"] = check.seed(made.get("seed"))
        choices = ("shrinkage",) if "shrinkage" in made else ()
        return best_of([cls(**{**made, **options}) for options in fitting], rows, given=choices)

    def settled_nbytes(self, classes: int, width: int, experiences: int = 1) -> int:
        """:attr:`nbytes` with so many classes of codes so wide, when nothing waits to be packed.

        :param classes: K, >= 1.
        :param width: C, >= 1.
        :param experiences: that a class is in, with ``by="experience"``.
        """
        check.positive_integer("classes", classes)
        check.positive_integer("width", width)
        check.positive_integer("experiences", experiences)
        return settled_nbytes(
            classes,
            width,
            experiences,
            **{name: getattr(self, name) for name in SIZES},
        )

    @property
    def nbytes(self) -> int:
        """Bytes that hold the stream, with the work space of what is not packed yet."""
        return super().nbytes + sum(t.nbytes for t in (self._groups, self._open, self._open_shared, self._waits))

    @property
    def nbytes_fixed(self) -> int:
        """Bytes needed besides, whatever the stream: the codec's, or the embedding's weights."""
        if self.embedding is None:
            return super().nbytes_fixed
        return sum(value.nbytes for value in self.embedding.state_dict().values() if isinstance(value, Tensor))

    @property
    def device(self) -> torch.device:
        """Where samples come out."""
        return self.mean.device

    def __repr__(self) -> str:
        more = "".join(f", {said}" for said in self._others())
        return f"{type(self).__name__}(rank={self.rank}{more}, balance={self.balance!r}, codec={self.codec!r})"

    def _others(self) -> list[str]:
        """What it was made with besides rank, balance and codec, where that shapes its state."""
        usual = {"tied": False, "components": 1, "by": "class", "precision": "float32"}
        said = [f"{name}={getattr(self, name)!r}" for name, value in usual.items() if getattr(self, name) != value]
        if self.embedding is not None:
            name, mark = type(self.embedding).__name__, fingerprint(_tensors(self.embedding))
            said.append(f"embedding={name}({self.embedding.extra_repr()}) of fingerprint {mark}")
        return said

    def _parts(self) -> list[str]:
        return [f"{type(self).__name__} of rank {self.rank}", f"codec {self.codec!r}", *self._others()]

    # ---------------------------------------------------------------- write

    @torch.no_grad()
    def write(self, x: Tensor, y: Tensor, t: Tensor | int = 0, *, origin: Tensor | int | None = None) -> None:
        """Merge a batch into the Gaussians of its classes.

        Nothing changes if an error is raised.

        :param x: rows ``(B, *shape)``; their shape and type stay those of the first write.
        :param y: classes ``(B,)``, integers >= 0.
        :param t: task labels ``(B,)`` or one for all, integers >= 0; replay brings back a class's latest.
        :param origin: number of the experience that the rows come from, ``(B,)`` or one for all; ``t`` if
            not given; replay brings back a class's latest. Another one than before means that an experience has ended.
        :raises TypeError: if an argument is of a wrong kind.
        :raises ValueError: if shapes, types or values do not fit, naming the argument.
        """
        origin = t if origin is None else origin
        if not self._check(x, y, t, origin):
            return
        with torch.autocast(x.device.type, enabled=False):
            codes = self._to_codes(x)
        self._check_size(codes)
        if not self._is_plain:
            number = int(origin[-1]) if isinstance(origin, Tensor) else origin
            if self._experience not in (None, number):
                self.settle()
            self._experience = number
        self.shape, self.dtype = x.shape[1:], x.dtype
        index, places, rows = self._enrol(y, t, origin)
        count = self._table[index, 1] - rows
        if not self._groups_are_classes:
            index, places, rows, count = self._group(codes, index[places], origin)
        self._take_in(codes, index, places, rows, count)
        if len(self._waits):
            self._start_ready()
        if self.settles_at == "write":
            self.settle()

    def _take_in(self, codes: Tensor, index: Tensor, places: Tensor, rows: Tensor, count: Tensor) -> None:
        """Merge rows into groups ``index`` ``(K,)``, of which they have ``count``; ``places`` ``(B,)`` among these."""
        at, width = self._opened(index, count, codes), codes.shape[1]
        batch = codes.new_zeros(len(index), int(rows.max()), width, dtype=torch.float64)
        batch[places, slots(places, rows)] = codes.double()
        sizes, at = rows, at.to(self.device)
        count, rows = (v.to(self.device) for v in (count, rows))
        _, mean, growth = merge_moments(count, self.mean[at].double(), batch, rows)
        self.mean[at] = mean.float()
        if self.tied is True:
            self._take_in_shared(index, sizes, growth)
        if self.rank is None:
            self.spread[at] += pack_triangle(growth.mT @ growth).float()
        elif not self._is_bare:
            factors, residual = merge_low_rank(self.spread[at].double(), self.residual[at].double(), growth)
            self.spread[at], self.residual[at] = factors.float(), residual.float()

    def _take_in_shared(self, index: Tensor, sizes: Tensor, growth: Tensor) -> None:
        of, total = self._shared_of(index), self._shared_rows()
        for number in torch.unique(of).tolist():
            mine = of == number
            place = self._opened_shared(number, float(total[number] - sizes[mine].sum()), growth)
            rows = growth[mine.to(growth.device)].flatten(0, 1)
            self.shared[place] += pack_triangle(rows.mT @ rows).float()

    @torch.no_grad()
    def settle(self) -> None:
        """Pack what the running experience wrote, and start mixtures that wait for rows.

        With ``precision="float32"`` and one Gaussian a class there is nothing to do. A plugin that reads this memory
        calls it at the end of each experience; in a loop of your own call it there.
        """
        for group in torch.unique(self._waits).tolist():
            self._start(group)
        packed, own = self.packed, self._open.long().to(self.device)
        if packed is None or not len(own):
            return
        rows = self._group_rows()[self._open.long()].to(self.device).double()
        shared = self._open_shared.long().to(self.device)
        variances: list[Tensor] = []
        if self.tied is True:
            covariance = self._shared_covariance()
            variances.append(covariance.diagonal(dim1=1, dim2=2).mean(0))
            packed.put_shared(shared, covariance)
        if not self._is_bare:
            if self.rank is None:
                first = unpack_triangle(self.spread.double(), self.mean.shape[1]) / rows[:, None, None]
                diagonal = None
                variances.append(first.diagonal(dim1=1, dim2=2).mean(0))
            else:
                first = self.spread.double() / rows.sqrt()[:, None, None]
                diagonal = self.residual.double() / rows[:, None]
                variances.append((first.square().sum(1) + diagonal).mean(0))
            packed.put_own(own, first, diagonal)
        if not variances:
            variances.append(torch.ones_like(self.mean[0]))
        packed.put_means(own, self.mean, variances[0].sqrt().float())
        for name in ("mean", "spread", "residual", *(["shared"] if self.tied is True else [])):
            self.register_buffer(name, self.get_buffer(name).new_zeros(0))
        self._open, self._open_shared = self._open[:0], self._open_shared[:0]

    # ---------------------------------------------------------------- read

    @torch.no_grad()
    def predict(self, x: Tensor, *, classes: int | None = None, task: int | None = None) -> Tensor:
        """Log posteriors of the classes, by the covariances after shrinkage.

        :param x: rows ``(B, *shape)``.
        :param classes: N, columns; None: as many as the largest class has, and one. A class that was not seen has
            minus infinity.
        :param task: only classes that were last written under this task label; None: all.
        :returns: ``(B, N)``, float32.
        :raises ValueError: for rows of another shape, if nothing has been written, or if a class held has no column.
        """
        rows = check.rows_of(x)
        self._check_rows(x)
        if not len(self):
            raise ValueError("x: expected a memory that something has been written to, got an empty one")
        held, allowed = self._table[self._table[:, 1] > 0], None
        if task is not None:
            check.integer("task", task, least=0)
            held = held[held[:, 2] == task]
            if not len(held):
                raise ValueError(f"task: expected one that was written, got {task}")
        most = int(held[:, 0].max())
        classes = most + 1 if classes is None else check.positive_integer("classes", classes)
        if most >= classes:
            raise ValueError(f"classes: expected more than {most}, the largest class held, got {classes}")
        with torch.autocast(x.device.type, enabled=False):
            codes = self._to_codes(x).float()
            reader = self._discriminant()
            label = reader.groups.label
            if task is not None:
                allowed = torch.isin(label, held[:, 0].to(label.device))
            columns = max(classes, int(self._table[:, 0].max()) + 1)
            found = reader.log_posterior(codes, columns, by_count=self.balance == "count", allowed=allowed)
        return found[:rows, :classes]

    def _discriminant(self) -> Discriminant:
        """Made anew when what it was made of has changed."""
        held = [*self.buffers(recurse=False), *(() if self.packed is None else self.packed.buffers())]
        made_with = [(tensor, tensor._version) for tensor in held], (self.shrinkage, self.ridge)
        if self._reader is None or not _same(self._reader[:2], made_with):
            self._reader = (*made_with, Discriminant(self._read(), self.shrinkage, self.ridge))
        return self._reader[2]

    def _read(self) -> Groups:
        """All groups, of the float tensors and the packed ones."""
        kind = self._group_kind()
        rows = self._group_rows()
        live = (rows > 0).nonzero().flatten()
        mean, own = self._gaussians(live)
        shared, of = None, torch.zeros(len(live), dtype=torch.int64)
        if self.tied is True:
            of = self._shared_of(live)
            shared = self._all_shared()
        device = self.device
        label = self._table[kind[live], 0].to(device)
        return Groups(mean, label, rows[live].to(device), None if self._is_bare else own, shared, of.to(device))

    def _gaussians(self, index: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
        """Means ``(n, C)`` and F, d of the covariances :math:`F^T F + diag(d)` of groups ``(n,)``, n >= 1."""
        at, width = self._at(index), self._width()
        rank = width if self.rank is None else 0 if self._is_bare else min(self.rank, width)
        mean = torch.zeros(len(index), width, device=self.device)
        first = torch.zeros(len(index), rank, width, device=self.device)
        diagonal = None if self.rank is None else torch.zeros(len(index), width, device=self.device)
        rest, mine = (at < 0).nonzero().flatten(), (at >= 0).nonzero().flatten()
        if len(rest):
            packed, place, to = _present(self.packed), index[rest].to(self.device), rest.to(self.device)
            mean[to] = packed.means(place)
            if not self._is_bare:
                first[to], left = packed.factors(place)
                if diagonal is not None and left is not None:
                    diagonal[to] = left
        if len(mine):
            place, to = at[mine].to(self.device), mine.to(self.device)
            rows = self._group_rows()[index[mine]].to(self.device).double()
            mean[to] = self.mean[place]
            if self.rank is None:
                scatter = unpack_triangle(self.spread[place].double(), width)
                first[to] = (symmetric_factors(scatter) / rows.sqrt()[:, None, None]).float()
            elif not self._is_bare and diagonal is not None:
                first[to] = (self.spread[place] / rows.sqrt()[:, None, None]).float()
                diagonal[to] = (self.residual[place] / rows[:, None]).float()
        return mean, (first, diagonal)

    def _all_shared(self) -> Tensor:
        """Shared covariances ``(T, C, C)``, float64."""
        width, count = self._width(), self._shared_count()
        out = torch.zeros(count, width, width, dtype=torch.float64, device=self.device)
        if self.packed is not None:
            still = torch.tensor([n for n in range(count) if n not in self._open_shared.tolist()], dtype=torch.int64)
            if len(still):
                factors = self.packed.shared_factors(still.to(self.device)).double()
                out[still.to(self.device)] = factors.mT @ factors
        where = self._open_shared.long() if self.packed is not None else torch.arange(count)
        if len(where):
            out[where.to(self.device)] = self._shared_covariance()
        return out

    def _shared_covariance(self) -> Tensor:
        """Of the shared scatters that are open, ``(T', C, C)`` float64."""
        where = self._open_shared.long() if self.packed is not None else torch.arange(self._shared_count())
        rows = self._shared_rows()[where].to(self.device).double()
        return unpack_triangle(self.shared.double(), self._width()) / rows[:, None, None]

    # ---------------------------------------------------------------- sample

    @torch.no_grad()
    def sample(self, n: int) -> Recall:
        """``n`` rows that the Gaussians generate, each with its class and that class's latest t and origin.

        :param n: rows wanted, >= 1.
        :raises ValueError: if ``n`` is not positive or nothing has been written, or with an embedding, which has no
            way back to rows.
        """
        if self.embedding is not None:
            raise ValueError(
                "memory: expected a codec, which decodes, to sample rows; got an embedding, which does not"
            )
        drawn = self._draw_classes(n, by_count=self.balance == "count")
        groups = drawn if self._groups_are_classes else self._draw_groups(drawn)
        index, places, rows = torch.unique(groups, return_inverse=True, return_counts=True)
        most, width = int(rows.max()), self._width()
        mean, factors, residual = self._drawn_from(index)
        noise = self._noise(len(index), most, factors.shape[1])
        eps = None if residual is None else self._noise(len(index), most, width)
        with torch.autocast(self.device.type, enabled=False):
            z = draw_low_rank(mean, factors, residual, noise, eps)
            place, slot = places.to(self.device), slots(places, rows).to(self.device)
            return self._recall(self._from_codes(z[place, slot]), drawn)

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self.device)

    def _drawn_from(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Means, factors and residuals of groups ``(n,)``."""
        if self.tied == "unit":
            mean, (factors, _) = self._gaussians(index)
            return mean, factors, None
        if self._is_bare:
            of, place = torch.unique(self._shared_of(index), return_inverse=True)
            factors = symmetric_factors(self._all_shared()[of.to(self.device)]).float()
            return self._gaussians(index)[0], factors[place.to(self.device)], None
        if self.packed is not None:
            mean, own = self._gaussians(index)
            return mean, *own
        at = index.to(self.device)
        scale = self._group_rows()[index].to(self.device, torch.float32)
        # Kept, the factors of whole matrices would take twice the bytes of all else.
        if self.rank is None:
            factors = symmetric_factors(unpack_triangle(self.spread[at].double(), self.mean.shape[1])).float()
        else:
            factors = self.spread[at]
        residual = None if self.rank is None else self.residual[at] / scale[:, None]
        return self.mean[at], factors / scale.sqrt()[:, None, None], residual

    def _draw_groups(self, drawn: Tensor) -> Tensor:
        """A group ``(n,)`` of each class drawn, by its rows."""
        kind, rows = self._group_kind(), self._group_rows()
        weights = (kind[None] == drawn[:, None]) * rows.double()
        return torch.multinomial(weights, 1, generator=self._generator)[:, 0]

    # ---------------------------------------------------------------- groups

    @property
    def _groups_are_classes(self) -> bool:
        return self.components == 1 and self.by == "class"

    @property
    def _is_plain(self) -> bool:
        """Whether all is float32, one Gaussian a class."""
        return self._groups_are_classes and self.packed is None

    @property
    def _is_bare(self) -> bool:
        """Whether groups have no covariance of their own."""
        return bool(self.tied) and self.rank == 0

    def _group_kind(self) -> Tensor:
        """Index ``(G,)`` of the class of each group, on the CPU."""
        return torch.arange(len(self._table)) if self._groups_are_classes else self._groups[:, 0].long()

    def _group_rows(self) -> Tensor:
        """Rows ``(G,)`` of each group, on the CPU."""
        return self._table[:, 1] if self._groups_are_classes else self._groups[:, 2].long()

    def _shared_of(self, index: Tensor) -> Tensor:
        """Number ``(n,)`` of the shared matrix of groups ``(n,)``: one for all, or one an experience as they came."""
        if self.by == "class":
            return torch.zeros_like(index)
        came: dict[int, int] = {}
        for number in self._groups[:, 1].tolist():
            came.setdefault(number, len(came))
        return torch.tensor([came[number] for number in self._groups[index, 1].tolist()], dtype=torch.int64)

    def _shared_count(self) -> int:
        return 1 if self.by == "class" else len(set(self._groups[:, 1].tolist()))

    def _shared_rows(self) -> Tensor:
        """Rows ``(T,)`` of each shared matrix."""
        rows = self._group_rows()
        return torch.zeros(self._shared_count(), dtype=torch.int64).index_add_(
            0, self._shared_of(torch.arange(len(rows))), rows
        )

    def _width(self) -> int:
        if self.packed is not None and len(self.packed.centre):
            return len(self.packed.centre)
        return self.mean.shape[1]

    def _at(self, index: Tensor) -> Tensor:
        """Places ``(n,)`` of groups in the float tensors; -1: it is packed only."""
        if self.packed is None:
            return index
        place = torch.full((max(1, len(self._group_rows())),), -1, dtype=torch.int64)
        place[self._open.long()] = torch.arange(len(self._open))
        return place[index]

    def _opened(self, index: Tensor, count: Tensor, codes: Tensor) -> Tensor:
        """Places ``(n,)`` of groups of so many rows ``(n,)`` in the float tensors, with room made for them."""
        if self.packed is None:
            self._allocate(codes, len(self._group_rows()) - len(self.mean))
            return index
        closed = self._at(index) < 0
        if bool(closed.any()):
            fresh, first = index[closed], len(self._open)
            known = fresh < len(self.packed.mean)
            held = self._packed_gaussians(fresh[known], count[closed][known]) if bool(known.any()) else {}
            self._allocate(codes, len(fresh))
            to = first + known.nonzero().flatten().to(self.device)
            for name, value in held.items():
                self.get_buffer(name)[to] = value
            self._open = torch.cat([self._open, fresh.int()])
        return self._at(index)

    def _packed_gaussians(self, index: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """The float tensors of packed groups ``(n,)`` of so many rows ``(n,)``."""
        packed, index, weight = _present(self.packed), index.to(self.device), rows.to(self.device).double()
        held = {"mean": packed.means(index)}
        if self._is_bare:
            return held
        factors, diagonal = packed.factors(index)
        if diagonal is None:
            scatter = factors.double().mT @ factors.double() * weight[:, None, None]
            return {**held, "spread": pack_triangle(scatter).float()}
        spread = factors.double() * weight.sqrt()[:, None, None]
        return {**held, "spread": spread.float(), "residual": (diagonal.double() * weight[:, None]).float()}

    def _opened_shared(self, number: int, rows: float, like: Tensor) -> int:
        """Place of a shared matrix of so many rows in the float tensor, with room made for it."""
        held = list(range(len(self.shared))) if self.packed is None else self._open_shared.tolist()
        if number in held:
            return held.index(number)
        fresh = torch.zeros(1, like.shape[-1] * (like.shape[-1] + 1) // 2, device=like.device)
        if self.packed is not None:
            if number < len(self.packed.shared_codes):
                factors = self.packed.shared_factors(torch.tensor([number], device=self.device)).double()
                fresh = pack_triangle(factors.mT @ factors * rows).float()
            self._open_shared = torch.cat([self._open_shared, torch.tensor([number], dtype=torch.int32)])
        self.register_buffer("shared", torch.cat([self.shared, fresh]) if len(self.shared) else fresh)
        return len(self.shared) - 1

    def _allocate(self, codes: Tensor, new: int) -> None:
        width, device = codes.shape[1], codes.device
        if not new:
            return
        for name, shape in self._tails(width).items():
            held = getattr(self, name)
            rows = torch.zeros(new, *shape, device=device)
            self.register_buffer(name, torch.cat([held, rows]) if len(held) else rows)

    def _tails(self, width: int) -> dict[str, tuple[int, ...]]:
        """Shapes of a group's mean, spread and residual."""
        own = width if not self._is_bare else 0
        spread = (width * (width + 1) // 2,) if self.rank is None else (min(self.rank, width), width)
        return {"mean": (width,), "spread": spread, "residual": (0 if self.rank is None else own,)}

    def _group(
        self, codes: Tensor, classes: Tensor, experiences: Tensor | int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The groups of rows, entered into their table.

        :param classes: index ``(B,)`` of each row's class.
        :param experiences: number ``(B,)`` of each row's experience, or one for all.
        :returns: as ``_enrol`` does, and the rows that the groups had before.
        """
        of = torch.zeros_like(classes)
        numbers = torch.zeros_like(classes)
        if self.by == "experience":
            numbers += experiences.cpu().long() if isinstance(experiences, Tensor) else experiences
        for kind, number in torch.unique(torch.stack([classes, numbers], 1), dim=0).tolist():
            mine = ((classes == kind) & (numbers == number)).nonzero().flatten()
            held = ((self._groups[:, 0] == kind) & (self._groups[:, 1] == number)).nonzero().flatten()
            if not len(held):
                held = torch.tensor([len(self._groups)])
                new = torch.tensor([[kind, number, 0]], dtype=torch.int32)
                self._groups = torch.cat([self._groups, new])
                waits = self.components > 1
            else:
                waits = len(held) == 1 and bool((self._waits == held[0]).any())
            if waits:
                rows = codes[mine.to(codes.device)].float()
                self.register_buffer("waiting", torch.cat([self.waiting, rows]) if len(self.waiting) else rows)
                self._waits = torch.cat([self._waits, held.int().expand(len(mine))])
            of[mine] = held[0]
            if len(held) > 1:
                distance = torch.cdist(codes[mine.to(codes.device)].float(), self._gaussians(held)[0])
                of[mine] = held[distance.argmin(1).cpu()]
        index, places, rows = torch.unique(of, return_inverse=True, return_counts=True)
        count = self._groups[index, 2].long()
        # A new table: whoever holds the old one must find it as it was.
        self._groups = self._groups.clone()
        self._groups[index, 2] += rows.int()
        return index, places, rows, count

    def _start_ready(self) -> None:
        """Start the mixtures whose first rows are there."""
        for group, rows in zip(*(part.tolist() for part in torch.unique(self._waits, return_counts=True)), strict=True):
            if rows >= max(_START, 2 * self.components):
                self._start(group)

    def _start(self, group: int) -> None:
        """Let the rows of a group that wait, which are all it has, fall into several groups."""
        mine = self._waits == group
        rows = self.waiting[mine.to(self.waiting.device)]
        parts = max(1, min(self.components, len(rows) // _EACH))
        if parts > 1:
            nearest = k_means(rows, parts, self._generator).cpu()
            _, places, sizes = torch.unique(nearest, return_inverse=True, return_counts=True)
            index = torch.tensor([group, *range(len(self._groups), len(self._groups) + len(sizes) - 1)])
            more = self._groups[group].repeat(len(sizes) - 1, 1)
            self._groups = torch.cat([self._groups, more])
            self._groups[index, 2] = sizes.int()
            nothing = torch.zeros_like(sizes)
            at = self._opened(index, nothing, rows).to(self.device)
            for name in self._tails(rows.shape[1]):
                self.get_buffer(name)[at] = 0
            self._take_in(rows, index, places, sizes, nothing)
        self.register_buffer("waiting", self.waiting[~mine.to(self.waiting.device)])
        self._waits = self._waits[~mine]

    # ---------------------------------------------------------------- parts of the above, and state

    def _to_codes(self, x: Tensor) -> Tensor:
        if self.embedding is None:
            return super()._to_codes(x)
        with eval_mode(self.embedding):
            codes = self.embedding(x)
        if not isinstance(codes, Tensor) or codes.ndim < 2 or len(codes) != len(x) or not codes.is_floating_point():
            raise ValueError(f"embedding: expected a vector for each of {len(x)} rows, (B, C), got {check.show(codes)}")
        codes = codes.flatten(1).float()
        if len(self) and codes.shape[1] != self._width():
            raise ValueError(f"embedding: expected vectors of {self._width()} numbers, got {codes.shape[1]}")
        check.finite("embedding", codes)
        return codes

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_reader": None}

    def get_extra_state(self) -> dict[str, Any]:
        """All that is not a parameter or buffer: classes, groups, shape of a row, the generator."""
        state = super().get_extra_state()
        if self._is_plain:
            return state
        held = {name: getattr(self, f"_{name}") for name in _TABLES}
        return {**state, **held, "experience": self._experience}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of a memory made with other arguments.
        """
        super().set_extra_state(state)
        if not self._is_plain:
            for name in _TABLES:
                setattr(self, f"_{name}", state[name].cpu().clone())
            self._experience = state["experience"]

    def _check_sound(self) -> None:
        super()._check_sound()
        if not self._is_plain:
            self._check_tables()
        groups = len(self._group_rows())
        width = self._width() if groups and (len(self.mean) or self.packed is not None) else 0
        if groups and self.embedding is None and width != self._row_width():
            raise ValueError(f"state: expected codes of {self._row_width()} numbers, got {width}")
        rows = groups if self.packed is None else len(self._open)
        like = {name: (rows, *tail) for name, tail in self._tails(width).items()}
        count = self._shared_count() if groups else 0
        if self.tied is True:
            like["shared"] = (count if self.packed is None else len(self._open_shared), width * (width + 1) // 2)
        if self.components > 1:
            like["waiting"] = (len(self._waits), width)
        for name, shape in like.items():
            self._check_held(name, shape)
        if self.packed is not None:
            packed = len(self.packed.mean)
            still = {n for n in range(groups) if n >= packed} - set(self._open.tolist())
            if packed > groups or still:
                raise ValueError(f"state: expected each of {groups} groups packed or open, got {packed} packed")
            shared = len(self.packed.shared_codes)
            if self.tied is True and (shared > count or set(range(shared, count)) - set(self._open_shared.tolist())):
                raise ValueError(f"state: expected each of {count} shared matrices packed or open, got {shared} packed")
            self.packed.check_sound(packed, shared, width, own=not self._is_bare)
        variances = self.residual
        if self.rank is None and len(self.spread):
            variances = unpack_triangle(self.spread, width).diagonal(dim1=-2, dim2=-1)
        if variances.numel() and float(variances.min()) < 0:
            raise ValueError("state: expected variances >= 0")

    def _check_held(self, name: str, shape: tuple[int, ...]) -> None:
        held = self.get_buffer(name)
        fits = tuple(held.shape) == shape if shape[0] else not held.numel()
        if not fits or held.dtype != torch.float32:
            raise ValueError(
                f"state: expected {name} of shape {shape} and torch.float32, got {tuple(held.shape)} and {held.dtype}"
            )

    def _check_tables(self) -> None:
        for name in _TABLES:
            held, tail = getattr(self, f"_{name}"), (3,) if name == "groups" else ()
            if held.dtype != torch.int32 or tuple(held.shape[1:]) != tail or held.ndim != len(tail) + 1:
                raise ValueError(f"state: expected {name} of int32, got {held.dtype} {tuple(held.shape)}")
        groups = self._groups
        if self._experience is not None:
            check_count("experience", self._experience)
        if self._groups_are_classes:
            if len(groups):
                raise ValueError("state: expected no groups, as each class is one")
        elif len(groups):
            check.label_range("state: groups", groups[:, 0], max(0, len(self._table) - 1))
            check.label_range("state: groups", groups[:, 1:])
            sums = torch.zeros(len(self._table), dtype=torch.int64)
            if not torch.equal(sums.index_add_(0, groups[:, 0].long(), groups[:, 2].long()), self._table[:, 1]):
                raise ValueError("state: expected groups that hold the rows of the classes")
        elif len(self):
            raise ValueError("state: expected the groups of the classes, got none")
        for name, most in (
            ("open", len(self._group_rows())),
            ("open_shared", self._shared_count()),
            ("waits", len(groups)),
        ):
            held = getattr(self, f"_{name}")
            if len(held):
                check.label_range(f"state: {name}", held, most - 1)
            if name != "waits" and len(set(held.tolist())) != len(held):
                raise ValueError(f"state: expected each of {name} once")


_TABLES = ("groups", "open", "open_shared", "waits")


def _precision(value: Any) -> Precision:
    if isinstance(value, bool) or not isinstance(value, str | int) or value not in ("float32", 4, 6, 8):
        raise ValueError(f"precision: expected 'float32', 8, 6 or 4 bits, got {check.show(value)}")
    return value  # type: ignore[return-value]


def _present(packed: PackedGaussians | None) -> PackedGaussians:
    if packed is None:
        raise RuntimeError("expected a memory whose precision is in bits")
    return packed


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _same(mine: Any, theirs: Any) -> bool:
    held, other = mine[0], theirs[0]
    return (
        mine[1] == theirs[1]
        and len(held) == len(other)
        and all(a is b and was == now for (a, was), (b, now) in zip(held, other, strict=True))
    )
