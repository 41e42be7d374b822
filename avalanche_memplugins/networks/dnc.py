"""The differentiable neural computer: content, allocation and temporal links over slots."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.slot_addressing import (
    allocation_weights,
    content_weights,
    dnc_usage,
    link_slots,
    slots_in_use,
)
from avalanche_memplugins.networks.slot_reader import SlotReader

_CORRECTION = 0.1
_SHARP = 10.0
_FREE = 4.0  # of the free gate: open at first


class DNCState(NamedTuple):
    """What a :class:`DNC` carries: slots ``(E, S, W)``, links ``(E, S, S)``, usage, precedence and last read
    ``(E, S)``, the LSTM's two ``(E, H)``.

    >>> DNC(8, slots=3, width=6, controller=2, hidden=4).blank(1).links.shape
    torch.Size([1, 3, 3])
    """

    slots: Tensor
    links: Tensor
    usage: Tensor
    precedence: Tensor
    last_read: Tensor
    hidden: Tensor
    cell: Tensor


class DNC(nn.Module):
    r"""Patterns written one by one to free slots, read by content and along the order in which they were written.

    .. math::
        w^w = g_w (g_a a + (1 - g_a) c^w), \quad M \leftarrow M \circ (1 - w^w e^\top) + w^w v^\top, \quad
        w^r = \pi_1 L^\top w^r + \pi_2 c^r + \pi_3 L w^r

    :math:`a` allocates unused slots, :math:`c` finds slots like a key, the links :math:`L` lead from slot to slot in
    the order of writing. One read head. A read takes two hops: the first by content, the second in a mixture of the
    three modes. An episode's memory is all that is carried: S (W + S + 3) + 2 H numbers.

    **The free gate** clears the usage of what has just been read. A write step reads the slot that it has just written
    (nothing is more like its key), so an open free gate gives that slot free again. Other slots have some usage from
    blurred writes: the next pattern goes into the same slot, and the DNC collapses to a few of them. That is why it is
    off here; ``free_gate=True`` with ``gate_bias=0`` shows the collapse, and :meth:`slots_used` counts it.

    :param size: n, numbers a pattern has, >= 1.
    :param slots: S, >= 1.
    :param width: W, numbers of a slot, >= 1.
    :param controller: H, units of the LSTM, >= 1.
    :param hidden: width of the decoder's hidden layers, >= 1.
    :param free_gate: let reads free slots while writing, with the gate of the paper, open at first.
    :param gate_bias: of the write and the allocation gate before training; 4: each pattern is written, and to a free
        slot; 0 is usual: both are half open, and writes are blurred.
    :raises ValueError: for numbers out of range.

    Source: Graves et al., "Hybrid computing using a neural network with dynamic external memory", 2016, methods.

    >>> network = DNC(8, slots=3, width=6, controller=2, hidden=4)
    >>> network(torch.rand(1, 3, 8).round(), torch.rand(1, 2, 8)).shape
    torch.Size([1, 2, 8])
    """

    def __init__(
        self,
        size: int,
        *,
        slots: int = 52,
        width: int = 102,
        controller: int = 32,
        hidden: int = 256,
        free_gate: bool = False,
        gate_bias: float = 4.0,
    ) -> None:
        super().__init__()
        check.positive_integers(slots=slots, controller=controller)
        self.free_gate = check.flag("free_gate", free_gate)
        self.gate_bias = check.number("gate_bias", gate_bias)
        self.reader = SlotReader(size, width, hidden=hidden)
        self.size, self.slots, self.width, self.controller = size, slots, width, controller
        self.lstm = nn.LSTMCell(size + width, controller)
        # Write: key, erase, content; strength, free, allocation and write gate. Read: key; strength, three modes.
        self.write_interface = nn.Linear(controller, 3 * width + 4)
        self.read_interface = nn.Linear(controller, width + 4)

    @property
    def floats(self) -> int:
        """Numbers of one episode's memory."""
        return self.slots * (self.width + self.slots + 3) + 2 * self.controller

    def blank(self, episodes: int) -> DNCState:
        """The state before any write."""
        check.positive_integer("episodes", episodes)
        new = self.read_interface.weight.new_zeros
        row, units = (episodes, self.slots), (episodes, self.controller)
        return DNCState(
            new(*row, self.width), new(*row, self.slots), new(row), new(row), new(row), new(units), new(units)
        )

    def write(self, x: Tensor, state: DNCState | None = None) -> DNCState:
        """The state after writing patterns ``(E, N, n)`` in [0, 1], one after the other."""
        check.rows("x", x, (self.size,), "E, N")
        slots, links, usage, precedence, last_read, hidden, cell = self._state(len(x), state)
        projected = self.reader.key(x)
        for t in range(x.shape[1]):
            read = (last_read.unsqueeze(1) @ slots).squeeze(1)
            hidden, cell = self.lstm(torch.cat([2 * x[:, t] - 1, read], -1), (hidden, cell))
            given = self.write_interface(hidden)
            key, erase, content, strength, free, allocate, write_gate = given.split(
                (self.width, self.width, self.width, 1, 1, 1, 1), -1
            )
            key, content = (projected[:, t] + _CORRECTION * part for part in (key, content))
            allocate, write_gate = (allocate + self.gate_bias).sigmoid(), (write_gate + self.gate_bias).sigmoid()
            sharpness = 1 + softplus(strength + _SHARP)
            alike = content_weights(slots, key.unsqueeze(1), sharpness.unsqueeze(1)).squeeze(1)
            write = write_gate * (allocate * allocation_weights(usage) + (1 - allocate) * alike)
            slots = slots * (1 - write.unsqueeze(-1) * erase.sigmoid().unsqueeze(1))
            slots = slots + write.unsqueeze(-1) * content.unsqueeze(1)
            links, precedence = link_slots(links, precedence, write)
            mixed = self._weights(slots, links, last_read.unsqueeze(1), projected[:, t : t + 1], hidden.unsqueeze(1))
            last_read = mixed.squeeze(1)
            freed = (free + _FREE).sigmoid() if self.free_gate else 0.0
            usage = dnc_usage(usage, write, last_read, freed)
        return DNCState(slots, links, usage, precedence, last_read, hidden, cell)

    def read(self, state: DNCState, cue: Tensor) -> Tensor:
        """Patterns ``(E, Q, n)``, in or a little beside [0, 1], for cues ``(E, Q, n)``."""
        check.instance("state", state, DNCState, "a DNCState")
        check.rows("cue", cue, (self.size,), "E, Q")
        key, signs = self.reader.key(cue), 2 * cue - 1
        read = cue.new_zeros(*cue.shape[:2], self.width)
        weights: Tensor | None = None
        hidden: tuple[Tensor, Tensor] | None = None
        for _ in range(2):
            hidden = self.lstm(torch.cat([signs, read], -1).flatten(0, 1), hidden)
            given = hidden[0].view(*cue.shape[:2], -1)
            weights = self._weights(state.slots, state.links, weights, key, given)
            read = weights @ state.slots
        return self.reader.decode(read, cue)

    def forward(self, x: Tensor, cue: Tensor) -> Tensor:
        """Write the patterns ``(E, N, n)``, read the cues ``(E, Q, n)``: ``(E, Q, n)``."""
        return self.read(self.write(x), cue)

    def slots_used(self, state: DNCState) -> Tensor:
        """How many slots hold something, ``(E,)``: S slots of equal norm count S, one alone 1."""
        check.instance("state", state, DNCState, "a DNCState")
        return slots_in_use(state.slots)

    def _state(self, episodes: int, state: DNCState | None) -> DNCState:
        if state is None:
            return self.blank(episodes)
        check.instance("state", state, DNCState, "a DNCState or None")
        return state

    def _weights(self, slots: Tensor, links: Tensor, last: Tensor | None, key: Tensor, hidden: Tensor) -> Tensor:
        """Weights ``(E, Q, S)`` of a read head: content alone if nothing was read before."""
        change, strength, modes = self.read_interface(hidden).split((self.width, 1, 3), -1)
        content = content_weights(slots, key + _CORRECTION * change, 1 + softplus(strength + _SHARP))
        if last is None:
            return content
        # Content first: 99.5 % of the mixture before anything is learned.
        backward, direct, forward = (modes + modes.new_tensor([-3.0, 3.0, -3.0])).softmax(-1).split(1, -1)
        mixed: Tensor = backward * (last @ links) + direct * content + forward * (last @ links.mT)
        return mixed
