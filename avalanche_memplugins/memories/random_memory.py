"""Rows of the stream in preallocated tensors: O(1) to append, O(1) to draw."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Size, Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins._modes import eval_mode
from avalanche_memplugins._words import OF_A_MEMORY, names_ours
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.memories._labels import TYPES, LabelColumns, Targets, targets_of
from avalanche_memplugins.memories._random.names import WRITE_KINDS, codec_of, read_policy, write_policy
from avalanche_memplugins.memories._random.own import check_grouping, checked, unchanged_if_it_fails
from avalanche_memplugins.memories._random.reads import RowReads
from avalanche_memplugins.memories._random.written import WrittenSlots
from avalanche_memplugins.memories.policies import (
    Balanced,
    GroupBalanced,
    Grouping,
    Placement,
    ReadPolicy,
    WritePolicy,
)
from avalanche_memplugins.memories.row_store import RowStore, to_device


@names_ours(OF_A_MEMORY)
class RandomMemory(RowReads):
    r"""A random memory :math:`M = \{(h_i, v_i)\}` of stream rows in preallocated tensors.

    Appending a batch and drawing a random batch cost the same whatever the capacity, the fill and the
    length of the stream. Which rows stay is the write policy's business, which come back the read
    policy's, how a row is stored the codec's; the three combine freely. All choices are drawn on the
    CPU from the memory's own generator: nothing waits for a GPU, and the same seed makes the same
    choices on every device. (The exception: policies balanced by class must see the labels; if these
    are on a GPU, each write waits for them.)

    ``y`` may be classes, or targets of any other kind with one row a row of x, such as numbers to regress or several
    labels an image. Those are stored as they are, and come back so.

    For use from one thread. Buffers are allocated at the first write, when the shape of a row is known.

    :param capacity: rows held at most, >= 1.
    :param policy: ``"reservoir"``: a uniform sample of the stream; ``"ring"``: the newest rows, as RMA
        keeps them; ``"class_balanced"`` / ``"task_balanced"``: a uniform sample of every class or
        experience, as equal in size as the stream allows; or a
        :class:`~avalanche_memplugins.memories.policies.WritePolicy`, which is copied.
    :param read: ``"uniform"``; ``"cycle"``: shuffled passes, every row once a pass; ``"class_balanced"``,
        ``"task_balanced"``; or a
        :class:`~avalanche_memplugins.memories.policies.ReadPolicy`, which is copied.
    :param replacement: draw rows independently; otherwise each at most once a sample.
    :param codec: ``"raw"``, ``"float16"``, ``"uint8"``, ``"int8"``, ``"4bit"``, ``"1bit"``, or a
        :class:`~avalanche_memplugins.codecs.Codec` such as ``Uint8(mean=0.1307, std=0.3081)``.
    :param labels: type of each stored label: ``"int32"``, ``"int16"`` or ``"uint8"``, 4, 2 or 1 bytes. Larger labels
        than it holds are refused; on a GPU, where looking means waiting, later writes of such stop the program.
    :param store_tasks: keep task label and origin beside the class. Without them a row of a stream with the one
        task label 0 takes one label, not three; ``t`` comes back as 0 and ``origin`` as -1, not known.
    :param store_logits: keep the outputs given to :meth:`write`, for distillation.
    :param embedding: network :math:`f` of the keys :math:`h = f(x)`, run in eval mode without gradient.
        None: the identity, as in RMA, and no key is stored apart.
    :param keep: with an embedding: ``"both"`` x and key, or ``"key"``: the key in the place of x.
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
    """

    def __init__(
        self,
        capacity: int,
        *,
        policy: str | WritePolicy = "reservoir",
        read: str | ReadPolicy = "uniform",
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
        self.policy = write_policy(policy)
        self.read = read_policy(read, replacement)
        self.codec = codec_of(codec)
        self.keep = check.choice("keep", keep, ("both", "key"))
        self.validate = check.choice("validate", validate, ("auto", "always", "first"))
        self.labels = check.choice("labels", labels, tuple(TYPES))
        self.store_tasks = store_tasks
        self._columns = LabelColumns(labels, store_tasks)
        self.store_logits = store_logits
        if embedding is not None and not isinstance(embedding, nn.Module):
            raise TypeError(f"embedding: expected a module or None, got {check.show(embedding)}")
        self.embedding = embedding
        self.seen = 0
        self._written = WrittenSlots(self.capacity)
        self.shape = Size()  # of one row of x; known from the first write on
        self.dtype = torch.float32
        self.store = RowStore(capacity, storage)
        self._generator = torch.Generator().manual_seed(check.seed(seed))
        self._ahead = None
        self.policy.start(capacity)
        self.read.start(capacity)
        check_grouping("policy", self.policy.grouping)
        check_grouping("read", self.read.grouping)

    @classmethod
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
        :param classes: how many are expected: the width of the logits, wanted with ``store_logits``. A policy balanced
            by class has room for 16 from the start; more of them take more bytes, which are set aside if told here.
        :param experiences: how many are expected; likewise for policies balanced by task.
        :param target_shape: of one row of y, if these are no classes: ``()`` for one number a row.
        :param target_dtype: of y, if these are no classes.
        :param kwargs: the other arguments of :class:`RandomMemory`.
        :raises ValueError: if not a single row fits, or for logits of unknown width.
        """
        nbytes = parse_bytes(nbytes, "nbytes")
        shape = check.row_shape(shape)
        for name, value in (("dtype", dtype), ("target_dtype", target_dtype)):
            check.dtype_of(name, value)
            check.computed(name, torch.empty(0, dtype=value))
        check.integer("classes", classes, least=0)
        check.integer("experiences", experiences, least=0)
        if "capacity" in kwargs:
            raise TypeError(f"capacity: expected none, as the budget says how many rows, got {kwargs['capacity']!r}")
        store_logits = cls(1, **{**kwargs, "storage": "device", "seed": 0}).store_logits
        if store_logits and classes < 1:
            raise ValueError(f"classes: a budget with store_logits=True wants their width, got {classes}")
        check.room("shape", shape.numel(), dtype.itemsize)
        x = torch.zeros(1, *shape, dtype=dtype)
        if target_shape is None:
            y = torch.zeros(1, dtype=torch.int64)
        else:
            target_shape = () if target_shape == () else check.integers("target_shape", target_shape, least=0)
            check.room("target_shape", math.prod(target_shape), target_dtype.itemsize)
            y = torch.zeros(1, *target_shape, dtype=target_dtype)

        def takes(capacity: int) -> int:
            probe = cls(capacity, **{**kwargs, "storage": "device", "seed": 0})
            probe._reserve(classes, experiences)
            labels, columns = probe._labelled(y, 0, 0, 1)
            with torch.no_grad():
                values = probe._values(x, y, columns, torch.zeros(1, classes) if store_logits else None)
            probe._allocate(_with_labels(values, columns.stack(labels, x), columns))
            return probe.nbytes

        row = takes(2) - takes(1)
        shared = takes(1) - row
        if nbytes - shared < row:
            beside = f", beside {shared} of the codec and the policies" if shared else ""
            raise ValueError(f"nbytes: expected at least the {row} bytes that one row takes{beside}, got {nbytes}")
        memory = cls((nbytes - shared) // row, **kwargs)
        memory._reserve(classes, experiences)
        return memory

    def _reserve(self, classes: int, experiences: int) -> None:
        for policy in (self.policy, self.read):
            if isinstance(policy, GroupBalanced | Balanced):
                policy.reserve(classes if policy.grouping == "class" else experiences)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.capacity}, policy={self.policy!r}, read={self.read!r}, codec={self.codec!r})"
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
    ) -> None:
        """Offer a batch to the memory; the write policy decides which rows stay.

        Nothing changes if an error is raised.

        :param x: rows ``(B, *shape)``; their shape and type stay those of the first write.
        :param y: classes ``(B,)``, integers >= 0; or targets of another kind: floating-point or boolean ``(B,)``, or
            any ``(B, ...)``. Kind, and of targets shape and type, stay those of the first write.
        :param t: task labels ``(B,)`` or one for all, integers >= 0.
        :param origin: number of the experience that the rows come from, ``(B,)`` or one for all; ``t``
            if not given. This number is what "task" means in the policies.
        :param logits: outputs ``(B, classes)``, wanted if and only if ``store_logits``. If they grow wider
            during the stream, earlier rows are filled up with zeros.
        :raises TypeError: if an argument is of a wrong kind.
        :raises ValueError: if shapes, types or values do not fit, naming the argument; or if a policy is balanced by
            class and there are none.
        """
        batch = check.rows_of(x)
        labels, columns = self._labelled(y, t, t if origin is None else origin, batch)
        self._check_logits(logits, batch)
        if batch == 0:
            return
        if self.keep == "both":
            self._check_shape(x)
        values = self._values(x, y, columns, logits)
        stacked = columns.stack(labels, x)
        content = values["codes"]
        self._check_shape(content)
        codes = None
        if self._looks_at(x):
            check.finite("x", x)
            columns.check_values(labels, stacked)
            if columns.targets is not None:
                check.finite("y", y)
            if logits is not None:
                check.finite("logits", values["logits"])  # in the type that they are kept in
            if self.embedding is not None:
                check.finite("embedding", values["codes" if self.keep == "key" else "keys"])
            codes = check.storable(self.codec, content)
        else:
            columns.guard(labels, stacked)
        values = _with_labels(values, stacked, columns)
        self._drop_ahead()
        wanted = self._groups(self.policy.grouping, labels, batch)
        read = self._groups(self.read.grouping, labels, batch)
        placements = self._placed(values, batch, wanted)
        if columns is not self._columns:
            self._columns = columns
        for rows, slots in placements:
            take = rows if isinstance(rows, slice) else to_device(rows, content.device)
            for name, value in values.items():
                if name != "codes":
                    self.store.put(name, slots, value[take])
                else:
                    self.store.put(name, slots, self.codec.encode(value[take]) if codes is None else codes[take])
            self._written.add(slots)
            if read is not None:
                self.read.assign(_integers(slots), [read[row] for row in _integers(rows)])
        self.seen += batch

    @torch.no_grad()
    def check_rows(self, x: Tensor, y: Tensor | None = None, t: Tensor | int = 0) -> None:
        """Raise what :meth:`write` would for the shape, type or values of these rows and labels; nothing changes.

        :param x: ``(B, *shape)``.
        :param y: as for :meth:`write`; None: not known yet.
        :param t: as for :meth:`write`.
        """
        batch = check.rows_of(x)
        if y is not None:
            labels, columns = self._labelled(y, t, t, batch)
            if batch and self._looks_at(x):
                columns.check_values(labels, columns.stack(labels, x))
                if columns.targets is not None:
                    check.finite("y", y)
        content = self._embed(self.embedding, x) if self.embedding is not None and self.keep == "key" else x
        self._check_shape(content)
        if self._looks_at(x):
            check.finite("x", x)
            self.codec.check(content)

    def _labelled(
        self, y: Tensor, t: Tensor | int, origin: Tensor | int, batch: int
    ) -> tuple[dict[str, Tensor | int], LabelColumns]:
        """Labels that have a column if they are stored, and the columns."""
        targets, columns = targets_of(y, batch), self._columns
        if self.seen:
            columns.check_same(targets)
        elif targets != columns.targets:
            columns = LabelColumns(self.labels, self.store_tasks, targets)
        if targets is not None:
            self._check_groups(targets)
        labels: dict[str, Tensor | int] = {"y": y} if targets is None else {}
        labels |= {"t": t, "origin": origin}
        columns.check_kinds(labels, batch)
        return labels, columns

    def _check_groups(self, targets: Targets) -> None:
        if "class" in (self.policy.grouping, self.read.grouping):
            raise ValueError(f"y: class_balanced needs integer classes (B,), got {targets}")

    def _looks_at(self, x: Tensor) -> bool:
        """Whether the values of a batch are looked at, not its shape alone."""
        return self.validate == "always" or self.seen == 0 or (self.validate == "auto" and not x.is_cuda)

    def _groups(self, grouping: Grouping | None, labels: dict[str, Tensor | int], rows: int) -> list[int] | None:
        if grouping is None:
            return None
        value = labels["y" if grouping == "class" else "origin"]
        return value.tolist() if isinstance(value, Tensor) else [value] * rows

    def _values(self, x: Tensor, y: Tensor, columns: LabelColumns, logits: Tensor | None) -> dict[str, Tensor]:
        values = {"codes": x}
        if columns.targets is not None:
            values["targets"] = y.to(x.device)
        if self.embedding is not None:
            values["codes" if self.keep == "key" else "keys"] = self._embed(self.embedding, x)
        if logits is not None:
            values["logits"] = self._pad(logits)
        return values

    def _check_shape(self, content: Tensor) -> None:
        if self.seen and (content.shape[1:] != self.shape or content.dtype != self.dtype):
            raise ValueError(
                f"x: expected {self.dtype} rows of shape {tuple(self.shape)}, as this memory holds, "
                f"got {content.dtype} rows of {tuple(content.shape[1:])}"
            )

    def _check_logits(self, logits: Tensor | None, batch: int) -> None:
        if self.store_logits and logits is None:
            raise ValueError("logits: a memory with store_logits=True wants the outputs of every row, got None")
        if logits is not None and not self.store_logits:
            raise ValueError("logits: this memory keeps none; make it with store_logits=True, or give None")
        if logits is None:
            return
        check.floats(logits=logits)
        if logits.ndim != 2 or len(logits) != batch or not logits.shape[1]:
            raise ValueError(f"logits: expected shape ({batch}, classes), got {tuple(logits.shape)}")

    def _embed(self, network: nn.Module, x: Tensor) -> Tensor:
        with eval_mode(network):
            try:
                key = network(x)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                line = (str(error).splitlines() or [""])[0]
                raise ValueError(f"x: expected rows that the embedding takes, got {check.show(x)}: {line}") from error
        if not isinstance(key, Tensor) or key.ndim < 2 or len(key) != len(x) or 0 in key.shape:
            raise ValueError(f"embedding: expected a key for each of {len(x)} rows, (B, F), got {check.show(key)}")
        check.computed("embedding", key)
        held = self.store["keys"] if "keys" in self.store else None  # noqa: SIM401 - no dict
        if held is not None and (key.shape[1:] != held.shape[1:] or key.dtype != held.dtype):
            raise ValueError(
                f"embedding: expected {held.dtype} keys of {tuple(held.shape[1:])}, as this memory holds, got "
                f"{key.dtype} keys of {tuple(key.shape[1:])}"
            )
        return key

    def _pad(self, logits: Tensor) -> Tensor:
        if "logits" in self.store:
            held = self.store["logits"]
            logits = nn.functional.pad(logits, (0, max(0, held.shape[1] - logits.shape[1]))).to(held.dtype)
        return logits

    def _placed(self, values: dict[str, Tensor], batch: int, groups: list[int] | None) -> list[Placement]:
        """Where the rows go, with room made for them."""
        if type(self.policy) in WRITE_KINDS:
            self._allocate(values)
            return self.policy.place(self.seen, batch, groups, self._generator)
        with unchanged_if_it_fails(self.policy, self._generator):
            placements = checked(self.policy.place(self.seen, batch, groups, self._generator), batch, self.capacity)
            self._allocate(values)
        return placements

    def _allocate(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            shape, dtype = value.shape[1:], value.dtype
            if name in self.store and (name != "logits" or self.store[name].shape[1] == shape[0]):
                continue
            try:
                if name == "codes":
                    shape, dtype = self.codec.spec(shape, dtype)
                self.store.allocate(name, shape, dtype)
            except BaseException:
                if not self.seen:
                    for other in values:
                        self.store.drop(other)
                raise
        self.shape, self.dtype = values["codes"].shape[1:], values["codes"].dtype


def _with_labels(values: dict[str, Tensor], stacked: Tensor, columns: LabelColumns) -> dict[str, Tensor]:
    return {**values, "labels": stacked.to(columns.dtype)} if columns.names else values


def _integers(index: slice | Tensor) -> list[int]:
    return list(range(index.start, index.stop)) if isinstance(index, slice) else index.tolist()
