"""Why Avalanche's iCaRL is low on digits: its class means average every exemplar with its mirror image.

    MEMPLUGINS_DATA=DIR python bench/icarl_means.py

The row "iCaRL" of the preset ``three-scenarios-split-mnist`` with the mirroring taken out of the means; ``memplugins
reproduce`` has it as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
import tyro
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


def main(seed: int = 0) -> None:
    """Run it and print the accuracy on each pair of classes at the end."""
    torch.set_num_threads(1)
    row = next(row for row in load_preset("three-scenarios-split-mnist").rows if row.label == "iCaRL")
    with without_mirrors():
        result = execute(row.spec(seed))
    if not result.ok:
        raise SystemExit(result.error)
    each = ", ".join(f"{100 * accuracy:.1f}" for accuracy in result.accuracy[-1])
    print(f"without mirrored exemplars, seed {seed}: {100 * result.final_accuracy:.1f} % ({each})")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
