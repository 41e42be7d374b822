"""States that are taken up whole or not at all: loading is tried on a copy first."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

Self = TypeVar("Self", bound="LoadsWhole")


class LoadsWhole(nn.Module):
    """A module that a state which does not fit leaves as it was, bit for bit."""

    def _rehearsal(self: Self) -> Self:
        """A copy on which nothing depends."""
        return copy.deepcopy(self)

    def _check_sound(self) -> None:
        """Raise unless this copy, just loaded, is what a module of these arguments might be; it may change in this.

        :raises ValueError: saying what is wrong.
        """

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Go on from a state.

        :raises ValueError: if it does not fit; nothing has changed then.
        """
        rehearsal = self._rehearsal()
        with telling_misfits("state", type(self).__name__):
            nn.Module.load_state_dict(rehearsal, state_dict, strict=strict)
            rehearsal._check_sound()
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


@contextmanager
def telling_misfits(argument: str, name: str, error: type[ValueError] = ValueError) -> Iterator[None]:
    """Turn whatever a wrong state makes the code within raise into one kind of error.

    :param argument: that the state came in.
    :param name: of what it is to fit.
    :param error: the kind.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as problem:
        said = str(problem)
        if isinstance(problem, error) and (error is not ValueError or said.startswith(f"{argument}: ")):
            raise
        said = said.removeprefix("state: ") or type(problem).__name__
        said = said if len(said) <= 1_000 else f"{said[:997]}..."
        raise error(f"{argument}: does not fit this {name}: {said}") from problem
