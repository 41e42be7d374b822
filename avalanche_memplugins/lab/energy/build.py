"""The network that a training's options ask for."""

from __future__ import annotations

from typing import Any

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
