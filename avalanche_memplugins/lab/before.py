"""Checks before the first run, so that nobody waits for an error: folders, data, stream lengths, budgets."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from avalanche_memplugins.benchmarks.registry import BenchmarkInfo
from avalanche_memplugins.benchmarks.roots import data_root

from .spec import RunSpec, Settings
from .store import check_writable
from .strategies import CODECS, STRATEGIES

_SHOWN = 4


def check_before(specs: Sequence[RunSpec], out: Path, settings: Settings, *, here: bool = True) -> None:
    """Raise an error if the runs cannot begin.

    :param specs: the runs.
    :param out: folder for their results, which is made if all is well.
    :param settings: how the runs are carried out.
    :param here: whether the runs read their data on this machine; on a cluster each node has its own.
    :raises ValueError: naming everything that is wrong: a stream that cannot be cut into so many experiences, a memory
        that does not fit its budget or its benchmark, a memory or model that this machine cannot hold, missing data
        that cannot be downloaded, a folder that cannot be written to.
    """
    kinds = list(dict.fromkeys(replace(spec, seed=0) for spec in specs))
    problems = list(dict.fromkeys(why for spec in kinds if (why := _length(spec))))
    problems += [f"{spec.method} on {spec.benchmark}: {why}" for spec in kinds if (why := unsuitable(spec))]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError("; ".join(problems[:_SHOWN]) + more)
    if here:
        _check_own(kinds, settings)
        if too_large := list(dict.fromkeys(why for spec in kinds if (why := _too_large(spec)))):
            raise ValueError("; ".join(too_large[:_SHOWN]))
        with settings.data():
            for info in {spec.benchmark: spec.info for spec in specs}.values():
                _check_data(info)
    check_writable(out)


def _check_own(specs: Sequence[RunSpec], settings: Settings) -> None:
    """Try what a user brings, and models that do not suit every benchmark, once each."""
    # By what may fail: a strategy of ours builds with whatever the others give.
    tried = {
        replace(spec, strategy="naive", options=(), budget=None) if spec.strategy in STRATEGIES else spec: spec
        for spec in specs
        if spec.code or spec.model not in ("mlp", "linear", "linear-zero")
    }
    if not tried:
        return
    # Brings in torch.
    from .run import check_own

    with settings.data():
        for spec in tried:
            check_own(spec)


def _length(spec: RunSpec) -> str | None:
    info = spec.info
    if not info.parts or spec.benchmark_options or info.parts % spec.n_experiences == 0:
        return None
    return f"experiences: expected a divisor of the {info.parts} classes of {info.name}, got {spec.n_experiences}"


def unsuitable(spec: RunSpec) -> str | None:
    """Why the memory of a run cannot be made; None if it can, or if the run has none."""
    return _unsuitable(replace(spec, seed=0))


@lru_cache(maxsize=1000)
def _unsuitable(spec: RunSpec) -> str | None:
    recipe = spec.recipe
    if recipe.memory is None:
        return recipe.unsuitable(spec)
    try:
        recipe.memory(spec)
    except (ValueError, RuntimeError, MemoryError) as problem:  # torch has a RuntimeError for what it cannot hold
        return str(problem).partition("\n")[0] or "not enough memory"
    return None


def _too_large(spec: RunSpec) -> str | None:
    """Why a run certainly does not fit into this machine's memory; None if it may fit.

    Counts only what is certain: rows that are allocated at the start, and the model's weights with their gradients.
    """
    total = memory_of_machine()
    if total is None:
        return None
    info = spec.info
    codec = CODECS.get(spec.all_options.get("codec", ""))
    if codec is not None and codec.bits is not None:
        # At least a bit for each number of a row of 14 x 14, the smallest that a codec makes of an image.
        least = spec.memory_size * min(math.prod(info.input_shape), 196) // 8 if spec.budget is None else spec.budget
        if least > total:
            name = "memory_size" if spec.budget is None else "budget"
            return f"{name}: expected a memory that fits this machine's {total} bytes, got one of at least {least}"
    if spec.model == "mlp":
        units = spec.hidden
        weights = units * (math.prod(info.input_shape) + info.n_classes) + units**2 * (spec.hidden_layers - 1)
        if 8 * weights > total:
            return (
                f"hidden: expected a model that fits this machine's {total} bytes, "
                f"got one of {8 * weights} with its gradients"
            )
    return None


def memory_of_machine() -> int | None:
    """Bytes of memory that this machine has; None if that is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _check_data(info: BenchmarkInfo) -> None:
    root = data_root()
    if info.local or (root is not None and all((root / file).exists() for file in info.files)):
        return
    where = "Avalanche's own folder, since no --data-root and no MEMPLUGINS_DATA names one" if root is None else root
    try:
        # Downloads what is missing; once here, and not in each of the runs at the same time.
        info.build()
    except (OSError, RuntimeError, ValueError) as problem:
        raise ValueError(f"data: {info.name} is not in {where}, and cannot be got: {problem}") from problem
