"""How a check says what was promised, what happened, and what to do about it."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor


class Check(Protocol):
    """One promise, for one kind of case."""

    __name__: str
    __doc__: str | None
    applies: Callable[[Any, Any], bool]

    def __call__(self, case: Any) -> None:
        """Raise AssertionError if the promise is broken."""


class Broken(AssertionError):
    """What happened, and how to fix it; the promise is added to it."""

    def __init__(self, happened: str, fix: str) -> None:
        super().__init__(happened)
        self.fix = fix


def ensure(kept: bool, happened: str, fix: str) -> None:
    """Raise unless a promise is kept.

    :param kept: whether it is.
    :param happened: what is seen instead.
    :param fix: what usually helps.
    """
    if not kept:
        raise Broken(happened, fix)


def promise(*needs: str, where: Callable[[Any], bool] = lambda case: True) -> Callable[[Callable[[Any], None]], Check]:
    """Decorator of a check, whose docstring is the promise.

    :param needs: names of what a thing must have for the check to apply.
    :param where: whether the check applies to a case.
    """

    def decorate(function: Callable[[Any], None]) -> Check:
        @functools.wraps(function)
        def checked(case: Any) -> None:
            try:
                function(case)
            except Exception as error:
                fix = getattr(error, "fix", "see the traceback above")
                happened = str(error) if isinstance(error, Broken) else f"it raised {type(error).__name__}: {error}"
                raise AssertionError(
                    f"{case.name} breaks {function.__name__}\n  promised: {function.__doc__}\n"
                    f"  happened: {happened}\n  to fix it: {fix}"
                ) from error

        result: Any = checked
        result.applies = lambda case, thing: where(case) and all(has(thing, name) for name in needs)
        check: Check = result
        return check

    return decorate


def has(thing: Any, name: str) -> bool:
    """Whether a thing has an attribute; it is not read, as properties may work or warn."""
    return inspect.getattr_static(thing, name, None) is not None


def same(a: Any, b: Any) -> bool:
    """Whether two structures hold equal values, tensors bit for bit."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        both = isinstance(a, Tensor) and isinstance(b, Tensor)
        return both and a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str):
        return len(a) == len(b) and all(same(one, other) for one, other in zip(a, b, strict=True))
    return bool(a == b)


def pickles(kind: type) -> bool:
    """False for a class that pickle does not find by its name, such as one made in a function or a notebook's exec."""
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind
