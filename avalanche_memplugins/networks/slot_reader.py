"""What MANN and DNC share: one projection for strings and cues, and a decoder beside the cue."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check


class SlotReader(nn.Module):
    r"""From patterns to keys and back: a linear, orthogonal projection Q, and a decoder of what a slot gave.

    .. math:: k(x) = s Q, \qquad \hat s = s + (r - s Q) B + f(r, s), \qquad s = 2 x - 1

    Keys of patterns and of their cues are alike from the first step on, and B begins as the transpose of Q, so a read
    of the right slot is near the pattern before anything is learned. Without this MANN and DNC stay at the mean of two
    strings for minutes.

    :param size: n, numbers a pattern has, >= 1.
    :param width: W, numbers a slot has, >= 1.
    :param hidden: width of the decoder's hidden layers, >= 1.
    :raises ValueError: for numbers below 1.

    >>> reader = SlotReader(8, 6, hidden=4)
    >>> reader.key(torch.rand(2, 8)).shape
    torch.Size([2, 6])
    """

    def __init__(self, size: int, width: int, *, hidden: int = 256) -> None:
        super().__init__()
        check.positive_integers(size=size, width=width, hidden=hidden)
        self.size, self.width = size, width
        self.into = nn.Linear(size, width, bias=False)
        nn.init.orthogonal_(self.into.weight)
        self.back = nn.Linear(width, size, bias=False)
        with torch.no_grad():
            self.back.weight.copy_(self.into.weight.mT)
        self.correct = nn.Sequential(
            nn.Linear(width + size, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, size)
        )
        for parameter in self.correct[-1].parameters():
            nn.init.zeros_(parameter)

    def key(self, x: Tensor) -> Tensor:
        """Keys ``(..., W)`` of patterns or cues ``(..., n)`` in [0, 1]."""
        check.rows("x", x, (self.size,), "...")
        key: Tensor = self.into(2 * x - 1)
        return key

    def decode(self, read: Tensor, cue: Tensor) -> Tensor:
        """Patterns ``(..., n)``, near [0, 1], from what was read ``(..., W)`` and the cues ``(..., n)``."""
        check.rows("read", read, (self.width,), "...")
        check.rows("cue", cue, (self.size,), "...")
        signs = 2 * cue - 1
        missing = read - self.into(signs)
        change: Tensor = self.back(missing) + self.correct(torch.cat([missing, signs], -1))
        return (signs + change + 1) / 2
