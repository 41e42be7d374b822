"""Rows of the stream in preallocated tensors: O(1) to append, O(1) to draw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Size, Tensor, nn

from avalanche_memplugins import codecs
from avalanche_memplugins._folders import flatten, load_folder, save_folder, unflatten
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.memories import _checks as check
from avalanche_memplugins.memories._labels import TYPES, LabelColumns
from avalanche_memplugins.memories._modes import eval_mode
from avalanche_memplugins.memories._prefetch import Ahead
from avalanche_memplugins.memories.policies import (
    Balanced,
    Cycle,
    GroupBalanced,
    Grouping,
    ReadPolicy,
    Reservoir,
    Ring,
    Uniform,
    WritePolicy,
)
from avalanche_memplugins.memories.recall import Recall
from avalanche_memplugins.memories.row_store import RowStore, to_device
from avalanche_memplugins.memories.summary import Summary

_WRITE: dict[str, Callable[[], WritePolicy]] = {
    "ring": Ring,
    "reservoir": Reservoir,
    "class_balanced": lambda: GroupBalanced("class"),
    "task_balanced": lambda: GroupBalanced("task"),
}
_READ: dict[str, Callable[[bool], ReadPolicy]] = {
    "uniform": lambda replacement: Uniform(replacement=replacement),
    "cycle": lambda replacement: _cycle(replacement),
    "class_balanced": lambda replacement: Balanced("class", replacement=replacement),
    "task_balanced": lambda replacement: Balanced("task", replacement=replacement),
}
_CODECS: dict[str, Callable[[], Codec]] = {
    "raw": codecs.Raw,
    "float16": codecs.Float16,
    "uint8": codecs.Uint8,
    "int8": codecs.Int8,
    "4bit": lambda: codecs.Bits(4),
    "1bit": lambda: codecs.Bits(1),
}
_LEARNED = "learned."  # before the names of tensors in a folder


class RandomMemory(nn.Module):
    r"""A random memory :math:`M = \{(h_i, v_i)\}` of stream rows in preallocated tensors.

    Appending a batch and drawing a random batch cost the same whatever the capacity, the fill and the
    length of the stream. Which rows stay is the write policy's business, which come back the read
    policy's, how a row is stored the codec's; the three combine freely. All choices are drawn on the
    CPU from the memory's own generator: nothing waits for a GPU, and the same seed makes the same
    choices on every device. (The exception: policies balanced by class must see the labels; if these
    are on a GPU, each write waits for them.)

    For use from one thread. Buffers are allocated at the first write, when the shape of a row is known.

    :param capacity: rows held at most, >= 1.
    :param policy: ``"reservoir"``: a uniform sample of the stream; ``"ring"``: the newest rows, as RMA
        keeps them; ``"class_balanced"`` / ``"task_balanced"``: a uniform sample of every class or
        experience, as equal in size as the stream allows; or a
        :class:`~avalanche_memplugins.memories.policies.WritePolicy`.
    :param read: ``"uniform"``; ``"cycle"``: shuffled passes, every row once a pass; ``"class_balanced"``,
        ``"task_balanced"``; or a
        :class:`~avalanche_memplugins.memories.policies.ReadPolicy`.
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
    :param seed: of the memory's generator.
    :raises TypeError: if the codec lacks a part.
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
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.capacity = check.positive_integer("capacity", capacity)
        self.policy = check.one_of("policy", policy, _WRITE)() if isinstance(policy, str) else policy
        self.read = check.one_of("read", read, _READ)(replacement) if isinstance(read, str) else read
        self.codec = check.one_of("codec", codec, _CODECS)() if isinstance(codec, str) else _complete(codec)
        self.keep = check.choice("keep", keep, ("both", "key"))
        self.validate = check.choice("validate", validate, ("auto", "always", "first"))
        self.labels = check.choice("labels", labels, tuple(TYPES))
        self.store_tasks = store_tasks
        self._columns = LabelColumns(labels, store_tasks)
        self.store_logits = store_logits
        self.embedding = embedding
        self.seen = 0
        self.shape = Size()  # of one row of x; known from the first write on
        self.dtype = torch.float32
        self.store = RowStore(capacity, storage)
        self._generator = torch.Generator().manual_seed(seed)
        self._ahead: Ahead | None = None
        self.policy.start(capacity)
        self.read.start(capacity)

    @classmethod
    def from_budget(
        cls,
        nbytes: int,
        *,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        classes: int = 0,
        **kwargs: Any,
    ) -> RandomMemory:
        """The largest memory whose :attr:`nbytes` stay within a budget.

        :param nbytes: the budget in bytes, all that holds the stream counted: rows, labels, the policies'
            state.
        :param shape: of one row of x.
        :param dtype: of x.
        :param classes: width of the logits; wanted with ``store_logits``.
        :param kwargs: the other arguments of :class:`RandomMemory`.
        :raises ValueError: if not a single row fits, or for logits of unknown width.
        """
        probe = cls(1, **{**kwargs, "storage": "device"})
        if probe.store_logits and classes < 1:
            raise ValueError(f"classes: a budget with store_logits=True wants their width, got {classes}")
        x = torch.zeros(1, *shape, dtype=dtype)
        with torch.no_grad():
            values = probe._values(x, {"y": 0, "t": 0, "origin": 0}, None)
        if probe.store_logits:
            values["logits"] = torch.zeros(1, classes)
        values["labels"] = values["labels"].to(probe._columns.dtype)
        probe._allocate(values)
        shared = probe._nbytes_shared
        row = probe.nbytes - shared
        if nbytes - shared < row:
            beside = f" beside {shared} of the codec" if shared else ""
            raise ValueError(f"nbytes: one row takes {row} bytes{beside}, got a budget of {nbytes}")
        return cls((nbytes - shared) // row, **kwargs)

    # ---------------------------------------------------------------- what it holds

    def __len__(self) -> int:
        """Rows held."""
        return min(self.seen, self.capacity)

    def __bool__(self) -> bool:
        """True even while empty, so that ``memory or default`` does not drop an empty one."""
        return True

    @property
    def device(self) -> torch.device:
        """Where samples come out."""
        return self.store.device

    @property
    def nbytes(self) -> int:
        """Bytes that hold the stream: all slots, filled or not, and the policies' own state."""
        return self.store.nbytes + self.policy.nbytes + self.read.nbytes + self._nbytes_shared

    @property
    def _nbytes_shared(self) -> int:
        """Those of :attr:`nbytes` that are the same whatever the capacity."""
        return 0

    @property
    def nbytes_fixed(self) -> int:
        """Bytes needed besides, whatever the stream: the codec's and the embedding's."""
        network = self.embedding
        embedding = 0 if network is None else sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
        return self.codec.nbytes_fixed + embedding

    def summary(self) -> Summary:
        """What the memory holds by class, task and experience; ``str()`` of it is a table."""
        held = self.store["labels"][: len(self)].cpu() if len(self) else torch.zeros(0, 3, dtype=torch.int32)
        per_class, per_task, per_experience = (_counts(column) for column in self._columns.unstack(held))
        per_experience.pop(-1, None)
        return Summary(
            description=repr(self),
            capacity=self.capacity,
            filled=len(self),
            seen=self.seen,
            nbytes=self.nbytes,
            nbytes_fixed=self.nbytes_fixed,
            per_class=per_class,
            per_task=per_task,
            per_experience=per_experience,
        )

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
        :param y: classes ``(B,)``, integers >= 0.
        :param t: task labels ``(B,)`` or one for all, integers >= 0.
        :param origin: number of the experience that the rows come from, ``(B,)`` or one for all; ``t``
            if not given. This number is what "task" means in the policies.
        :param logits: outputs ``(B, classes)``, wanted if and only if ``store_logits``. If they grow wider
            during the stream, earlier rows are filled up with zeros.
        :raises TypeError: if an argument is of a wrong kind.
        :raises ValueError: if shapes, types or values do not fit, naming the argument.
        """
        batch = check.rows_of(x)
        labels = {"y": y, "t": t, "origin": t if origin is None else origin}
        self._columns.check_kinds(labels, batch)
        self._check_logits(logits, batch)
        if batch == 0:
            return
        values = self._values(x, labels, logits)
        content = values["codes"]
        self._check_shape(content)
        codes = None
        if self.validate == "always" or self.seen == 0 or (self.validate == "auto" and not x.is_cuda):
            check.finite("x", x)
            self._columns.check_values(labels, values["labels"])
            if logits is not None:
                check.finite("logits", logits)
            codes = check.storable(self.codec, content)
        else:
            self._columns.guard(labels, values["labels"])
        values["labels"] = values["labels"].to(self._columns.dtype)
        self._drop_ahead()
        self._allocate(values)
        wanted = self._groups(self.policy.grouping, labels, batch)
        read = self._groups(self.read.grouping, labels, batch)
        for rows, slots in self.policy.place(self.seen, batch, wanted, self._generator):
            take = rows if isinstance(rows, slice) else to_device(rows, content.device)
            for name, value in values.items():
                if name != "codes":
                    self.store.put(name, slots, value[take])
                else:
                    self.store.put(name, slots, self.codec.encode(value[take]) if codes is None else codes[take])
            if read is not None:
                self.read.assign(_integers(slots), [read[row] for row in _integers(rows)])
        self.seen += batch

    def _groups(self, grouping: Grouping | None, labels: dict[str, Tensor | int], rows: int) -> list[int] | None:
        if grouping is None:
            return None
        value = labels["y" if grouping == "class" else "origin"]
        return value.tolist() if isinstance(value, Tensor) else [value] * rows

    def _values(self, x: Tensor, labels: dict[str, Tensor | int], logits: Tensor | None) -> dict[str, Tensor]:
        values = {"codes": x, "labels": self._columns.stack(labels, x)}
        if self.embedding is not None:
            values["codes" if self.keep == "key" else "keys"] = self._embed(self.embedding, x)
        if logits is not None:
            values["logits"] = self._pad(logits)
        return values

    def _check_shape(self, content: Tensor) -> None:
        if self.seen and (content.shape[1:] != self.shape or content.dtype != self.dtype):
            raise ValueError(
                f"x: this memory holds {self.dtype} rows of shape {tuple(self.shape)}, "
                f"got {content.dtype} rows of {tuple(content.shape[1:])}"
            )

    def _check_logits(self, logits: Tensor | None, batch: int) -> None:
        if self.store_logits and logits is None:
            raise ValueError("logits: a memory with store_logits=True wants the outputs of every row, got None")
        if logits is not None and not self.store_logits:
            raise ValueError("logits: this memory keeps none; make it with store_logits=True, or give None")
        if logits is not None and (logits.ndim != 2 or len(logits) != batch):
            raise ValueError(f"logits: wants shape ({batch}, classes), got {tuple(logits.shape)}")

    def _embed(self, network: nn.Module, x: Tensor) -> Tensor:
        with eval_mode(network):
            key: Tensor = network(x)
        return key

    def _pad(self, logits: Tensor) -> Tensor:
        width = self.store["logits"].shape[1] if "logits" in self.store else 0
        return nn.functional.pad(logits, (0, max(0, width - logits.shape[1])))

    def _allocate(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            shape, dtype = value.shape[1:], value.dtype
            if name in self.store and (name != "logits" or self.store[name].shape[1] == shape[0]):
                continue
            if name == "codes":
                self.shape, self.dtype = shape, dtype
                shape, dtype = self.codec.spec(shape, dtype)
            self.store.allocate(name, shape, dtype)

    # ---------------------------------------------------------------- read

    def sample(self, n: int) -> Recall:
        """``n`` rows drawn by the read policy; without replacement, no more than the memory holds.

        :param n: rows wanted, >= 1.
        :raises ValueError: if ``n`` is not positive or the memory is empty.
        """
        check.positive_integer("n", n)
        if not len(self):
            raise ValueError("n: nothing has been written to this memory yet, so there is nothing to sample")
        ahead = self._drop_ahead()
        if ahead is not None and ahead.n == n and ahead.device == self.device:
            with torch.no_grad():
                return self._decoded(ahead.use(self.read, self._generator))
        return self.rows(self.read.choose(n, len(self), self._generator))

    def _drop_ahead(self) -> Ahead | None:
        ahead = self._ahead
        # Setting an attribute of a module takes microseconds.
        if ahead is not None:
            self._ahead = None
        return ahead

    def prefetch(self, n: int) -> None:
        """Begin to fetch, on another thread, the rows that the next ``sample(n)`` will give.

        For rows that travel from host memory or files to a GPU; otherwise there is nothing to gain, and nothing
        is done. It changes no result: the draw counts only once it is sampled. A write, or a sample of another
        size, in between discards it, and what is saved is the state before it.

        :param n: rows wanted, >= 1.
        """
        check.positive_integer("n", n)
        if len(self) and self.store.is_apart and self._ahead is None:
            self._ahead = Ahead(n, self.read, len(self), self._generator, self.store.gather, self.device)

    @torch.no_grad()
    def rows(self, slots: Tensor) -> Recall:
        """The rows in the given slots, decoded.

        :param slots: int64 ``(n,)`` on the CPU, from 0 to ``len(memory) - 1``.
        """
        return self._decoded(self.store.gather(slots))

    def _decoded(self, held: dict[str, Tensor]) -> Recall:
        y, t, origin = self._columns.unstack(held["labels"])
        x = self.codec.decode(held["codes"], self.shape, self.dtype)
        key = held.get("keys", None if self.embedding is None else x)
        return Recall(x, y, t, origin, held.get("logits"), key)

    def labels_of(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``y``, ``t`` and ``origin`` of the rows in the given slots, int64 ``(n,)`` each, as in :meth:`rows`."""
        return self._columns.unstack(self.store.get("labels", slots))

    # ---------------------------------------------------------------- state

    def get_extra_state(self) -> dict[str, Any]:
        """All that is not a tensor of rows: counts, policies, the generator."""
        parts = [repr(self.policy), repr(self.read), repr(self.codec)]
        if self.labels != "int32" or not self.store_tasks:
            parts.append(f"labels={self.labels!r}, store_tasks={self.store_tasks}")
        return {
            "seen": self.seen,
            "capacity": self.capacity,
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "generator": self._generator.get_state(),
            "policy": self.policy.state_dict(),
            "read": self.read.state_dict(),
            "parts": parts,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of a memory with another capacity, policy or codec.
        """
        here = self.get_extra_state()
        for name in ("capacity", "parts"):
            if state[name] != here[name]:
                wanted, got = _differing(here[name], state[name])
                raise ValueError(f"state: wants that of a memory with {name} {wanted}, got {got}")
        self._ahead = None
        self.seen = state["seen"]
        self.shape = Size(state["shape"])
        self.dtype = getattr(torch, state["dtype"])
        self._generator.set_state(state["generator"].cpu())
        self.policy.load_state_dict(state["policy"])
        self.read.load_state_dict(state["read"])

    def __getstate__(self) -> dict[str, Any]:
        # A torch.Generator cannot be pickled, which breaks deepcopy and Avalanche's checkpoints.
        return {**self.__dict__, "_generator": self._generator.get_state(), "_ahead": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        generator = torch.Generator()
        generator.set_state(state["_generator"])
        self.__dict__.update({**state, "_generator": generator})

    def save(self, folder: str | Path) -> None:
        """Write the memory into ``folder`` (safetensors and JSON), whole or not at all.

        Only the rows held are written. Codec, policies and embedding are part of the program, not of the
        folder: give :meth:`load` a memory made with the same arguments.

        :raises ValueError: if ``folder`` holds something else.
        """
        tensors = {name: buffer[: len(self)] for name, buffer in self.store.named_buffers()}
        tensors |= {_LEARNED + name: value for name, value in self._learned().items()}
        state = flatten(self.get_extra_state(), tensors, "state.")
        save_folder(folder, tensors, {"kind": type(self).__name__, "state": state})

    def load(self, folder: str | Path) -> RandomMemory:
        """Take up what :meth:`save` wrote; returns the memory itself.

        :raises ValueError: if the folder is damaged, or its memory had another capacity, policy or codec;
            this memory is then as before.
        """
        tensors, manifest = load_folder(folder, kind=type(self).__name__)
        state = unflatten(manifest["state"], tensors)
        self.set_extra_state(state)
        for name, rows in tensors.items():
            if not name.startswith(("state.", _LEARNED)):
                self.store.load(name, rows)
        for name, value in self._learned().items():
            value.copy_(tensors[_LEARNED + name])
        return self

    def _learned(self) -> dict[str, Tensor]:
        """Weights that the stream has made, by name: they are saved with the rows."""
        return {}


def _complete(codec: Codec) -> Codec:
    wanted = ("check", "encode", "decode", "spec", "nbytes_fixed")
    missing = ", ".join(name for name in wanted if not hasattr(codec, name))
    if missing:
        raise TypeError(f"codec: wants a name or a Codec, got {type(codec).__name__} without {missing}")
    return codec


def _cycle(replacement: bool) -> Cycle:
    if replacement:
        raise ValueError("replacement: read='cycle' gives every row once a pass, got replacement=True")
    return Cycle()


def _differing(a: Any, b: Any) -> tuple[Any, Any]:
    if not isinstance(a, list) or len(a) != len(b):
        return a, b
    pairs = [(p, q) for p, q in zip(a, b, strict=True) if p != q]
    return [p for p, _ in pairs], [q for _, q in pairs]


def _integers(index: slice | Tensor) -> list[int]:
    return list(range(index.start, index.stop)) if isinstance(index, slice) else index.tolist()


def _counts(column: Tensor) -> dict[int, int]:
    values, counts = torch.unique(column, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
