"""The state of the global random generators, on which shuffles, dropout and initial weights hang."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def capture_random() -> dict[str, Any]:
    """States of Python's, NumPy's and PyTorch's generators, those of CUDA devices included if CUDA is in use."""
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {
        "python": random.getstate(),
        # Avalanche and its users draw from NumPy's global generator, so that one is to be saved.
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if cuda else [],
    }


def restore_random(states: dict[str, Any]) -> None:
    """Set the generators to what :func:`capture_random` gave."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"].cpu())
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if len(states["cuda"]) > here:
        warnings.warn(
            f"the checkpoint has random states of {len(states['cuda'])} CUDA devices, here are {here}:"
            " what is drawn on the missing ones will differ from a run that never stopped",
            stacklevel=3,
        )
    for index, state in enumerate(states["cuda"][:here]):
        torch.cuda.set_rng_state(state.cpu(), index)


@contextmanager
def frozen_generators() -> Iterator[None]:
    """Leave Python's, NumPy's and torch's CPU generators as they were found.

    For work that is done once, or not at all if its result is at hand already: neither may shift a run's numbers.
    """
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - transforms use this one
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])  # noqa: NPY002
        torch.set_rng_state(state[2])


@contextmanager
def isolated(device: torch.device, seed: int) -> Iterator[None]:
    """Torch's global generators, of the CPU and of ``device``, set from ``seed`` meanwhile and put back after."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield
