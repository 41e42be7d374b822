"""Puts a function around a method of a strategy for a while."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

Method = Callable[..., Any]

_ABSENT: Final = NotImplemented  # stays itself when a strategy is copied or pickled


class Around(functools.partial[Any]):
    """Replaces a strategy's method: ``Around(function, method)`` runs ``function(method, ...)``.

    A partial, so that it costs no frame of its own in each iteration. The method, which may be another
    :class:`Around`, is its last argument.
    """

    @property
    def innermost(self) -> Method:
        """The strategy's own method."""
        method: Method = self.args[-1]
        return method.innermost if isinstance(method, Around) else method

    def over(self, method: Method) -> Around:
        """The same functions around another method."""
        inner = self.args[-1]
        return Around(self.func, *self.args[:-1], inner.over(method) if isinstance(inner, Around) else method)


class Once:
    """Runs ``function(method, ...)`` instead of a strategy's method, and goes out of the way when it is called.

    :param strategy: whose method it is.
    :param name: of the method.
    :param function: one that can be pickled, since an exception may leave this behind.
    """

    def __init__(self, strategy: Any, name: str, function: Method) -> None:
        self._function, self._method = function, getattr(strategy, name)
        self._strategy, self._name = strategy, name
        self._found = vars(strategy).get(name, _ABSENT)
        setattr(strategy, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.remove()
        return self._function(self._method, *args, **kwargs)

    def remove(self) -> None:
        """Leave the strategy as it was found."""
        _put_back(self._strategy, self._name, self._found)


def remove_leftovers(strategy: Any, name: str) -> None:
    """Take away each :class:`Once` that was never called, because an exception came first."""
    while isinstance(left := vars(strategy).get(name), Once):
        left.remove()


@contextmanager
def around(strategy: Any, **functions: Method) -> Iterator[None]:
    """Put each function around the method of its name; the strategy is as it was afterwards, whatever happens."""
    found = {name: vars(strategy).get(name, _ABSENT) for name in functions}
    for name, function in functions.items():
        setattr(strategy, name, Around(function, getattr(strategy, name)))
    try:
        yield
    finally:
        for name, value in found.items():
            _put_back(strategy, name, value)


def _put_back(strategy: Any, name: str, value: Any) -> None:
    if value is _ABSENT:
        vars(strategy).pop(name, None)
    else:
        setattr(strategy, name, value)
