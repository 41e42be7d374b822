"""Puts a function around a method of a strategy for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

Method = Callable[..., Any]

_ABSENT: Final = NotImplemented  # stays itself when a strategy is copied or pickled


class Around:
    """Stands in the place of a strategy's method, and runs ``function(method, *args, **kwargs)``.

    :param function: what runs instead; it is given the method to call.
    :param method: the method, or another :class:`Around`.
    """

    def __init__(self, function: Method, method: Method) -> None:
        self.function = function
        self.method = method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.method, *args, **kwargs)

    @property
    def innermost(self) -> Method:
        """The strategy's own method."""
        return self.method.innermost if isinstance(self.method, Around) else self.method

    def over(self, method: Method) -> Around:
        """The same functions around another method."""
        return Around(self.function, self.method.over(method) if isinstance(self.method, Around) else method)


class Once(Around):
    """Goes out of the way when it is called.

    :param strategy: whose method it is.
    :param name: of the method.
    :param function: see :class:`Around`; one that can be pickled, since an exception may leave this behind.
    """

    def __init__(self, strategy: Any, name: str, function: Method) -> None:
        super().__init__(function, getattr(strategy, name))
        self._strategy, self._name = strategy, name
        self._found = vars(strategy).get(name, _ABSENT)
        setattr(strategy, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.remove()
        return super().__call__(*args, **kwargs)

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
