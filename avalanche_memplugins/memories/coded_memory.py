"""Rows of the stream in as many bytes as each needs: a budget of bytes, not of rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any, Literal

import torch
from torch import Size, Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins._pickling import PicklesGenerator
from avalanche_memplugins.codecs.variable_codec import VARIABLE_PARTS, VariableCodec
from avalanche_memplugins.functional.neighbours import KeyTable
from avalanche_memplugins.functional.reservoir import distinct_integers
from avalanche_memplugins.memories._adapts import AdaptsToExperiences
from avalanche_memplugins.memories._forgetting import Where, to_forget
from avalanche_memplugins.memories._labels import TYPES, LabelColumns
from avalanche_memplugins.memories._prefetch import in_background
from avalanche_memplugins.memories._rows import check_draw, check_same_kind
from avalanche_memplugins.memories._saved import SavesToFolder
from avalanche_memplugins.memories.byte_store import ByteStore
from avalanche_memplugins.memories.recall import Recall, Summary, counts

_CHUNK = 64  # rows that one decision on who stays is taken for
_REFIT = 128  # rows from which on a codec that learns is fitted
_ANY = 1 << 62  # bytes, where only rows are counted
_SAMPLES = 16  # decoded at once, at most, and
_SHARE = 50  # of the bytes held, for rows that are decoded and not given out yet
_CLASS_BYTES = 24  # class, rows held and rows seen of it
Policy = Literal["reservoir", "ring", "class_balanced"]


class CodedMemory(PicklesGenerator, AdaptsToExperiences, SavesToFolder):
    r"""A random memory of rows that differ in length, such as entropy-coded images or image files.

    ``RandomMemory(..., codec=...)`` gives one, too, where the codec is of this kind.

    It has a budget of bytes, and holds as many rows as fit; or a number of rows. A row takes its code, its labels, its
    length (1 byte below 256, else 2 or 4) and an eighth of a byte.

    ``"reservoir"``: after n rows, of which k are held, the next b are taken with probability :math:`k / (n + b)` each,
    and random rows make room for them. Long rows are neither preferred nor avoided.

    A codec that learns (``EntropyCoded(..., table="own")``) is fitted to the rows held once there are 128, and again
    whenever as many have come in since as were held then; the stored codes are coded anew, without loss. What it has
    learned counts in :attr:`nbytes`, within the budget.

    All choices are drawn on the CPU from the memory's own generator. Bytes lie on the CPU; samples come out on
    :attr:`device`. For use from one thread.

    :param budget_bytes: that :attr:`nbytes` never exceeds, a number or as in ``"20kB"``. None: any.
    :param capacity: rows held at most, >= 1; None: as many as fit. One of the two is needed.
    :param codec: a :class:`~avalanche_memplugins.codecs.VariableCodec`; copied.
    :param write_policy: ``"reservoir"``: a uniform sample of the stream; ``"ring"``: the newest rows;
        ``"class_balanced"``: of the classes that have the most rows a uniform sample, of the others every row.
    :param labels: type of each stored label: ``"uint8"``, ``"int16"`` or ``"int32"``, 1, 2 or 4 bytes.
    :param store_tasks: keep task label and origin beside the class. Without them all task labels must be 0, and
        ``origin`` comes back as -1, not known.
    :param seed: of the memory's generator. None: drawn from torch's global generator.
    :raises TypeError: if the codec lacks a part.
    :raises ValueError: for arguments out of range, naming the argument.

    Source: Vitter 1985; balanced: Chrysakis and Moens, "Online continual learning from imbalanced data", 2020.

    >>> from avalanche_memplugins.codecs import Bits, EntropyCoded
    >>> memory = CodedMemory("2kB", codec=EntropyCoded(Bits(1)), seed=0)
    >>> x = torch.zeros(300, 1, 28, 28)
    >>> x[:, :, 8:20, 13:15] = 1
    >>> memory.write(x, torch.arange(300) % 10)
    >>> len(memory) > 160, memory.nbytes <= 2000  # packed, 20 rows would fit
    (True, True)
    >>> memory.sample(4).x.shape
    torch.Size([4, 1, 28, 28])
    """

    codec: VariableCodec
    _here: Tensor

    def __init__(
        self,
        budget_bytes: int | str | None = None,
        *,
        codec: VariableCodec,
        capacity: int | None = None,
        write_policy: Policy = "reservoir",
        labels: Literal["uint8", "int16", "int32"] = "uint8",
        store_tasks: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if budget_bytes is None and capacity is None:
            raise ValueError("budget_bytes: expected a number of bytes, or a capacity in rows, got neither")
        self.budget_bytes = _ANY if budget_bytes is None else parse_bytes(budget_bytes, "budget_bytes")
        self.capacity = None if capacity is None else check.positive_integer("capacity", capacity)
        check.having("codec", codec, VARIABLE_PARTS, "a VariableCodec")
        # Past nn.Module's bookkeeping: what the codec has learned is saved with the rows, by this memory.
        self.__dict__["codec"] = copy.deepcopy(codec)
        self.write_policy = check.choice("write_policy", write_policy, ("reservoir", "ring", "class_balanced"))
        self.labels = check.choice("labels", labels, tuple(TYPES))
        self.store_tasks = check.flag("store_tasks", store_tasks)
        self._columns = LabelColumns(labels, store_tasks)
        self._generator = torch.Generator().manual_seed(check.seed(seed))
        self.register_buffer("_here", torch.empty(0), persistent=False)
        self.shape, self.dtype = Size(), torch.float32  # of one row of x; known from the first write on
        self.store = ByteStore(self.budget_bytes)
        self.seen = 0
        self._taken_since_fit, self._held_at_fit = 0, _REFIT
        self._held: dict[int, int] = {}  # rows by class, for the balanced policy only
        self._offered: dict[int, int] = {}
        self._searched: tuple[int, int | None, KeyTable, Tensor, int] | None = None
        self._drawn: _Drawn | None = None

    @classmethod
    def from_budget(cls, nbytes: int | str, *, codec: VariableCodec, **kwargs: Any) -> CodedMemory:
        """The memory whose :attr:`nbytes` stay within a budget; as the class itself.

        :param nbytes: the budget in bytes, a number or as in ``"2MB"``.
        :param codec: as for the class.
        :param kwargs: its other arguments.
        :raises ValueError: if ``nbytes`` is no number of bytes.
        """
        return cls(parse_bytes(nbytes, "nbytes"), codec=codec, **kwargs)

    def __len__(self) -> int:
        """Rows held."""
        return len(self.store)

    @property
    def device(self) -> torch.device:
        """Where samples come out."""
        return self._here.device

    @property
    def nbytes(self) -> int:
        """Bytes that hold the stream now: rows, labels, lengths, what the codec has learned, counts of classes."""
        return self.store.nbytes + self.codec.nbytes + _CLASS_BYTES * len(self._offered)

    @property
    def nbytes_fixed(self) -> int:
        """The codec's bytes that do not depend on the stream."""
        return self.codec.nbytes_fixed

    def summary(self) -> Summary:
        """What the memory holds by class, task and experience; ``str()`` of it is a table."""
        y, t, origin = self.labels_of(self.slots())
        return Summary(
            description=repr(self),
            capacity=len(self) if self.capacity is None else self.capacity,
            filled=len(self),
            seen=self.seen,
            nbytes=self.nbytes,
            nbytes_fixed=self.nbytes_fixed,
            per_class=counts(y),
            per_task=counts(t),
            per_experience=counts(origin[origin >= 0]),
        )

    def __repr__(self) -> str:
        sizes = [] if self.budget_bytes == _ANY else [f"{self.budget_bytes}"]
        sizes += [] if self.capacity is None else [f"capacity={self.capacity}"]
        return f"{type(self).__name__}({', '.join(sizes)}, codec={self.codec!r}, write_policy={self.write_policy!r})"

    # ---------------------------------------------------------------- write

    @torch.no_grad()
    def check_rows(self, x: Tensor, y: Tensor | None = None, t: Tensor | int = 0) -> None:
        """Raise what :meth:`write` would for these rows and labels; nothing changes.

        :param x: ``(B, *shape)``.
        :param y: as for :meth:`write`; None: not known yet.
        :param t: as for :meth:`write`.
        """
        self._checked(x, y, t, t)

    @torch.no_grad()
    def write(self, x: Tensor, y: Tensor, t: Tensor | int = 0, *, origin: Tensor | int | None = None) -> None:
        """Offer a batch to the memory; the policy decides which rows stay.

        Nothing changes if an error is raised.

        :param x: rows ``(B, *shape)``; their shape and type stay those of the first write.
        :param y: classes ``(B,)``, integers >= 0.
        :param t: task labels ``(B,)`` or one for all, integers >= 0.
        :param origin: number of the experience that the rows come from, ``(B,)`` or one for all; ``t`` if not given.
        :raises TypeError: if an argument is of a wrong kind.
        :raises ValueError: if shapes, types or values do not fit, or the budget is below a single row.
        """
        check.labels("y", y, check.rows_of(x))
        columns = self._checked(x, y, t, t if origin is None else origin)
        if not len(x):
            return
        before = {**self.__dict__, "_held": dict(self._held), "_offered": dict(self._offered)}
        before["store"], drawn = self.store.copy(), self._generator.get_state()
        try:
            self.shape, self.dtype = x.shape[1:], x.dtype
            for first in range(0, len(x), _CHUNK):
                part = slice(first, first + _CHUNK)
                self._write_some(x[part], y[part].cpu(), columns[part])
        except BaseException:
            self.__dict__.update(before)
            self._generator.set_state(drawn)
            raise

    def _checked(self, x: Tensor, y: Tensor | None, t: Tensor | int, origin: Tensor | int) -> Tensor:
        """The labels as they are stored, ``(B, columns)`` on the CPU, of rows that can be."""
        rows = check.rows_of(x)
        if self.seen:
            check_same_kind(x, self.shape, self.dtype)
        stacked = torch.zeros(rows, len(self._columns.names), dtype=self._columns.dtype)
        if y is not None:
            check.labels("y", y, rows)
            labels, _ = self._columns.taking(y, t, origin, rows, first=False)
            self._columns.check_values(labels)
            stacked = self._columns.stack(labels, x)
        if rows:
            check.finite("x", x)
            self.codec.check(x)
        return stacked.cpu()

    def _write_some(self, x: Tensor, y: Tensor, columns: Tensor) -> None:
        take = self._accepted(y)
        self.seen += len(x)
        if len(take):
            self._put(*self._records(x[take.to(x.device)], columns[take]), y[take])
            self._taken_since_fit += len(take)
            if getattr(self.codec, "learns", False) and self._taken_since_fit >= self._held_at_fit:
                self._refit()

    def _accepted(self, y: Tensor) -> Tensor:
        """Which of these rows are to be stored."""
        if self.write_policy == "ring":
            return torch.arange(len(y))
        draws = torch.rand(len(y), generator=self._generator)
        if self.write_policy == "reservoir":
            # Rows of a batch do not push each other out, so all of them have the chance that its last one would have.
            fit = len(self) if len(self) < self.seen else self._rows_that_fit()
            return torch.nonzero(draws * (self.seen + len(y)) < fit).flatten()
        filling = len(self) == self.seen
        held = dict(self._held)
        most = max(held.values(), default=0)
        taken = []
        for row, (label, draw) in enumerate(zip(y.tolist(), draws.tolist(), strict=True)):
            self._offered[label] = self._offered.get(label, 0) + 1
            share = held.get(label, 0) / self._offered[label]
            if filling or held.get(label, 0) < most or draw < share:
                taken.append(row)
                held[label] = min(most, held.get(label, 0) + 1)
        return torch.tensor(taken, dtype=torch.int64)

    def _rows_that_fit(self) -> int:
        """Rows that the memory will hold, judged by those that it does."""
        most = self.budget_bytes if self.capacity is None else self.capacity
        if not len(self):
            return most
        bytes_each = self.store.nbytes / len(self)
        return min(most, int((self.budget_bytes - self.nbytes + self.store.nbytes) / bytes_each))

    def _put(self, buffer: Tensor, lengths: Tensor, y: Tensor) -> None:
        """Store rows that were accepted, and take out others until they fit."""
        self._drawn = None
        self.store.budget_bytes = self.budget_bytes - (self.nbytes - self.store.nbytes)
        need = self.store.excess([], lengths)
        count = 0 if self.capacity is None else max(0, len(self) + len(y) - self.capacity)
        # Rows that come together do not make room for each other, so they must be few beside those held.
        if len(y) > 1 and (need > self.store.nbytes // 2 or count > len(self) // 2):
            half = len(y) // 2
            cut = int(lengths[:half].sum())
            self._put(buffer[:cut], lengths[:half], y[:half])
            self._put(buffer[cut:], lengths[half:], y[half:])
            return
        gone = self._evicted(need, count)
        while (over := self.store.excess(gone, lengths)) > 0:
            if len(gone) == len(self):
                raise ValueError(
                    f"x: expected rows that fit into the budget of {self.budget_bytes} bytes, got one of "
                    f"{int(lengths.max())} bytes"
                )
            need += over
            gone = self._evicted(need, count)
        if self.write_policy == "class_balanced":
            for labels, change in ((self.labels_of(gone)[0], -1), (y, 1)):
                for label in labels.tolist():
                    self._held[label] = self._held.get(label, 0) + change
        self.store.replace(gone, buffer, lengths)

    def _evicted(self, need: int, least: int) -> Tensor:
        """Numbers of rows, at least so many, whose going makes about so many bytes free."""
        held = len(self)
        if max(need, least) <= 0 or not held:
            return torch.zeros(0, dtype=torch.int64)
        if self.write_policy == "class_balanced":
            return self._evicted_from_largest(need, least)
        count = min(held, max(least, 8 + 2 * need * held // self.store.nbytes if need > 0 else 0))
        while True:
            if self.write_policy == "ring":
                rows = torch.arange(count)
            else:
                rows = distinct_integers(held, count, generator=self._generator)
            freed = self.store.costs(rows).cumsum(0)
            if int(freed[-1]) >= need or count == held:
                return rows[: max(least, int((freed < need).sum()) + (need > 0))]
            count = min(held, 2 * count)

    def _evicted_from_largest(self, need: int, least: int) -> Tensor:
        """Random rows, each of the class that has the most by then."""
        held, gone = dict(self._held), dict[int, int]()
        drawn = distinct_integers(len(self), min(len(self), 256), generator=self._generator)
        while (need > sum(gone.values()) or len(gone) < least) and len(gone) < len(self):
            by_class: dict[int, list[tuple[int, int]]] = {}
            labels, costs = self.labels_of(drawn)[0].tolist(), self.store.costs(drawn).tolist()
            for row, label, cost in zip(drawn.tolist(), labels, costs, strict=True):
                if row not in gone:
                    by_class.setdefault(label, []).append((row, cost))
            while (need > sum(gone.values()) or len(gone) < least) and len(gone) < len(self):
                largest = max(held, key=lambda label: (held[label], label))
                if not by_class.get(largest):
                    break
                row, cost = by_class[largest].pop()
                gone[row] = cost
                held[largest] -= 1
            drawn = torch.randperm(len(self), generator=self._generator)
        return torch.tensor(list(gone), dtype=torch.int64)

    def _records(self, x: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and code of each row, one row after the other."""
        code, lengths = self.codec.encode_rows(x)
        header = columns.contiguous().view(torch.uint8) if columns.numel() else columns.new_zeros(len(x), 0)
        return _with_headers(header.to(torch.uint8), code, lengths)

    def _refit(self) -> None:
        rows = self.slots()
        buffer, starts, lengths = self.store.read(rows)
        header = self._header_bytes
        learner: Any = self.codec
        codec, code, sizes = learner.refitted(buffer, starts + header, lengths - header, self.shape)
        headers = buffer[starts[:, None] + torch.arange(header)]
        self._taken_since_fit, self._held_at_fit = 0, max(_REFIT, len(self))
        store = ByteStore(self.budget_bytes - codec.nbytes - (self.nbytes - self.store.nbytes - self.codec.nbytes))
        records, ends = _with_headers(headers, code, sizes)
        if store.excess([], ends) > 0:
            return  # the table would cost more than it saves
        store.replace([], records, ends)
        self.__dict__["codec"], self.store, self._drawn = codec, store, None

    # ---------------------------------------------------------------- forget

    def forget(
        self,
        *,
        classes: Collection[int] | None = None,
        origins: Collection[int] | None = None,
        labels: Collection[int] | None = None,
        where: Where = None,
    ) -> int:
        """Let go of rows, as :meth:`RandomMemory.forget <avalanche_memplugins.RandomMemory.forget>` does.

        What a codec has learned from them stays until it is fitted anew.

        :param classes: of these classes.
        :param origins: from these experiences.
        :param labels: of these task labels.
        :param where: a function of rows that gives bools ``(n,)``; or bools, one for each of :meth:`slots`.
        :returns: how many they were.
        :raises ValueError: if nothing is told, or not known of the rows.
        """
        gone = to_forget(self, classes, origins, labels, where).nonzero().flatten()
        held = len(self)
        if not len(gone):
            return 0
        before = dict(self._held)
        if self.write_policy == "class_balanced":
            for label in self.labels_of(gone)[0].tolist():
                self._held[label] -= 1
            shares = {label: self._held[label] / count for label, count in before.items() if count}
            left = {label: round(count * shares.get(label, 1)) for label, count in self._offered.items()}
            self._offered = {label: max(count, self._held[label]) for label, count in left.items() if count}
            self._held = {label: count for label, count in self._held.items() if label in self._offered}
        self.store.replace(gone, torch.zeros(0, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
        # A memory that has dropped a row does not count as one that holds all it was offered.
        rest = len(self) + (held < self.seen) if len(self) else 0
        self.seen = max(rest, round(self.seen * len(self) / held))
        self._searched = self._drawn = None
        return len(gone)

    # ---------------------------------------------------------------- read

    def slots(self) -> Tensor:
        """Numbers of the rows held, int64: 0 to ``len(memory) - 1``; a write may change whose they are."""
        return torch.arange(len(self))

    def sample(self, n: int) -> Recall:
        """``n`` different rows, every one as likely as the others; no more than the memory holds.

        While nothing is stored in between, rows of up to 16 samples are decoded at once; what comes out does not
        depend on it.

        :param n: rows wanted, >= 1.
        :raises ValueError: if ``n`` is not positive or the memory is empty.
        """
        check_draw(n, len(self))
        drawn = self._drawn
        if drawn is None or not drawn.serves(n, self.device):
            again = drawn is not None and not drawn.left and drawn.n == n
            later = self.nbytes // (_SHARE * max(1, n * self.shape.numel() * self.dtype.itemsize))
            count = min(2 * drawn.count if again and drawn is not None else 1, _SAMPLES, 1 + later)
            # Later samples may be trained on, even if this one is drawn in inference mode.
            with torch.inference_mode(False):
                drawn = self._drawn = _Drawn(n, count, self._drawn_slots(n, count), self.rows)
        return drawn.next(self._generator)

    def prefetch(self, n: int) -> None:
        """Begin to decode, on another thread, the rows that the next ``sample(n)`` will give.

        It changes no result: the draw counts only once it is sampled. A row that is stored, or a sample of another
        size, in between discards it, and what is saved is the state before it.

        :param n: rows wanted, >= 1.
        """
        check.positive_integer("n", n)
        if len(self) and (self._drawn is None or not self._drawn.serves(n, self.device)):
            count = 1 if self._drawn is None else self._drawn.count
            self._drawn = _Drawn(n, count, self._drawn_slots(n, 1), self.rows, ahead=True)

    def _drawn_slots(self, n: int, count: int) -> list[tuple[Tensor, Tensor]]:
        """Slots of so many samples, and the generator's state after each; it is left as it was."""
        before, found = self._generator.get_state(), []
        for _ in range(count):
            slots = distinct_integers(len(self), min(n, len(self)), generator=self._generator)
            found.append((slots, self._generator.get_state()))
        self._generator.set_state(before)
        return found

    @torch.no_grad()
    def rows(self, slots: Tensor) -> Recall:
        """The rows of these numbers, decoded.

        :param slots: int64 ``(n,)`` on the CPU, from 0 to ``len(memory) - 1``.
        :raises ValueError: for numbers that there are not.
        """
        buffer, starts, lengths = self.store.read(check.row_slots(slots, len(self)).long())
        header = self._header_bytes
        x = self.codec.decode_rows(buffer, starts + header, lengths - header, self.shape, self.dtype)
        y, t, origin = self._labels_in(buffer, starts)
        return Recall(x.to(self.device), y, t, origin)

    @torch.no_grad()
    def predict(self, x: Tensor, *, classes: int | None = None, task: int | None = None, k: int = 1) -> Tensor:
        """Log shares of the classes in the votes of a query's k nearest rows, as they come out of the codec.

        The first call after a write decodes all rows, which are kept until the next write, beside :attr:`nbytes`.

        :param x: queries ``(Q, *shape)`` on :attr:`device`.
        :param classes: columns N; None: as many as the largest class held, and one. A class without a vote has minus
            infinity.
        :param task: search rows of this task label only.
        :param k: rows that vote, >= 1.
        :returns: ``(Q, N)``, float32.
        :raises ValueError: if there are no such rows, a class held has no column, or for queries of another shape.
        """
        check.positive_integer("k", k)
        check.rows_of(x)
        check.floats(x=x)
        if self.seen and x.shape[1:] != self.shape:
            raise ValueError(f"x: expected queries (Q, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        check.finite("x", x)
        if task is not None:
            check.integer("task", task, least=0)
        if self._searched is None or self._searched[:2] != (self.seen, task):
            y, t, _ = self.labels_of(self.slots())
            slots = self.slots() if task is None else (t == task).nonzero().flatten().cpu()
            if not len(slots):
                raise ValueError(f"x: expected a memory that holds rows{'' if task is None else f' of task {task}'}")
            self._searched = (self.seen, task, KeyTable(self.rows(slots).x), y[slots], int(y.max()))
        _, _, table, y, most = self._searched
        classes = most + 1 if classes is None else check.positive_integer("classes", classes)
        if most >= classes:
            raise ValueError(f"classes: expected more than {most}, the largest class held, got {classes}")
        votes = y[table.search(x.to(self.device), k).indices]
        counts = torch.zeros(len(x), classes, device=x.device).scatter_add_(1, votes, torch.ones_like(votes).float())
        return (counts / votes.shape[1]).log()

    def labels_of(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``y``, ``t`` and ``origin`` of these rows, as in :meth:`rows`.

        :param slots: as for :meth:`rows`.
        """
        buffer, starts, _ = self.store.read(check.row_slots(slots, len(self)).long())
        return self._labels_in(buffer, starts)

    @property
    def _header_bytes(self) -> int:
        return len(self._columns.names) * self._columns.dtype.itemsize

    def _labels_in(self, buffer: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        width = self._header_bytes
        headers = (buffer[starts] if width == 1 else buffer[starts[:, None] + torch.arange(width)]).view(-1, width)
        y, t, origin = self._columns.unstack(headers.view(self._columns.dtype).to(self.device))
        assert y is not None
        return y, t, origin

    # ---------------------------------------------------------------- state

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_drawn": None}

    def get_extra_state(self) -> dict[str, Any]:
        """All that the memory holds: rows, counts, what the codec has learned, the generator."""
        learned = self.codec.state_dict() if hasattr(self.codec, "state_dict") else {}
        return {
            "made": [repr(self), self.labels, self.store_tasks],
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "seen": self.seen,
            "fit": [self._taken_since_fit, self._held_at_fit],
            "held": [[label, count] for label, count in self._held.items()],
            "offered": [[label, count] for label, count in self._offered.items()],
            "codec": {name: value for name, value in learned.items() if isinstance(value, Tensor)},
            "rows": self.store.state(),
            "generator": self._generator.get_state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of a memory of other arguments, or damaged.
        """
        made = [repr(self), self.labels, self.store_tasks]
        if list(state["made"]) != made:
            raise ValueError(f"state: expected that of {made}, got {list(state['made'])}")
        codec: Any = copy.deepcopy(self.codec)
        if hasattr(codec, "load_state_dict"):
            codec.load_state_dict({**codec.state_dict(), **state["codec"]})
        if hasattr(codec, "_check_sound"):
            codec._check_sound()
        offered = {int(label): int(count) for label, count in state["offered"]}
        held = {int(label): int(count) for label, count in state["held"]}
        store = ByteStore(self.budget_bytes - codec.nbytes - _CLASS_BYTES * len(offered))
        store.load(state["rows"])
        dtype = getattr(torch, state["dtype"])
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"state: expected a type of rows, got {state['dtype']!r}")
        self._generator.set_state(state["generator"].cpu())
        self.__dict__["codec"], self.store, self._searched, self._drawn = codec, store, None, None
        self.shape, self.dtype, self.seen = Size(state["shape"]), dtype, state["seen"]
        self._taken_since_fit, self._held_at_fit = state["fit"]
        self._held, self._offered = held, offered

    def _check_sound(self) -> None:
        """Raise unless this copy, just loaded, can give all its rows back."""
        if isinstance(self.seen, bool) or not isinstance(self.seen, int) or self.seen < len(self):
            raise ValueError(f"state: expected at least {len(self)} rows seen, got {self.seen!r}")
        lengths = self.store.state()["lengths"]
        if len(lengths) and int(lengths.min()) < self._header_bytes:
            raise ValueError(f"state: expected rows of at least {self._header_bytes} bytes, got {int(lengths.min())}")
        if self.write_policy == "class_balanced":
            held = counts(self.labels_of(self.slots())[0])
            if held != {label: count for label, count in self._held.items() if count}:
                raise ValueError(f"state: expected the classes' counts {held}, got {self._held}")
        for some in torch.split(self.slots(), 1024):
            if len(some):
                self.rows(some)

    def _own_tensors(self) -> dict[str, Tensor]:
        return {}  # rows are in the extra state, since they are no rows of one tensor

    def _take(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.set_extra_state(state)


class _Drawn:
    """Samples that are decoded together, and given out one by one: each counts only once it is.

    :param n: rows of a sample.
    :param count: samples that were to be decoded together.
    :param samples: slots of each, and the generator's state after its draw.
    :param rows: gives the rows in some slots.
    :param ahead: decode on another thread.
    """

    def __init__(
        self,
        n: int,
        count: int,
        samples: list[tuple[Tensor, Tensor]],
        rows: Callable[[Tensor], Recall],
        *,
        ahead: bool = False,
    ) -> None:
        self.n, self.count, self.left = n, count, samples
        self._taken, slots = 0, torch.cat([slots for slots, _ in samples])
        self._rows: Recall | Future[Recall] | None = in_background(lambda: rows(slots)) if ahead else rows(slots)

    def serves(self, n: int, device: torch.device) -> bool:
        """Whether there is a sample of so many rows on this device."""
        rows = self._rows
        return rows is not None and self.n == n and (isinstance(rows, Future) or rows.y.device == device)

    def next(self, generator: torch.Generator) -> Recall:
        """The next sample; the generator is from now on as after its draw."""
        rows = self._rows.result() if isinstance(self._rows, Future) else self._rows
        slots, after = self.left[0]
        part = slice(self._taken, self._taken + len(slots))
        self.left, self._taken = self.left[1:], part.stop
        self._rows = rows if self.left else None
        generator.set_state(after)
        if rows is None:
            raise RuntimeError("all of these samples have been given out")
        return Recall(*(column[part] for column in rows[:4]))


def _with_headers(headers: Tensor, code: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Headers ``(B, h)`` each before its row's bytes: all bytes, and how many each row has."""
    width = headers.shape[1]
    total = lengths + width
    ends = total.cumsum(0)
    records = torch.empty(len(code) + headers.numel(), dtype=torch.uint8)
    at_header = (ends - total)[:, None] + torch.arange(width)
    is_code = torch.ones(len(records), dtype=torch.bool)
    is_code[at_header.flatten()] = False
    records[at_header] = headers
    records[is_code] = code
    return records, total
