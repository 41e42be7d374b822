"""Imports what every run needs, once, in the process from which runs are forked; each would else take seconds for it.

Nothing is computed here. A gradient or a parallel loop would start threads, and threads do not survive a fork.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress
from importlib import import_module

_PARENT = os.getppid()
MODULES = (
    "torch",
    "torchvision",
    "avalanche.evaluation.metrics",
    "avalanche.logging",
    "avalanche.training.plugins",
    "avalanche_memplugins.plugins",
    "avalanche_memplugins.pretrained",
    "avalanche_memplugins.lab.run",
    "sklearn.datasets",
)

# A broken installation shows in the run, which imports the same and keeps the traceback.
with suppress(Exception), warnings.catch_warnings():
    # qpsolvers says at its import that GEM has no solver; `compare` tells whoever runs GEM.
    warnings.filterwarnings("ignore", message="no QP solver found")
    for name in MODULES:
        # The command may have ended meanwhile, and whoever reads its output waits for this process.
        if os.getppid() != _PARENT:
            os._exit(0)
        import_module(name)
    # The first optimiser brings in the compiler's modules.
    torch = sys.modules["torch"]
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
