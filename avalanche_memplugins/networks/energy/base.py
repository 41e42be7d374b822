"""What all energy networks share: learned steps of writing and reading."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.nn.functional import softplus

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.energy import Weights, decreasing_steps, energy_read, energy_write

MAX_RATE = 1e4
MAX_STEPS = 1_000


class EnergyNetwork(nn.Module, ABC):
    r"""Base of energy networks :math:`E(x; \theta, \phi)`: weights :math:`\theta` are written, the rest are slow.

    All parameters, rates and step sizes are meta-learned through :meth:`write` and :meth:`read` by
    :func:`~avalanche_memplugins.functional.reconstruction_loss`; afterwards only copies of :math:`\theta` change.

    :param shape: of one pattern.
    :param writable: parameters to write into, each ``(1, *shape)``, by name.
    :param write_steps: :math:`T` >= 0; 0 is a network that cannot write, the control that only fills in.
    :param read_steps: :math:`K` >= 1.
    :param write_rate: rate of the energy's gradient to start from. It hardly moves in training, and 1e-4, as printed in
        the paper, learns nothing in a short one.
    :param slope_rate: rate of the gradient norm's gradient; None: without the term.
    :param deviation_rate: rate of the pull towards the initial weights; None: without the term; needs ``slope_rate``.
    :param read_rate: first step size of reading to start from.
    :raises ValueError: for numbers out of range.

    >>> class Bowl(EnergyNetwork):  # around one written point
    ...     def energy(self, x, weights):
    ...         return (x - weights[0].unsqueeze(1)).square().sum(-1)
    ...
    ...     def architecture(self):
    ...         return {}
    >>> network = Bowl((2,), {"centre": torch.zeros(1, 2)}, write_rate=0.25)
    >>> network.write(torch.full((1, 3, 2), 0.5))[0].shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        writable: dict[str, Tensor],
        *,
        write_steps: int = 5,
        read_steps: int = 4,
        write_rate: float = 20.0,
        slope_rate: float | None = None,
        deviation_rate: float | None = None,
        read_rate: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value, least in (("write_steps", write_steps, 0), ("read_steps", read_steps, 1)):
            check.integer(name, value, least=least, most=MAX_STEPS)
        if deviation_rate is not None and slope_rate is None:
            raise ValueError(f"deviation_rate: expected None, as slope_rate is None, got {deviation_rate!r}")
        rates = {"write_rate": write_rate, "slope_rate": slope_rate, "deviation_rate": deviation_rate}
        for name, rate in {**rates, "read_rate": read_rate}.items():
            if rate is not None or name in ("write_rate", "read_rate"):
                check.number(name, rate, above=0, most=MAX_RATE)
        start = [rate for rate in (write_rate, slope_rate, deviation_rate) if rate is not None]
        self.shape = Size(shape)
        self._writable = tuple(writable)
        for name, weight in writable.items():
            self.register_parameter(name, nn.Parameter(weight))
        raw = torch.tensor([_inverse_softplus(rate) for rate in start])
        self.write_rates = nn.Parameter(raw.repeat(write_steps, len(writable), 1))
        self.read_first = nn.Parameter(torch.tensor(_inverse_softplus(read_rate)))
        self.read_ratios = nn.Parameter(torch.full((read_steps - 1,), 2.0))
        self.read_momenta = nn.Parameter(torch.zeros(read_steps))

    @abstractmethod
    def energy(self, x: Tensor, weights: Weights) -> Tensor:
        """Energies ``(E, N)`` of patterns ``(E, N, *shape)`` under each episode's weights ``(E, ...)``."""

    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """Arguments that make a network like this, as JSON values."""

    def step_counts(self) -> dict[str, Any]:
        """Of the arguments of a network like this, those of writes and reads; learned rates replace the first ones."""
        steps, _, terms = self.write_rates.shape
        return {
            "write_steps": steps,
            "read_steps": len(self.read_momenta),
            "slope_rate": 1.0 if terms > 1 else None,
            "deviation_rate": 1.0 if terms > 2 else None,
        }

    def _check_patterns(self, name: str, value: Tensor) -> None:
        check.floats(**{name: value})
        if value.ndim < 3 or value.shape[2:].numel() != self.size:
            wanted = ", ".join(map(str, self.shape))
            raise ValueError(f"{name}: expected (E, N, {wanted}), got {tuple(value.shape)}")

    def _check_weights(self, weights: Weights) -> None:
        if not isinstance(weights, tuple | list) or len(weights) != len(self._writable):
            raise ValueError(
                f"weights: expected {len(self._writable)} tensors, as write gives, got {check.show(weights)}"
            )
        for weight, initial in zip(weights, self.initial, strict=True):
            if check.tensor("weights", weight).shape[1:] != initial.shape[1:] or not weight.ndim:
                raise ValueError(f"weights: expected (E, *{tuple(initial.shape[1:])}), got {tuple(weight.shape)}")

    def precondition(self, slope: Tensor) -> Tensor:
        """What a read step makes of the energy's gradient, linear; here nothing."""
        check.floats(slope=slope)
        return slope

    @property
    def initial(self) -> Weights:
        """Writable weights before any write, each ``(1, *shape)``."""
        return tuple(self.get_parameter(name) for name in self._writable)

    @property
    def size(self) -> int:
        """Numbers of a pattern."""
        return self.shape.numel()

    @property
    def writable_floats(self) -> int:
        """How many numbers a slot of this memory has."""
        return sum(weight.numel() for weight in self.initial)

    def write(
        self, x: Tensor, *, steps: int | None = None, first_order: bool = False, checkpoint: bool = False
    ) -> Weights:
        """Weights after writing patterns ``(E, N, *shape)``; see :func:`~avalanche_memplugins.functional.energy_write`.

        :param steps: other than learned: the last step's rates are used again, or the last steps left out; 0: none.
        """
        self._check_patterns("x", x)
        rates = softplus(self.write_rates)
        if steps is not None:
            if check.integer("steps", steps, least=0) < 0 or (steps > 0 and not len(rates)):
                raise ValueError(
                    f"steps: expected 0{' or more' if len(rates) else ': this network cannot write'}, got {steps}"
                )
            rates = rates[torch.arange(steps, device=rates.device).clamp(max=len(rates) - 1)]
        return energy_write(self.energy, x, self.initial, rates, first_order=first_order, checkpoint=checkpoint)

    def read(
        self,
        cue: Tensor,
        weights: Weights | None = None,
        *,
        steps: int | None = None,
        known: Tensor | None = None,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        checkpoint: bool = False,
    ) -> list[Tensor]:
        """Every step of reading from cues ``(E, N, *shape)``; see :func:`~avalanche_memplugins.functional.energy_read`.

        :param weights: that :meth:`write` gave; None: the initial ones, a memory with nothing in it.
        :param steps: other than learned: the last ratio of step sizes and the last momentum are used again.
        """
        self._check_patterns("cue", cue)
        if weights is not None:
            self._check_weights(weights)
        steps = len(self.read_momenta) if steps is None else check.positive_integer("steps", steps)
        sizes = decreasing_steps(self.read_first, self.read_ratios, steps)
        index = torch.arange(steps, device=cue.device).clamp(max=len(self.read_momenta) - 1)
        if weights is None:
            weights = tuple(weight.expand(len(cue), *weight.shape[1:]) for weight in self.initial)
        return energy_read(
            self.energy,
            cue,
            weights,
            sizes,
            self.read_momenta.sigmoid()[index],
            precondition=self.precondition,
            known=known,
            temperature=temperature,
            generator=generator,
            checkpoint=checkpoint,
        )


def _inverse_softplus(value: float) -> float:
    return value + math.log(-math.expm1(-value))
