"""Checks of arguments: each error names the argument, says what is expected and what it got."""

from __future__ import annotations

import difflib
import math
import operator
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")
LARGEST_INTEGER = 2**63 - 1
_PLAIN = (bool, int, float, complex, str, bytes, list, tuple, dict, set, type(None))
_LONGEST = 80
_SMALL = 1 << 20  # bytes that nobody needs to ask about


def show(value: object) -> str:
    """What was got, for people to read: never a page of numbers."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"  # Python refuses to print the longest
    if not isinstance(value, _PLAIN) and not isinstance(value, Real):
        return type(value).__name__
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


# ---------------------------------------------------------------- numbers


def integer(name: str, value: Any, *, least: int | None = None, most: int = LARGEST_INTEGER) -> int:
    """``value`` as a Python integer, if it is an integer of any kind from ``least`` to ``most``.

    :raises ValueError: for anything else, a bool included.
    """
    if type(value) is int and value <= most and (least is None or value >= least):
        return value
    number = _index(value)
    if number is not None and number <= most and (least is None or number >= least):
        return number
    wanted = "an integer" if least is None else f"an integer >= {least}"
    if number is not None and number > most:
        wanted = f"an integer from {least} to {_power(most)}" if least is not None else f"an integer <= {_power(most)}"
    raise ValueError(f"{name}: expected {wanted}, got {show(value)}")


def positive_integers(**values: Any) -> None:
    """:func:`positive_integer` for several, by name."""
    for name, value in values.items():
        positive_integer(name, value)


def positive_integer(name: str, value: Any) -> int:
    """``value`` if it is an integer >= 1."""
    return integer(name, value, least=1)


def integers(name: str, value: Any, *, least: int = 1, count: int | None = None) -> tuple[int, ...]:
    """``value`` as a tuple, if it is a sequence of integers >= ``least``, such as a shape.

    :param count: how many; None: any number, at least one.
    :raises ValueError: for anything else.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        numbers = None
    else:
        numbers = [_index(entry) for entry in value]
    if numbers and all(n is not None and least <= n <= LARGEST_INTEGER for n in numbers):
        found = tuple(n for n in numbers if n is not None)
        if count is None or len(found) == count:
            return found
    wanted = "integers" if count is None else f"{count} integers"
    raise ValueError(f"{name}: expected {wanted} >= {least}, such as a tuple of them, got {show(value)}")


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> float:
    """``value`` as a float, if it is a finite number within the limits.

    :param above: a limit that is itself out.
    :param least: a limit that is itself in.
    :param below: a limit that is itself out.
    :param most: a limit that is itself in.
    :raises ValueError: for anything else, a bool included.
    """
    if not isinstance(value, bool) and isinstance(value, Real):
        found = _float(value)
        if (
            math.isfinite(found)
            and (above is None or found > above)
            and (least is None or found >= least)
            and (below is None or found < below)
            and (most is None or found <= most)
        ):
            return found
    limits = [
        f"{sign} {limit:g}"
        for sign, limit in ((">", above), (">=", least), ("<", below), ("<=", most))
        if limit is not None
    ]
    kind = "a finite number" if isinstance(value, Real) and math.isinf(_float(value)) else "a number"
    wanted = " ".join([kind, " and ".join(limits)]).rstrip()
    raise ValueError(f"{name}: expected {wanted}, got {show(value)}")


def _index(value: Any) -> int | None:
    if isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _power(value: int) -> str:
    bits = (value + 1).bit_length() - 1
    return f"2**{bits} - 1" if bits > 20 and value == 2**bits - 1 else str(value)


