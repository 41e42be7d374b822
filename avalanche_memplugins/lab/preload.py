"""Imported by the process that run processes are forked from: what they would all import for seconds each.

Nothing is computed here. A gradient or a parallel loop would start threads, and threads do not survive a fork.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress
from importlib import import_module

_PARENT = os.getppid()


def _import(name: str) -> None:
    """Import a module, unless the command has ended meanwhile: whoever reads its output waits for this process."""
    if os.getppid() != _PARENT:
        os._exit(0)
    import_module(name)


# A broken installation shows in the run, which imports the same and keeps the traceback.
with suppress(Exception), warnings.catch_warnings():
    # qpsolvers says at its import that GEM has no solver; whoever runs GEM is told so by `compare`.
    warnings.filterwarnings("ignore", message="no QP solver found")
    for name in ("torch", "torchvision"):
        _import(name)
    for name in ("evaluation.metrics", "logging", "training.plugins"):
        _import(f"avalanche.{name}")
    _import("avalanche_memplugins.lab.run")
    _import("sklearn.datasets")
    # The first optimiser brings in the compiler's modules.
    torch = sys.modules["torch"]
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
