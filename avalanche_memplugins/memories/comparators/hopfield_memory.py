"""The Hopfield network as a memory of bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional import pack_triangle, unpack_triangle
from avalanche_memplugins.functional.hopfield import hebb_rule, hopfield_recall, pseudo_inverse_rule, storkey_rule
from avalanche_memplugins.memories.comparators._associative import AssociativeMemory

_RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hebb": hebb_rule,
    "storkey": storkey_rule,
    "storkey-whole": partial(storkey_rule, whole_field=True),
    "pseudo-inverse": pseudo_inverse_rule,
}


class HopfieldMemory(AssociativeMemory):
    r"""Patterns of n bits in n(n - 1)/2 + n weights, however many are written; read by sign updates.

    .. math:: s_i \leftarrow \mathrm{sign} \sum_j w_{ij} s_j, \qquad s = 2 x - 1

    Rules, in :mod:`~avalanche_memplugins.functional.hopfield`: ``"hebb"``, :math:`W = X^\top X`; ``"storkey"``, pattern
    by pattern, and ``"storkey-whole"``, its shortcut; ``"pseudo-inverse"``, :math:`W = X^+ X`. All can go on writing.
    The triangle of W is kept with its diagonal; reads leave the diagonal out unless told otherwise. EBMM's paper counts
    as many floats.

    :param size: n, bits a pattern has, >= 1.
    :param rule: how patterns are written.
    :param update: ``"asynchronous"``, entries one by one in a random order; ``"in order"``, from the first to the last;
        ``"synchronous"``, all at once.
    :param keep_diagonal: let an entry's own weight count at a read.
    :param sweeps: passes over all entries at most, >= 1; a read ends before if nothing changes.
    :param seed: of the random orders; the same at each read, so a read depends on its arguments only. None: drawn from
        torch's global generator, once.
    :raises ValueError: for arguments out of range, naming the argument.

    Source: Hopfield 1982; as a comparator Bartunov et al., "Meta-learning deep energy-based memory models", 2020,
    table 1.

    >>> memory = HopfieldMemory(4, seed=0)
    >>> memory.write(torch.tensor([[[1.0, 0.0, 1.0, 1.0]]]))
    >>> memory.read(torch.tensor([[[1.0, 0.0, 0.5, 0.5]]]))
    tensor([[[1., 0., 1., 1.]]])
    """

    def __init__(
        self,
        size: int,
        *,
        rule: Literal["hebb", "storkey", "storkey-whole", "pseudo-inverse"] = "pseudo-inverse",
        update: Literal["asynchronous", "in order", "synchronous"] = "asynchronous",
        keep_diagonal: bool = False,
        sweeps: int = 20,
        seed: int | None = None,
    ) -> None:
        super().__init__(size)
        self.rule = check.choice("rule", rule, tuple(_RULES))
        self.update: Literal["asynchronous", "in order", "synchronous"]
        self.update = check.choice("update", update, ("asynchronous", "in order", "synchronous"))
        self.keep_diagonal = check.flag("keep_diagonal", keep_diagonal)
        self.sweeps = check.positive_integer("sweeps", sweeps)
        self.seed = check.seed(seed)

    @property
    def floats(self) -> int:
        """Numbers of one episode's memory, n(n - 1)/2 + n."""
        return self.size * (self.size + 1) // 2

    @torch.no_grad()
    def write(self, patterns: Tensor) -> None:
        """Add patterns to those stored.

        :param patterns: ``(E, N, n)``, each entry 0 or 1.
        :raises ValueError: for other shapes or values; nothing changes.
        """
        bits = self._bits("patterns", patterns, writing=True)
        old = self._weights() if self.held.numel() else bits.new_zeros(len(bits), self.size, self.size)
        self.held = pack_triangle(_RULES[self.rule](old, bits))

    @torch.no_grad()
    def read(self, cue: Tensor, known: Tensor | None = None, *, steps: int | None = None) -> Tensor:
        """Complete cues.

        :param cue: ``(E, N, n)``, each entry 0, 1, or 0.5 if erased.
        :param known: bool like ``cue``: entries that are right and are kept (clamped). None: all may change.
        :param steps: sweeps at most, other than the memory's, >= 1.
        :returns: like ``cue``, 0 or 1; 0.5 stays only where no field ever pointed anywhere.
        :raises ValueError: for other shapes or values, or if nothing has been written.
        """
        state = self._bits("cue", cue, known)
        generator = None if self.update == "in order" else torch.Generator().manual_seed(self.seed)
        state = hopfield_recall(
            self._weights(),
            state,
            known=None if known is None else known.to(self.device),
            update="synchronous" if self.update == "synchronous" else "asynchronous",
            keep_diagonal=self.keep_diagonal,
            sweeps=self._steps(steps, self.sweeps),
            generator=generator,
        )
        return (state + 1) / 2

    def get_extra_state(self) -> dict[str, Any]:
        """The seed, which may have been drawn."""
        return {"seed": self.seed}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self.seed = state["seed"]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # States of before the seed was kept have none of it.
        held = {f"{prefix}_extra_state": self.get_extra_state(), **state_dict}
        super()._load_from_state_dict(held, prefix, *args, **kwargs)

    def _weights(self) -> Tensor:
        return unpack_triangle(self.held, self.size)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{self.size}, rule={self.rule!r}, update={self.update!r}, keep_diagonal={self.keep_diagonal}"
