"""A memory network: encoder, slots, soft attention, decoder; and how to train it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.modern_hopfield import masked_distances
from avalanche_memplugins.networks.episode_training import train_on_episodes

_NEAR = -1.5  # log of the sharpness of a linear network: a pixel more or less counts e ** 0.2


class MemoryNetwork(nn.Module):
    r"""Codes in slots, found by attention and decoded beside the cue.

    .. math::
        m_i = e(x_i), \qquad a = \mathrm{softmax}_i\left( \beta \cos(e(\xi), m_i) \right), \qquad
        \hat x = \xi + d\left( \sum_i a_i m_i, \xi \right)

    Encoder e and decoder d have two hidden layers; :math:`\beta` is learned. An episode's memory is its slots: N x C
    numbers. The decoder starts from the cue, as an energy memory's read does. One encoder for patterns and cues, and a
    decoder that adds to the cue, are what makes it train within minutes: with a query network of its own, or without
    the cue in the sum, attention had not begun to find slots after as many steps.

    ``linear=True`` is a network for images. Encoder and decoder have a linear part beside the layers, which
    :meth:`start_at` sets to the principal components of images; slots are found by how near what they decode to is to
    the cue, on the known entries only:

    .. math:: b_i = \mu + m_i D, \qquad a = \mathrm{softmax}_i\left( -\beta \sum_{j \text{ known}} (b_{ij} - \xi_j)^2
        \right), \qquad \hat x = \mu + \left( \sum_i a_i m_i \right) D + d\left( \sum_i a_i m_i, \xi \right)

    It finds the right slot from the first step on, where the plain network needs minutes.

    :param size: n, numbers a pattern has, >= 1.
    :param code_size: C, numbers a slot holds, >= 1.
    :param hidden: width of the hidden layers, >= 1.
    :param memory: False: the read code is zero, and what is left is completion without memory, the control.
    :param linear: with linear parts, and slots found by known entries.
    :raises ValueError: for sizes below 1, or a linear network without memory.

    Source: Sukhbaatar et al., "End-to-end memory networks", 2015, as EBMM's comparator (Bartunov et al. 2020, section
    4), whose layers are not published; these are ours.

    >>> network = MemoryNetwork(16, code_size=4, hidden=8)
    >>> slots = network.write(torch.rand(1, 5, 16))
    >>> network.read(slots, torch.rand(1, 2, 16)).shape
    torch.Size([1, 2, 16])
    """

    def __init__(
        self, size: int, code_size: int = 128, *, hidden: int = 512, memory: bool = True, linear: bool = False
    ) -> None:
        super().__init__()
        check.positive_integers(size=size, code_size=code_size, hidden=hidden)
        check.flags(memory=memory, linear=linear)
        if linear and not memory:
            raise ValueError("linear: expected False without memory, got True")
        self.size, self.code_size, self.memory, self.linear = size, code_size, memory, linear
        self.encoder = _mlp(size, hidden, code_size)
        self.decoder = _mlp(code_size + size, hidden, size)
        self.log_sharpness = nn.Parameter(torch.tensor(10.0).log())
        # What is read is the cue at first: nothing has to be unlearned.
        last = self.decoder[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        if linear:
            for parameter in self.encoder[-1].parameters():
                nn.init.zeros_(parameter)
            self.mean = nn.Parameter(torch.zeros(size))
            self.into = nn.Parameter(nn.init.orthogonal_(torch.empty(size, code_size)))
            self.back = nn.Parameter(self.into.detach().mT.clone())
            with torch.no_grad():
                self.log_sharpness.fill_(_NEAR)

    @torch.no_grad()
    def start_at(self, images: Tensor) -> None:
        """Set the linear parts to the mean and the first principal components of patterns.

        :param images: ``(M, n)``, M and n at least the code size.
        :raises ValueError: for other shapes, or a network that is not linear.
        """
        if not self.linear:
            raise ValueError("start_at: expected a network with linear=True, got one without")
        check.rows("images", images, (self.size,))
        if min(images.shape) < self.code_size:
            raise ValueError(f"images: expected at least {self.code_size} rows of as many numbers, got {images.shape}")
        centred = images.double() - images.double().mean(0)
        # Eigenvectors of (n, n): M may be in the tens of thousands.
        first = torch.linalg.eigh(centred.mT @ centred)[1].flip(1)[:, : self.code_size]
        self.mean.copy_(images.double().mean(0))
        self.into.copy_(first)
        self.back.copy_(first.mT)

    def write(self, x: Tensor) -> Tensor:
        """Slots ``(E, N, C)`` of patterns ``(E, N, n)`` in [0, 1]."""
        check.rows("x", x, (self.size,), "E, N")
        slots: Tensor = self.encoder(x)
        return slots + (x - self.mean) @ self.into if self.linear else slots

    def attention(self, slots: Tensor, cue: Tensor, known: Tensor | None = None) -> Tensor:
        """Weights ``(E, Q, N)`` of slots ``(E, N, C)`` for cues ``(E, Q, n)``; they sum to 1.

        :param known: bool like ``cue``: entries by which a linear network finds slots; None: all. Another network
            compares codes and does not look at it.
        """
        self._check(slots, cue, known)
        if self.linear:
            mask = torch.ones_like(cue) if known is None else known.to(cue.dtype)
            return (-self.log_sharpness.exp() * masked_distances(self._rebuilt(slots), cue, mask)).softmax(-1)
        query, key = (nn.functional.normalize(code, dim=-1) for code in (self.encoder(cue), slots))
        return (self.log_sharpness.exp() * query @ key.mT).softmax(-1)

    def read(self, slots: Tensor, cue: Tensor, known: Tensor | None = None) -> Tensor:
        """Patterns ``(E, Q, n)``, in or a little beside [0, 1], from slots ``(E, N, C)`` and cues ``(E, Q, n)``.

        :param known: as for :meth:`attention`.
        """
        self._check(slots, cue, known)
        if self.memory:
            code = self.attention(slots, cue, known) @ slots
        else:
            code = cue.new_zeros(*cue.shape[:-1], self.code_size)
        change: Tensor = self.decoder(torch.cat([code, cue], -1))
        return (self._rebuilt(code) if self.linear else cue) + change

    def _rebuilt(self, code: Tensor) -> Tensor:
        return self.mean + code @ self.back

    def _check(self, slots: Tensor, cue: Tensor, known: Tensor | None) -> None:
        check.rows("slots", slots, (self.code_size,), "E, N")
        check.rows("cue", cue, (self.size,), "E, Q")
        check.mask("known", known, cue, "cue")

    def forward(self, x: Tensor, cue: Tensor, known: Tensor | None = None) -> Tensor:
        """Write the patterns ``(E, N, n)``, read the cues ``(E, Q, n)``: ``(E, Q, n)``."""
        return self.read(self.write(x), cue, known)


def train_memory_network(
    network: MemoryNetwork,
    episodes: Callable[[], tuple[Tensor, ...]],
    *,
    steps: int,
    lr: float = 2e-3,
    warm_up: int = 100,
    clip: float = 10.0,
    after_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """:func:`train_on_episodes` of a memory network, all episodes of the same number of patterns.

    :param network: changed in place.
    :param episodes: gives patterns ``(E, N, n)`` and their damaged cues ``(E, N, n)``, new ones each time; for a linear
        network also which entries are known.
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
    return train_on_episodes(
        network,
        lambda _: episodes(),
        steps=steps,
        patterns=(1,),
        lr=lr,
        warm_up=warm_up,
        clip=clip,
        after_step=after_step,
    )


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, outputs)
    )
