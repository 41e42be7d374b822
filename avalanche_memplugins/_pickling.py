"""What a torch.Generator wants, so that its owner can be pickled."""

from __future__ import annotations

from typing import Any

import torch


class PicklesGenerator:
    """Base of what draws from a ``_generator`` of its own: pickled and copied with it, drawing on as it would have.

    Stands before ``torch.nn.Module`` among the bases, whose own ``__setstate__`` knows nothing of generators.
    """

    _generator: torch.Generator

    def __getstate__(self) -> dict[str, Any]:
        # A torch.Generator cannot be pickled, which breaks deepcopy and Avalanche's checkpoints.
        return {**self.__dict__, "_generator": self._generator.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        generator = torch.Generator()
        generator.set_state(state["_generator"])
        self.__dict__.update({**state, "_generator": generator})
