"""What a memory of rows holds, and how it is saved."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Size, Tensor, nn

from avalanche_memplugins._folders import CorruptedFolderError, check_folder
from avalanche_memplugins._loading import LoadsWhole, telling_misfits
from avalanche_memplugins._pickling import PicklesGenerator
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.memories._adapts import AdaptsToExperiences
from avalanche_memplugins.memories._labels import LabelColumns, Targets, targets_in
from avalanche_memplugins.memories._prefetch import Ahead
from avalanche_memplugins.memories._random.own import part
from avalanche_memplugins.memories._random.soundness import check_rows_sound
from avalanche_memplugins.memories._random.written import WrittenSlots
from avalanche_memplugins.memories._saved import read_memory, write_memory
from avalanche_memplugins.memories.policies import ReadPolicy, WritePolicy
from avalanche_memplugins.memories.row_store import RowStore
from avalanche_memplugins.memories.summary import Summary

_LEARNED = "learned."  # before the names of tensors in a folder
Self = TypeVar("Self", bound="RowState")


class RowState(PicklesGenerator, AdaptsToExperiences, LoadsWhole):
    """Rows in a store, their policies, and the generator of all choices."""

    capacity: int
    policy: WritePolicy
    read: ReadPolicy
    codec: Codec
    embedding: nn.Module | None
    labels: str
    store_tasks: bool
    seen: int
    shape: Size
    dtype: torch.dtype
    store: RowStore
    _columns: LabelColumns
    _written: WrittenSlots
    _generator: torch.Generator
    _ahead: Ahead | None

    # ---------------------------------------------------------------- what it holds

    def __len__(self) -> int:
        """Rows held."""
        return self._written.count

    def __bool__(self) -> bool:
        """True even while empty, so that ``memory or default`` does not drop an empty one."""
        return True

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
        """Bytes that hold the stream: all slots, filled or not, and the policies' own state."""
        policies: int = part("policy", self.policy, "nbytes") + part("read", self.read, "nbytes")
        return self.store.nbytes + policies + self._written.nbytes + self._nbytes_shared

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
        """What the memory holds by class (if it does), task and experience; ``str()`` of it is a table."""
        held = torch.zeros(len(self), 0)
        if "labels" in self.store:
            held = self.store["labels"].cpu()[self._written.all()]
        elif not len(self):
            held = torch.zeros(0, len(self._columns.names))
        per_class, per_task, per_experience = (
            {} if column is None else _counts(column) for column in self._columns.unstack(held)
        )
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

    # ---------------------------------------------------------------- state

    def get_extra_state(self) -> dict[str, Any]:
        """All that is not a tensor of rows: counts, policies, the generator."""
        parts = [_named(self.policy), _named(self.read), _named(self.codec)]
        if self.labels != "int32" or not self.store_tasks:
            parts.append(f"labels={self.labels!r}, store_tasks={self.store_tasks}")
        return {
            "seen": self.seen,
            "capacity": self.capacity,
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "generator": self._generator.get_state(),
            "policy": part("policy", self.policy, "state_dict")(),
            "read": part("read", self.read, "state_dict")(),
            "parts": parts,
            **self._written.state(),
            **self._columns.state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of a memory with another capacity, policy or codec.
        """
        self._check_arguments(state)
        written = self._written.restored(state, state["seen"])
        columns = LabelColumns(self.labels, self.store_tasks, targets_in(state))
        self._ahead = None
        self.seen = state["seen"]
        self._written, self._columns = written, columns
        self.shape = Size(state["shape"])
        self.dtype = getattr(torch, state["dtype"])
        self._generator.set_state(state["generator"].cpu())
        part("policy", self.policy, "load_state_dict")(state["policy"])
        part("read", self.read, "load_state_dict")(state["read"])

    def _check_arguments(self, state: dict[str, Any]) -> None:
        here = self.get_extra_state()
        for name in ("capacity", "parts"):
            if state[name] != here[name]:
                wanted, got = _differing(here[name], state[name])
                raise ValueError(f"state: expected that of a memory with {name} {wanted}, got {got}")

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_ahead": None}

    def save(self, folder: str | Path) -> None:
        """Write the memory into ``folder`` (safetensors and JSON), whole or not at all.

        Only the rows held are written. Codec, policies and embedding are part of the program, not of the
        folder: give :meth:`load` a memory made with the same arguments.

        :raises ValueError: if ``folder`` holds something else or cannot be written.
        """
        check_folder(folder, kind=type(self).__name__)
        slots = self._written.by_number(torch.arange(len(self))) if self._written.has_gaps else slice(0, len(self))
        tensors = {name: buffer[slots] for name, buffer in self.store.named_buffers()}
        tensors |= {_LEARNED + name: value for name, value in self._learned().items()}
        write_memory(folder, type(self).__name__, tensors, self.get_extra_state())

    def load(self: Self, folder: str | Path) -> Self:
        """Take up what :meth:`save` wrote; returns the memory itself.

        :raises ValueError: if the folder is damaged, or its memory had another capacity, policy or codec;
            this memory is then as before.
        """
        name = type(self).__name__
        tensors, state = read_memory(folder, name)
        rehearsal = self._rehearsal()
        with telling_misfits("folder", name, CorruptedFolderError):
            rehearsal._take(tensors, state)
            rehearsal._check_sound()
        self._take(tensors, state)
        return self

    @torch.no_grad()
    def _take(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        # What may still fail, for want of room, comes first.
        held = {name: rows for name, rows in tensors.items() if not name.startswith(_LEARNED)}
        self._check_arguments(state)
        written = self._written.restored(state, state["seen"])
        if sizes := {name: len(rows) for name, rows in held.items() if len(rows) != written.count}:
            raise ValueError(f"state: expected {written.count} rows of each tensor, got {sizes}")
        self.store.load(held, written.by_number(torch.arange(written.count)) if written.has_gaps else None)
        self.set_extra_state(state)
        learned = self._learned()
        found = {name.removeprefix(_LEARNED): value for name, value in tensors.items() if name.startswith(_LEARNED)}
        if found.keys() != learned.keys():
            raise ValueError(f"state: expected the weights {sorted(learned)}, got {sorted(found)}")
        for name, value in learned.items():
            if value.shape != found[name].shape or value.dtype != found[name].dtype:
                raise ValueError(
                    f"state: expected {name} of shape {tuple(value.shape)} and {value.dtype}, got "
                    f"{tuple(found[name].shape)} and {found[name].dtype}"
                )
            value.copy_(found[name])

    def _rehearsal(self: Self) -> Self:
        # Rows may be more than fit into memory twice.
        return copy.deepcopy(self, {id(self.store): self.store.borrower()})

    def _check_sound(self) -> None:
        check_rows_sound(self)  # type: ignore[arg-type]

    def _learned(self) -> dict[str, Tensor]:
        """Weights that the stream has made, by name: they are saved with the rows."""
        return {}


def _named(thing: Any) -> str:
    """What it is made with, as it says itself; what says nothing is known by its class, not by its address."""
    says_nothing = getattr(type(thing), "__repr__", None) is object.__repr__
    return f"{type(thing).__name__}()" if says_nothing else repr(thing)


def _differing(a: Any, b: Any) -> tuple[Any, Any]:
    if not isinstance(a, list) or len(a) != len(b):
        return a, b
    pairs = [(p, q) for p, q in zip(a, b, strict=True) if p != q]
    return [p for p, _ in pairs], [q for _, q in pairs]


def _counts(column: Tensor) -> dict[int, int]:
    values, counts = torch.unique(column, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
