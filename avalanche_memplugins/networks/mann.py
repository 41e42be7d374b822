"""A memory-augmented neural network (MANN): an LSTM that writes to the least used slot."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import softplus

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.slot_addressing import (
    content_weights,
    least_used,
    lrua_usage,
    lrua_write_weights,
    slots_in_use,
)
from avalanche_memplugins.networks.slot_reader import SlotReader

_CORRECTION = 0.1  # how much of a key the LSTM gives at first; the rest is the projection
_SHARP = 10.0  # added to the sharpness before its softplus
_KEEP = -4.0  # of the gate: writes go to the least used slot at first


class MANNState(NamedTuple):
    """What a :class:`MANN` carries: slots ``(E, S, W)``, usage and last read ``(E, S)``, the LSTM's two ``(E, H)``.

    >>> MANN(8, slots=3, width=6, controller=2, hidden=4).blank(1).slots.shape
    torch.Size([1, 3, 6])
    """

    slots: Tensor
    usage: Tensor
    last_read: Tensor
    hidden: Tensor
    cell: Tensor


class MANN(nn.Module):
    r"""Patterns written one by one to the least used slot (LRUA), read by their likeness to a cue.

    .. math::
        w^w_t = g\, w^r_{t-1} + (1 - g)\, w^{lu}_{t-1}, \quad M_t = (1 - w^{lu}_{t-1}) M_{t-1} + w^w_t k_t, \quad
        w^u_t = \gamma w^u_{t-1} + w^r_t + w^w_t

    with :math:`w^r_t = \mathrm{softmax}(\beta \cos(k_t, M_t))`. The key :math:`k_t` is a projection of the pattern
    corrected by the LSTM. A read of a cue begins from the LSTM's first state, so cues do not disturb each other. An
    episode's memory is all that is carried: S (W + 2) + 2 H numbers. With more patterns than slots the oldest go.

    :param size: n, numbers a pattern has, >= 1.
    :param slots: S, >= 1.
    :param width: W, numbers of a slot, >= 1.
    :param controller: H, units of the LSTM, >= 1.
    :param hidden: width of the decoder's hidden layers, >= 1.
    :param decay: :math:`\gamma` of the usage, 0 to 1.
    :raises ValueError: for numbers out of range.

    Source: Santoro et al., "One-shot learning with memory-augmented neural networks", 2016, section 3.

    >>> network = MANN(8, slots=3, width=6, controller=2, hidden=4)
    >>> network(torch.rand(1, 3, 8).round(), torch.rand(1, 2, 8)).shape
    torch.Size([1, 2, 8])
    """

    def __init__(
        self,
        size: int,
        *,
        slots: int = 64,
        width: int = 126,
        controller: int = 32,
        hidden: int = 256,
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        check.positive_integers(slots=slots, controller=controller)
        self.decay = check.number("decay", decay, least=0, most=1)
        self.reader = SlotReader(size, width, hidden=hidden)
        self.size, self.slots, self.width, self.controller = size, slots, width, controller
        self.lstm = nn.LSTMCell(size, controller)
        self.interface = nn.Linear(controller, width + 2)

    @property
    def floats(self) -> int:
        """Numbers of one episode's memory."""
        return self.slots * (self.width + 2) + 2 * self.controller

    def blank(self, episodes: int) -> MANNState:
        """The state before any write."""
        check.positive_integer("episodes", episodes)
        new = self.interface.weight.new_zeros
        slots, units = (episodes, self.slots), (episodes, self.controller)
        return MANNState(new(*slots, self.width), new(slots), new(slots), new(units), new(units))

    def write(self, x: Tensor, state: MANNState | None = None) -> MANNState:
        """The state after writing patterns ``(E, N, n)`` in [0, 1], one after the other."""
        check.rows("x", x, (self.size,), "E, N")
        slots, usage, last_read, hidden, cell = self._state(len(x), state)
        projected = self.reader.key(x)
        for t in range(x.shape[1]):
            hidden, cell = self.lstm(2 * x[:, t] - 1, (hidden, cell))
            key, gate, sharpness = self._interface(projected[:, t], hidden)
            erased = least_used(usage)
            write = lrua_write_weights(usage, last_read, gate)
            slots = slots * (1 - erased.unsqueeze(-1)) + write.unsqueeze(-1) * key.unsqueeze(1)
            last_read = content_weights(slots, key.unsqueeze(1), sharpness.unsqueeze(1)).squeeze(1)
            usage = lrua_usage(usage, last_read, write, decay=self.decay)
        return MANNState(slots, usage, last_read, hidden, cell)

    def read(self, state: MANNState, cue: Tensor) -> Tensor:
        """Patterns ``(E, Q, n)``, in or a little beside [0, 1], for cues ``(E, Q, n)``."""
        check.instance("state", state, MANNState, "a MANNState")
        check.rows("cue", cue, (self.size,), "E, Q")
        hidden, _ = self.lstm((2 * cue - 1).flatten(0, 1))
        key, _, sharpness = self._interface(self.reader.key(cue), hidden.view(*cue.shape[:2], -1))
        return self.reader.decode(content_weights(state.slots, key, sharpness) @ state.slots, cue)

    def forward(self, x: Tensor, cue: Tensor) -> Tensor:
        """Write the patterns ``(E, N, n)``, read the cues ``(E, Q, n)``: ``(E, Q, n)``."""
        return self.read(self.write(x), cue)

    def slots_used(self, state: MANNState) -> Tensor:
        """How many slots hold something, ``(E,)``: S slots of equal norm count S, one alone 1."""
        check.instance("state", state, MANNState, "a MANNState")
        return slots_in_use(state.slots)

    def _state(self, episodes: int, state: MANNState | None) -> MANNState:
        if state is None:
            return self.blank(episodes)
        check.instance("state", state, MANNState, "a MANNState or None")
        return state

    def _interface(self, projected: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Key, gate and sharpness."""
        given = self.interface(hidden)
        key, gate, sharpness = given.split((self.width, 1, 1), -1)
        return projected + _CORRECTION * key, (gate + _KEEP).sigmoid(), 1 + softplus(sharpness + _SHARP)
