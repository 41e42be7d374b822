"""A memory network: encoder, slots, soft attention, decoder; and how to train it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check


class MemoryNetwork(nn.Module):
    r"""Codes in slots, found by attention and decoded beside the cue.

    .. math::
        m_i = e(x_i), \qquad a = \mathrm{softmax}_i\left( \beta \cos(e(\xi), m_i) \right), \qquad
        \hat x = \xi + d\left( \sum_i a_i m_i, \xi \right)

    Encoder e and decoder d have two hidden layers; :math:`\beta` is learned. An episode's memory is its slots: N x C
    numbers. The decoder starts from the cue, as an energy memory's read does. One encoder for patterns and cues, and a
    decoder that adds to the cue, are what makes it train within minutes: with a query network of its own, or without
    the cue in the sum, attention had not begun to find slots after as many steps.

    :param size: n, numbers a pattern has, >= 1.
    :param code_size: C, numbers a slot holds, >= 1.
    :param hidden: width of the hidden layers, >= 1.
    :param memory: False: the read code is zero, and what is left is completion without memory, the control.
    :raises ValueError: for sizes below 1.

    Source: Sukhbaatar et al., "End-to-end memory networks", 2015, as EBMM's comparator (Bartunov et al. 2020, section
    4), whose layers are not published; these are ours.

    >>> network = MemoryNetwork(16, code_size=4, hidden=8)
    >>> slots = network.write(torch.rand(1, 5, 16))
    >>> network.read(slots, torch.rand(1, 2, 16)).shape
    torch.Size([1, 2, 16])
    """

    def __init__(self, size: int, code_size: int = 128, *, hidden: int = 512, memory: bool = True) -> None:
        super().__init__()
        check.positive_integers(size=size, code_size=code_size, hidden=hidden)
        check.flag("memory", memory)
        self.size, self.code_size, self.memory = size, code_size, memory
        self.encoder = _mlp(size, hidden, code_size)
        self.decoder = _mlp(code_size + size, hidden, size)
        self.log_sharpness = nn.Parameter(torch.tensor(10.0).log())
        # What is read is the cue at first: nothing has to be unlearned.
        last = self.decoder[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def write(self, x: Tensor) -> Tensor:
        """Slots ``(E, N, C)`` of patterns ``(E, N, n)`` in [0, 1]."""
        check.rows("x", x, (self.size,), "E, N")
        slots: Tensor = self.encoder(x)
        return slots

    def attention(self, slots: Tensor, cue: Tensor) -> Tensor:
        """Weights ``(E, Q, N)`` of slots ``(E, N, C)`` for cues ``(E, Q, n)``; they sum to 1."""
        self._check(slots, cue)
        query, key = (nn.functional.normalize(code, dim=-1) for code in (self.encoder(cue), slots))
        return (self.log_sharpness.exp() * query @ key.mT).softmax(-1)

    def read(self, slots: Tensor, cue: Tensor) -> Tensor:
        """Patterns ``(E, Q, n)``, in or a little beside [0, 1], from slots ``(E, N, C)`` and cues ``(E, Q, n)``."""
        self._check(slots, cue)
        if self.memory:
            code = self.attention(slots, cue) @ slots
        else:
            code = cue.new_zeros(*cue.shape[:-1], self.code_size)
        change: Tensor = self.decoder(torch.cat([code, cue], -1))
        return cue + change

    def _check(self, slots: Tensor, cue: Tensor) -> None:
        check.rows("slots", slots, (self.code_size,), "E, N")
        check.rows("cue", cue, (self.size,), "E, Q")

    def forward(self, x: Tensor, cue: Tensor) -> Tensor:
        """Write the patterns ``(E, N, n)``, read the cues ``(E, Q, n)``: ``(E, Q, n)``."""
        return self.read(self.write(x), cue)


def train_memory_network(
    network: MemoryNetwork,
    episodes: Callable[[], tuple[Tensor, Tensor]],
    *,
    steps: int,
    lr: float = 2e-3,
    warm_up: int = 100,
    clip: float = 10.0,
    after_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Fit a memory network to episodes by Adam on the squared error of what it reads; returns that error, step by step.

    The rate falls to a hundredth by half a cosine. The network stays in the mode that it has.

    :param network: changed in place.
    :param episodes: gives patterns ``(E, N, n)`` and their damaged cues ``(E, N, n)``, new ones each time.
    :param steps: >= 1.
    :param lr: of Adam, at its highest.
    :param warm_up: steps over which the rate rises.
    :param clip: of the gradient's norm.
    :param after_step: called with the number of steps done and the step's error, a pattern, summed over its entries.
    :raises ValueError: if ``steps`` is below 1.

    >>> network, x = MemoryNetwork(16, code_size=4, hidden=8), torch.rand(1, 5, 16)
    >>> losses = train_memory_network(network, lambda: (x, 0.9 * x), steps=3)
    >>> len(losses)
    3
    """
    check.instance("network", network, MemoryNetwork, "a MemoryNetwork")
    check.function("episodes", episodes, "a function that gives patterns and cues")
    check.positive_integers(steps=steps, warm_up=warm_up)
    check.number("lr", lr, above=0)
    check.number("clip", clip, above=0)
    if after_step is not None:
        check.function("after_step", after_step)
    optimizer = torch.optim.Adam(network.parameters(), lr)
    errors = []
    for step in range(1, steps + 1):
        rate = min(1.0, step / warm_up) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        optimizer.param_groups[0]["lr"] = lr * rate
        x, cue = episodes()
        error = (network(x, cue) - x).square().sum(-1).mean()
        optimizer.zero_grad()
        torch.autograd.backward(error)
        nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        errors.append(float(error.detach()))
        if after_step is not None:
            after_step(step, errors[-1])
    return errors


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, outputs)
    )
