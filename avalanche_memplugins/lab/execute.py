"""One run, from spec to numbers."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from .result import RunResult
from .spec import RunSpec

_NOISE = ("DeprecationWarning:", "UserWarning: No loggers specified", "UserWarning: no QP solver found")


def execute(spec: RunSpec) -> RunResult:
    """Train on each experience in turn and test on all of them after each.

    :returns: the numbers, or the traceback if anything was raised.
    """
    with _recorded_warnings() as warned:
        try:
            numbers = _train(spec)
        except Exception:
            return RunResult(spec=spec, error=traceback.format_exc(), environment=_environment())
    return RunResult(spec=spec, **numbers, warnings=tuple(warned()), environment=_environment())


def _train(spec: RunSpec) -> dict[str, Any]:
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training.determinism.rng_manager import RNGManager
    from avalanche.training.plugins import EvaluationPlugin

    from .builders import build, open_benchmark

    benchmark = open_benchmark(spec)
    # After the benchmark is built, so that every strategy of a seed begins with the same weights.
    RNGManager.set_random_seeds(spec.seed)
    built = build(spec, benchmark, EvaluationPlugin(accuracy_metrics(experience=True), loggers=None))
    strategy = built.strategy
    accuracy, seconds, nbytes = [], [], []
    for experience in benchmark.train_stream:
        start = time.perf_counter()
        strategy.train(experience)
        seconds.append(time.perf_counter() - start)
        nbytes.append(built.memory_bytes())
        accuracy.append(_by_experience(strategy.eval(benchmark.test_stream), len(benchmark.test_stream)))
    weights = hashlib.sha256()
    for value in strategy.model.state_dict().values():
        weights.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return {
        "accuracy": tuple(accuracy),
        "train_seconds": tuple(seconds),
        "memory_bytes": tuple(nbytes),
        "fixed_bytes": built.fixed_bytes(),
        "weights": weights.hexdigest(),
    }


def _by_experience(metrics: dict[str, Any], n_experiences: int) -> tuple[float, ...]:
    found: dict[int, float] = {}
    for name, value in metrics.items():
        match = re.fullmatch(r"Top1_Acc_Exp/eval_phase/test_stream/(?:Task\d+/)?Exp(\d+)", name)
        if match:
            found[int(match[1])] = float(value)
    if sorted(found) != list(range(n_experiences)):
        raise RuntimeError(f"wants one accuracy for each of {n_experiences} experiences, Avalanche gave {found}")
    return tuple(found[k] for k in range(n_experiences))


@contextmanager
def _recorded_warnings() -> Iterator[Any]:
    """Keeps the screen clean, yet loses no warning but those that Avalanche gives about itself in every run."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")

        def messages() -> list[str]:
            # Sorted out here and not by filters, since Avalanche resets the filters when it warns.
            told = [f"{item.category.__name__}: {item.message}" for item in caught]
            return [text for text in dict.fromkeys(told) if not text.startswith(_NOISE)]

        yield messages


def _environment() -> dict[str, str]:
    packages = ("avalanche-memplugins", "avalanche-lib", "torch", "numpy")
    return {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "threads": str(torch.get_num_threads()),
        "cores": str(os.cpu_count()),
        **{name: version(name) for name in packages},
    }
