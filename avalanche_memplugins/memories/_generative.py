"""The base of memories that generate their rows: the classes seen, rows to codes and back, state, folders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Size, Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._normalisation import Normalisation
from avalanche_memplugins._pickling import PicklesGenerator
from avalanche_memplugins.codecs.latent import LatentCodec
from avalanche_memplugins.memories._adapts import AdaptsToExperiences
from avalanche_memplugins.memories._forgetting import Where, numbers
from avalanche_memplugins.memories._rows import check_draw
from avalanche_memplugins.memories._saved import SavesToFolder, check_tensor, make_room
from avalanche_memplugins.memories.recall import Recall, Summary

_LARGEST = 1e15  # its square, added up a hundred million times, is a float32 number
TABLE_BYTES = 4 * 8
"""Bytes a class takes in the table of classes: label, rows, task label and origin of the latest write."""


class Held:
    """A tensor that a part of a memory keeps among the memory's own buffers, under its own name.

    So it moves, is copied and is saved with the memory, and its name in a state is the same whichever part keeps it.
    The part has the memory's buffers (``nn.Module._buffers``) as ``buffers``.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, part: Any, owner: type) -> Tensor:
        return self if part is None else part.buffers[self.name]  # type: ignore[return-value]

    def __set__(self, part: Any, value: Tensor) -> None:
        part.buffers[self.name] = value


