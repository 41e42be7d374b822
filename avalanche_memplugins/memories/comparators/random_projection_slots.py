"""Random projections of patterns, read by least squares: the plain control of all memories with slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.slot_addressing import project_completions
from avalanche_memplugins.memories.comparators._associative import AssociativeMemory


class RandomProjectionSlots(AssociativeMemory):
    r"""One slot a pattern, which holds W random sums of its entries; a cue solves for what it does not know.

    .. math::
        m_i = Q^\top (x_i - \tfrac12), \qquad
        \min_{i, u} \; \| m_i - Q_K^\top k - Q_U^\top u \|^2 + \lambda \| u \|^2

    k and u are the known and the erased entries less a half. The slot whose least squares leave least is taken, and its
    u fills the cue. Nothing is trained: with W above the number of erased entries a read is exact, so this says what a
    trained memory of as many floats is worth on random bits.

    :param size: n, numbers a pattern has, >= 1.
    :param width: W, numbers of a slot, 1 to n.
    :param ridge: :math:`\lambda` > 0; small: the entries may be anything.
    :param seed: of the projection, whose bytes are fixed. None: drawn from torch's global generator, once.
    :raises ValueError: for arguments out of range, naming the argument.

    Source: a control of ours.

    >>> memory = RandomProjectionSlots(8, width=5, seed=0)
    >>> x = torch.randint(2, (1, 3, 8), generator=torch.Generator().manual_seed(0)).float()
    >>> memory.write(x)
    >>> cue = x.clone()
    >>> cue[..., :4] = 0.5  # erased
    >>> torch.equal(memory.read(cue).round(), x)
    True
    """

    projection: Tensor

    def __init__(self, size: int, *, width: int = 1, ridge: float = 1e-3, seed: int | None = None) -> None:
        super().__init__(size)
        self.width = check.positive_integer("width", width)
        if width > size:
            raise ValueError(f"width: expected 1 to {size}, got {width}")
        self.ridge = check.number("ridge", ridge, above=0)
        self.register_buffer("projection", torch.zeros(0), persistent=False)
        self._draw_projection(check.seed(seed))

    @property
    def nbytes_fixed(self) -> int:
        """Those of the projection."""
        return self.projection.nbytes

    def __len__(self) -> int:
        """Patterns held an episode."""
        return self.held.shape[1] if self.held.ndim > 1 else 0

    @torch.no_grad()
    def write(self, patterns: Tensor) -> None:
        """Add patterns, a slot each.

        :param patterns: ``(E, N, n)``.
        :raises ValueError: for another shape.
        """
        x = self._patterns("patterns", patterns, writing=True).to(self.device, torch.float32)
        slots = (x - 0.5) @ self.projection
        self.held = torch.cat([self.held, slots], 1) if len(self) else slots

    @torch.no_grad()
    def read(self, cue: Tensor, known: Tensor | None = None, *, steps: int | None = None) -> Tensor:
        """Complete cues.

        :param cue: ``(E, N, n)``.
        :param known: bool like ``cue``: entries that are right and are kept. None: all that are not 0.5.
        :param steps: a read is exact: more steps change nothing.
        :returns: like ``cue``.
        :raises ValueError: for other shapes, or if nothing has been written.
        """
        x = self._patterns("cue", cue, known).to(self.device, torch.float32)
        self._steps(steps, 1)
        told = x != 0.5 if known is None else known.to(self.device)
        return 0.5 + project_completions(self.projection, self.held, x - 0.5, told, ridge=self.ridge)

    def _draw_projection(self, seed: int) -> None:
        self.seed = seed
        drawn = torch.randn(self.size, self.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.projection = torch.linalg.qr(drawn)[0][:, : self.width].float().to(self.device)

    def get_extra_state(self) -> dict[str, Any]:
        """The seed, from which the projection is drawn."""
        return {"seed": self.seed}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, with its projection."""
        self._draw_projection(state["seed"])

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{self.size}, width={self.width}, ridge={self.ridge}"
