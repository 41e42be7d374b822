"""A linear classifier over random features, from sums over the stream."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins._fingerprint import fingerprint
from avalanche_memplugins.functional.reservoir import last_write_wins, reservoir_slots
from avalanche_memplugins.functional.ridge import add_gram, best_ridge, random_features, ridge_solution
from avalanche_memplugins.memories._generative import TABLE_BYTES, GenerativeMemory, check_count
from avalanche_memplugins.memories._rows import embed
from avalanche_memplugins.memories.recall import Recall

RIDGES = tuple(10.0**power for power in range(-4, 9))
"""What ``ridge="auto"`` chooses from."""


class RandomProjectionMemory(GenerativeMemory):
    r"""Answers by least squares over random features: RanPAC.

    .. math:: h = \max(0, W f(x)), \qquad G = \sum_i h_i h_i^T, \qquad C = \sum_i y_i h_i^T, \qquad
        o(x) = C (G + \lambda I)^{-1} h

    f is ``embedding``, W a normal matrix drawn from a seed, y one-hot. Only the sums G and C are kept, so one pass
    gives the solution over all rows, whatever their order: another order changes rounding only. Classes may come at
    any time. Nothing can be sampled.

    G is kept as its triangle, in float32 like C. :attr:`nbytes` is these, the solution, the rows held back and the
    table of classes. W is made anew from its seed and is not saved; its ``4 width F`` bytes are fixed ones.

    :param embedding: f, a module that makes vectors ``(B, F)`` of rows, such as a frozen network. It is copied.
        None: the rows themselves, flattened.
    :param width: M, numbers in h, >= 1. The paper takes 10,000; bytes grow with its square, and the time of the first
        answer after a write with its cube.
    :param ridge: :math:`\lambda` >= 0; or ``"auto"``: that of 1e-4, 1e-3, ..., 1e8 with the least squared error on the
        rows held back, chosen anew when a write has changed the sums. The answer is then fitted to all rows.
    :param held_back: vectors f(x) kept as a uniform sample of the stream, to choose the ridge by; none are kept with a
        number for ``ridge``.
    :param codec: a :class:`~avalanche_memplugins.codecs.LatentCodec` whose codes are f(x), instead of an embedding.
    :param seed: of W and of the rows held back. None: drawn from torch's global generator.
    :raises TypeError: for an argument of a wrong kind.
    :raises ValueError: for arguments out of range or that exclude each other, naming the argument.

    Source: McDonnell et al., "RanPAC: random projections and pre-trained models for continual learning", 2023,
    arXiv 2307.02251.

    >>> memory = RandomProjectionMemory(width=32, ridge=0.1, seed=0)
    >>> memory.write(torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1, 3]))
    >>> memory.predict(torch.tensor([[0.9, 0.1], [0.1, 0.9]])).argmax(1)
    tensor([1, 3])
    """

    _fixed = ("codec.", "embedding.")
    gram: Tensor  # triangle (M (M + 1) / 2,)
    cross: Tensor  # (K, M)
    held: Tensor  # vectors f(x) held back, (n, F)
    held_index: Tensor  # index of the class of each, (n,)

    def __init__(
        self,
        embedding: nn.Module | None = None,
        width: int = 1_000,
        *,
        ridge: float | Literal["auto"] = "auto",
        held_back: int = 200,
        codec: Any | None = None,
        seed: int | None = None,
    ) -> None:
        seed = check.seed(seed)
        super().__init__(codec=codec, seed=seed)
        self.width = check.integer("width", width, least=1, most=1 << 16)
        self.ridge: float | Literal["auto"] = _ridge(ridge)
        self.held_back = check.positive_integer("held_back", held_back)
        self.embedding: nn.Module | None = None
        if embedding is not None:
            check.instance("embedding", embedding, nn.Module, "a module or None")
            if codec is not None:
                raise ValueError("embedding: expected None beside a codec, which makes the codes, got both")
            self.embedding = copy.deepcopy(embedding).requires_grad_(False).eval()
        for name in ("gram", "cross", "held"):
            self.register_buffer(name, torch.zeros(0))
        self.register_buffer("held_index", torch.zeros(0, dtype=torch.int32))
        self.projection_seed, self.features = seed, 0  # F, known from the first write on
        self._projection: Tensor | None = None
        self._weights: Tensor | None = None

    @classmethod
    def from_budget(
        cls,
        nbytes: int | str,
        *,
        classes: int,
        shape: tuple[int, ...] | None = None,
        embedding: nn.Module | None = None,
        codec: Any | None = None,
        **kwargs: Any,
    ) -> RandomProjectionMemory:
        """The memory of the largest width whose :attr:`nbytes` stay within a budget.

        :param nbytes: the budget in bytes, a number or as in ``"2MB"``.
        :param classes: how many are expected, >= 1; more of them take more bytes.
        :param shape: of one row of x, or of what the embedding makes of it; needed without a codec.
        :param embedding: as for the class, like ``codec``.
        :param kwargs: the other arguments of the class, but for ``width``.
        :raises ValueError: if not even a width of 1 fits.
        """
        nbytes = parse_bytes(nbytes, "nbytes")
        check.positive_integer("classes", classes)
        check.latent_codec(codec)
        features = int(codec.code_size) if codec is not None else check.row_shape(shape).numel()
        memory = cls(embedding, 1, codec=codec, **kwargs)
        rest = classes * TABLE_BYTES + memory._rows_held_back * 4 * (features + 1)
        # 2 M (M + 1) of G and 8 M a class of C and the solution.
        half = 2 + 8 * classes
        width = (math.isqrt(half * half + 8 * max(0, nbytes - rest)) - half) // 4
        if width < 1:
            raise ValueError(
                f"nbytes: expected at least the {rest + half + 2} bytes that {classes} classes of width 1 take, got "
                f"{nbytes}"
            )
        memory.width = min(width, 1 << 16)
        return memory

    @property
    def nbytes(self) -> int:
        """Bytes that hold the stream: the sums, the rows held back, the table of classes, and the solution."""
        return super().nbytes + self.cross.nbytes

    @property
    def nbytes_fixed(self) -> int:
        """Bytes needed besides: W, and the codec's or the embedding's."""
        network = 0 if self.embedding is None else sum(t.nbytes for t in _tensors(self.embedding).values())
        return super().nbytes_fixed + network + 4 * self.width * self.features

    @property
    def device(self) -> torch.device:
        """Where answers come out."""
        return self.gram.device

    def __repr__(self) -> str:
        return f"RandomProjectionMemory({', '.join(self._parts()[1:])})"

    def _parts(self) -> list[str]:
        said = [type(self).__name__, f"width={self.width}", f"ridge={self.ridge!r}", f"held_back={self.held_back}"]
        if self.embedding is not None:
            name = type(self.embedding).__name__
            return [*said, f"embedding={name} of fingerprint {fingerprint(_tensors(self.embedding))}"]
        return [*said, f"codec={self.codec!r}"]

    # ---------------------------------------------------------------- write

    @torch.no_grad()
    def write(self, x: Tensor, y: Tensor, t: Tensor | int = 0, *, origin: Tensor | int | None = None) -> None:
        """Add a batch to the sums. Nothing changes if an error is raised.

        :param x: rows ``(B, *shape)``; their shape and type stay those of the first write.
        :param y: classes ``(B,)``, integers >= 0.
        :param t: task labels ``(B,)`` or one for all, integers >= 0.
        :param origin: number of the experience that the rows come from, ``(B,)`` or one for all; ``t`` if not given.
        :raises TypeError: if an argument is of a wrong kind.
        :raises ValueError: if shapes, types or values do not fit, naming the argument.
        """
        origin = t if origin is None else origin
        rows = self._check(x, y, t, origin)
        if not rows:
            return
        with torch.autocast(x.device.type, enabled=False):
            codes = self._to_codes(x)
            self._check_size(codes)
            features = codes.shape[1]
            h = random_features(codes, self._projected(features))
        self._check_size(h)
        first = not len(self)
        seen, self.features = len(self), features
        self.shape, self.dtype = x.shape[1:], x.dtype
        index, places, _ = self._enrol(y, t, origin)
        if first:
            self.register_buffer("gram", h.new_zeros(self.width * (self.width + 1) // 2))
        if new := len(self._table) - len(self.cross):
            more = h.new_zeros(new, self.width)
            self.register_buffer("cross", torch.cat([self.cross, more]) if len(self.cross) else more)
        of = index[places]
        add_gram(self.gram, h)
        self.cross.index_add_(0, of.to(h.device), h)
        self._hold_back(codes, of, seen)
        self._weights = None

    def _hold_back(self, codes: Tensor, of: Tensor, seen: int) -> None:
        if not self._rows_held_back:
            return
        if not seen:
            self.register_buffer("held", codes.new_zeros(self._rows_held_back, self.features))
            self.register_buffer("held_index", torch.zeros(self._rows_held_back, dtype=torch.int32, device=self.device))
        slots = reservoir_slots(seen, len(codes), self._rows_held_back, generator=self._generator)
        rows, slots = last_write_wins(slots)
        self.held[slots.to(self.device)] = codes[rows.to(codes.device)]
        self.held_index[slots.to(self.device)] = of[rows].to(self.device, torch.int32)

    @property
    def _rows_held_back(self) -> int:
        return self.held_back if self.ridge == "auto" else 0

    @property
    def _mixes(self) -> str:
        return "a Gram matrix summed over all classes"

    # ---------------------------------------------------------------- read

    @torch.no_grad()
    def predict(self, x: Tensor, *, classes: int | None = None, task: int | None = None) -> Tensor:
        """Logarithms of the softmax of the outputs o(x): they rank classes as the outputs do, and are as flat.

        Let :class:`~avalanche_memplugins.plugins.MemoryPredictionPlugin` fit a temperature where probabilities count.

        :param x: rows ``(B, *shape)``.
        :param classes: columns; None: as many as the largest class held, and one. A class that was not seen has minus
            infinity.
        :param task: only classes that were last written under this task label; None: all.
        :returns: ``(B, classes)``, float32.
        :raises ValueError: for rows of another shape, if nothing has been written, or if a class held has no column.
        """
        rows = check.rows_of(x)
        self._check_rows(x)
        if not len(self):
            raise ValueError("x: expected a memory that something has been written to, got an empty one")
        if task is not None:
            check.integer("task", task, least=0)
        asked = torch.arange(len(self._table)) if task is None else (self._table[:, 2] == task).nonzero().flatten()
        if not len(asked):
            raise ValueError(f"task: expected one that was written, got {task}")
        labels = self._table[asked, 0]
        most = int(labels.max())
        classes = most + 1 if classes is None else check.positive_integer("classes", classes)
        if most >= classes:
            raise ValueError(f"classes: expected more than {most}, the largest class held, got {classes}")
        with torch.autocast(x.device.type, enabled=False):
            h = random_features(self._to_codes(x), self._projected(self.features))
            outputs = h @ self._solution()[asked.to(h.device)].mT
        found = outputs.new_full((rows, classes), -math.inf)
        found[:, labels.to(h.device)] = outputs.log_softmax(1)
        return found

    def sample(self, n: int) -> Recall:
        """Not possible: the sums have no way back to rows.

        :param n: rows wanted.
        :raises ValueError: always.
        """
        raise ValueError(
            f"n: expected a memory that keeps or generates rows, got sums over random features for {check.show(n)}"
        )

    def chosen_ridge(self) -> float:
        """The ridge in use: the number given, or what the rows held back choose.

        :raises ValueError: if there is nothing to choose by yet.
        """
        if not isinstance(self.ridge, str):
            return self.ridge
        if not len(self):
            raise ValueError("ridge: expected rows to choose it by, got an empty memory")
        held = min(len(self), len(self.held))
        # A fifth of the stream at most, since the other rows must be enough to fit to.
        some = torch.linspace(0, held - 1, max(1, min(held, len(self) // 5)), device=self.device).long()
        h = random_features(self.held[some], self._projected(self.features))
        targets = nn.functional.one_hot(self.held_index[some].long(), len(self._table)).to(h.dtype)
        return best_ridge(self.gram, self.cross, h, targets, RIDGES)

    def _solution(self) -> Tensor:
        if self._weights is None or self._weights.device != self.device:
            self._weights = ridge_solution(self.gram, self.cross, self.chosen_ridge()).float()
        return self._weights

    def _projected(self, features: int) -> Tensor:
        """W, ``(M, F)``: normal numbers of variance 1 / F."""
        held = self._projection
        if held is None or held.shape[1] != features or held.device != self.device:
            numbers = torch.Generator().manual_seed(self.projection_seed)
            drawn = torch.randn(features, self.width, generator=numbers) / math.sqrt(features)
            self._projection = held = drawn.T.to(self.device)
        return held

    def _to_codes(self, x: Tensor) -> Tensor:
        if self.embedding is None:
            return super()._to_codes(x)
        codes = embed(self.embedding, x, None).flatten(1).float()
        if len(self) and codes.shape[1] != self.features:
            raise ValueError(f"embedding: expected vectors of {self.features} numbers, got {codes.shape[1]}")
        check.finite("embedding", codes)
        return codes

    # ---------------------------------------------------------------- state

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_projection": None, "_weights": None}

    def get_extra_state(self) -> dict[str, Any]:
        """All that is not a buffer: classes, shape of a row, the generator, the seed of W."""
        return {**super().get_extra_state(), "projection_seed": self.projection_seed, "features": self.features}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of a memory made with other arguments.
        """
        super().set_extra_state(state)
        self.projection_seed, self.features = state["projection_seed"], state["features"]
        self._projection = self._weights = None

    def _check_sound(self) -> None:
        super()._check_sound()
        check_count("features", self.features)
        check.seed(self.projection_seed)
        if len(self._table) and self.embedding is None and self.features != self._row_width():
            raise ValueError(f"state: expected codes of {self._row_width()} numbers, got {self.features}")
        self._check_buffer("gram", (self.width * (self.width + 1) // 2,))
        self._check_buffer("cross", (len(self._table), self.width))
        rows = self._rows_held_back
        self._check_buffer("held", (rows, self.features) if rows else (0,))
        self._check_buffer("held_index", (rows,), torch.int32)
        check.label_range("state: held_index", self.held_index, max(0, len(self._table) - 1))


def _ridge(value: Any) -> float | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, str):
        raise ValueError(f"ridge: expected a number >= 0 or 'auto', got {value!r}")
    return check.number("ridge", value, least=0)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
