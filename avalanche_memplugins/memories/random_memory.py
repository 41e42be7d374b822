"""Rows of the stream in preallocated tensors: O(1) to append, O(1) to draw."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Size, Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins import codecs
from avalanche_memplugins._bytes import parse_bytes, show_bytes
from avalanche_memplugins._pickling import PicklesGenerator
from avalanche_memplugins._words import OF_A_MEMORY, POLICIES, names_ours, renamed, renamed_attribute
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.memories._adapts import AdaptsToExperiences
from avalanche_memplugins.memories._labels import TYPES, LabelColumns, Targets, rows_in, targets_in
from avalanche_memplugins.memories._prefetch import Ahead
from avalanche_memplugins.memories._rows import WrittenSlots, check_draw, check_same_kind, embed, one_row, rows_within
from avalanche_memplugins.memories._saved import SavesToFolder, check_made_alike
from avalanche_memplugins.memories._soundness import check_rows_sound
from avalanche_memplugins.memories.policies import Offered, ReadPolicy, WritePolicy
from avalanche_memplugins.memories.policies import given as policies
from avalanche_memplugins.memories.recall import Recall, Summary, counts
from avalanche_memplugins.memories.row_store import RowStore, to_device

CODECS: dict[str, Callable[[], Codec]] = {
    "raw": codecs.Raw,
    "float16": codecs.Float16,
    "uint8": codecs.Uint8,
    "int8": codecs.Int8,
    "4bit": lambda: codecs.Bits(4),
    "2bit": lambda: codecs.Bits(2),
    "1bit": lambda: codecs.Bits(1),
}
Self = TypeVar("Self", bound="RandomMemory")


@names_ours(OF_A_MEMORY)
class RandomMemory(PicklesGenerator, AdaptsToExperiences, SavesToFolder):
    r"""A random memory :math:`M = \{(h_i, v_i)\}` of stream rows in preallocated tensors.

    Appending a batch and drawing a random batch cost the same whatever the capacity, the fill and the
    length of the stream. Which rows stay is the write policy's business, which come back the read
    policy's, how a row is stored the codec's; the three combine freely. All choices are drawn on the
    CPU from the memory's own generator: nothing waits for a GPU, and the same seed makes the same
    choices on every device. (The exception: policies that must see labels, losses or rows; if these
    are on a GPU, each write waits for them.)

    ``y`` may be classes, or targets of any other kind with one row a row of x, such as numbers to regress or several
    labels an image. Those are stored as they are, and come back so.

    For use from one thread. Buffers are allocated at the first write, when the shape of a row is known.

    :param capacity: rows held at most, >= 1.
    :param write_policy: ``"reservoir"``: a uniform sample of the stream; ``"ring"``: the newest rows, as RMA
        keeps them; ``"class_balanced"`` / ``"task_balanced"``: a uniform sample of every class or
        experience, as equal in size as the stream allows; ``"hardest"``: the largest losses; ``"herding"``: the rows
        nearest to their class's mean; ``"gss"``: different gradients; or a
        :class:`~avalanche_memplugins.memories.policies.WritePolicy`, which is copied.
    :param read_policy: ``"uniform"``; ``"cycle"``: shuffled passes, every row once a pass; ``"class_balanced"``,
        ``"task_balanced"``; or a
        :class:`~avalanche_memplugins.memories.policies.ReadPolicy`, which is copied.
    :param replacement: draw rows independently; otherwise each at most once a sample.
    :param codec: ``"raw"``, ``"float16"``, ``"uint8"``, ``"int8"``, ``"4bit"``, ``"2bit"``, ``"1bit"``, or a
        :class:`~avalanche_memplugins.codecs.Codec` such as ``Uint8(mean=0.1307, std=0.3081)``.
    :param labels: type of each stored label: ``"int32"``, ``"int16"`` or ``"uint8"``, 4, 2 or 1 bytes. Larger labels
        than it holds are refused; on a GPU, where looking means waiting, later writes of such stop the program.
    :param store_tasks: keep task label and origin beside the class. Without them a row of a stream with the one
        task label 0 takes one label, not three; ``t`` comes back as 0 and ``origin`` as -1, not known.
    :param store_logits: keep the outputs given to :meth:`write`, for distillation.
    :param embedding: network :math:`f` of the keys :math:`h = f(x)`, run in eval mode without gradient.
        None: the identity, as in RMA, and no key is stored apart.
    :param keep: with an embedding: ``"both"`` x and key, or ``"key"``: the key instead of x.
    :param storage: ``"device"``, ``"host"`` or a folder for memory-mapped files, see
        :class:`~avalanche_memplugins.memories.row_store.RowStore`.
    :param validate: when to look at the values of a batch (finite, labels in range, faithful under the
        codec): ``"always"``, ``"first"`` write only, or ``"auto"``: always on a CPU, first only on a GPU,
        where looking means waiting. Shapes and types are always checked.
    :param seed: of the memory's generator. None: drawn from torch's global generator.
    :raises TypeError: if the codec lacks a part, the embedding is no module, the seed no integer, or a class stands for
        its instance.
    :raises ValueError: for arguments out of range, naming the argument.

    Source: Zeta36, "Random memory adaptation", 2018.

    >>> import torch
    >>> memory = RandomMemory(100, write_policy="reservoir", codec="uint8", seed=0)
    >>> memory.write(torch.rand(500, 1, 8, 8).mul(255).round() / 255, torch.arange(500) % 10)
    >>> memory
    RandomMemory(100 of 100 rows, reservoir, uint8, 7.6 kB)
    >>> memory.sample(32).x.shape
    torch.Size([32, 1, 8, 8])
    """

    policy = renamed_attribute("policy", "write_policy")
    read = renamed_attribute("read", "read_policy")

    @renamed(POLICIES)
    def __init__(
        self,
        capacity: int,
        *,
        write_policy: str | WritePolicy = "reservoir",
        read_policy: str | ReadPolicy = "uniform",
        replacement: bool = False,
        codec: str | Codec = "raw",
        labels: Literal["int32", "int16", "uint8"] = "int32",
        store_tasks: bool = True,
        store_logits: bool = False,
        embedding: nn.Module | None = None,
        keep: Literal["both", "key"] = "both",
        storage: str | Path = "device",
        validate: Literal["auto", "always", "first"] = "auto",
        seed: int | None = None,
    ) -> None:
        check.flags(replacement=replacement, store_tasks=store_tasks, store_logits=store_logits)
        super().__init__()
        if isinstance(storage, str | Path) and storage:
            check.path("storage", storage)
        self.capacity = check.positive_integer("capacity", capacity)
        self.write_policy = policies.write_policy_of(write_policy, self.capacity)
        self.read_policy = policies.read_policy_of(read_policy, replacement, self.capacity)
        if isinstance(codec, str):
            codec = check.one_of("codec", codec, CODECS)()
        check.having("codec", codec, ("check", "encode", "decode", "spec", "nbytes_fixed"), "a name or a Codec")
        self.codec = codec
        self.keep = check.choice("keep", keep, ("both", "key"))
        self.validate = check.choice("validate", validate, ("auto", "always", "first"))
        self.labels = check.choice("labels", labels, tuple(TYPES))
        self.store_tasks = store_tasks
        self.store_logits = store_logits
        if embedding is not None and not isinstance(embedding, nn.Module):
            raise TypeError(f"embedding: expected a module or None, got {check.show(embedding)}")
        self.embedding = embedding
        self.seen = 0
        self.shape = Size()  # of one row of x; known from the first write on
        self.dtype = torch.float32
        self.store = RowStore(capacity, storage)
        self._columns = LabelColumns(labels, store_tasks)
        self._written = WrittenSlots(self.capacity)
        self._generator = torch.Generator().manual_seed(check.seed(seed))
        self._ahead: Ahead | None = None

    @classmethod
    @renamed(POLICIES)
    def from_budget(
        cls,
        nbytes: int | str,
        *,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        classes: int = 0,
        experiences: int = 0,
        target_shape: tuple[int, ...] | None = None,
        target_dtype: torch.dtype = torch.float32,
        **kwargs: Any,
    ) -> RandomMemory:
        """The largest memory whose :attr:`nbytes` stay within a budget.

        :param nbytes: the budget in bytes, a number or as in ``"2MB"``, all that holds the stream counted:
            rows, labels, the policies' state.
        :param shape: of one row of x.
        :param dtype: of x.
        :param classes: how many are expected: the width of the logits, needed if they are stored or a policy keeps
            something as wide. A policy by class has room for 16 from the start; more of them take more bytes, which
            are set aside if told here.
        :param experiences: how many are expected; likewise for policies balanced by task.
        :param target_shape: of one row of y, if these are no classes: ``()`` for one number a row.
        :param target_dtype: of y, if these are no classes.
        :param kwargs: the other arguments of :class:`RandomMemory`.
        :raises ValueError: if not a single row fits, or for logits of unknown width.

        >>> RandomMemory.from_budget("10kB", shape=(1, 8, 8), codec="uint8").capacity
        131
        """
        nbytes = parse_bytes(nbytes, "nbytes")
        x, y = one_row(shape, dtype, target_shape, target_dtype)
        check.integer("classes", classes, least=0)
        check.integer("experiences", experiences, least=0)
        if "capacity" in kwargs:
            raise TypeError(f"capacity: expected none, as the budget says how many rows, got {kwargs['capacity']!r}")
        probing = {**kwargs, "storage": "device", "seed": 0}
        if "logits" in cls(1, **probing).needs and classes < 1:
            raise ValueError(f"classes: expected the width of the logits, which this memory keeps, got {classes}")

        def takes(capacity: int) -> int:
            probe = cls(capacity, **probing)
            probe._reserve(classes, experiences)
            probe._allocate_for(x, y, torch.zeros(1, classes))
            return probe.nbytes

        memory = cls(rows_within(nbytes, takes), **kwargs)
        memory._reserve(classes, experiences)
        return memory

    def _reserve(self, classes: int, experiences: int) -> None:
        for policy in (self.write_policy, self.read_policy):
            if hasattr(policy, "reserve"):
                policy.reserve(classes if policy.grouping == "class" else experiences)

    @torch.no_grad()
    def _allocate_for(self, x: Tensor, y: Tensor, logits: Tensor) -> None:
        """Take the bytes that rows of this kind take; their values, which a codec might refuse, are not looked at."""
        labels, columns = self._labelled(y, 0, 0, len(x))
        values = self._values(x, y, columns, logits)
        self._allocate(values, columns)
        groups = columns.groups(self.write_policy.grouping, labels, len(x))
        if needs := policies.needs_of(self.write_policy):
            offered = self._offered(needs, values, x, y, logits, torch.zeros(len(x)))
            policies.placements(
                self.write_policy, (0, len(x), self.capacity), groups, self._generator, offered, lambda: None
            )

    def __repr__(self) -> str:
        codec = policies.identity(self.codec)
        codec = next((name for name, make in CODECS.items() if repr(make()) == codec), codec)
        rows = f"{len(self):,} of {self.capacity:,} rows"
        kept = f"{policies.name_of(self.write_policy)}, {codec}"
        return f"{type(self).__name__}({rows}, {kept}, {show_bytes(self.nbytes)})"

    # ---------------------------------------------------------------- what it holds

    def __len__(self) -> int:
        """Rows held."""
        return self._written.count

    @property
    def needs(self) -> frozenset[str]:
        """What :meth:`write` must be given beside labels: of ``"x"``, ``"y"``, ``"loss"`` and ``"logits"``."""
        return policies.needs_of(self.write_policy) | (frozenset({"logits"}) if self.store_logits else frozenset())

    @property
    def targets(self) -> Targets | None:
        """Kind of the targets held: shape and type of a row's ``y``. None of classes, or if nothing is held yet."""
        return self._columns.targets

    @property
    def device(self) -> torch.device:
        """Where samples come out."""
        return self.store.device

    @property
    def nbytes(self) -> int:
        """Bytes that hold the stream: all slots, filled or not, the policies' state, and what a codec has learned."""
        learned = self.codec.nbytes if isinstance(self.codec, codecs.Quantised | codecs.ProductQuantised) else 0
        return self.store.nbytes + self.write_policy.nbytes + self.read_policy.nbytes + self._written.nbytes + learned

    @property
    def nbytes_fixed(self) -> int:
        """Bytes needed besides, whatever the stream: the codec's and the embedding's."""
        network = self.embedding
        embedding = 0 if network is None else sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
        return self.codec.nbytes_fixed + embedding

    def summary(self) -> Summary:
        """What the memory holds by class (if it does), task and experience; ``str()`` of it is a table."""
        y, t, origin = self.labels_of(self.slots()) if len(self) else (torch.zeros(0),) * 3
        return Summary(
            description=repr(self),
            capacity=self.capacity,
            filled=len(self),
            seen=self.seen,
            nbytes=self.nbytes,
            nbytes_fixed=self.nbytes_fixed,
            per_class={} if self.targets is not None else counts(y),
            per_task=counts(t),
            per_experience=counts(origin[origin >= 0]),
        )

    # ---------------------------------------------------------------- write

    @torch.no_grad()
    def write(
        self,
        x: Tensor,
        y: Tensor,
        t: Tensor | int = 0,
        *,
        origin: Tensor | int | None = None,
        logits: Tensor | None = None,
        loss: Tensor | None = None,
        checked: bool = False,
    ) -> None:
        """Offer a batch to the memory; the write policy decides which rows stay.

        Nothing changes if an error is raised.

        :param x: rows ``(B, *shape)``; their shape and type stay those of the first write.
        :param y: classes ``(B,)``, integers >= 0; or targets of another kind: floating-point or boolean ``(B,)``, or
            any ``(B, ...)``. Kind, and of targets shape and type, stay those of the first write.
        :param t: task labels ``(B,)`` or one for all, integers >= 0.
        :param origin: number of the experience that the rows come from, ``(B,)`` or one for all; ``t``
            if not given. This number is what "task" means in the policies.
        :param logits: outputs ``(B, classes)``, to be given if and only if :attr:`needs` names them. If stored ones
            grow wider during the stream, earlier rows are filled up with zeros.
        :param loss: ``(B,)``, finite; to be given if :attr:`needs` names it, and otherwise not looked at.
        :param checked: x is known to be finite, and labels to lie from 0 to 2**31 - 1, so that they need not be looked
            at again; with ``validate="always"`` they are all the same.
        :raises TypeError: if an argument is of a wrong kind.
        :raises ValueError: if shapes, types or values do not fit, naming the argument; if one is missing that the write
            policy needs; or if a policy goes by class and there are none.
        """
        batch = check.rows_of(x)
        labels, columns = self._labelled(y, t, t if origin is None else origin, batch)
        needs = policies.needs_of(self.write_policy)
        if needs or self.store_logits or logits is not None:
            policies.check_outputs(self.write_policy, self.store_logits, logits, loss, batch)
        if batch == 0:
            return
        if self._keeps_as_is(x, y, checked):
            self._check_shape(x)
            self._keep_as_is(batch, labels, columns, x, lambda take: {"codes": rows_in(x, take)})
            return
        if self.keep == "both":
            self._check_shape(x)
        values = self._values(x, y, columns, logits)
        content = values["codes"]
        if self.keep == "key":
            self._check_shape(content)
        codes, encode = None, self.codec.encode
        known = checked and self.validate != "always"
        if self._looks_at(x):
            if not known:
                check.finite("x", x)
            if not known or not columns.take_all:
                columns.check_values(labels)
            if logits is not None:
                check.finite("logits", values.get("logits", logits))  # in the type that they are kept in
            if self.embedding is not None:
                check.finite("embedding", values["codes" if self.keep == "key" else "keys"])
            codes = check.storable(self.codec, content)
            encode = check.unchecked(self.codec, "encode")
        else:
            columns.guard(labels)
        offered = self._offered(needs, values, x, y, logits, loss) if needs else None

        def parts(take: slice | Tensor) -> dict[str, Tensor]:
            some = {name: rows_in(value, take) for name, value in values.items()}
            some["codes"] = encode(some["codes"]) if codes is None else rows_in(codes, take)
            return some

        self._keep(batch, labels, columns, offered, content.device, lambda: self._allocate(values, columns), parts)

    @torch.no_grad()
    def write_from(
        self,
        source: Tensor,
        rows: Tensor,
        y: Tensor,
        t: Tensor | int = 0,
        *,
        batch_size: int,
        origin: Tensor | int | None = None,
        checked: bool = False,
    ) -> None:
        """Write ``source[rows]`` in batches, as :meth:`write` would one after the other.

        If rows are kept as they are (the codec ``"raw"``, no embedding, no logits), only those are copied that stay.

        :param source: ``(N, *shape)``.
        :param rows: int64 ``(n,)``, on the source's device.
        :param y: as for :meth:`write`, for all rows; so are ``t``, ``origin`` and ``checked``.
        :param batch_size: rows of a batch.
        :raises TypeError: as :meth:`write`.
        :raises ValueError: as :meth:`write`; earlier batches are written then.
        """
        check.positive_integer("batch_size", batch_size)
        check.rows_of(source)
        begin, end = 0, len(check.tensor("rows", rows))
        while begin < end:
            size = batch_size
            quick = self._keeps_as_is(source, y, checked)
            if quick and self.read_policy.grouping is None:
                size = policies.rows_at_once(self.write_policy, self.seen, end - begin, batch_size)
            some = slice(begin, min(begin + size, end))
            begin = some.stop
            labels = [
                value[some] if isinstance(value, Tensor) else value for value in (y, t, t if origin is None else origin)
            ]
            if not quick:
                x = source.index_select(0, rows[some])
                self.write(x, labels[0], labels[1], origin=labels[2], checked=checked)
                continue
            self._write_as_is(source, rows[some], labels)

    def _write_as_is(self, source: Tensor, picked: Tensor, given: list[Any]) -> None:
        self._check_shape(source)
        labels, columns = self._labelled(given[0], given[1], given[2], len(picked))

        def parts(take: slice | Tensor) -> dict[str, Tensor]:
            return {"codes": source.index_select(0, rows_in(picked, take))}

        self._keep_as_is(len(picked), labels, columns, source, parts)

    def _keep_as_is(
        self,
        batch: int,
        labels: Mapping[str, Tensor | int],
        columns: LabelColumns,
        like: Tensor,
        parts: Callable[[slice | Tensor], dict[str, Tensor]],
    ) -> None:
        columns.guard(labels)
        self._keep(batch, labels, columns, None, like.device, lambda: self._allocate({"codes": like}, columns), parts)

    def _keeps_as_is(self, x: Tensor, y: Tensor, checked: bool) -> bool:
        """Whether rows and classes can be stored without a look at them, or anything worked out from them."""
        looks = self._looks_at(x) and (not checked or self.validate == "always" or not self._columns.take_all)
        classes = y.ndim == 1 and not y.is_floating_point() and y.dtype != torch.bool
        return classes and not looks and type(self.codec) is codecs.Raw and self.embedding is None and not self.needs

    def _keep(
        self,
        batch: int,
        labels: Mapping[str, Tensor | int],
        columns: LabelColumns,
        offered: Offered | None,
        device: torch.device,
        make_room: Callable[[], None],
        parts: Callable[[slice | Tensor], dict[str, Tensor]],
    ) -> None:
        """Let the write policy place a batch, and store what it keeps.

        :param device: where the rows are.
        :param parts: what is stored of some rows, by name.
        """
        self._ahead = None
        placements = policies.placements(
            self.write_policy,
            (self.seen, batch, self.capacity),
            columns.groups(self.write_policy.grouping, labels, batch),
            self._generator,
            offered,
            make_room,
        )
        if columns is not self._columns:
            self._columns = columns
        read_groups = columns.groups(self.read_policy.grouping, labels, batch)
        for rows, slots in placements:
            take, places = self._at_hand(rows, slots, device)
            for name, part in parts(take).items():
                self.store.put(name, places, part)
            if columns.names:
                count = rows.stop - rows.start if isinstance(rows, slice) else rows.shape[0]
                self.store.put("labels", places, columns.stack_some(labels, take, count, device))
            self._written.add(slots)
            if read_groups is not None:
                self.read_policy.assign(_integers(slots), [read_groups[row] for row in _integers(rows)])
        self.seen += batch

    def _at_hand(
        self, rows: slice | Tensor, slots: slice | Tensor, device: torch.device
    ) -> tuple[slice | Tensor, slice | Tensor]:
        """Rows of a batch where they are looked up, and slots where they are put, in one copy if both are elsewhere."""
        if isinstance(rows, slice) or isinstance(slots, slice):
            return rows if isinstance(rows, slice) else to_device(rows, device), slots
        if device.type != "cuda" or self.store.storage != "device" or self.store.device != device:
            return to_device(rows, device), slots
        both = to_device(torch.stack([rows, slots]), device)
        return both[0], both[1]

    @torch.no_grad()
    def check_rows(self, x: Tensor, y: Tensor | None = None, t: Tensor | int = 0) -> None:
        """Raise what :meth:`write` would for the shape, type or values of these rows and labels; nothing changes.

        :param x: ``(B, *shape)``.
        :param y: as for :meth:`write`; None: not known yet.
        :param t: as for :meth:`write`.
        """
        check.rows_of(x)
        self._check_rows(x, y, t, looks=self._looks_at(x))

    def _check_rows(self, x: Tensor, y: Tensor | None, t: Tensor | int, *, looks: bool) -> int:
        batch = check.rows_of(x)
        if y is not None:
            labels, columns = self._labelled(y, t, t, batch)
            if batch and looks:
                columns.check_values(labels)
        content = self._embed(x) if self.keep == "key" else x
        self._check_shape(content)
        if looks:
            check.finite("x", x)
            self.codec.check(content)
        return batch

    def _looks_at(self, x: Tensor) -> bool:
        """Whether the values of a batch are looked at, not its shape alone."""
        return self.validate == "always" or self.seen == 0 or (self.validate == "auto" and not x.is_cuda)

    def _labelled(
        self, y: Tensor, t: Tensor | int, origin: Tensor | int, batch: int
    ) -> tuple[Mapping[str, Tensor | int], LabelColumns]:
        labels, columns = self._columns.taking(y, t, origin, batch, first=not self.seen)
        if columns.targets is not None and "class" in (self.write_policy.grouping, self.read_policy.grouping):
            raise ValueError(
                f"y: expected integer classes (B,), as this memory's policies go by class, got {columns.targets}"
            )
        return labels, columns

    def _check_shape(self, content: Tensor) -> None:
        if self.seen:
            check_same_kind(content, self.shape, self.dtype)

    def _values(self, x: Tensor, y: Tensor, columns: LabelColumns, logits: Tensor | None) -> dict[str, Tensor]:
        """What is stored of every row, by the name that it has in the store; the labels come later."""
        values = {"codes": x}
        if columns.targets is not None:
            values["targets"] = y.to(x.device)
        if self.embedding is not None:
            values["codes" if self.keep == "key" else "keys"] = self._embed(x)
        if self.store_logits and logits is not None:
            if "logits" in self.store:
                held = self.store["logits"]
                logits = nn.functional.pad(logits, (0, max(0, held.shape[1] - logits.shape[1]))).to(held.dtype)
            values["logits"] = logits
        return values

    def _embed(self, x: Tensor) -> Tensor:
        if self.embedding is None:
            return x
        return embed(self.embedding, x, like=self.store["keys"] if "keys" in self.store else None)  # noqa: SIM401

    def _offered(
        self,
        needs: frozenset[str],
        values: dict[str, Tensor],
        x: Tensor,
        y: Tensor,
        logits: Tensor | None,
        loss: Tensor | None,
    ) -> Offered:
        """What the write policy needs to know."""
        known = {"x": x, "y": y, "loss": loss, "logits": logits}
        key = values.get("keys", values["codes"]) if "x" in needs else None
        return Offered(**{name: known[name] for name in needs}, key=key, held=self.rows)

    def _allocate(self, values: dict[str, Tensor], columns: LabelColumns) -> None:
        if self.seen and "logits" not in values:
            return
        new = {
            name: (value.shape[1:], value.dtype)
            for name, value in values.items()
            if name not in self.store or (name == "logits" and self.store[name].shape[1] != value.shape[1])
        }
        if columns.names and "labels" not in self.store:
            new["labels"] = (Size((len(columns.names),)), columns.dtype)
        if "codes" in new:
            new["codes"] = self.codec.spec(*new["codes"])
        if new:
            self.store.allocate_all(new, first=not self.seen)
        if not self.seen:
            self.shape, self.dtype = values["codes"].shape[1:], values["codes"].dtype

    # ---------------------------------------------------------------- read

    def sample(self, n: int, *, into: Tensor | None = None) -> Recall:
        """``n`` rows drawn by the read policy; without replacement, no more than the memory holds.

        :param n: rows wanted, >= 1.
        :param into: ``(n, *shape)``, of the rows' type: x is put here, as far as there are rows, if that saves a copy:
            with the codec ``"raw"``, on the device where the rows are held.
        :raises ValueError: if ``n`` is not positive or the memory is empty.
        """
        check_draw(n, self._written.count)
        ahead = self._ahead
        if ahead is not None:
            self._ahead = None
            if ahead.n == n and ahead.device == self.device:
                return self._decoded(ahead.use(self.read_policy, self._generator))
        slots = policies.chosen_slots(self.read_policy, n, self._written, self._generator)
        if into is not None and type(self.codec) is codecs.Raw:
            return self._decoded(self.store.gather(slots, {"codes": into}))
        return self._decoded(self.store.gather(slots))

    def prefetch(self, n: int) -> None:
        """Begin to fetch, on another thread, the rows that the next ``sample(n)`` will give.

        For rows that travel from host memory or files to a GPU; otherwise there is nothing to gain, and nothing
        is done. It changes no result: the draw counts only once it is sampled. A write, or a sample of another
        size, in between discards it, and what is saved is the state before it.

        :param n: rows wanted, >= 1.
        """
        check.positive_integer("n", n)
        if len(self) and self.store.is_apart and self._ahead is None:
            self._ahead = Ahead(n, self.read_policy, len(self), self._generator, self._fetched, self.device)

    def _fetched(self, numbers: Tensor) -> dict[str, Tensor]:
        return self.store.gather(policies.slots_of(self.read_policy, numbers, self._written))

    def slots(self) -> Tensor:
        """Slots that hold a row, int64 ascending on the CPU: the first ones, unless the write policy leaves gaps."""
        return self._written.all()

    def rows(self, slots: Tensor) -> Recall:
        """The rows in the given slots, decoded.

        :param slots: int64 ``(n,)`` on the CPU, from 0 to ``len(memory) - 1``; if the write policy leaves gaps, those
            that :meth:`slots` gives.
        :raises TypeError: if they are no integer tensor.
        :raises ValueError: if nothing has been written to one of them.
        """
        return self._decoded(self.store.gather(self._written.check(slots)))

    def labels_of(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``y``, ``t`` and ``origin`` of the rows in the given slots, as in :meth:`rows`.

        :param slots: as for :meth:`rows`.
        """
        slots = self._written.check(slots)
        return self._labels_in(
            {name: self.store.get(name, slots) for name in ("labels", "targets") if name in self.store}
        )

    def _decoded(self, held: dict[str, Tensor]) -> Recall:
        y, t, origin = self._labels_in(held)
        x = held["codes"]
        if type(self.codec) is not codecs.Raw:
            with torch.no_grad():
                x = check.unchecked(self.codec, "decode")(x, self.shape, self.dtype)
        key = held.get("keys", None if self.embedding is None else x)
        return Recall(x, y, t, origin, held.get("logits"), key)

    def _labels_in(self, held: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        labels = held.get("labels")
        if labels is None:
            some = next(iter(held.values()))
            labels = some.new_zeros(len(some), 0)
        y, t, origin = self._columns.unstack(labels)
        return held["targets"] if y is None else y, t, origin

    # ---------------------------------------------------------------- state

    def get_extra_state(self) -> dict[str, Any]:
        """All that is not a tensor of rows: counts, policies, the generator."""
        made_with = self._made_with()
        return {
            "seen": self.seen,
            "capacity": made_with["capacity"],
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "generator": self._generator.get_state(),
            "policy": self.write_policy.state_dict(),
            "read": self.read_policy.state_dict(),
            "parts": made_with["parts"],
            **self._written.state(),
            **self._columns.state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of a memory with another capacity, policy or codec.
        """
        check_made_alike(state, self._made_with())
        written = self._written.restored(state, state["seen"])
        columns = LabelColumns(self.labels, self.store_tasks, targets_in(state))
        self._ahead = None
        self.seen = state["seen"]
        self._written, self._columns = written, columns
        self.shape = Size(state["shape"])
        self.dtype = getattr(torch, state["dtype"])
        self._generator.set_state(state["generator"].cpu())
        self.write_policy.load_state_dict(state["policy"])
        self.read_policy.load_state_dict(state["read"])

    def _made_with(self) -> dict[str, Any]:
        """What a memory must have been made with to take up this one's state."""
        parts = [policies.identity(part) for part in (self.write_policy, self.read_policy, self.codec)]
        if self.labels != "int32" or not self.store_tasks:
            parts.append(f"labels={self.labels!r}, store_tasks={self.store_tasks}")
        return {"capacity": self.capacity, "parts": parts}

    def _own_tensors(self) -> dict[str, Tensor]:
        # Only the rows held are written.
        slots = self._written.by_number(torch.arange(len(self))) if self._written.has_gaps else slice(0, len(self))
        return {name: buffer[slots] for name, buffer in self.store.named_buffers()}

    def _take(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        # What may still fail, for want of room, comes first.
        check_made_alike(state, self._made_with())
        written = self._written.restored(state, state["seen"])
        if sizes := {name: len(rows) for name, rows in tensors.items() if len(rows) != written.count}:
            raise ValueError(f"state: expected {written.count} rows of each tensor, got {sizes}")
        self.store.load(tensors, written.by_number(torch.arange(written.count)) if written.has_gaps else None)
        self.set_extra_state(state)

    def _rehearsal(self: Self) -> Self:
        # Rows may be more than fit into memory twice.
        return copy.deepcopy(self, {id(self.store): self.store.borrower()})

    def _check_sound(self) -> None:
        check_rows_sound(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_ahead": None}


def _integers(index: slice | Tensor) -> list[int]:
    return list(range(index.start, index.stop)) if isinstance(index, slice) else index.tolist()
