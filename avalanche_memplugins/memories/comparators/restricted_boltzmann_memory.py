"""The restricted Boltzmann machine as a memory of bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins.functional.boltzmann import contrastive_divergence, mean_field_read
from avalanche_memplugins.memories._rows import most_within
from avalanche_memplugins.memories.comparators._associative import AssociativeMemory

_FLOAT = 4
_MOMENTUM, _START, _LATE, _SLOWER = 0.9, 0.05, 0.7, 0.2
_LEAST_KNOWN, _MOST_KNOWN = 0.15, 0.85


class RestrictedBoltzmannMemory(AssociativeMemory):
    r"""Patterns of n bits in the n m + n + m weights of a restricted Boltzmann machine, trained on them at each write.

    .. math:: h \leftarrow \tanh(c + W^\top v), \qquad v \leftarrow \tanh(b + W h), \qquad v = 2 x - 1

    A write is some hundred steps of contrastive divergence on the patterns given: it is the slowest of all writes here,
    and few steps do not do. With ``rounds`` the negative phase starts at patterns of which a random 15 to 85 % are
    known and stay (conditional CD), which stores about a third more than plain CD-1. A second write goes on from the
    weights of the first and forgets, as networks do.

    :param size: n, bits a pattern has, >= 1.
    :param hidden: m, hidden units, >= 1.
    :param rounds: of conditional CD; 0: plain CD-1.
    :param write_steps: of gradient descent a write takes, >= 1; the rate is a fifth of itself after 70 % of them.
    :param lr: of these steps, with momentum 0.9.
    :param steps: a read goes up and down so many times, >= 1.
    :param seed: of the first weights and of what is known in writes; the same for all episodes. None: drawn from
        torch's global generator, once.
    :raises ValueError: for arguments out of range, naming the argument.

    Source: Hinton, "Training products of experts by minimizing contrastive divergence", 2002; units of -1 and 1,
    conditional negative phases and settings are ours.

    >>> memory = RestrictedBoltzmannMemory(8, hidden=4, seed=0)
    >>> patterns = torch.tensor([[[1.0, 1, 1, 1, 0, 0, 0, 0], [1, 0, 1, 0, 1, 0, 1, 0]]])
    >>> memory.write(patterns)
    >>> cue = patterns.clone()
    >>> cue[..., 5:] = 0.5  # erased
    >>> torch.equal(memory.read(cue).round(), patterns)
    True
    """

    def __init__(
        self,
        size: int,
        *,
        hidden: int = 64,
        rounds: int = 6,
        write_steps: int = 600,
        lr: float = 0.005,
        steps: int = 50,
        seed: int | None = None,
    ) -> None:
        super().__init__(size)
        self.hidden = check.positive_integer("hidden", hidden)
        self.rounds = check.integer("rounds", rounds, least=0)
        self.write_steps = check.positive_integer("write_steps", write_steps)
        self.steps = check.positive_integer("steps", steps)
        self.lr = check.number("lr", lr, above=0)
        self.seed = check.seed(seed)

    @classmethod
    def from_budget(cls, nbytes: int | str, *, size: int, **kwargs: Any) -> RestrictedBoltzmannMemory:
        """The memory with the most hidden units.

        :param nbytes: bytes of one episode, a number or as in ``"2MB"``.
        :param size: as for :class:`RestrictedBoltzmannMemory`, like ``kwargs``.
        :raises ValueError: if not a single hidden unit fits.
        """
        nbytes = parse_bytes(nbytes, "nbytes")
        check.positive_integer("size", size)
        each, biases = _FLOAT * (size + 1), _FLOAT * size
        hidden = most_within(nbytes - biases, lambda units: units * each, "one hidden unit takes beside the biases")
        return cls(size, hidden=hidden, **kwargs)

    @property
    def floats(self) -> int:
        """Numbers of one episode's memory, n m + n + m."""
        return self.size * self.hidden + self.size + self.hidden

    @torch.no_grad()
    def write(self, patterns: Tensor) -> None:
        """Train on patterns, from the weights that are there.

        :param patterns: ``(E, N, n)``, each entry 0 or 1.
        :raises ValueError: for other shapes or values; nothing changes.
        """
        bits = self._bits("patterns", patterns, writing=True)
        generator = torch.Generator().manual_seed(self.seed)
        first = _START * torch.randn(self.size, self.hidden, generator=generator).to(self.device)
        weight, visible, hidden = parameters = self._parts() if self.held.numel() else self._fresh(first, len(bits))
        speeds = [torch.zeros_like(part) for part in parameters]
        for step in range(self.write_steps):
            known = uniform = None
            if not self.rounds:
                uniform = torch.rand(bits.shape[1], self.hidden, generator=generator).to(self.device)
                uniform = uniform.expand(len(bits), -1, -1)
            else:
                # The same for all episodes: what an episode holds does not depend on how many there are.
                share = _LEAST_KNOWN + (_MOST_KNOWN - _LEAST_KNOWN) * torch.rand(bits.shape[1], 1, generator=generator)
                drawn = torch.rand(bits.shape[1:], generator=generator) < share
                known = drawn.to(self.device).expand_as(bits)
            rounds = max(self.rounds, 1)
            ascent = contrastive_divergence(weight, visible, hidden, bits, known=known, rounds=rounds, uniform=uniform)
            rate = self.lr * (1.0 if step < _LATE * self.write_steps else _SLOWER)
            for part, speed, up in zip(parameters, speeds, ascent, strict=True):
                part.add_(speed.mul_(_MOMENTUM).add_(up, alpha=rate))
        self.held = torch.cat([part.flatten(1) for part in parameters], 1)

    @torch.no_grad()
    def read(self, cue: Tensor, known: Tensor | None = None, *, steps: int | None = None) -> Tensor:
        """Complete cues.

        :param cue: ``(E, N, n)``, each entry 0, 1, or 0.5 if erased.
        :param known: bool like ``cue``: entries that are right and are kept (clamped). None: all may change.
        :param steps: other than the memory's, >= 1.
        :returns: like ``cue``, in [0, 1].
        :raises ValueError: for other shapes or values, or if nothing has been written.
        """
        state = self._bits("cue", cue, known)
        clamped = None if known is None else known.to(self.device)
        weight, visible, hidden = self._parts()
        steps = self._steps(steps, self.steps)
        return (mean_field_read(weight, visible, hidden, state, known=clamped, steps=steps) + 1) / 2

    def _fresh(self, first: Tensor, episodes: int) -> tuple[Tensor, Tensor, Tensor]:
        new = first.new_zeros
        return first.repeat(episodes, 1, 1), new(episodes, self.size), new(episodes, self.hidden)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        sizes = [self.size * self.hidden, self.size, self.hidden]
        weight, visible, hidden = torch.split(self.held.clone(), sizes, 1)
        return weight.view(-1, self.size, self.hidden), visible, hidden

    def _check_sound(self) -> None:
        check.finite("state: held", self.held)
        if self.held.numel() and (self.held.dtype != torch.float32 or self.held.shape[1:] != (self.floats,)):
            held = f"{self.held.dtype} {tuple(self.held.shape)}"
            raise ValueError(f"state: expected {self.floats} float32 numbers an episode, got {held}")

    def get_extra_state(self) -> dict[str, Any]:
        """The seed, which may have been drawn."""
        return {"seed": self.seed}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self.seed = state["seed"]

    def extra_repr(self) -> str:
        """The arguments."""
        return (
            f"{self.size}, hidden={self.hidden}, rounds={self.rounds}, write_steps={self.write_steps}, lr={self.lr}, "
            f"steps={self.steps}"
        )
