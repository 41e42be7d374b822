r"""Energy-based memory: write by gradient descent on weights, read by gradient descent on patterns.

An energy :math:`E(x; \theta)` gives each pattern of each episode a number. Episodes come first everywhere: patterns are
``(E, N, *shape)``, every writable weight is ``(E, *its shape)``, energies are ``(E, N)``. All of it can be
differentiated through, twice where the meta-objective needs it: energies must have second derivatives (tanh, sigmoid,
softplus, not ReLU). Source: Bartunov et al., "Meta-learning deep energy-based memory models", ICLR 2020, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from avalanche_memplugins import _checks as check

Weights: TypeAlias = tuple[Tensor, ...]
Energy: TypeAlias = Callable[[Tensor, Weights], Tensor]
"""``energy(x (E, N, *shape), weights, each (E, *its shape)) -> (E, N)``."""


def energy_write(
    energy: Energy,
    x: Tensor,
    initial: Weights,
    rates: Tensor,
    *,
    first_order: bool = False,
    checkpoint: bool = False,
) -> Weights:
    r"""Write patterns into weights, :math:`T` steps of gradient descent on the mean writing loss of each episode.

    .. math::
        \theta_{t+1} = \theta_t - a_t \nabla_\theta \bar E(\theta_t) - b_t \nabla_\theta \overline{\|\nabla_x E\|^2}
        - 2 c_t (\theta_t - \bar\theta), \qquad \theta_0 = \bar\theta

    Bars over energies and norms are means over an episode's patterns, so that more patterns are not written harder.

    :param energy: of patterns under weights; see :data:`Energy`.
    :param x: ``(E, N, *shape)`` patterns.
    :param initial: :math:`\bar\theta`, writable weights before the write, each ``(E, *its shape)`` or ``(1, ...)``.
    :param rates: ``(T, P, terms)`` rates >= 0 of each step, weight and term. One term: the energy :math:`a`; two: and
        its gradient's norm :math:`b` (about twice the time); three: and the deviation :math:`c`.
    :param first_order: take the gradients as constants when differentiated through: cheaper, and not exact.
    :param checkpoint: keep no graph within a step, compute it again when differentiated through: the memory of one
        step rather than of all, for about a third more time.
    :returns: weights, each ``(E, *its shape)``.
    :raises ValueError: if ``rates`` does not fit.

    Source: section 3.1, "Writing".

    >>> def energy(x, weights):  # a bowl around the weight of the episode
    ...     return (x - weights[0].unsqueeze(1)).square().sum(-1)
    >>> x, start = torch.tensor([[[0.2, 0.8]]]), (torch.zeros(1, 2),)
    >>> energy_write(energy, x, start, torch.full((20, 1, 1), 0.25))[0].detach()
    tensor([[0.2000, 0.8000]])
    """
    _check(energy, "x", x, "initial", initial)
    check.floats(rates=rates)
    check.flags(first_order=first_order, checkpoint=checkpoint)
    if rates.ndim != 3 or rates.shape[1] != len(initial) or not 1 <= rates.shape[2] <= 3:
        raise ValueError(f"rates: expected shape (T, {len(initial)}, 1 to 3), got {tuple(rates.shape)}")
    differentiable = torch.is_grad_enabled() and not first_order
    episodes = x.shape[0]
    start = tuple(weight.expand(episodes, *weight.shape[1:]) for weight in initial)

    def step(rate: Tensor, *weights: Tensor) -> Weights:
        return _write_step(energy, x, start, weights, rate, create_graph=differentiable)

    weights = start
    for rate in rates:
        if checkpoint and differentiable:
            weights = recompute(step, rate, *weights, use_reentrant=False, preserve_rng_state=False)
        else:
            weights = step(rate, *weights)
    return weights


def _write_step(
    energy: Energy, x: Tensor, start: Weights, weights: Weights, rate: Tensor, *, create_graph: bool
) -> Weights:
    terms = rate.shape[-1]
    with torch.enable_grad():
        at = tuple(_leaf(weight, create_graph) for weight in weights)
        # The gradient of the sum over episodes gives every episode its own: no weight is shared between them.
        patterns = x if terms == 1 else _leaf(x, create_graph)
        energies = energy(patterns, at)
        losses = [energies.mean(1).sum()]
        if terms > 1:
            (slope,) = torch.autograd.grad(energies.sum(), patterns, create_graph=True)
            losses.append(slope.square().flatten(2).sum(-1).mean(1).sum())
        gradients = [
            torch.autograd.grad(
                loss,
                at,
                create_graph=create_graph,
                retain_graph=create_graph or term + 1 < len(losses),
                materialize_grads=term > 0,  # a weight may shift the energy and leave its slope alone
            )
            for term, loss in enumerate(losses)
        ]
    new = []
    for p, weight in enumerate(weights):
        change = rate[p, 0] * gradients[0][p]
        if terms > 1:
            change = change + rate[p, 1] * gradients[1][p]
        if terms > 2:
            change = change + 2 * rate[p, 2] * (weight - start[p])
        new.append(weight - change)
    return tuple(new)


def energy_read(
    energy: Energy,
    cue: Tensor,
    weights: Weights,
    step_sizes: Tensor,
    momenta: Tensor,
    *,
    precondition: Callable[[Tensor], Tensor] | None = None,
    known: Tensor | None = None,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    low: float = 0.0,
    high: float = 1.0,
    checkpoint: bool = False,
) -> list[Tensor]:
    r"""Read patterns from distorted cues: :math:`K` projected Nesterov steps down the energy.

    .. math::
        \hat x = \Pi(x_k + \psi_k v_k), \quad v_{k+1} = \psi_k v_k - \gamma_k A \nabla_x E(\hat x; \theta), \quad
        x_{k+1} = \Pi(x_k + v_{k+1})

    :math:`\Pi` clips to the interval and, if ``known`` is given, puts the known entries back. With a temperature
    :math:`\tau` the step becomes Langevin's: :math:`x_{k+1}` gets noise :math:`\mathcal N(0, 2 \tau \gamma_k A)`, and
    reads are draws near the written patterns rather than one point.

    :param energy: of patterns under weights; see :data:`Energy`.
    :param cue: ``(E, N, *shape)``, where reading starts.
    :param weights: written, each ``(E, *its shape)``.
    :param step_sizes: :math:`\gamma`, ``(K,)``, > 0, usually non-increasing: :func:`decreasing_steps`.
    :param momenta: :math:`\psi`, ``(K,)``, in [0, 1).
    :param precondition: :math:`A`, linear and symmetric positive semi-definite, ``(E, N, *shape)`` to the same.
        Langevin's noise takes it as it is, which is right for :math:`A` a projection or the identity, else near.
    :param known: ``(E, N, *shape)`` bool, entries of the cue that are not distorted and are to stay.
    :param temperature: :math:`\tau` >= 0.
    :param generator: of the noise.
    :param low: lower end of the interval.
    :param high: its upper end.
    :param checkpoint: keep no graph within a step; see :func:`energy_write`.
    :returns: :math:`x_0 \ldots x_K`, ``K + 1`` tensors like the cue.
    :raises ValueError: if steps and momenta differ in number, or the temperature is negative.

    Source: section 3.1, "Reading"; the noise: Welling and Teh 2011, equation 2.

    >>> def energy(x, weights):  # a bowl around the weight of the episode
    ...     return (x - weights[0].unsqueeze(1)).square().sum(-1)
    >>> cue, weights = torch.zeros(1, 1, 2), (torch.tensor([[0.25, 0.75]]),)
    >>> energy_read(energy, cue, weights, torch.full((2,), 0.5), torch.zeros(2))[-1].detach()
    tensor([[[0.2500, 0.7500]]])
    """
    _check(energy, "cue", cue, "weights", weights)
    check.shaped(step_sizes=(step_sizes, "K"), momenta=(momenta, "K"))
    if precondition is not None:
        check.function("precondition", precondition, "a function of slopes, or None")
    check.mask("known", known, cue, "cue")
    check.number("temperature", temperature, least=0)
    check.generator("generator", generator)
    _check_interval(low, high)
    check.flag("checkpoint", checkpoint)
    differentiable = torch.is_grad_enabled()
    noise = torch.randn(len(step_sizes), *cue.shape, generator=generator).to(cue) if temperature else None

    def project(x: Tensor) -> Tensor:
        x = x.clamp(low, high)
        return x if known is None else torch.where(known, cue, x)

    def step(x: Tensor, v: Tensor, gamma: Tensor, psi: Tensor, *at: Tensor) -> tuple[Tensor, Tensor]:
        ahead = project(x + psi * v)
        with torch.enable_grad():
            point = _leaf(ahead, differentiable)
            (slope,) = torch.autograd.grad(energy(point, at).sum(), point, create_graph=differentiable)
        v = psi * v - gamma * (slope if precondition is None else precondition(slope))
        return x + v, v

    x, v = project(cue), torch.zeros_like(cue)
    iterates = [x]
    for k, (gamma, psi) in enumerate(zip(step_sizes, momenta, strict=True)):
        if checkpoint and differentiable:
            moved, v = recompute(step, x, v, gamma, psi, *weights, use_reentrant=False, preserve_rng_state=False)
        else:
            moved, v = step(x, v, gamma, psi, *weights)
        if noise is not None:
            kick = noise[k] if precondition is None else precondition(noise[k])
            moved = moved + (2 * temperature * gamma).sqrt() * kick
        x = project(moved)
        iterates.append(x)
    return iterates


def decreasing_steps(first: Tensor, ratios: Tensor, steps: int) -> Tensor:
    r"""Steps that never grow: :math:`\gamma_1 = \mathrm{softplus}(g)`, :math:`\gamma_k = \gamma_{k-1} \sigma(\eta_k)`.

    :param first: :math:`g`, a scalar.
    :param ratios: :math:`\eta`, ``(K - 1,)``; steps beyond ``K`` repeat the last ratio.
    :param steps: how many, >= 1.
    :returns: ``(steps,)``.
    :raises ValueError: if ``steps`` is not positive, or there are several but no ratio.

    Source: section 3.1, "Reading".

    >>> decreasing_steps(torch.tensor(0.0), torch.tensor([0.0]), 3)
    tensor([0.6931, 0.3466, 0.1733])
    """
    check.floats(first=first, ratios=ratios)
    if first.numel() != 1:
        raise ValueError(f"first: expected one number, got shape {tuple(first.shape)}")
    if ratios.ndim != 1:
        raise ValueError(f"ratios: expected shape (K - 1,), got {tuple(ratios.shape)}")
    check.integer("steps", steps)
    if steps < 1 or (steps > 1 and not len(ratios)):
        raise ValueError(f"steps: expected 1 to {'any number' if len(ratios) else '1'}, got {steps}")
    gamma = torch.nn.functional.softplus(first).view(1)
    if steps == 1:
        return gamma
    index = torch.arange(steps - 1, device=ratios.device).clamp(max=len(ratios) - 1)
    return torch.cat([gamma, gamma * ratios[index].sigmoid().cumprod(0)])


def reconstruction_loss(iterates: Sequence[Tensor], x: Tensor, *, last: float = 1.0) -> Tensor:
    r"""Meta-objective: squared error of every read step, :math:`\sum_{k=1}^K \frac{w_k}{EN} \sum \|x - x_k\|^2`.

    :param iterates: :math:`x_0 \ldots x_K` of :func:`energy_read`.
    :param x: ``(E, N, *shape)``, the patterns as they were written.
    :param last: weight :math:`w_K` of the last step, >= 0; the others weigh 1, as all do in the paper.
    :returns: a scalar.

    Source: section 3.2, equation 5.

    >>> x = torch.ones(1, 1, 4)
    >>> reconstruction_loss([0.0 * x, 0.5 * x, x], x)
    tensor(1.)
    """
    check.floats(x=x)
    if not isinstance(iterates, Sequence) or len(iterates) < 2:
        got = f"{len(iterates)} of them" if isinstance(iterates, Sequence) else check.show(iterates)
        raise ValueError(f"iterates: expected a sequence of at least two tensors, got {got}")
    if x.ndim < 3:
        raise ValueError(f"x: expected (E, N, *shape), got {tuple(x.shape)}")
    for step in iterates:
        check.like("x", x, check.tensor("iterates", step).shape, "that of the iterates")
    check.number("last", last, least=0)
    errors = torch.stack([(step - x).square().flatten(2).sum(-1).mean() for step in iterates[1:]])
    return errors[:-1].sum() + last * errors[-1]


def _check(energy: Energy, name: str, patterns: Tensor, called: str, weights: Weights) -> None:
    check.function("energy", energy, "a function of patterns and weights")
    check.floats(**{name: patterns})
    if patterns.ndim < 3:
        raise ValueError(f"{name}: expected (E, N, *shape), got {tuple(patterns.shape)}")
    if not isinstance(weights, tuple | list):
        raise TypeError(f"{called}: expected a tuple of tensors, one a writable weight, got {check.show(weights)}")
    for weight in weights:
        check.floats(**{called: weight})


def _check_interval(low: float, high: float) -> None:
    for name, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise ValueError(f"{name}: expected a number, or infinity for no limit, got {check.show(value)}")
    if not low < high:
        raise ValueError(f"high: expected a number above low={low!r}, got {high!r}")


def _leaf(value: Tensor, keep_graph: bool) -> Tensor:
    """What a gradient can be taken at: of the graph, or cut from it."""
    if keep_graph and value.requires_grad:
        return value
    return value.detach().requires_grad_()