class GenerativeMemory(PicklesGenerator, AdaptsToExperiences, SavesToFolder, ABC):
    """Base of memories that keep a model of the stream instead of rows.

    Classes stand in a table on the CPU in the order they came. The place of a class in it is its index.

    A subclass owes:

    - ``device`` and ``sample(n)``;
    - ``write(x, y, t, origin=)`` for batches as they come, or ``consolidate(batches, origin=)`` for whole experiences;
    - ``_parts()``: the arguments that a memory must have been made with to take up this one's state, as texts.

    If it keeps what it knows of a class apart from all else, ``_mixes`` is empty, and ``_keep_classes(index)`` lets go
    of all classes but these.

    It may extend ``_check_rows`` (what it takes), ``_check_sound`` (what a state must be), ``_to_codes`` and
    ``_from_codes``, and set ``_fixed`` and ``normalisation``, below. Nothing else of it is read here.

    :param codec: a learned codec whose codes are modelled, with ``to_latent`` and ``from_latent``; None: the
        rows themselves, flattened.
    :param seed: of the memory's generator. None: drawn from torch's global generator.
    :raises TypeError: for a codec without a latent space, or a seed that is no integer.
    """

    CLASS_BYTES = TABLE_BYTES
    """Bytes that each class takes, whatever the memory keeps of it."""

    store_logits = False
    normalisation: Normalisation | None = None  # of memories that work on pixels
    _fixed: tuple[str, ...] = ("codec.",)

    def __init__(self, *, codec: LatentCodec | None, seed: int | None) -> None:
        super().__init__()
        check.latent_codec(codec)
        self.codec = codec
        self.shape = Size()  # of one row of x; known from the first write on
        self.dtype = torch.float32
        self._table = torch.zeros(0, 4, dtype=torch.int64)
        self._generator = torch.Generator().manual_seed(check.seed(seed))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "write") and not hasattr(cls, "consolidate"):
            raise TypeError(f"{cls.__name__}: expected a method write or consolidate, got neither")

    # ---------------------------------------------------------------- what a subclass owes

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where samples come out."""

    @abstractmethod
    def sample(self, n: int) -> Recall:
        """``n`` rows that the memory generates, each with its class and that class's latest t and origin."""

    @abstractmethod
    def _parts(self) -> list[str]:
        """What a memory must have been made with to take up another's state."""

    # ---------------------------------------------------------------- what it holds

    def __len__(self) -> int:
        """Rows taken in so far."""
        return int(self._table[:, 1].sum())

    @property
    def classes(self) -> list[int]:
        """Labels of the classes seen, in the order they came."""
        return self._table[:, 0].tolist()

    @property
    def nbytes(self) -> int:
        """Bytes that hold the stream: parameters and buffers of the model, and the table of classes."""
        return sum(tensor.nbytes for tensor in self._own_tensors().values()) + TABLE_BYTES * len(self._table)

    @property
    def nbytes_fixed(self) -> int:
        """Bytes needed besides, whatever the stream: the codec's."""
        return int(getattr(self.codec, "nbytes_fixed", 0))

    def summary(self) -> Summary:
        """Rows taken in by class; tasks and experiences count the rows of the classes last seen in them."""
        table, rows = self._table, len(self)
        return Summary(
            description=repr(self),
            capacity=max(1, rows),
            filled=rows,
            seen=rows,
            nbytes=self.nbytes,
            nbytes_fixed=self.nbytes_fixed,
            per_class=sums(table[:, 0], table[:, 1]),
            per_task=sums(table[:, 2], table[:, 1]),
            per_experience=sums(table[:, 3], table[:, 1]),
        )

    # ---------------------------------------------------------------- parts of writing and sampling

    def check_rows(self, x: Tensor, y: Tensor | None = None, t: Tensor | int = 0) -> None:
        """Raise what taking these rows in would, for the shape, type or values of rows and labels; nothing changes.

        :param x: ``(B, *shape)``.
        :param y: classes ``(B,)``, integers >= 0; None: not known yet.
        :param t: task labels ``(B,)`` or one for all, integers >= 0.
        """
        if y is None:
            check.rows_of(x)
            self._check_rows(x)
        else:
            self._check(x, y, t, t)
        if self.codec is not None:
            self.codec.check(x)

    def _check(self, x: Tensor, y: Tensor, t: Tensor | int, origin: Tensor | int) -> int:
        """Number of rows of a batch in order; else what is wrong with it."""
        rows = check.rows_of(x)
        check.labels("y", y, rows)
        for name, value in (("y", y), ("t", t), ("origin", origin)):
            check.label(name, value, rows)
            check.label_range(name, value)
        self._check_rows(x)
        return rows

    def _check_rows(self, x: Tensor) -> None:
        """Raise what is wrong with rows, but for what the codec looks at when it makes codes of them."""
        if not x.is_floating_point() and self.codec is None:
            raise ValueError(f"x: expected floating-point rows without a codec, got {x.dtype}")
        if len(self._table) and (x.shape[1:] != self.shape or x.dtype != self.dtype):
            raise ValueError(
                f"x: expected rows of shape {tuple(self.shape)} and type {self.dtype}, as first written, got "
                f"{tuple(x.shape[1:])} and {x.dtype}"
            )
        check.finite("x", x)

    def _check_cue(self, name: str, rows: Tensor) -> None:
        """Raise for what is not rows as they were written."""
        if check.tensor(name, rows).shape[1:] != self.shape or rows.ndim < 2:
            raise ValueError(
                f"{name}: expected rows of shape {tuple(self.shape)}, as first written, got {tuple(rows.shape)}"
            )
        if rows.dtype != self.dtype:
            raise ValueError(f"{name}: expected {self.dtype}, as first written, got {rows.dtype}")
        check.finite(name, rows)

    def _check_size(self, codes: Tensor) -> None:
        """Raise for codes whose squares, summed over a stream, are no float32 numbers."""
        largest = float(codes.abs().max()) if codes.numel() else 0.0
        if largest > _LARGEST:
            raise ValueError(
                f"x: expected values within +-{_LARGEST:g}, so that sums of their squares are finite, got {largest:g}"
            )

    def _to_codes(self, x: Tensor) -> Tensor:
        if self.codec is None:
            return x.flatten(1).float()
        self.codec.check(x)
        return self.codec.to_latent(x)

    def _from_codes(self, codes: Tensor) -> Tensor:
        if self.codec is None:
            return codes.view(-1, *self.shape).to(self.dtype)
        return self.codec.from_latent(codes, self.dtype)

    def _index(self, y: Tensor) -> Tensor:
        """Indices ``(B,)`` of classes, on the CPU.

        :raises ValueError: for classes that are not in the table.
        """
        known = {label: index for index, label in enumerate(self.classes)}
        missing = sorted(set(y.tolist()) - set(known))
        if missing:
            raise ValueError(f"y: expected classes that were written, got {missing}")
        return torch.tensor([known[label] for label in y.tolist()], dtype=torch.int64)

    def _enrol(self, y: Tensor, t: Tensor | int, origin: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
        """Enter a batch into the table of classes.

        Gives, on the CPU: indices ``(K,)`` of the classes it holds, each row's place ``(B,)`` among these, and
        rows ``(K,)`` of each.
        """
        labels, places, rows = torch.unique(y.cpu().long(), return_inverse=True, return_counts=True)
        known = {label: index for index, label in enumerate(self.classes)}
        new = [label for label in labels.tolist() if label not in known]
        known.update({label: len(known) + i for i, label in enumerate(new)})
        index = torch.tensor([known[label] for label in labels.tolist()])
        last = places.argsort(stable=True)[rows.cumsum(0) - 1]
        # A new table: whoever holds the old one, to go back to it, must find it as it was.
        added = torch.tensor([[label, 0, 0, 0] for label in new], dtype=torch.int64).view(len(new), 4)
        table = torch.cat([self._table, added])
        table[index, 1] += rows
        for column, value in ((2, t), (3, origin)):
            table[index, column] = value.cpu().long()[last] if isinstance(value, Tensor) else value
        self._table = table
        return index, places, rows

    def _draw_classes(self, n: int, *, by_count: bool, of: int | None = None) -> Tensor:
        """Indices ``(n,)`` of classes that hold rows: as even as can be, or in proportion to these.

        :param of: look at the first so many classes only; None: at all.
        """
        rows = self._table[:of, 1]
        held = rows.nonzero().flatten()  # a class keeps its place when its last row is taken out
        check_draw(n, len(held))
        check.room("n", n, 4 * max(1, self.shape.numel()))
        if by_count:
            weights = rows[held].double()
            return held[torch.multinomial(weights, n, replacement=True, generator=self._generator)]
        order = held[torch.randperm(len(held), generator=self._generator)]
        return order.repeat(-(-n // len(held)))[:n][torch.randperm(n, generator=self._generator)]

    def _recall(self, x: Tensor, index: Tensor) -> Recall:
        y, _, t, origin = self._table[index].to(x.device).unbind(1)
        return Recall(x, y, t, origin)

    # ---------------------------------------------------------------- forget

    @property
    def _mixes(self) -> str:
        """Why the memory cannot let go of one class alone; empty if it can."""
        return f"{type(self).__name__}, in which classes are mixed"

    def _keep_classes(self, index: Tensor) -> None:
        """Let go of all classes but those of these indices ``(K,)``, which rise; the table is still as it was."""

    @torch.no_grad()
    def forget(
        self,
        *,
        classes: Collection[int] | None = None,
        origins: Collection[int] | None = None,
        labels: Collection[int] | None = None,
        where: Where = None,
    ) -> int:
        """Let go of classes, if the memory keeps what it knows of a class apart from all else.

        It is afterwards as if rows of these classes had never been written, but for its generator. Files that
        :meth:`save` wrote before keep them: save again. Nothing changes if an error is raised.

        :param classes: to let go of; those never seen are passed over.
        :param origins: None, as single rows are not kept; so for ``labels`` and ``where``.
        :returns: how many rows :func:`len` no longer counts.
        :raises ValueError: if the memory cannot do that, saying why: make a new one then, and write the rows that are
            to stay.
        """
        for name, given in (("origins", origins), ("labels", labels), ("where", where)):
            if given is not None:
                raise ValueError(
                    f"{name}: expected None, as {type(self).__name__} keeps no single rows and forgets whole classes, "
                    f"got {check.show(given)}"
                )
        if classes is None:
            raise ValueError("forget: expected classes, got none")
        unwanted = numbers("classes", classes)
        if self._mixes:
            raise ValueError(
                f"forget: expected a memory that keeps classes apart, got {self._mixes}; make a new memory, and write "
                "the rows that are to stay"
            )
        stays, before = ~torch.isin(self._table[:, 0], unwanted), len(self)
        if bool(stays.all()):
            return 0
        kept = stays.nonzero().flatten()
        self._keep_classes(kept)
        self._table = self._table[kept]
        if not len(kept):
            self.shape, self.dtype = Size(), torch.float32
        return before - len(self)

    def normalise_as(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        """Take rows to be images that went through this ``Normalize``, if no other was given and none is held.

        Plugins call it with what they find in the stream's transforms. It is part of the state.

        :param mean: of the ``Normalize``, a number or one a channel.
        :param std: likewise, > 0.
        :raises ValueError: for anything else.
        """
        holder = self.normalisation
        if holder is not None and not holder.given and not len(self):
            self._find_normalisation(mean, std)

    def _find_normalisation(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        if self.normalisation is not None:
            self.normalisation.find(mean, std)

    # ---------------------------------------------------------------- state

    def get_extra_state(self) -> dict[str, Any]:
        """All that is not a parameter or buffer: classes, shape of a row, the generator."""
        return {
            "table": self._table,
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "generator": self._generator.get_state(),
            "parts": self._parts(),
            **({"normalisation": found} if (found := self._found_normalisation()) else {}),
        }

    def _found_normalisation(self) -> list[list[float]]:
        found = None if self.normalisation is None else self.normalisation.found
        return [] if found is None else list(found)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of a memory made with other arguments.
        """
        self._check_state(state)
        self._table = state["table"].cpu().clone()
        self.shape = Size(state["shape"])
        self.dtype = getattr(torch, state["dtype"])
        self._generator.set_state(state["generator"].cpu())
        if state.get("normalisation"):
            self._find_normalisation(*state["normalisation"])

    def _check_state(self, state: dict[str, Any]) -> None:
        if state["parts"] != self._parts():
            raise ValueError(f"state: expected that of {', '.join(self._parts())}, got {', '.join(state['parts'])}")

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # Torch sets the tensors first and this state last; a state that does not fit must change nothing.
        if f"{prefix}_extra_state" in state_dict:
            self._check_state(state_dict[f"{prefix}_extra_state"])
        make_room(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _check_sound(self) -> None:
        table = self._table
        if table.dtype != torch.int64 or table.ndim != 2 or table.shape[1] != 4:
            raise ValueError(
                f"state: expected a table of classes, int64 (K, 4), got {table.dtype} {tuple(table.shape)}"
            )
        for name, column, largest in zip(
            ("y", "rows", "t", "origin"),
            table.unbind(1),
            (check.LARGEST, 2**62, check.LARGEST, check.LARGEST),
            strict=True,
        ):
            check.label_range(f"state: {name}", column, largest)
        if len(set(self.classes)) != len(table):
            raise ValueError("state: expected every class once")
        if not isinstance(self.dtype, torch.dtype) or (self.codec is None and not self.dtype.is_floating_point):
            raise ValueError(f"state: expected a type of rows, got {self.dtype!r}")
        if any(length < 0 for length in self.shape) or (
            len(table) and self.shape != getattr(self.codec, "image_shape", self.shape)
        ):
            raise ValueError(f"state: expected the shape of a row, got {tuple(self.shape)}")
        for name, value in self._own_tensors().items():
            check.finite(f"state: {name}", value)

    def _row_width(self) -> int:
        """Numbers in the code of a row, once there was one."""
        return int(self.codec.code_size) if self.codec is not None else self.shape.numel()

    def _check_buffer(self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        """Raise unless a buffer is what it must be; without classes there is nothing in it."""
        check_tensor(name, self.get_buffer(name), shape if len(self._table) else (0,), dtype)


def check_count(name: str, value: Any) -> int:
    """``value`` if it is a number of things."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
        raise ValueError(f"state: expected an integer >= 0 as {name}, got {value!r}")
    return value


def slots(places: Tensor, rows: Tensor) -> Tensor:
    """Number of each row within its group, ``(B,)``, from its group ``(B,)`` and the groups' sizes ``(K,)``."""
    order = places.argsort(stable=True)
    numbers = torch.empty_like(places)
    numbers[order] = torch.arange(len(places), device=places.device) - (rows.cumsum(0) - rows)[places[order]]
    return numbers


def sums(labels: Tensor, rows: Tensor) -> dict[int, int]:
    """Rows of each label, from the label and number of rows of some groups, both ``(K,)`` on the CPU."""
    values, places = torch.unique(labels, return_inverse=True)
    sums = torch.zeros_like(values).index_add_(0, places, rows)
    return dict(zip(values.tolist(), sums.tolist(), strict=True))
