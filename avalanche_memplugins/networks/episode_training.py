"""One training loop for all networks that are written and read in episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check

EpisodeLoss: TypeAlias = Callable[..., Tensor]
_MEMORY = 0.95  # of the running error that moves the curriculum on


def train_on_episodes(
    network: nn.Module,
    episodes: Callable[[int], tuple[Tensor, ...]],
    *,
    steps: int,
    patterns: Sequence[int],
    advance_below: float = 1.0,
    loss: EpisodeLoss | None = None,
    lr: float = 2e-3,
    warm_up: int = 100,
    clip: float = 1.0,
    after_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Fit a network to episodes by Adam: patterns are written, read from damaged cues, and the error is learned from.

    The number of patterns an episode grows as the curriculum says. The rate falls to a hundredth by half a cosine over
    all steps. The network stays in the mode that it has.

    :param network: changed in place. Called with what ``episodes`` gives, it returns patterns as they are read.
    :param episodes: given a number of patterns N, returns patterns ``(E, N, n)``, their damaged cues, and what else the
        network or ``loss`` takes, new ones each time.
    :param steps: >= 1.
    :param patterns: the curriculum: numbers of patterns, each >= 1, such as ``(2, 4, 8, 16)``. The next one is taken
        when the running error is below ``advance_below``.
    :param advance_below: an error, summed over the entries of a pattern.
    :param loss: of the network and what ``episodes`` gives, for one whose call does not return the patterns as they are
        read: an energy network's reads, a Kanerva machine's bound. None: the squared error of what is read, a pattern,
        summed over its entries.
    :param lr: of Adam, at its highest.
    :param warm_up: steps over which the rate rises, >= 1.
    :param clip: of the gradient's norm, > 0.
    :param after_step: called with the number of steps done and the step's error.
    :returns: the error, step by step.
    :raises ValueError: for arguments out of range.

    >>> from avalanche_memplugins.networks import MANN
    >>> network, x = MANN(8, slots=4, width=6, controller=2, hidden=4), torch.ones(1, 4, 8)
    >>> errors = train_on_episodes(network, lambda count: (x[:, :count], 0.5 * x[:, :count]), steps=3, patterns=(2, 4))
    >>> len(errors)
    3
    """
    check.instance("network", network, nn.Module, "a module")
    check.function("episodes", episodes, "a function that gives patterns and cues")
    check.positive_integers(steps=steps, warm_up=warm_up)
    counts = check.integers("patterns", patterns)
    for name, value in (("lr", lr), ("clip", clip), ("advance_below", advance_below)):
        check.number(name, value, above=0)
    check.optional_function(loss=loss, after_step=after_step)
    measure = squared_error if loss is None else loss
    optimizer = torch.optim.Adam(network.parameters(), lr)
    errors: list[float] = []
    stage, running = 0, math.inf
    for step in range(1, steps + 1):
        rate = min(1.0, step / warm_up) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        optimizer.param_groups[0]["lr"] = lr * rate
        error = measure(network, *episodes(counts[stage]))
        optimizer.zero_grad()
        torch.autograd.backward(error)
        nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        errors.append(float(error.detach()))
        running = errors[-1] if running == math.inf else _MEMORY * running + (1 - _MEMORY) * errors[-1]
        if running < advance_below and stage + 1 < len(counts):
            stage, running = stage + 1, math.inf
        if after_step is not None:
            after_step(step, errors[-1])
    return errors


def squared_error(network: nn.Module, x: Tensor, *rest: Tensor) -> Tensor:
    """Mean over patterns of the squared error of what the network reads, summed over their entries.

    >>> class Same(nn.Module):
    ...     def forward(self, x, cue):
    ...         return cue
    >>> squared_error(Same(), torch.ones(1, 1, 4), torch.zeros(1, 1, 4))
    tensor(4.)
    """
    error: Tensor = (network(x, *rest) - x).square().sum(-1).mean()
    return error
