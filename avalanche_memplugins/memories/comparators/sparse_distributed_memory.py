"""Sparse distributed memory as a memory of bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins.functional.quantise import pack_bits, packed_size, unpack_bits
from avalanche_memplugins.functional.sparse_distributed import (
    activated,
    hard_locations,
    sparse_distributed_recall,
    sparse_distributed_write,
)
from avalanche_memplugins.memories._rows import most_within
from avalanche_memplugins.memories.comparators._associative import AssociativeMemory

_TYPES = {2: torch.int8, 8: torch.int8, 32: torch.int32}


class SparseDistributedMemory(AssociativeMemory):
    r"""Patterns of n bits in the counters of L hard locations at random addresses, however many are written.

    .. math:: c_{li} \leftarrow \mathrm{clip}(c_{li} + s_i), \; l \text{ near } s; \qquad
        s_i \leftarrow \mathrm{sign} \sum_{l \text{ near } s} c_{li}, \qquad s = 2 x - 1

    A pattern is its own address. In the same bytes, many locations with counters of 2 bits read better than few with
    wide ones, and a number of nearest locations better than a radius.

    The addresses are drawn from the seed and are the same for all episodes. They do not depend on what is written:
    their L n bytes are fixed ones, and are not saved.

    :param size: n, bits a pattern has, >= 1.
    :param locations: L, >= 1.
    :param nearest: locations that a pattern or a cue reaches; None, and no radius: a fiftieth of all.
    :param radius: reach all within this Hamming distance instead.
    :param counter_bits: 2 (counters stay at -1 and 1), 8 (at -127 and 127) or 32.
    :param steps: reads at most, each from what the one before gave; a read ends before if nothing changes.
    :param seed: of the addresses. None: drawn from torch's global generator, once.
    :raises ValueError: for arguments out of range, naming the argument.

    Source: Kanerva, "Sparse distributed memory", 1988.

    >>> memory = SparseDistributedMemory(64, locations=1_000, seed=0)
    >>> patterns = torch.randint(2, (1, 3, 64), generator=torch.Generator().manual_seed(0)).float()
    >>> memory.write(patterns)
    >>> cue = patterns.clone()
    >>> cue[..., :8] = 0.5  # erased
    >>> torch.equal(memory.read(cue), patterns)
    True
    """

    addresses: Tensor

    def __init__(
        self,
        size: int,
        *,
        locations: int = 1_000,
        nearest: int | None = None,
        radius: int | None = None,
        counter_bits: Literal[2, 8, 32] = 2,
        steps: int = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__(size)
        self.locations = check.positive_integer("locations", locations)
        if radius is not None:
            if not 0 <= check.integer("radius", radius, least=0) <= size:
                raise ValueError(f"radius: expected 0 to {size}, got {radius}")
            if nearest is not None:
                raise ValueError(f"nearest: expected None beside radius, got {check.show(nearest)}")
        elif nearest is None:
            nearest = max(1, locations // 50)
        elif check.positive_integer("nearest", nearest) > locations:
            raise ValueError(f"nearest: expected 1 to {locations} locations, got {nearest}")
        self.radius, self.nearest = radius, nearest
        if isinstance(counter_bits, bool) or counter_bits not in tuple(_TYPES):
            raise ValueError(f"counter_bits: expected 2, 8 or 32, got {check.show(counter_bits)}")
        self.counter_bits = int(counter_bits)
        self.steps = check.positive_integer("steps", steps)
        self.register_buffer("addresses", torch.zeros(0), persistent=False)
        self._draw_addresses(check.seed(seed))

    @classmethod
    def from_budget(
        cls, nbytes: int | str, *, size: int, counter_bits: Literal[2, 8, 32] = 2, **kwargs: Any
    ) -> SparseDistributedMemory:
        """The memory with the most locations.

        :param nbytes: bytes of one episode, a number or as in ``"2MB"``.
        :param size: as for :class:`SparseDistributedMemory`, like ``counter_bits`` and ``kwargs``.
        :raises ValueError: if not a single location fits.
        """
        nbytes = parse_bytes(nbytes, "nbytes")
        each = cls(size, locations=1, counter_bits=counter_bits, seed=0)._location_bytes
        locations = most_within(nbytes, lambda number: number * each, "one location takes")
        return cls(size, locations=locations, counter_bits=counter_bits, **kwargs)

    @property
    def nbytes_fixed(self) -> int:
        """Those of the addresses."""
        return self.addresses.nbytes

    @torch.no_grad()
    def write(self, patterns: Tensor) -> None:
        """Add patterns to those stored.

        :param patterns: ``(E, N, n)``, each entry 0 or 1.
        :raises ValueError: for other shapes or values; nothing changes.
        """
        bits = self._bits("patterns", patterns, writing=True)
        old = self._counters() if self.held.numel() else self._empty(len(bits))
        active = activated(self.addresses, bits, radius=self.radius, nearest=self.nearest)
        limit = 1 if self.counter_bits == 2 else torch.iinfo(old.dtype).max
        new = sparse_distributed_write(old, active, bits, limit=limit)
        self.held = pack_bits((new + 1).to(torch.uint8), 2) if self.counter_bits == 2 else new

    @torch.no_grad()
    def read(self, cue: Tensor, known: Tensor | None = None, *, steps: int | None = None) -> Tensor:
        """Complete cues.

        :param cue: ``(E, N, n)``, each entry 0, 1, or 0.5 if erased.
        :param known: bool like ``cue``: entries that are right and are kept (clamped). None: all may change.
        :param steps: reads at most, other than the memory's, >= 1.
        :returns: like ``cue``, 0 or 1; 0.5 stays only where the counters say nothing.
        :raises ValueError: for other shapes or values, or if nothing has been written.
        """
        state = self._bits("cue", cue, known)
        state = sparse_distributed_recall(
            self.addresses,
            self._counters(),
            state,
            radius=self.radius,
            nearest=self.nearest,
            known=None if known is None else known.to(self.device),
            steps=self._steps(steps, self.steps),
        )
        return (state + 1) / 2

    @property
    def _location_bytes(self) -> int:
        return packed_size(self.size, self.counter_bits) if self.counter_bits == 2 else self._empty(1)[0, 0].nbytes

    def _empty(self, episodes: int) -> Tensor:
        shape = (episodes, self.locations, self.size)
        return torch.zeros(shape, dtype=_TYPES[self.counter_bits], device=self.device)

    def _counters(self) -> Tensor:
        if self.counter_bits != 2:
            return self.held
        return unpack_bits(self.held, 2, self.size).to(torch.int8) - 1

    def _draw_addresses(self, seed: int) -> None:
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        self.addresses = hard_locations(self.locations, self.size, generator=generator).to(self.device)

    def _check_sound(self) -> None:
        held = self.held
        super()._check_sound()  # compares with what a write leaves here, of as many episodes
        if held.numel() and held.shape[1:] != self.held.shape[1:]:
            raise ValueError(f"state: expected counters of {self.locations} locations, got {held.shape[1]}")

    def get_extra_state(self) -> dict[str, Any]:
        """The seed, from which the addresses are drawn."""
        return {"seed": self.seed}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, with its addresses."""
        self._draw_addresses(state["seed"])

    def extra_repr(self) -> str:
        """The arguments."""
        return (
            f"{self.size}, locations={self.locations}, nearest={self.nearest}, radius={self.radius}, "
            f"counter_bits={self.counter_bits}, steps={self.steps}"
        )
