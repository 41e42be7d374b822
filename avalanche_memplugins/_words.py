"""Arguments under the names that Avalanche and other libraries give them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T", bound=type)

OF_A_MEMORY = {
    **dict.fromkeys(("mem_size", "max_size", "memory_size", "buffer_size", "size"), "capacity"),
    **dict.fromkeys(("storage_policy", "selection_strategy", "write_policy", "buffer"), "policy"),
    **dict.fromkeys(("retrieval_policy", "read_policy", "sampler"), "read"),
}
OF_REPLAY = {
    **dict.fromkeys(("batch_size_mem", "mem_batch_size", "batch_size", "replay_batch"), "replay_size"),
    "increasing_replay_size": "replay_size='growing'",
    **dict.fromkeys(("is_weighted_replay", "weight_replay_loss", "weight_replay_loss_factor"), "replay_weight"),
    **dict.fromkeys(("storage_policy", "buffer", "storage"), "memory"),
    **dict.fromkeys(("latent_layer", "latent_layer_num", "layer", "layer_name"), "at"),
    "task_balanced_dataloader": "read='task_balanced' of the memory",
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
    "storage_policy": "policy",
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
