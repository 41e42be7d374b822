"""One public callable: a call of it that is right, and what kind each argument is of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bad_values import usual

RECORDS: dict[str, Record] = {}


@dataclass(frozen=True)
class Record:
    """:param name: as it is exported, with the method after a dot.
    :param call: takes the arguments by name.
    :param arguments: makes those of a call that is right, afresh.
    :param given: kinds of arguments, by name, where they are other than the usual ones; None: it is not tried.
    :param named: what an argument is called in the error, where that is another name.
    """

    name: str
    call: Callable[..., Any]
    arguments: Callable[[], dict[str, Any]]
    given: dict[str, Any]
    named: dict[str, tuple[str, ...]]

    @cached_property
    def kinds(self) -> dict[str, Any]:
        """Of the arguments that are tried, by name."""
        all_of_them = {name: usual(name, value) for name, value in self.arguments().items()} | self.given
        return {name: kind for name, kind in all_of_them.items() if kind is not None}


def record(
    name: str,
    call: Callable[..., Any],
    arguments: Callable[[], dict[str, Any]],
    named: dict[str, tuple[str, ...]] | None = None,
    /,
    **kinds: Any,
) -> None:
    """Enter a public callable in the table."""
    if name in RECORDS:
        raise ValueError(f"name: {name} is in the table already")
    RECORDS[name] = Record(name, call, arguments, kinds, named or {})
