"""The network that a training's options ask for."""

from __future__ import annotations

from typing import Any

import torch

from avalanche_memplugins.networks.energy import (
    ConvolutionalEnergy,
    EnergyNetwork,
    FullyConnectedEnergy,
    GatedEnergy,
    Whitening,
)

from .options import EnergyTraining
from .tasks import Task


def build(options: EnergyTraining, task: Task) -> EnergyNetwork:
    """A network with first weights from the global generator; whitening from the task's images.

    :raises ValueError: for a network that does not suit the data.
    """
    steps: dict[str, Any] = {
        "write_steps": options.write_steps,
        "read_steps": options.read_steps,
        "write_rate": options.write_rate,
        "read_rate": options.read_rate,
        "slope_rate": options.slope_rate,
        "deviation_rate": options.deviation_rate,
    }
    if options.network == "gated":
        whitening = None
        if task.images is not None:
            whitening = Whitening.of(task.images, rank=min(options.rank, task.size))
        return GatedEnergy(
            task.size,
            writable=options.writable,
            width=options.width,
            hops=options.hops,
            whitening=whitening,
            **steps,
        )
    if task.images is None or task.images.ndim != 4:
        raise ValueError(
            f"network: {options.network!r} is for images, got data={options.data!r} and label_bits={options.label_bits}"
        )
    kind = FullyConnectedEnergy if options.network == "fully-connected" else ConvolutionalEnergy
    network = kind(task.images.shape[1:], writable=options.writable, width=options.width, hops=options.hops, **steps)
    return network


def start_from(network: EnergyNetwork, other: EnergyNetwork) -> None:
    """Give a network another's weights; steps of writing and reading beyond the other's repeat its last.

    :raises ValueError: if they differ in more than their numbers of steps.
    """
    mine, theirs = network.state_dict(), other.state_dict()
    for name in ("write_rates", "read_ratios", "read_momenta"):
        wanted, given = len(mine[name]), len(theirs[name])
        if given:
            theirs[name] = theirs[name][torch.arange(wanted).clamp(max=given - 1)]
    shapes = [{name: value.shape for name, value in state.items()} for state in (mine, theirs)]
    differ = sorted(name for name in mine.keys() | theirs.keys() if shapes[0].get(name) != shapes[1].get(name))
    if differ:
        raise ValueError(f"init: expected a network of the same sizes, got one that differs in {', '.join(differ)}")
    network.load_state_dict(theirs)
