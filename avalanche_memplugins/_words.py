"""Arguments under the names that Avalanche and other libraries give them."""

from __future__ import annotations

import functools
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T", bound=type)
P = ParamSpec("P")
R = TypeVar("R")

POLICIES = {"policy": "write_policy", "read": "read_policy"}
"""Arguments and attributes of version 0.1, and what they are called now."""

OF_A_MEMORY = {
    **dict.fromkeys(("mem_size", "max_size", "memory_size", "buffer_size", "size"), "capacity"),
    **dict.fromkeys(("storage_policy", "selection_strategy", "buffer"), "write_policy"),
    **dict.fromkeys(("retrieval_policy", "sampler"), "read_policy"),
}
OF_REPLAY = {
    **dict.fromkeys(("batch_size_mem", "mem_batch_size", "batch_size", "replay_batch"), "replay_size"),
    "increasing_replay_size": "replay_size='growing'",
    **dict.fromkeys(("is_weighted_replay", "weight_replay_loss", "weight_replay_loss_factor"), "replay_weight"),
    **dict.fromkeys(("storage_policy", "buffer", "storage"), "memory"),
    **dict.fromkeys(("latent_layer", "latent_layer_num", "layer", "layer_name"), "at"),
    "task_balanced_dataloader": "read_policy='task_balanced' of the memory",
}
OF_A_PLUGIN = {
    **OF_REPLAY,
    **dict.fromkeys(
        ("mem_size", "max_size", "memory_size", "buffer_size", "capacity"), "the memory's capacity: RandomMemory(n)"
    ),
}
OF_A_STRATEGY = {
    **OF_REPLAY,
    **dict.fromkeys(("max_size", "memory_size", "buffer_size", "capacity"), "mem_size"),
    "storage_policy": "write_policy",
}


def names_ours(words: dict[str, str]) -> Callable[[T], T]:
    """Class decorator: an unknown argument that others have a name for is refused with the name that it has here.

    :param words: what others call an argument, and what it is called here.
    """

    def decorate(cls: T) -> T:
        init = cls.__init__  # type: ignore[misc]

        @functools.wraps(init)
        def checked(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                init(self, *args, **kwargs)
            except TypeError as error:
                named = [word for word in kwargs if word in words and re.search(rf"argument:? '?{word}\b", str(error))]
                if not named:
                    raise
                raise TypeError(f"{named[0]}: {type(self).__name__} calls it {words[named[0]]}") from None

        cls.__init__ = checked  # type: ignore[misc]
        return cls

    return decorate


def renamed(names: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Function decorator: arguments under their earlier names are taken, with a ``DeprecationWarning``.

    :param names: the present name of each earlier one.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def taking_both(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in names.keys() & kwargs.keys():
                new, what = names[old], function.__qualname__.removesuffix(".__init__")
                if new in kwargs:
                    raise TypeError(f"{old}: is the earlier name of {new}, expected one of the two, got both")
                warn(f"{what}: the argument {old}= is now {new}=; {old}= goes with the next version")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return taking_both

    return decorate


def renamed_attribute(old: str, new: str) -> Any:
    """A property that reads and sets the attribute ``new`` under its earlier name, with a ``DeprecationWarning``."""

    def told(self: object) -> None:
        warn(f"{type(self).__name__}: the attribute {old} is now {new}; {old} goes with the next version")

    def get(self: object) -> Any:
        told(self)
        return getattr(self, new)

    def put(self: object, value: Any) -> None:
        told(self)
        setattr(self, new, value)

    return property(get, put)


def warn(message: str) -> None:
    """A ``DeprecationWarning`` at the user's own line."""
    # Python shows warnings of the user's own lines only, so the line to name is the first outside this package.
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] == __name__.split(".")[0]:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, DeprecationWarning, stacklevel=level)
