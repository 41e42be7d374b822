"""Why Avalanche's iCaRL is low on digits: its class means average every exemplar with its mirror image.

    python bench/icarl_means.py --data DIR        seven minutes

The row "iCaRL" of the preset ``three-scenarios-split-mnist`` with the mirroring taken out of the means; ``memplugins
reproduce`` has it as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from _common import DataOptions, launch
from torch import Tensor

from avalanche_memplugins.lab.reproduce import load_preset
from avalanche_memplugins.lab.run import execute


@contextmanager
def without_mirrors() -> Any:
    """Avalanche's module has no other use of ``torch.flip``."""
    whole: Callable[..., Tensor] = torch.flip
    torch.flip = lambda x, dims: x  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.flip = whole  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """Which seed."""

    seed: int = 0


def main(options: Options) -> None:
    """Run it and print the accuracy on each pair of classes at the end."""
    row = next(row for row in load_preset("three-scenarios-split-mnist").rows if row.label == "iCaRL")
    spec = row.spec(options.seed)
    if options.quick:
        spec = replace(spec, iterations=5, train_rows=400, test_rows=100, memory_size=100)
    with without_mirrors():
        result = execute(spec)
    if not result.ok:
        raise SystemExit(result.error)
    each = ", ".join(f"{100 * accuracy:.1f}" for accuracy in result.accuracy[-1])
    print(f"without mirrored exemplars, seed {options.seed}: {100 * result.final_accuracy:.1f} % ({each})")


if __name__ == "__main__":
    launch(main, Options, __doc__)
