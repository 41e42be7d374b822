"""Imported by the process that run processes are forked from: what they would all import for seconds each.

Nothing is computed here. A gradient or a parallel loop would start threads, and threads do not survive a fork.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from importlib import import_module

# A broken installation shows in the run, which imports the same and keeps the traceback.
with suppress(Exception), warnings.catch_warnings():
    # qpsolvers says at its import that GEM has no solver; whoever runs GEM is told so by `compare`.
    warnings.filterwarnings("ignore", message="no QP solver found")
    for name in ("evaluation.metrics", "logging", "training.plugins"):
        import_module(f"avalanche.{name}")
    for name in ("builders", "execute", "perform"):
        import_module(f"avalanche_memplugins.lab.{name}")
    import_module("sklearn.datasets")
    # The first optimiser brings in the compiler's modules.
    torch = import_module("torch")
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
