"""Checks before the first run, so that nobody waits for an error: folders, data, stream lengths, budgets."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from avalanche_memplugins.benchmarks.registry import BENCHMARKS
from avalanche_memplugins.benchmarks.roots import data_root

from .settings import Settings
from .spec import RunSpec
from .store import check_writable
from .strategies import OURS, STRATEGIES
from .strategy_info import LABEL_BYTES

_SHOWN = 4
# Hold what they have learned, which a budget limits and does not fill; or codes, which are smaller than any image.
_GROWING = ("gaussian", "kanerva", "kanerva-shared", "energy", "vae", "er-latent", "er-mbpa-latent", "knn-latent")


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
    problems += [f"{spec.strategy} on {spec.benchmark}: {why}" for spec in kinds if (why := unsuitable(spec))]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError("; ".join(problems[:_SHOWN]) + more)
    if here:
        if too_large := list(dict.fromkeys(why for spec in kinds if (why := _too_large(spec)))):
            raise ValueError("; ".join(too_large[:_SHOWN]))
        with settings.data():
            for name in dict.fromkeys(spec.benchmark for spec in specs):
                _check_data(name)
    check_writable(out)


def _length(spec: RunSpec) -> str | None:
    info = BENCHMARKS[spec.benchmark]
    if not info.parts or spec.benchmark_options or info.parts % spec.n_experiences == 0:
        return None
    return f"experiences: expected a divisor of the {info.parts} classes of {info.name}, got {spec.n_experiences}"


def unsuitable(spec: RunSpec) -> str | None:
    """Why the memory of a run cannot be made; None if it can, or if the run has none."""
    return _unsuitable(replace(spec, seed=0))


@lru_cache(maxsize=1000)
def _unsuitable(spec: RunSpec) -> str | None:
    if spec.strategy not in OURS:
        return _too_small(spec)
    # Brings in torch.
    from .memory_factory import make_memory

    try:
        make_memory(spec)
    except (ValueError, RuntimeError, MemoryError) as problem:  # torch has a RuntimeError for what it cannot hold
        return str(problem).partition("\n")[0] or "not enough memory"
    return None


def _too_small(spec: RunSpec) -> str | None:
    """What the builders of Avalanche's strategies would find out, which need Avalanche and the stream for it."""
    info = BENCHMARKS[spec.benchmark]
    if STRATEGIES[spec.strategy].sized == "no":
        return None
    if spec.strategy == "replay-online" and (spec.epochs != 1 or spec.iterations is not None):
        return "epochs: sees every batch once, expected epochs 1 and no iterations"
    row = 4 * math.prod(info.input_shape) + LABEL_BYTES
    rows = 1
    if spec.strategy in ("der", "der-pp"):
        row += 4 * info.n_classes
    elif spec.strategy == "gss":
        # It compares a batch with its memory; a row is an image, a label of eight bytes and a score of four.
        row, rows = row - 4, spec.batch_size
    elif spec.strategy == "icarl":
        # It rounds the rows of a class up, so a budget has to leave room for that.
        rows = info.n_classes + (info.n_classes - 1) * (spec.budget is not None)
    if spec.budget is None:
        return (
            None if spec.memory_size >= rows else f"memory_size: expected at least {rows} rows, got {spec.memory_size}"
        )
    least = rows * row
    return None if spec.budget >= least else f"budget: expected at least {least} bytes, got {spec.budget}"


def _too_large(spec: RunSpec) -> str | None:
    """Why a run certainly does not fit into this machine's memory; None if it may fit.

    Counts only what is certain: rows that are allocated at the start, and the model's weights with their gradients.
    """
    total = memory_of_machine()
    if total is None:
        return None
    info = BENCHMARKS[spec.benchmark]
    if spec.strategy in OURS and OURS[spec.strategy].sized == "rows" and spec.strategy not in _GROWING:
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


def _check_data(name: str) -> None:
    info, root = BENCHMARKS[name], data_root()
    if info.local or (root is not None and all((root / file).exists() for file in info.files)):
        return
    where = "Avalanche's own folder, since no --data-root and no MEMPLUGINS_DATA names one" if root is None else root
    try:
        # Downloads what is missing; once here, and not in each of the runs at the same time.
        info.build()
    except (OSError, RuntimeError, ValueError) as problem:
        raise ValueError(f"data: {name} is not in {where}, and cannot be got: {problem}") from problem