@lru_cache(maxsize=1)
def machine_bytes() -> int:
    """Bytes of memory that this machine has; a guess where it does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 1 << 44


def room(name: str, count: int, each: int) -> None:
    """Raise unless ``count`` rows of ``each`` bytes can be in memory at all.

    :raises ValueError: saying how many bytes they would take.
    """
    taken = count * each
    if taken > _SMALL and taken > machine_bytes():
        raise ValueError(
            f"{name}: expected a number of rows that fits in this machine's {machine_bytes():,} bytes of memory, got "
            f"{show(count)} rows of {each:,} bytes"
        )


# ---------------------------------------------------------------- other single values


def flag(name: str, value: Any) -> bool:
    """``value`` if it is True or False: words such as "no" would count as true.

    :raises TypeError: for anything else.
    """
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(f"{name}: expected True or False, got {show(value)}")


def flags(**values: Any) -> None:
    """:func:`flag` for several, by name."""
    for name, value in values.items():
        flag(name, value)


def made(name: str, value: T) -> T:
    """``value`` if it is not a class that somebody forgot to call."""
    if isinstance(value, type):
        raise TypeError(f"{name}: expected an instance, got the class {value.__name__}; call it: {value.__name__}(...)")
    return value


def instance(name: str, value: Any, kind: type | tuple[type, ...], wanted: str) -> None:
    """Raise unless ``value`` is an instance of ``kind``.

    :param wanted: what that is, in words: ``"a module"``.
    :raises TypeError: naming what it is instead.
    """
    made(name, value)
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected {wanted}, got {show(value)}")


def having(name: str, value: Any, parts: Sequence[str], wanted: str) -> None:
    """Raise unless ``value`` has all these attributes.

    :param wanted: what has them, in words.
    :raises TypeError: naming what it lacks.
    """
    made(name, value)
    missing = [part for part in parts if not hasattr(value, part)]
    if missing:
        raise TypeError(f"{name}: expected {wanted}, got {show(value)}, without {', '.join(missing)}")


def function(name: str, value: Any, wanted: str = "a function") -> None:
    """Raise unless ``value`` can be called.

    :raises TypeError: naming what it is instead.
    """
    if not callable(value):
        raise TypeError(f"{name}: expected {wanted}, got {show(value)}")


def generator(name: str, value: Any) -> None:
    """Raise unless ``value`` is a ``torch.Generator`` or None.

    :raises TypeError: naming what it is instead.
    """
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(f"{name}: expected a torch.Generator or None, got {show(value)}")


def text(name: str, value: Any) -> str:
    """``value`` if it is a string that is not empty.

    :raises TypeError: for another type.
    :raises ValueError: if it is empty.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a string, got {show(value)}")
    if not value:
        raise ValueError(f"{name}: expected a string that is not empty, got ''")
    return value


def layer(name: str, value: Any) -> None:
    """Raise unless ``value`` is the name of a module of a model, or None.

    :raises TypeError: for another type.
    :raises ValueError: if it is empty.
    """
    if value is not None:
        text(name, value)


def optional_seed(value: Any) -> None:
    """Raise unless ``value`` is a seed that torch's generators take, or None."""
    if value is not None:
        integer("seed", value, least=-(2**63), most=2**64 - 1)


def optional_function(**values: Any) -> None:
    """Raise unless each can be called, or is None."""
    for name, value in values.items():
        if value is not None:
            function(name, value, "a function, or None")


def path(name: str, value: Any) -> Path:
    """``value`` as a path.

    :raises TypeError: if it is neither a string nor a path.
    :raises ValueError: if it is empty, or holds a character that no path can.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise TypeError(f"{name}: expected a path, as a string or pathlib.Path, got {show(value)}")
    written = os.fspath(value)
    if not written or "\0" in written:
        raise ValueError(f"{name}: expected a path that is not empty and has no NUL character, got {written!r}")
    return Path(written)


def choice(name: str, value: T, choices: Collection[T]) -> T:
    """``value`` if it is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        near = difflib.get_close_matches(value, [str(c) for c in choices], n=1) if isinstance(value, str) else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {show(value)}{hint}")
    return value


def one_of(name: str, value: str, table: Mapping[str, T]) -> T:
    """The entry of ``table`` under ``value``."""
    return table[choice(name, value, table)]


def seed(value: int | None) -> int:
    """``value`` if torch's generators take it as their seed; for None one draw from torch's global generator.

    So ``torch.manual_seed`` governs all that is made after it, and what has a number of its own leaves it alone.

    :raises TypeError: if it is no integer.
    :raises ValueError: if it is out of their range.
    """
    if value is None:
        return int(torch.empty((), dtype=torch.int64, device="cpu").random_())
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"seed: expected an integer or None, got {value!r}")
    if not -(2**63) <= (number := operator.index(value)) < 2**64:
        raise ValueError(f"seed: expected an integer from -2**63 to 2**64 - 1, got {value!r}")
    return number
