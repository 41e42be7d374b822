"""Where the tensors of a row lie in a store: one tensor a leaf, each with a codec of its own."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Size, Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins import codecs
from avalanche_memplugins._structure import Structure, evened, structure_of
from avalanche_memplugins.codecs import Codec, Integers
from avalanche_memplugins.codecs.codec import PARTS

CODECS: dict[str, Callable[[], Codec]] = {
    "raw": codecs.Raw,
    "float16": codecs.Float16,
    "uint8": codecs.Uint8,
    "int8": codecs.Int8,
    "4bit": lambda: codecs.Bits(4),
    "2bit": lambda: codecs.Bits(2),
    "1bit": lambda: codecs.Bits(1),
}
_WHOLE = ("1bit", "2bit", "4bit", "uint8", "int8", "int16", "int32")
LENGTHS = "lengths"  # name in the store of how long the padded tensors of each row are
Value = TypeVar("Value")


class Leaf(NamedTuple):
    """One tensor of the rows.

    :param name: of its tensor in the store.
    :param label: as users name it: ``"x"``, ``"x.pixels"``, ``"y"``.
    :param codec: None: stored as it is.
    :param shape: of one row; of rows that differ in length the longest.
    :param dtype: of a row.
    :param pad: what rows that differ in length are filled up with; None: they do not.
    """

    name: str
    label: str
    codec: Codec | None
    shape: Size
    dtype: torch.dtype
    pad: float | None = None

    @property
    def stored(self) -> tuple[Size, torch.dtype]:
        """Shape and type of a stored row."""
        return (self.shape, self.dtype) if self.codec is None else self.codec.spec(self.shape, self.dtype)

    @property
    def decode(self) -> Callable[[Tensor, Size, torch.dtype], Tensor] | None:
        """``codec.decode`` of codes that are known to be whole; None if rows are stored as they are."""
        return None if self.codec is None else check.unchecked(self.codec, "decode")

    def check(self, value: Tensor, *, limit: int | None = None) -> None:
        """Raise unless rows are of this shape and type.

        :param limit: how long padded ones may be.
        """
        shape, wanted = value.shape[1:], self.shape
        if shape == wanted and value.dtype == self.dtype:
            return
        if self.pad is not None and value.ndim > 1:
            shape, wanted = shape[1:], wanted[1:]
            if limit is not None and value.shape[1] > limit:
                raise ValueError(
                    f"{self.label}: expected rows of at most {limit}, which this memory's budget was made for, got "
                    f"{value.shape[1]}"
                )
        if shape != wanted or value.dtype != self.dtype:
            raise ValueError(
                f"{self.label}: expected {self.dtype} rows of shape {tuple(self.shape)}, as this memory holds, got "
                f"{value.dtype} rows of {tuple(value.shape[1:])}"
            )

    def storable(self, value: Tensor) -> Tensor | None:
        """Raise unless the codec can store rows; gives their code if it works it out on the way."""
        if self.codec is None:
            return None
        try:
            return check.storable(self.codec, value)
        except ValueError as error:
            if self.label == "x" or not str(error).startswith("x:"):
                raise
            raise ValueError(f"{self.label}{str(error)[1:]}") from error

    def decoded(self, code: Tensor, lengths: Tensor | None) -> Tensor:
        """Rows from what was stored.

        :param lengths: of each row ``(n,)``, if they are padded.
        """
        value: Tensor = code
        if self.decode is not None:
            value = self.decode(code, self.shape, self.dtype)
        if self.pad is None or lengths is None:
            return value
        value = value[:, : int(lengths.max()) if len(lengths) else 0]
        behind = torch.arange(value.shape[1], device=value.device) >= lengths[:, None]
        return value.masked_fill(behind.view(*behind.shape, *[1] * (value.ndim - 2)), self.pad)


@dataclass(frozen=True)
class Layout:
    """Of x or of y: how its tensors are put together, and where each lies."""

    structure: Structure
    leaves: tuple[Leaf, ...]

    @cached_property
    def only(self) -> Leaf | None:
        """The leaf, if it is one tensor alone with rows of one length."""
        return self.leaves[0] if self.structure.is_tensor and self.leaves[0].pad is None else None

    @property
    def shape(self) -> Any:
        """Shape of one row of each tensor, put together like them."""
        return self.structure.build(leaf.shape for leaf in self.leaves)

    @property
    def dtype(self) -> Any:
        """Type of each tensor, put together like them."""
        return self.structure.build(leaf.dtype for leaf in self.leaves)

    def values(self, name: str, value: Any) -> dict[str, Tensor]:
        """The tensors of a batch by their names in the store, padded ones as long as those there."""
        if self.only is not None:
            return {self.only.name: value}
        leaves = self.structure.leaves(name, value)
        return {
            leaf.name: tensor if leaf.pad is None else evened([tensor], leaf.pad, leaf.shape[0])[0]
            for leaf, tensor in zip(self.leaves, leaves, strict=True)
        }

    def build(self, held: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Any:
        """A batch from what was stored."""
        if (leaf := self.only) is not None:
            code = held[leaf.name]
            return code if leaf.decode is None else leaf.decode(code, leaf.shape, leaf.dtype)
        return self.structure.build(leaf.decoded(held[leaf.name], lengths.get(leaf.name)) for leaf in self.leaves)

    def state(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "structure": self.structure.state(),
            "shapes": [list(leaf.shape) for leaf in self.leaves],
            "dtypes": [str(leaf.dtype).removeprefix("torch.") for leaf in self.leaves],
        }


class LeafCodecs(nn.Module):
    """A codec for each tensor of a row, by name; the others are stored as they are.

    :param given: names of codecs, or codecs, by the name of the tensor.
    :raises TypeError: for what is no codec.
    """

    def __init__(self, given: Mapping[str, str | Codec]) -> None:
        super().__init__()
        self.given: dict[str, str | Codec] = {}
        for name, codec in given.items():
            check.text("codec", name)
            if isinstance(codec, str):
                check.choice("codec", codec, tuple(dict.fromkeys((*CODECS, *_WHOLE))))
            else:
                check.having("codec", codec, PARTS, "a name or a Codec")
            self.given[name] = codec
        self._networks = nn.ModuleList(codec for codec in self.given.values() if isinstance(codec, nn.Module))

    @property
    def nbytes_fixed(self) -> int:
        """Bytes of the codecs that do not depend on the stream; of tables that names stand for none."""
        return sum(codec.nbytes_fixed for codec in self.given.values() if not isinstance(codec, str))

    def __repr__(self) -> str:
        return f"LeafCodecs({self.given!r})"


def layouts(
    parts: Mapping[str, Any],
    codec: Codec | LeafCodecs,
    pad: Mapping[str, float],
    names: Mapping[str, str],
    *,
    partly: bool = False,
) -> dict[str, Layout]:
    """How the first rows of a memory are laid out.

    :param parts: ``{"x": ..., "y": ...}``; y only where it has no classes.
    :param names: what the tensors of x and of y are called in the store.
    :param partly: y is not known yet, so codec and pad may name its tensors.
    :raises ValueError: if codec or pad name a tensor that is not there.
    """
    structures = {part: structure_of(part, value) for part, value in parts.items()}
    tensors: dict[str, Tensor] = {}
    for part, value in parts.items():
        tensors.update(zip(_labels(part, structures[part]), structures[part].leaves(part, value), strict=True))
    by_label = by_name("codec", codec.given, tensors, partly) if isinstance(codec, LeafCodecs) else {}
    pads = by_name("pad", pad, tensors, partly)
    made = {}
    for part, structure in structures.items():
        leaves = []
        for i, label in enumerate(_labels(part, structure)):
            value, alone = tensors[label], structure.is_tensor
            chosen: Any = codec
            if isinstance(codec, LeafCodecs):
                chosen = by_label.get(label, "raw")
            elif part == "y" or (not alone and (not value.is_floating_point() or value.ndim < 2)):
                chosen = "raw"
            name = names[part] if alone else f"{names[part]}-{i}"
            leaf = Leaf(name, label, _codec_of(chosen, value), value.shape[1:], value.dtype, pads.get(label))
            leaves.append(_checked(leaf, value))
        made[part] = Layout(structure, tuple(leaves))
    return made


def _labels(part: str, structure: Structure) -> list[str]:
    return [f"{part}.{name}" if name else part for name in structure.names]


def _codec_of(chosen: Any, value: Tensor) -> Codec | None:
    if not isinstance(chosen, str):
        return None if type(chosen) is codecs.Raw else chosen
    if chosen == "raw":
        return None
    return Integers(chosen) if not value.is_floating_point() and chosen in _WHOLE else _named(chosen)


def _named(name: str) -> Codec:
    if name not in CODECS:
        raise ValueError(
            f"codec: {name!r} expected integers or bools; of floating-point rows use one of {tuple(CODECS)}"
        )
    return CODECS[name]()


def _checked(leaf: Leaf, value: Tensor) -> Leaf:
    """Raise unless padded rows can be of different lengths."""
    if leaf.pad is not None:
        if value.ndim < 2:
            raise ValueError(f"pad: expected rows (B, L, ...) of different L under {leaf.label!r}, got (B,)")
        if leaf.stored[0] != leaf.shape:
            raise ValueError(
                f"codec: {leaf.label!r} has rows of different lengths, so expected a codec that stores each number by "
                f"itself, such as 'raw' or 'int32', got {leaf.codec!r}"
            )
    return leaf


def by_name(argument: str, given: Mapping[str, Value], labels: Iterable[str], partly: bool = False) -> dict[str, Value]:
    """What is given for tensors by name, by their labels: ``"pixels"`` is ``"x.pixels"`` unless y has pixels, too.

    :param partly: pass over names that no tensor has.
    :raises ValueError: for a name that no tensor has, or two have.
    """
    labels, found = list(labels), {}
    for name, value in given.items():
        fit = [label for label in labels if name in (label, label.partition(".")[2])]
        if partly and not fit:
            continue
        if len(fit) != 1:
            near = difflib.get_close_matches(name, [*labels, *(label.partition(".")[2] for label in labels)], n=1)
            hint = f"; did you mean {near[0]!r}?" if near and not fit else ""
            raise ValueError(f"{argument}: expected names among {', '.join(map(repr, labels))}, got {name!r}{hint}")
        found[fit[0]] = value
    return found


def restored(
    state: Mapping[str, Any], codec: Codec | LeafCodecs, pad: Mapping[str, float], names: Mapping[str, str]
) -> dict[str, Layout]:
    """What :meth:`Layout.state` gave of x and of y.

    :raises ValueError: if it is damaged.
    """
    parts = {}
    for part, found in state.items():
        try:
            structure = Structure.of_state(found["structure"])
            rows = [
                torch.empty(0, *map(int, shape), dtype=getattr(torch, dtype))
                for shape, dtype in zip(found["shapes"], found["dtypes"], strict=True)
            ]
            if part not in names or len(rows) != len(structure.names):
                raise ValueError
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"state: expected how rows lie in their tensors, got {str(found)[:200]}") from error
        parts[part] = structure.build(rows)
    return layouts(parts, codec, pad, names)


def longer(layout: Layout, value: Any) -> Layout:
    """The layout with room for the padded rows of a batch."""
    leaves = tuple(
        leaf
        if leaf.pad is None or tensor.shape[1] <= leaf.shape[0]
        else leaf._replace(shape=Size((tensor.shape[1], *leaf.shape[1:])))
        for leaf, tensor in zip(layout.leaves, layout.structure.leaves("x", value), strict=True)
    )
    return layout if leaves == layout.leaves else Layout(layout.structure, leaves)


def lengths_of(padded: Collection[tuple[Leaf, Tensor]]) -> Tensor:
    """How long the rows of padded tensors are without what is at their end, int32 ``(B, tensors)``.

    Tensors of the same length, such as tokens and their mask, keep it: a row is as long as in the longest of them.
    """
    ends: dict[int, Tensor] = {}
    for leaf, value in padded:
        told = value != torch.as_tensor(leaf.pad, dtype=value.dtype, device=value.device)
        if value.ndim > 2:
            told = told.flatten(2).any(2)
        numbers = torch.arange(1, value.shape[1] + 1, device=value.device)
        end = (told * numbers).amax(1) if value.shape[1] else numbers.new_zeros(len(value))
        ends[value.shape[1]] = torch.maximum(ends[value.shape[1]], end) if value.shape[1] in ends else end
    return torch.stack([ends[value.shape[1]] for _, value in padded], 1).int()


def zeros(name: str, shape: Any, dtype: Any) -> Any:
    """A batch of one row of zeros.

    :param shape: of a row; or a dict or tuple of shapes.
    :param dtype: of all tensors, or put together like the shapes.
    :raises TypeError: for what is no shape or type.
    """
    if isinstance(shape, Mapping):
        return {key: zeros(f"{name}[{key!r}]", each, _part(dtype, key)) for key, each in shape.items()}
    if isinstance(shape, tuple | list) and any(isinstance(each, tuple | list | Mapping) for each in shape):
        parts = [zeros(f"{name}[{i}]", each, _part(dtype, i)) for i, each in enumerate(shape)]
        return type(shape)(*parts) if hasattr(shape, "_fields") else type(shape)(parts)
    size = check.integers(name, shape, least=1) if len(shape) else ()
    check.dtype_of("dtype", dtype)
    check.room(name, Size(size).numel(), dtype.itemsize)
    return torch.zeros(1, *size, dtype=dtype)


def _part(dtype: Any, key: Any) -> Any:
    return dtype[key] if isinstance(dtype, Mapping | tuple | list) else dtype
