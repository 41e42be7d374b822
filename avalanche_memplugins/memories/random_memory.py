"""Rows of the stream in preallocated tensors: O(1) to append, O(1) to draw."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Size, Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins import codecs
from avalanche_memplugins._bytes import parse_bytes, show_bytes
from avalanche_memplugins._pickling import PicklesGenerator
from avalanche_memplugins._structure import first_leaf, row_count, rows_in, structure_of
from avalanche_memplugins._words import OF_A_MEMORY, POLICIES, names_ours, renamed, renamed_attribute
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.codecs.codec import PARTS
from avalanche_memplugins.memories._adapts import AdaptsToExperiences
from avalanche_memplugins.memories._forgetting import Where, to_forget
from avalanche_memplugins.memories._labels import TYPES, LabelColumns, TargetParts, Targets, targets_in
from avalanche_memplugins.memories._layout import (
    CODECS,
    LENGTHS,
    Layout,
    Leaf,
    LeafCodecs,
    layouts,
    lengths_of,
    longer,
    restored,
    zeros,
)
from avalanche_memplugins.memories._prefetch import Ahead
from avalanche_memplugins.memories._rows import WrittenSlots, check_draw, embed, one_row, rows_within
from avalanche_memplugins.memories._saved import SavesToFolder, check_made_alike
from avalanche_memplugins.memories._soundness import check_rows_sound
from avalanche_memplugins.memories.coded_memory import CodedMemory
from avalanche_memplugins.memories.policies import Offered, ReadPolicy, WritePolicy
from avalanche_memplugins.memories.policies import given as policies
from avalanche_memplugins.memories.recall import Recall, Summary, counts
from avalanche_memplugins.memories.row_store import RowStore, to_device

_OF_CODED = ("codec", "write_policy", "labels", "store_tasks", "seed")  # arguments that CodedMemory takes, too
_NAMES = {"x": "codes", "y": "targets"}  # of their tensors in the store
Group = Callable[[Any, Any], Tensor]
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

    ``y`` may be classes, or targets of any other kind with one row a row of x, such as numbers to regress, several
    labels an image, or masks. Those are stored as they are, and come back so.

    ``x`` and ``y`` may be dicts, tuples or named tuples of tensors with one row a row each, also one within the other.
    Each tensor is stored apart, and rows come back put together as they were. Its name is its key, field or place,
    as in ``"pixels"`` or ``"boxes.0"``; where x and y have the same, ``"x.pixels"`` and ``"y.pixels"``; ``"x"`` or
    ``"y"`` if there is only one.

    For use from one thread. Buffers are allocated at the first write, when the shape of a row is known.

    :param capacity: rows held at most, >= 1.
    :param write_policy: ``"reservoir"``: a uniform sample of the stream; ``"ring"``: the newest rows, as RMA
        keeps them; ``"class_balanced"`` / ``"task_balanced"``: a uniform sample of every class or
        experience, as equal in size as the stream allows; ``"hardest"``: the largest losses; ``"herding"``: the rows
        nearest to their class's mean; ``"gss"``: different gradients; or a
        :class:`~avalanche_memplugins.memories.policies.WritePolicy`, which is copied.
    :param read_policy: ``"uniform"``; ``"cycle"``: shuffled passes, every row once a pass; ``"class_balanced"``,
        ``"task_balanced"``; or a
        :class:`~avalanche_memplugins.memories.policies.ReadPolicy`, which is copied. ``"auto"``: the first, until
        :meth:`read_in_passes` is called; within a budget the first for good, since the order of a pass takes 4 bytes
        a row. Such a memory goes on from a state of either.
    :param replacement: draw rows independently; otherwise each at most once a sample.
    :param codec: ``"raw"``, ``"float16"``, ``"uint8"``, ``"int8"``, ``"4bit"``, ``"2bit"``, ``"1bit"``, or a
        :class:`~avalanche_memplugins.codecs.Codec` such as ``Uint8(mean=0.1307, std=0.3081)``. One of rows that differ
        in length, such as ``ImageFile("webp")`` or ``EntropyCoded(Bits(1))``, makes it a :class:`CodedMemory`, with
        labels of one byte and without task labels unless told otherwise. Of a dict or tuple
        this is for the floating-point tensors of x, and the others are stored as they are. Or a dict of such by the
        names of the tensors of x and y, as in ``{"pixels": "uint8", "y": "1bit"}``. There the names ``"1bit"`` to
        ``"uint8"``, ``"int8"``, ``"int16"`` and ``"int32"`` pack integers and bools without loss
        (:class:`~avalanche_memplugins.codecs.Integers`).
    :param labels: type of each stored label: ``"int32"``, ``"int16"`` or ``"uint8"``, 4, 2 or 1 bytes. Larger labels
        than it holds are refused; on a GPU, where looking means waiting, later writes of such stop the program.
    :param store_tasks: keep task label and origin beside the class. Without them a row of a stream with the one
        task label 0 takes one label, not three; ``t`` comes back as 0 and ``origin`` as -1, not known.
    :param store_logits: keep the outputs given to :meth:`write`, for distillation.
    :param embedding: network :math:`f` of the keys :math:`h = f(x)`, run in eval mode without gradient.
        None: the identity, as in RMA, and no key is stored apart.
    :param keep: with an embedding: ``"both"`` x and key, or ``"key"``: the key instead of x.
    :param pad: for tensors whose rows ``(L, ...)`` differ in length from batch to batch, such as tokens: what they are
        filled up with at the end, by name, as in ``{"input_ids": 0, "labels": -100}``. Slots are as long as the longest
        row so far. Rows come back filled up to the longest that are drawn together; on a GPU that waits for them.
    :param group: function of x and y that gives an integer >= 0 for each row, ``(B,)``: what the policies take for the
        class of rows that have none, or another one. It is kept beside the labels.
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

    >>> memory = RandomMemory(100, codec={"pixels": "uint8", "mask": "1bit"}, seed=0)
    >>> memory.write({"pixels": torch.rand(8, 3, 4, 4).mul(255).round() / 255}, {"mask": torch.rand(8, 4, 4) > 0.5})
    >>> memory.sample(2).x["pixels"].shape, memory.sample(2).y["mask"].dtype
    (torch.Size([2, 3, 4, 4]), torch.bool)
    """

    _takes_structures = True
    policy = renamed_attribute("policy", "write_policy")
    read = renamed_attribute("read", "read_policy")

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A :class:`CodedMemory` if rows differ in length under the codec; ``__init__`` is not called for it."""
        if cls is RandomMemory and getattr(kwargs.get("codec"), "variable", False):
            return _coded(*args, **kwargs)
        return super().__new__(cls)

    @renamed(POLICIES)
    def __init__(
        self,
        capacity: int,
        *,
        write_policy: str | WritePolicy = "reservoir",
        read_policy: str | ReadPolicy = "auto",
        replacement: bool = False,
        codec: str | Codec | Mapping[str, str | Codec] = "raw",
        labels: Literal["int32", "int16", "uint8"] = "int32",
        store_tasks: bool = True,
        store_logits: bool = False,
        embedding: nn.Module | None = None,
        keep: Literal["both", "key"] = "both",
        pad: Mapping[str, float] | None = None,
        group: Group | None = None,
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
        # "settled": none was given, and one was found.
        self._reads = "open" if isinstance(read_policy, str) and read_policy == "auto" else "given"
        if self._reads == "open":
            read_policy, self._reads = "uniform", "settled" if replacement else "open"
        self.read_policy = policies.read_policy_of(read_policy, replacement, self.capacity)
        if isinstance(codec, str):
            codec = check.one_of("codec", codec, CODECS)()
        if isinstance(codec, Mapping):
            self.codec: Any = LeafCodecs(codec)
        else:
            check.having("codec", codec, PARTS, "a name or a Codec")
            self.codec = codec
        self.pad = _pads(pad)
        check.optional_function(group=group)
        self.group = group
        self.keep = check.choice("keep", keep, ("both", "key"))
        self.validate = check.choice("validate", validate, ("auto", "always", "first"))
        self.labels = check.choice("labels", labels, tuple(TYPES))
        self.store_tasks = store_tasks
        self.store_logits = store_logits
        if embedding is not None and not isinstance(embedding, nn.Module):
            raise TypeError(f"embedding: expected a module or None, got {check.show(embedding)}")
        self.embedding = embedding
        self.seen = 0
        self.shape: Any = Size()  # of one row of x; known from the first write on
        self.dtype: Any = torch.float32
        self.store = RowStore(capacity, storage)
        self._columns = LabelColumns(labels, store_tasks, grouped=group is not None)
        # Of x, and of y where it has no classes; from the first write on.
        self._layouts: dict[str, Layout] = {}
        self._longest: dict[str, int] = {}  # rows of padded tensors, where a budget sets how long they may be
        self._written = WrittenSlots(self.capacity)
        self._generator = torch.Generator().manual_seed(check.seed(seed))
        self._ahead: Ahead | None = None

    @classmethod
    @renamed(POLICIES)
    def from_budget(
        cls,
        nbytes: int | str,
        *,
        shape: Any = None,
        dtype: Any = torch.float32,
        classes: int = 0,
        experiences: int = 0,
        target_shape: Any = None,
        target_dtype: Any = torch.float32,
        **kwargs: Any,
    ) -> RandomMemory:
        """The largest memory whose :attr:`nbytes` stay within a budget.

        :param nbytes: the budget in bytes, a number or as in ``"2MB"``, all that holds the stream counted:
            rows, labels, the policies' state.
        :param shape: of one row of x, the longest where they differ; or a dict or tuple of shapes. Not needed with a
            codec of rows that differ in length, which gives a :class:`CodedMemory`.
        :param dtype: of x; or a dict or tuple of types.
        :param classes: how many are expected: the width of the logits, needed if they are stored or a policy keeps
            something as wide. A policy by class has room for 16 from the start; more of them take more bytes, which
            are set aside if told here.
        :param experiences: how many are expected; likewise for policies balanced by task.
        :param target_shape: of one row of y, if these are no classes: ``()`` for one number a row; or a dict or tuple
            of shapes.
        :param target_dtype: of y, if these are no classes; or a dict or tuple of types.
        :param kwargs: the other arguments of :class:`RandomMemory`.
        :raises ValueError: if not a single row fits, or for logits of unknown width.

        >>> RandomMemory.from_budget("10kB", shape=(1, 8, 8), codec="uint8").capacity
        131
        """
        nbytes = parse_bytes(nbytes, "nbytes")
        if cls is RandomMemory and getattr(kwargs.get("codec"), "variable", False):
            coded: RandomMemory = _coded(budget_bytes=nbytes, **kwargs)
            return coded
        if _is_plain(shape) and _is_plain(target_shape):
            x, y = one_row(shape, dtype, target_shape, target_dtype)
        else:
            x = zeros("shape", shape, dtype)
            no_classes = target_shape is not None
            y = zeros("target_shape", target_shape, target_dtype) if no_classes else torch.zeros(1, dtype=torch.int64)
        check.integer("classes", classes, least=0)
        check.integer("experiences", experiences, least=0)
        if "capacity" in kwargs:
            raise TypeError(f"capacity: expected none, as the budget says how many rows, got {kwargs['capacity']!r}")
        if kwargs.get("read_policy", "auto") == "auto":
            kwargs["read_policy"] = "uniform"
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
        if memory.pad:
            probe = cls(1, **probing)
            probe._allocate_for(x, y, torch.zeros(1, classes))
            memory._longest = {leaf.label: leaf.shape[0] for leaf in probe.leaves if leaf.pad is not None}
        return memory

    def _reserve(self, classes: int, experiences: int) -> None:
        for policy in (self.write_policy, self.read_policy):
            if hasattr(policy, "reserve"):
                policy.reserve(classes if policy.grouping == "class" else experiences)

    @torch.no_grad()
    def _allocate_for(self, x: Any, y: Any, logits: Tensor) -> None:
        """Take the bytes that rows of this kind take; their values, which a codec might refuse, are not looked at."""
        rows = len(first_leaf(x))
        # The function may want rows that mean something.
        group = None if self.group is None else torch.zeros(rows, dtype=torch.int64)
        labels, columns = self._labelled(x, y, 0, 0, rows, group)
        parts, content, key = self._laid_out(x, y, columns)
        values = self._values(parts, content, y, key, logits)
        self._allocate(parts, values, columns)
        groups = columns.groups(self.write_policy.grouping, labels, rows)
        if needs := policies.needs_of(self.write_policy):
            offered = self._offered(needs, x, y, key, logits, torch.zeros(rows))
            policies.placements(
                self.write_policy, (0, rows, self.capacity), groups, self._generator, offered, lambda: None
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
    def targets(self) -> Targets | TargetParts | None:
        """Kind of the targets held: shape and type of a row's ``y``. None of classes, or if nothing is held yet."""
        return self._columns.targets

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """The tensors of a row of x, and of targets: name in the store, label, codec, shape, type; () at first."""
        return tuple(leaf for layout in self._layouts.values() for leaf in layout.leaves)

    def pad_of(self, label: str) -> float | None:
        """What the rows of a tensor are filled up with, as :attr:`pad` says; None if they are all of one length.

        :param label: ``"x"``, ``"x.tokens"``, ``"y"``, ...
        """
        given = self.pad.get(check.text("label", label))
        return self.pad.get(label.partition(".")[2]) if given is None else given

    @property
    def device(self) -> torch.device:
        """Where samples come out."""
        return self.store.device

    @property
    def nbytes(self) -> int:
        """Bytes that hold the stream: all slots, filled or not, the policies' state, and what a codec has learned."""
        used = self.codec.given.values() if isinstance(self.codec, LeafCodecs) else [self.codec]
        learned = sum(codec.nbytes for codec in used if isinstance(codec, codecs.Quantised | codecs.ProductQuantised))
        return self.store.nbytes + self.write_policy.nbytes + self.read_policy.nbytes + self._written.nbytes + learned

    @property
    def nbytes_fixed(self) -> int:
        """Bytes needed besides, whatever the stream: the codec's and the embedding's."""
        network = self.embedding
        embedding = 0 if network is None else sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
        return int(self.codec.nbytes_fixed) + embedding

    def summary(self) -> Summary:
        """What the memory holds by class or group (if it does), task and experience; ``str()`` of it is a table."""
        slots = self.slots()
        classes = self.classes_of(slots)
        _, t, origin = self.labels_of(slots) if len(self) else (torch.zeros(0),) * 3
        return Summary(
            description=repr(self),
            capacity=self.capacity,
            filled=len(self),
            seen=self.seen,
            nbytes=self.nbytes,
            nbytes_fixed=self.nbytes_fixed,
            per_class={} if classes is None else counts(classes),
            per_task=counts(t),
            per_experience=counts(origin[origin >= 0]),
        )

    def classes_of(self, slots: Tensor) -> Tensor | None:
        """What the policies take for the class of rows: the class, or the group; int64. None if there is no such thing.

        :param slots: as for :meth:`rows`.
        """
        slots = self._written.check(slots)
        return self._columns.classes(self.store.get("labels", slots)) if "labels" in self.store else None

    # ---------------------------------------------------------------- write

    @torch.no_grad()
    def write(
        self,
        x: Any,
        y: Any,
        t: Tensor | int = 0,
        *,
        origin: Tensor | int | None = None,
        logits: Tensor | None = None,
        loss: Tensor | None = None,
        checked: bool = False,
    ) -> None:
        """Offer a batch to the memory; the write policy decides which rows stay.

        Nothing changes if an error is raised.

        :param x: rows ``(B, *shape)``, or a dict or tuple of such; structure, shape and type stay those of the first
            write.
        :param y: classes ``(B,)``, integers >= 0; or targets of another kind: floating-point or boolean ``(B,)``, any
            ``(B, ...)``, or a dict or tuple of tensors. Kind, and of targets structure, shape and type, stay those of
            the first write.
        :param t: task labels ``(B,)`` or one for all, integers >= 0.
        :param origin: number of the experience that the rows come from, ``(B,)`` or one for all; ``t``
            if not given. This number is what "task" means in the policies.
        :param logits: outputs ``(B, classes)`` or ``(B, classes, ...)``, to be given if and only if :attr:`needs` names
            them. If stored ones grow wider during the stream, earlier rows are filled up with zeros.
        :param loss: ``(B,)``, finite; to be given if :attr:`needs` names it, and otherwise not looked at.
        :param checked: x is known to be finite, and classes, task labels and origins to lie from 0 to 2**31 - 1, so
            that they need not be looked at again; with ``validate="always"`` they are all the same.
        :raises TypeError: if an argument is of a wrong kind.
        :raises ValueError: if shapes, types or values do not fit, naming the argument; if one is missing that the write
            policy needs; or if a policy goes by class and there are none.
        """
        batch = self._row_count(x)
        labels, columns = self._labelled(x, y, t, t if origin is None else origin, batch)
        needs = policies.needs_of(self.write_policy)
        if needs or self.store_logits or logits is not None:
            policies.check_outputs(self.write_policy, self.store_logits, logits, loss, batch)
        if batch == 0:
            return
        if self._keeps_as_is(x, y, checked):
            self._keep_as_is(batch, labels, columns, x, y, lambda take: rows_in(x, take))
            return
        parts, content, key = self._laid_out(x, y, columns)
        values = self._values(parts, content, y, key, logits)
        coded = [leaf for layout in parts.values() for leaf in layout.leaves if leaf.codec is not None]
        codes: dict[str, Tensor | None] = {}
        encoders = {leaf.name: leaf.codec.encode for leaf in coded if leaf.codec is not None}
        looks = self._looks_at(x)
        known = checked and self.validate != "always"
        if looks:
            if not known:
                _check_finite(x)
            if not known or not columns.take_all:
                columns.check_values(labels)
            if logits is not None:
                check.finite("logits", values.get("logits", logits))  # in the type that they are kept in
            if key is not None:
                check.finite("embedding", key)
            for leaf in coded:
                code = codes[leaf.name] = leaf.storable(values[leaf.name])
                if code is None:
                    encoders[leaf.name] = check.unchecked(leaf.codec, "encode")
        else:
            columns.guard(labels)
        offered = self._offered(needs, x, y, key, logits, loss) if needs else None

        def stored(take: slice | Tensor) -> dict[str, Tensor]:
            some = {}
            for name, value in values.items():
                code = codes.get(name)
                some[name] = rows_in(value if code is None else code, take)
                if code is None and name in encoders:
                    some[name] = encoders[name](some[name])
            return some

        device = first_leaf(content).device
        self._keep(batch, labels, columns, offered, device, lambda: self._allocate(parts, values, columns), stored)

    @torch.no_grad()
    def write_from(
        self,
        source: Tensor,
        rows: Tensor,
        y: Any,
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
        :param y: as for :meth:`write`, for all rows, in one tensor; so are ``t``, ``origin`` and ``checked``.
        :param batch_size: rows of a batch, >= 1.
        :raises TypeError: as :meth:`write`.
        :raises ValueError: as :meth:`write`; earlier batches are written then.

        >>> memory = RandomMemory(100)
        >>> memory.write_from(torch.eye(8), torch.tensor([3, 5, 7]), torch.tensor([0, 1, 1]), batch_size=2)
        >>> len(memory)
        3
        """
        check.positive_integer("batch_size", batch_size)
        check.flag("checked", checked)
        check.rows_of(source)
        if check.tensor("rows", rows).ndim != 1 or rows.dtype != torch.int64:
            raise ValueError(f"rows: expected int64 (n,), got {rows.dtype} {tuple(rows.shape)}")
        # On a GPU, where looking means waiting, it is the caller's word.
        if len(rows) and not rows.is_cuda and not 0 <= int(rows.min()) <= int(rows.max()) < len(source):
            raise ValueError(
                f"rows: expected numbers from 0 to {len(source) - 1}, got {int(rows.min())} to {int(rows.max())}"
            )
        if check.tensor("y", y).ndim < 1 or len(y) != len(rows):
            raise ValueError(f"y: expected one for each of {len(rows)} rows, got {tuple(y.shape)}")
        begin, end = 0, len(rows)
        while begin < end:
            size, quick = batch_size, self._keeps_as_is(source, y, checked)
            if quick and self.read_policy.grouping is None:
                size = policies.rows_at_once(self.write_policy, self.seen, end - begin, batch_size)
            some = slice(begin, min(begin + size, end))
            begin = some.stop
            given = (y, t, t if origin is None else origin)
            labels = [value[some] if isinstance(value, Tensor) else value for value in given]
            if quick:
                self._write_as_is(source, rows[some], labels)
            else:
                self.write(source.index_select(0, rows[some]), *labels[:2], origin=labels[2], checked=checked)

    def _write_as_is(self, source: Tensor, picked: Tensor, given: list[Any]) -> None:
        labels, columns = self._labelled(source, given[0], given[1], given[2], len(picked))

        def stored(take: slice | Tensor) -> Tensor:
            return source.index_select(0, rows_in(picked, take))

        self._keep_as_is(len(picked), labels, columns, source, given[0], stored)

    def _keeps_as_is(self, x: Any, y: Any, checked: bool) -> bool:
        """Whether rows and classes can be stored without a look at them, or anything worked out from them."""
        if type(self.codec) is not codecs.Raw or self.pad or self.embedding is not None or self.group is not None:
            return False
        if not isinstance(x, Tensor) or not isinstance(y, Tensor) or self.needs:
            return False
        looks = self._looks_at(x) and (not checked or self.validate == "always" or not self._columns.take_all)
        return not looks and y.ndim == 1 and not y.is_floating_point() and y.dtype != torch.bool

    def _keep_as_is(
        self,
        batch: int,
        labels: Mapping[str, Any],
        columns: LabelColumns,
        x: Tensor,
        y: Tensor,
        stored: Callable[[slice | Tensor], Tensor],
    ) -> None:
        """:meth:`_keep` rows of one tensor x as they are."""
        parts, _, _ = self._laid_out(x, y, columns)
        columns.guard(labels)

        def make_room() -> None:
            if not self.seen:
                self._allocate(parts, {_NAMES["x"]: x}, columns)

        self._keep(batch, labels, columns, None, x.device, make_room, lambda take: {_NAMES["x"]: stored(take)})

    def _keep(
        self,
        batch: int,
        labels: Mapping[str, Any],
        columns: LabelColumns,
        offered: Offered | None,
        device: torch.device,
        make_room: Callable[[], None],
        stored: Callable[[slice | Tensor], dict[str, Tensor]],
    ) -> None:
        """Let the write policy place a batch, and store what it keeps.

        :param device: where the rows are.
        :param stored: what is stored of some rows, by the name that it has in the store; labels come later.
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
            for name, part in stored(take).items():
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
    def check_rows(self, x: Any, y: Any = None, t: Tensor | int = 0) -> None:
        """Raise what :meth:`write` would for the shape, type or values of these rows and labels; nothing changes.

        :param x: as for :meth:`write`.
        :param y: as for :meth:`write`; None: not known yet.
        :param t: as for :meth:`write`.
        """
        self._row_count(x)
        self._check_rows(x, y, t, looks=self._looks_at(x))

    def _check_rows(self, x: Any, y: Any, t: Tensor | int, *, looks: bool) -> int:
        batch = self._row_count(x)
        columns = self._columns
        if y is not None:
            labels, columns = self._labelled(x, y, t, t, batch)
            if batch and looks:
                columns.check_values(labels)
        parts, content, _ = self._laid_out(x, y, columns)
        if looks:
            _check_finite(x)
            for part, layout in parts.items():
                given = layout.structure.leaves(part, content if part == "x" else y)
                for leaf, value in zip(layout.leaves, given, strict=True):
                    if leaf.codec is not None:
                        leaf.codec.check(value) if leaf.label == "x" else leaf.storable(value)
        return batch

    def _row_count(self, x: Any) -> int:
        if isinstance(x, Tensor) or not self._takes_structures or not isinstance(x, Mapping | tuple | list):
            return check.rows_of(x)
        return row_count("x", x)

    def _looks_at(self, x: Any) -> bool:
        """Whether the values of a batch are looked at, not its shape alone."""
        return self.validate == "always" or self.seen == 0 or (self.validate == "auto" and not first_leaf(x).is_cuda)

    def _labelled(
        self, x: Any, y: Any, t: Tensor | int, origin: Tensor | int, batch: int, group: Tensor | None = None
    ) -> tuple[Mapping[str, Any], LabelColumns]:
        if self.group is not None and group is None:
            group = self.group(x, y)
        labels, columns = self._columns.taking(
            y, t, origin, batch, first=not self.seen, group=group, padded=self._padded(y)
        )
        by_class = "class" in (self.write_policy.grouping, self.read_policy.grouping)
        if columns.targets is not None and self.group is None and by_class:
            raise ValueError(
                f"y: expected integer classes (B,), as this memory's policies go by class, got {columns.targets}; "
                "a memory made with group=, a function of x and y, takes the groups that it gives instead"
            )
        if not isinstance(x, Tensor) and self.embedding is None and "x" in policies.needs_of(self.write_policy):
            raise ValueError(
                f"x: expected one tensor, whose rows the write policy {policies.name_of(self.write_policy)!r} "
                f"compares, got a {type(x).__name__}; an embedding of such rows gives it one"
            )
        return labels, columns

    def _padded(self, y: Any) -> frozenset[str]:
        """Names of the tensors of y whose rows differ in length."""
        if not self.pad:
            return frozenset()
        if "y" in self._layouts:
            return frozenset(leaf.label for leaf in self._layouts["y"].leaves if leaf.pad is not None)
        return frozenset(name if name[:2] in ("y", "y.") else f"y.{name}" for name in self.pad)

    def _laid_out(self, x: Any, y: Any, columns: LabelColumns) -> tuple[dict[str, Layout], Any, Tensor | None]:
        """Where the tensors of a batch go, what is stored for x, and its keys if there is an embedding."""
        key = None if self.embedding is None else self._embed(x)
        content = x if key is None or self.keep == "both" else key
        given = {"x": content} if columns.targets is None or y is None else {"x": content, "y": y}
        if not self.seen:
            return layouts(given, self.codec, self.pad, _NAMES, partly=y is None), content, key
        found = {}
        for part, value in given.items():
            layout = found[part] = self._layouts[part]
            if layout.only is not None and isinstance(value, Tensor):
                layout.only.check(value)
                continue
            for leaf, tensor in zip(layout.leaves, layout.structure.leaves(part, value), strict=True):
                leaf.check(tensor, limit=self._longest.get(leaf.label))
            if self.pad:
                found[part] = longer(layout, value)
        return found, content, key

    def _values(
        self, parts: dict[str, Layout], content: Any, y: Any, key: Tensor | None, logits: Tensor | None
    ) -> dict[str, Tensor]:
        """What is stored of every row, by the name that it has in the store; the labels come later."""
        values = parts["x"].values("x", content)
        if "y" in parts:
            here = first_leaf(content).device
            values.update({name: value.to(here) for name, value in parts["y"].values("y", y).items()})
        if self.pad:
            given = zip(("x", "y"), (content, y), strict=True)
            pairs = [
                pair
                for part, value in given
                if part in parts
                for pair in zip(parts[part].leaves, parts[part].structure.leaves(part, value), strict=True)
            ]
            values[LENGTHS] = lengths_of([pair for pair in pairs if pair[0].pad is not None])
        if key is not None and self.keep == "both":
            values["keys"] = key
        if self.store_logits and logits is not None:
            if "logits" in self.store:
                held = self.store["logits"]
                missing = max(0, held.shape[1] - logits.shape[1])
                logits = nn.functional.pad(logits, (*[0] * (2 * logits.ndim - 3), missing)).to(held.dtype)
            values["logits"] = logits
        return values

    def _embed(self, x: Any) -> Tensor:
        if self.embedding is None:
            return x  # type: ignore[no-any-return]
        return embed(self.embedding, x, like=self.store["keys"] if "keys" in self.store else None)  # noqa: SIM401

    def _offered(
        self,
        needs: frozenset[str],
        x: Any,
        y: Any,
        key: Tensor | None,
        logits: Tensor | None,
        loss: Tensor | None,
    ) -> Offered:
        """What the write policy needs to know."""
        known = {"x": x, "y": y, "loss": loss, "logits": logits}
        found = (x if key is None else key) if "x" in needs else None
        return Offered(**{name: known[name] for name in needs}, key=found, held=self.rows)

    def _allocate(self, parts: dict[str, Layout], values: dict[str, Tensor], columns: LabelColumns) -> None:
        leaves = {leaf.name: leaf for layout in parts.values() for leaf in layout.leaves}
        new: dict[str, tuple[Size, torch.dtype]] = {}
        for name, value in values.items():
            leaf = leaves.get(name)
            if name in self.store:
                grows = name == "logits" or (leaf is not None and leaf.pad is not None)
                if not grows or self.store[name].shape[1] == value.shape[1]:
                    continue
            new[name] = (value.shape[1:], value.dtype) if leaf is None else leaf.stored
        if columns.names and "labels" not in self.store:
            new["labels"] = (Size((len(columns.names),)), columns.dtype)
        if new:
            self.store.allocate_all(new, first=not self.seen)
        if not self.seen or self.pad:
            self._layouts = parts
            self.shape, self.dtype = parts["x"].shape, parts["x"].dtype

    # ---------------------------------------------------------------- forget

    @torch.no_grad()
    def forget(
        self,
        *,
        classes: Collection[int] | None = None,
        origins: Collection[int] | None = None,
        labels: Collection[int] | None = None,
        where: Where = None,
    ) -> int:
        """Let go of rows: their bytes leave the slots, and the files below ``storage``.

        What is told narrows the choice.

        Rows that stay move to the first slots. While the memory has room for all that it was offered, and drew nothing,
        it is afterwards bit for bit one that never saw these rows. Else the rows that stay are the same sample of
        the rest of the stream, and what was offered counts in proportion. Files that :meth:`save` wrote before keep
        their rows: save again.

        :param classes: of these classes, or groups.
        :param origins: from these experiences.
        :param labels: of these task labels.
        :param where: for which this is true: a function of rows (a :class:`~avalanche_memplugins.memories.Recall`) that
            gives bools ``(n,)``; or bools, one for each of :meth:`slots`.
        :returns: how many they were.
        :raises ValueError: if nothing is told, or not known of the rows; or for a policy that cannot forget.

        >>> memory = RandomMemory(100, seed=0)
        >>> memory.write(torch.rand(50, 3), torch.arange(50) % 5)
        >>> memory.forget(classes=[0, 3]), len(memory)
        (20, 30)
        """
        slots = self.slots()
        gone = to_forget(self, classes, origins, labels, where)
        count = int(gone.sum())
        if not count:
            return 0
        kept, held = slots[~gone], int(slots[-1]) + 1
        write, read = copy.deepcopy(self.write_policy), copy.deepcopy(self.read_policy)
        for name, policy in (("write_policy", write), ("read_policy", read)):
            if len(kept) and not hasattr(policy, "forget"):
                raise ValueError(
                    f"{name}: expected one that can forget, got {policies.identity(policy)}; make a new memory, and "
                    "write the rows that are to stay"
                )
        if not len(kept):
            self._forget_all()
            return count
        forgetting: Any = write
        kept, seen = forgetting.forget(kept, self.seen)
        forgetting = read
        forgetting.forget(kept)
        self.store.keep(kept, held)
        written = WrittenSlots(self.capacity)
        written.add(slice(0, len(kept)))
        self._ahead, self._written, self.seen = None, written, seen
        self.write_policy, self.read_policy = write, read
        return count

    def _forget_all(self) -> None:
        self.store.keep(torch.zeros(0, dtype=torch.int64), self.capacity)
        for name in [name for name, _ in self.store.named_buffers()]:
            self.store.drop(name)
        self.write_policy.start(self.capacity)
        self.read_policy.start(self.capacity)
        self._ahead, self._written, self.seen = None, WrittenSlots(self.capacity), 0
        self._columns = LabelColumns(self.labels, self.store_tasks, grouped=self.group is not None)
        self._layouts, self.shape, self.dtype = {}, Size(), torch.float32

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
        if into is not None and type(self.codec) is codecs.Raw and not self.pad:
            return self._decoded(self.store.gather(slots, {_NAMES["x"]: into}))
        return self._decoded(self.store.gather(slots))

    def read_in_passes(self) -> None:
        """Read in shuffled passes from now on, if no read policy was given: see ``"cycle"``.

        For whoever reads a memory whose rows stay for long, as a replay plugin that writes when an experience has
        ended.

        >>> memory = RandomMemory(100)
        >>> memory.read_in_passes()
        >>> memory.read_policy
        Cycle()
        """
        if self._reads == "open":
            self._reads, self._ahead = "settled", None
            self.read_policy = policies.read_policy_of("cycle", False, self.capacity)

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
        names = (
            ["labels", LENGTHS, *(leaf.name for leaf in self._layouts["y"].leaves)]
            if "y" in self._layouts
            else ["labels"]
        )
        return self._labels_in({name: self.store.get(name, slots) for name in names if name in self.store})

    def _decoded(self, held: dict[str, Tensor]) -> Recall:
        with torch.no_grad():
            y, t, origin = self._labels_in(held)
            x = self._layouts["x"].build(held, self._lengths_in(held))
        key = held.get("keys", None if self.embedding is None else x)
        return Recall(x, y, t, origin, held.get("logits"), key)

    def _labels_in(self, held: dict[str, Tensor]) -> tuple[Any, Tensor, Tensor]:
        labels = held.get("labels")
        if labels is None:
            if self._columns.names:
                raise ValueError("state: lacks rows 'labels'")
            some = next(iter(held.values()))
            labels = some.new_zeros(len(some), 0)
        y, t, origin = self._columns.unstack(labels)
        return self._layouts["y"].build(held, self._lengths_in(held)) if y is None else y, t, origin

    def _lengths_in(self, held: dict[str, Tensor]) -> dict[str, Tensor]:
        """Lengths of rows by the name of their tensor."""
        if not self.pad:
            return {}
        padded = [leaf.name for leaf in self.leaves if leaf.pad is not None]
        return dict(zip(padded, held[LENGTHS].unbind(1), strict=True))

    # ---------------------------------------------------------------- state

    def get_extra_state(self) -> dict[str, Any]:
        """All that is not a tensor of rows: counts, policies, the generator."""
        made_with = self._made_with()
        return {
            "seen": self.seen,
            "capacity": made_with["capacity"],
            "shape": list(self.shape) if isinstance(self.shape, Size) else [],
            "dtype": str(self.dtype if isinstance(self.dtype, torch.dtype) else torch.float32).removeprefix("torch."),
            **self._layout_state(),
            "generator": self._generator.get_state(),
            "policy": self.write_policy.state_dict(),
            "read": self.read_policy.state_dict(),
            **({"reads": "open"} if self._reads == "open" else {}),
            "parts": made_with["parts"],
            **self._written.state(),
            **self._columns.state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of a memory with another capacity, policy or codec.
        """
        read_policy = self._read_policy_of(state)
        check_made_alike(state, self._made_with(read_policy))
        written = self._written.restored(state, state["seen"])
        columns = LabelColumns(self.labels, self.store_tasks, targets_in(state), grouped=self.group is not None)
        dtype = getattr(torch, state["dtype"])
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"state: expected a type of rows, got {dtype!r}")
        found = self._layouts_in(state, columns)
        self._ahead = None
        self.seen = state["seen"]
        self._written, self._columns, self._layouts = written, columns, found
        self.shape, self.dtype = Size(state["shape"]), dtype
        if "layouts" in state:
            self.shape, self.dtype = found["x"].shape, found["x"].dtype
        self._generator.set_state(state["generator"].cpu())
        self.write_policy.load_state_dict(state["policy"])
        self.read_policy = read_policy
        self.read_policy.load_state_dict(state["read"])
        if self._reads != "given":
            self._reads = "open" if state.get("reads") == "open" else "settled"

    def _read_policy_of(self, state: dict[str, Any]) -> ReadPolicy:
        """The one to go on with: that of the state, if none was given."""
        if self._reads != "given":
            for name in ("uniform", "cycle"):
                policy = policies.read_policy_of(name, False, self.capacity)
                if policies.identity(policy) in state["parts"][1:2]:
                    return policy
        return self.read_policy

    def _layout_state(self) -> dict[str, Any]:
        """How rows are laid out, where shape and type of x and of targets do not tell it."""
        plain = not self.pad and all(layout.structure.is_tensor for layout in self._layouts.values())
        return {} if plain else {"layouts": {part: layout.state() for part, layout in self._layouts.items()}}

    def _layouts_in(self, state: dict[str, Any], columns: LabelColumns) -> dict[str, Layout]:
        if "layouts" in state:
            return restored(state["layouts"], self.codec, self.pad, _NAMES)
        if not state["seen"]:
            return {}
        rows = {"x": (state["shape"], getattr(torch, state["dtype"]))}
        if isinstance(columns.targets, Targets):
            rows["y"] = (list(columns.targets.shape), columns.targets.dtype)
        given = {
            part: {"structure": "tensor", "shapes": [shape], "dtypes": [str(dtype).removeprefix("torch.")]}
            for part, (shape, dtype) in rows.items()
        }
        return restored(given, self.codec, self.pad, _NAMES)

    def _made_with(self, read_policy: ReadPolicy | None = None) -> dict[str, Any]:
        """What a memory must have been made with to take up this one's state."""
        read_policy = read_policy or self.read_policy
        parts = [policies.identity(part) for part in (self.write_policy, read_policy, self.codec)]
        if self.labels != "int32" or not self.store_tasks:
            parts.append(f"labels={self.labels!r}, store_tasks={self.store_tasks}")
        if self.pad or self.group is not None:
            parts.append(f"pad={dict(sorted(self.pad.items()))}, group={'none' if self.group is None else 'given'}")
        return {"capacity": self.capacity, "parts": parts}

    def _own_tensors(self) -> dict[str, Tensor]:
        # Only the rows held are written.
        slots = self._written.by_number(torch.arange(len(self))) if self._written.has_gaps else slice(0, len(self))
        return {name: buffer[slots] for name, buffer in self.store.named_buffers()}

    def _take(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        # What may still fail, for want of room, comes first.
        check_made_alike(state, self._made_with(self._read_policy_of(state)))
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


def _check_finite(x: Any) -> None:
    if isinstance(x, Tensor):
        check.finite("x", x)
        return
    structure = structure_of("x", x)
    for name, leaf in zip(structure.names, structure.leaves("x", x), strict=True):
        check.finite(f"x.{name}", leaf)


def _pads(given: Any) -> dict[str, float]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(
            f"pad: expected a dict of names of tensors, such as {{'input_ids': 0}}, got {check.show(given)}"
        )
    return {check.text("pad", name): check.number(f"pad[{name!r}]", value) for name, value in given.items()}


def _is_plain(shape: Any) -> bool:
    """Whether a shape is that of one tensor."""
    return not isinstance(shape, Mapping) and not (
        isinstance(shape, tuple | list) and any(isinstance(size, tuple | list | Mapping) for size in shape)
    )


def _integers(index: slice | Tensor) -> list[int]:
    return list(range(index.start, index.stop)) if isinstance(index, slice) else index.tolist()


def _coded(capacity: int | None = None, *, budget_bytes: int | None = None, **kwargs: Any) -> Any:
    """A memory of rows that differ in length, by the arguments of :class:`RandomMemory`.

    :raises ValueError: for an argument that it has nothing for.
    """
    known = inspect.signature(RandomMemory.__init__).parameters
    for name, value in kwargs.items():
        if name in known and name not in _OF_CODED and not (name == "read_policy" and value == "uniform"):
            usual = known[name].default
            if value is not usual and value != usual:
                raise ValueError(
                    f"{name}: expected {usual!r} beside {kwargs['codec']!r}, whose rows differ in length, got "
                    f"{check.show(value)}"
                )
    given = {name: value for name, value in kwargs.items() if name in _OF_CODED or name not in known}
    return CodedMemory(budget_bytes, capacity=capacity, **given)
