"""Looking things up by the name that a user typed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from reprlib import repr as short
from typing import TypeVar

T = TypeVar("T")
_LONGEST = 100


def look_up(kind: str, name: str, known: Mapping[str, T]) -> T:
    """The entry of that name.

    :param kind: what the names stand for; the error begins with it.
    :raises ValueError: if there is none; suggests the nearest name.
    """
    if not isinstance(name, str):
        raise ValueError(f"{kind}: expected a name, got {short(name)}")
    if name not in known:
        # Nobody meant one of a thousand letters, and comparing them takes its time.
        name = name[:_LONGEST]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"{kind}: no {name!r}; {hint}")
    return known[name]
