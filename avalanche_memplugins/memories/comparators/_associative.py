"""What the associative memories have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._loading import LoadsWhole
from avalanche_memplugins.memories._saved import make_room


class AssociativeMemory(LoadsWhole):
    """E memories side by side, one an episode, each with the same number of patterns of ``size`` numbers.

    What is held is in one buffer, ``(E, ...)``, of no episodes before the first write.

    :param size: n, numbers a pattern has, >= 1.
    """

    held: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = check.positive_integer("size", size)
        self.register_buffer("held", torch.zeros(0))

    @property
    def nbytes(self) -> int:
        """Bytes that hold the patterns, of all episodes."""
        return self.held.nbytes

    @property
    def nbytes_fixed(self) -> int:
        """Bytes of frozen networks that the memory needs besides."""
        return 0

    @property
    def device(self) -> torch.device:
        """Where the memory is."""
        return self.held.device

    def __bool__(self) -> bool:
        return True

    def clear(self) -> None:
        """Forget everything: the next write may be of another number of episodes."""
        self.held = self.held.new_zeros(0)

    def _patterns(self, name: str, value: Tensor, known: Tensor | None = None, *, writing: bool = False) -> Tensor:
        """``value`` if it is ``(E, N, n)`` and goes with what is held, on the memory's device."""
        check.tensor(name, value)
        if value.ndim != 3 or value.shape[2] != self.size or not value.shape[0] or not value.shape[1]:
            raise ValueError(f"{name}: expected (E, N, {self.size}), E and N at least 1, got {tuple(value.shape)}")
        if not value.is_floating_point():
            raise ValueError(f"{name}: expected floating-point numbers, got {value.dtype}")
        check.finite(name, value)
        if self.held.numel():
            if len(value) != len(self.held):
                raise ValueError(f"{name}: expected {len(self.held)} episodes, as were written, got {len(value)}")
        elif not writing:
            raise ValueError(f"{name}: expected a memory that was written, got one that holds nothing to read")
        if known is not None and (check.tensor("known", known).dtype != torch.bool or known.shape != value.shape):
            raise ValueError(
                f"known: expected bool {tuple(value.shape)} like {name}, got {known.dtype} {tuple(known.shape)}"
            )
        return value

    @staticmethod
    def _steps(given: int | None, own: int) -> int:
        """Steps of one read: those asked for, or the memory's own."""
        return own if given is None else check.positive_integer("steps", given)

    def _bits(self, name: str, value: Tensor, known: Tensor | None = None, *, writing: bool = False) -> Tensor:
        """Patterns of bits as -1 and 1, with 0 for a bit that is erased (0.5), which only a cue may hold."""
        bits = 2 * self._patterns(name, value, known, writing=writing).to(self.device, torch.float32) - 1
        fits = bits.abs() == 1
        if not bool((fits if writing else fits | (bits == 0)).all()):
            raise ValueError(f"{name}: expected entries {'0 and 1' if writing else '0, 0.5 and 1'}, got others")
        return bits

    def _check_sound(self) -> None:
        held = self.held
        check.finite("state: held", held)
        if not held.numel():
            return
        # What a pattern leaves in an empty memory shows what this one may hold.
        blank = torch.zeros(len(held), 1, self.size, device=self.device)
        self.read(blank)  # type: ignore[operator]
        self.clear()
        self.write(blank)  # type: ignore[operator]
        wanted = self.held
        if held.dtype != wanted.dtype or held.ndim != wanted.ndim or held.shape[-1] != wanted.shape[-1]:
            raise ValueError(f"state: expected what such a memory holds, got {held.dtype} {tuple(held.shape)}")

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        make_room(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
