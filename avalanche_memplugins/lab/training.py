"""Optimisers and schedules of the learning rate, by name. Imports nothing heavy by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from avalanche_memplugins.lab import doors

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

OPTIMIZERS: Mapping[str, str] = {"adam": "Adam", "sgd": "SGD", "adamw": "AdamW"}


def cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """From the learning rate to 0 along half a cosine (Loshchilov & Hutter 2017, arXiv 1608.03983, no restarts)."""
    from torch.optim.lr_scheduler import CosineAnnealingLR

    return CosineAnnealingLR(optimizer, steps)


def step(optimizer: Optimizer, steps: int) -> LRScheduler:
    """A tenth of the learning rate after half of the steps, a hundredth after three quarters."""
    from torch.optim.lr_scheduler import MultiStepLR

    return MultiStepLR(optimizer, sorted({max(1, steps // 2), max(1, 3 * steps // 4)}))


SCHEDULES: Mapping[str, doors.ScheduleFactory | None] = {"constant": None, "cosine": cosine, "step": step}


def check_rates(optimizer: str, momentum: float, schedule: str) -> None:
    """Raise ``ValueError`` unless optimiser and schedule are there, and go together with the momentum."""
    if optimizer not in OPTIMIZERS:
        doors.load("optimizer", optimizer, OPTIMIZERS)
    elif momentum and optimizer != "sgd":
        raise ValueError(f"momentum: expected 0 with {optimizer}, which has its own, got {momentum}")
    if schedule not in SCHEDULES:
        doors.load("schedule", schedule, SCHEDULES)


def make_optimizer(
    name: str, parameters: Iterable[Tensor], *, lr: float, momentum: float = 0.0, weight_decay: float = 0.0
) -> Optimizer:
    """An optimiser.

    :param name: in :data:`OPTIMIZERS`, or a ``"module:function"``.
    :param parameters: of the model; those that need no gradient are left out.
    :param lr: learning rate.
    :param momentum: given to the optimiser if it is not 0.
    :param weight_decay: likewise, and always to ``"adamw"``, whose own default is not 0.

    >>> import torch
    >>> make_optimizer("adamw", [torch.nn.Parameter(torch.zeros(1))], lr=0.1).param_groups[0]["weight_decay"]
    0.0
    """
    import torch

    trained = [weights for weights in parameters if weights.requires_grad]
    given = {"momentum": momentum, "weight_decay": weight_decay}
    settings = {field: value for field, value in given.items() if value or (field, name) == ("weight_decay", "adamw")}
    if name in OPTIMIZERS:
        optimizer: Optimizer = getattr(torch.optim, OPTIMIZERS[name])(trained, lr=lr, **settings)
        return optimizer
    own: Optimizer = doors.make("optimizer", name, OPTIMIZERS, trained, lr=lr, **settings)
    return own


def make_schedule(name: str, optimizer: Optimizer, steps: int) -> Any:
    """A schedule of the learning rate over so many steps; None if it is constant.

    >>> import torch
    >>> optimizer = make_optimizer("sgd", [torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> schedule = make_schedule("step", optimizer, steps=4)
    >>> for _ in range(2): optimizer.step(); schedule.step()
    >>> optimizer.param_groups[0]["lr"]
    0.1
    """
    if name in SCHEDULES:
        known = SCHEDULES[name]
        return None if known is None else known(optimizer, steps)
    return doors.make("schedule", name, SCHEDULES, optimizer, steps)
