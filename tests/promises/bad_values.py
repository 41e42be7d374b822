"""What may be wrong with an argument, by its kind: values that no call may take, and none may fail on unnamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Wrong = Iterator[tuple[str, Any]]


class Anything:
    """An object that is nothing that anybody expects."""


@dataclass(frozen=True)
class Integer:
    """An integer >= ``least``."""

    least: int = 1
    none: bool = False
    huge: bool = True

    def wrong(self, value: Any) -> Wrong:
        yield "bool", True
        yield "too small", self.least - 1
        yield "float", 1.5
        yield "string", "3"
        yield "nan", float("nan")
        yield "list", [3]
        if self.huge:
            yield "huge", 10**30
        if not self.none:
            yield "None", None


@dataclass(frozen=True)
class Number:
    """A finite number; ``least`` or ``above`` is its lower limit."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    none: bool = False

    def wrong(self, value: Any) -> Wrong:
        yield "string", "x"
        yield "nan", float("nan")
        yield "infinite", float("inf")
        yield "bool", True
        yield "list", [0.5]
        yield "complex", 1j
        if self.least is not None:
            yield "too small", self.least - 1
        if self.above is not None:
            yield "at the limit", self.above
        if self.most is not None:
            yield "too large", self.most + 1
        if not self.none:
            yield "None", None


class Flag:
    """True or False."""

    def wrong(self, value: Any) -> Wrong:
        yield "word", "no"
        yield "integer", 1
        yield "None", None
        yield "list", []


@dataclass(frozen=True)
class Name:
    """One of some names; an object may do as well."""

    none: bool = False
    typo: str = ""

    def wrong(self, value: Any) -> Wrong:
        yield "typo", self.typo or f"{value}x"
        yield "empty", ""
        yield "integer", 3
        yield "list", ["a"]
        yield "object", Anything()
        if not self.none:
            yield "None", None


@dataclass(frozen=True)
class Array:
    """A tensor. ``last``: the size of its last dimension matters; ``finite``: NaN is refused."""

    floats: bool = True
    none: bool = False
    finite: bool = False
    last: bool = True
    flat: bool = True
    empty: bool = False
    rows: bool = False
    integers: bool = False

    def wrong(self, value: Tensor) -> Wrong:
        yield "list", value.tolist()
        yield "array", value.numpy()
        yield "string", "x"
        if not self.none:
            yield "None", None
        yield "complex", value.to(torch.complex64)
        yield "sparse", value.to_sparse()
        yield "meta", value.to("meta")
        yield "nested", torch.nested.nested_tensor([value.flatten(), value.flatten()[:0]])
        yield "a byte a float", value.float().to(torch.float8_e4m3fn)
        if self.floats:
            yield "integers", value.long()
        if self.integers:
            yield "floats", value.double() + 0.5
        if self.flat:
            yield "no dimensions", value.flatten()[0].clone()
        if self.last:
            yield "too wide", torch.cat([value, value[..., :1]], -1)
        if self.rows:
            yield "a row more", torch.cat([value, value[:1]])
        if self.empty:
            yield "empty", value[:0]
        if self.finite:
            for name, number in (("NaN", float("nan")), ("infinite", float("inf"))):
                spoilt = value.clone()
                spoilt.view(-1)[0] = number
                yield name, spoilt


class Labels(Array):
    """Integers ``(B,)``, one a row."""

    def __init__(self, *, number: bool = False, none: bool = False, negative: bool = True) -> None:
        super().__init__(floats=False, none=none, last=True, integers=True)
        object.__setattr__(self, "number", number)
        object.__setattr__(self, "negative", negative)

    number: bool
    negative: bool

    def wrong(self, value: Tensor) -> Wrong:
        yield from super().wrong(value)
        yield "bools", value.bool()
        if self.negative:
            yield "negative", value - 10
        if self.number:
            yield "float", 1.5
            yield "bool", True
            yield "negative number", -1
        else:
            yield "number", 3


@dataclass(frozen=True)
class Folder:
    """A path."""

    none: bool = False

    def wrong(self, value: Any) -> Wrong:
        yield "integer", 3
        yield "bytes", b"x"
        yield "empty", ""
        yield "NUL", "a\0b"
        yield "list", ["a"]
        if not self.none:
            yield "None", None


@dataclass(frozen=True)
class Thing:
    """An object of some class."""

    none: bool = False
    strings: bool = False
    callables: bool = False

    def wrong(self, value: Any) -> Wrong:
        if not self.callables:
            yield "class", type(value)
        if not self.strings:
            yield "string", "x"
        yield "integer", 3
        yield "another", Anything()
        yield "list", [value]
        if not self.none:
            yield "None", None


class Shape:
    """Sizes, such as ``(1, 28, 28)``."""

    def __init__(self, *, none: bool = False, number: bool = False) -> None:
        self.none, self.number = none, number

    def wrong(self, value: Any) -> Wrong:
        yield "empty", ()
        yield "zero", (0,)
        yield "floats", (1.5,)
        yield "words", ("a",)
        yield "string", "28"
        if not self.number:
            yield "number", 3
        if not self.none:
            yield "None", None


class Seed:
    """What generators take."""

    def wrong(self, value: Any) -> Wrong:
        yield "string", "a"
        yield "float", 1.5
        yield "bool", True
        yield "too large", 2**64
        yield "list", [1]


@dataclass(frozen=True)
class Values:
    """Exactly these."""

    bad: tuple[Any, ...]

    def wrong(self, value: Any) -> Wrong:
        for number, each in enumerate(self.bad):
            yield f"value {number}", each


class Pixels:
    """``mean`` of a Normalize."""

    def wrong(self, value: Any) -> Wrong:
        yield "string", "x"
        yield "nan", float("nan")
        yield "infinite", float("inf")
        yield "None", None
        yield "words", ["a"]
        yield "empty", ()
        yield "two dimensions", [[0.5]]
        yield "bool", True


class Deviation(Pixels):
    """``std`` of a Normalize."""

    def wrong(self, value: Any) -> Wrong:
        yield from super().wrong(value)
        yield "zero", 0.0
        yield "negative", (-1.0,)


_BY_NAME: dict[str, Any] = {
    "seed": Seed(),
    "dtype": Values((None, "float32", 3)),
    "generator": Values((3, "cpu", torch.Generator)),
    "mean": Pixels(),
    "std": Deviation(),
    "y": Labels(),
}
_BY_TYPE: dict[type, Any] = {
    bool: Flag(),
    int: Integer(),
    float: Number(above=0),
    str: Name(),
    torch.Size: Values((None, 3, "x", ("a",), (0,))),
}


def usual(name: str, value: Any) -> Any:
    """The kind of most arguments of that name, or else with a right value of that type; None: there is none."""
    if name in _BY_NAME and not (name in ("mean", "std") and isinstance(value, Tensor)):
        return _BY_NAME[name]
    if type(value) in _BY_TYPE:
        return _BY_TYPE[type(value)]
    if isinstance(value, Tensor):
        return Array()
    if isinstance(value, Path):
        return Folder()
    return Shape() if name == "shape" else None
