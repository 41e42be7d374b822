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
from avalanche_memplugins.functional import draw_low_rank
from avalanche_memplugins.memories._gaussian_bank import GaussianBank
from avalanche_memplugins.memories._gaussian_parts import (
    SIZES,
    Discriminant,
    PackedGaussians,
    Precision,
    best_of,
    candidates,
    settled_nbytes,
)
from avalanche_memplugins.memories._generative import GenerativeMemory, check_count, slots
from avalanche_memplugins.memories._rows import columns_of
from avalanche_memplugins.memories.recall import Recall


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
    :param leading: with ``tied=True, rank=0``: the first so many numbers of a code have a covariance of each class;
        that of the others given these is shared. Worth its bytes where codes come with the numbers that matter first.
    :param components: M, Gaussians a class at most, found by one-pass k-means: from the class's first 80 rows, which
        are kept until then, and then by the nearest running mean.
    :param by: a Gaussian for each ``"class"``, or for each class in each ``"experience"``, for streams where classes
        come back in other guises. The class's density is then their sum, and ``tied`` means one an experience.
    :param precision: ``"float32"``; or 8, 6 or 4 bits a number of the factors, means in int8.
    :param deviations: bits of a standard deviation, of which a packed covariance has C: 16, or 4, which lose nothing
        as long as deviations are alike, as those of a random projection are, and take up to a fifth less bytes.
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
    packed: PackedGaussians | None

    def __init__(
        self,
        *,
        rank: int | None = 16,
        balance: Literal["class", "count"] = "class",
        tied: bool | Literal["unit"] = False,
        leading: int | None = None,
        components: int = 1,
        by: Literal["class", "experience"] = "class",
        precision: Precision = "float32",
        deviations: Literal[16, 4] = 16,
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
        self.leading = None if leading is None else check.integer("leading", leading, least=1)
        self.components = check.integer("components", components, least=1, most=2**15)
        self.by = check.choice("by", by, ("class", "experience"))
        self.precision: Precision = _precision(precision)
        self.deviations = deviations if deviations == 4 else check.integer("deviations", deviations, least=16, most=16)
        self.settles_at = check.choice("settle", settle, ("experience", "write"))
        self.shrinkage = check.number("shrinkage", shrinkage, least=0, most=1)
        self.ridge = check.number("ridge", ridge, least=0)
        if tied is True and rank is None:
            raise ValueError("rank: with tied=True expected an integer >= 0, as whole matrices have a mean, got None")
        if leading is not None and (tied is not True or rank != 0):
            raise ValueError(f"leading: expected None without tied=True and rank=0, got {leading}")
        if tied == "unit" and rank != 0:
            raise ValueError(f"rank: with tied='unit' expected 0, as no spread is kept, got {rank}")
        self.embedding: nn.Module | None = None
        if embedding is not None:
            check.instance("embedding", embedding, nn.Module, "a module or None")
            if codec is not None:
                raise ValueError("embedding: expected None beside a codec, which makes the codes, got both")
            self.embedding = copy.deepcopy(embedding).requires_grad_(False).eval()
        self._bank = GaussianBank(
            self._buffers,
            rank=self.rank,
            leading=self.leading,
            tied=tied,
            components=components,
            by=by,
            precision=self.precision,
            deviations=self.deviations,
        )
        self.packed = self._bank.packed  # a module of the memory's, so that it moves and is saved with it
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
        return super().nbytes + self._bank.nbytes

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
        usual = {
            "tied": False,
            "leading": None,
            "components": 1,
            "by": "class",
            "precision": "float32",
            "deviations": 16,
        }
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
        if not self._bank.is_plain:
            number = int(origin[-1]) if isinstance(origin, Tensor) else origin
            if self._experience not in (None, number):
                self.settle()
            self._experience = number
        self.shape, self.dtype = x.shape[1:], x.dtype
        enrolled = self._enrol(y, t, origin)
        self._bank.write(codes, enrolled, self._table, origin, self._generator)
        if self.settles_at == "write":
            self.settle()

    @property
    def _mixes(self) -> str:
        return "a covariance that classes share (tied=True)" if self.tied is True else ""

    def _keep_classes(self, index: Tensor) -> None:
        self._bank.keep_classes(index)
        self._reader = None
        if not len(index):
            self._experience = None

    @torch.no_grad()
    def settle(self) -> None:
        """Pack what the running experience wrote, and start mixtures that wait for rows.

        With ``precision="float32"`` and one Gaussian a class there is nothing to do. A plugin that reads this memory
        calls it at the end of each experience; in a loop of your own call it there.
        """
        self._bank.settle(self._generator)

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
        classes = columns_of(classes, most)
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
            self._reader = (*made_with, Discriminant(self._bank.read(self._table[:, 0]), self.shrinkage, self.ridge))
        return self._reader[2]

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
        index, places, rows = torch.unique(
            self._bank.drawn(drawn, self._generator), return_inverse=True, return_counts=True
        )
        most, width = int(rows.max()), self._bank.width
        mean, factors, residual = self._bank.generators(index)
        noise = self._noise(len(index), most, factors.shape[1])
        eps = None if residual is None else self._noise(len(index), most, width)
        with torch.autocast(self.device.type, enabled=False):
            z = draw_low_rank(mean, factors, residual, noise, eps)
            place, slot = places.to(self.device), slots(places, rows).to(self.device)
            return self._recall(self._from_codes(z[place, slot]), drawn)

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self.device)

    # ---------------------------------------------------------------- parts of the above, and state

    def _to_codes(self, x: Tensor) -> Tensor:
        if self.embedding is None:
            return super()._to_codes(x)
        with eval_mode(self.embedding):
            codes = self.embedding(x)
        if not isinstance(codes, Tensor) or codes.ndim < 2 or len(codes) != len(x) or not codes.is_floating_point():
            raise ValueError(f"embedding: expected a vector for each of {len(x)} rows, (B, C), got {check.show(codes)}")
        codes = codes.flatten(1).float()
        if len(self) and codes.shape[1] != self._bank.width:
            raise ValueError(f"embedding: expected vectors of {self._bank.width} numbers, got {codes.shape[1]}")
        check.finite("embedding", codes)
        return codes

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_reader": None}

    def get_extra_state(self) -> dict[str, Any]:
        """All that is not a parameter or buffer: classes, groups, shape of a row, the generator."""
        experience = {} if self._bank.is_plain else {"experience": self._experience}
        return {**super().get_extra_state(), **self._bank.state(), **experience}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of a memory made with other arguments.
        """
        super().set_extra_state(state)
        self._bank.restore(state, self._table)
        self._experience = state.get("experience")

    def _check_sound(self) -> None:
        super()._check_sound()
        self._bank.check_sound(self._table, self._row_width() if self.embedding is None else None)
        if self._experience is not None:
            check_count("experience", self._experience)


def _precision(value: Any) -> Precision:
    if isinstance(value, bool) or not isinstance(value, str | int) or value not in ("float32", 4, 6, 8):
        raise ValueError(f"precision: expected 'float32', 8, 6 or 4 bits, got {check.show(value)}")
    return value  # type: ignore[return-value]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _same(mine: Any, theirs: Any) -> bool:
    held, other = mine[0], theirs[0]
    return (
        mine[1] == theirs[1]
        and len(held) == len(other)
        and all(a is b and was == now for (a, was), (b, now) in zip(held, other, strict=True))
    )
