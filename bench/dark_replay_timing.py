"""What the moment is worth at which dark experience replay stores its outputs.

    MEMPLUGINS_DATA=DIR python bench/dark_replay_timing.py

The row "DER++ 500, ours" of the preset ``der-permuted-mnist`` with outputs stored when an experience has ended, as
Avalanche's DER stores them; ``memplugins reproduce`` has it with outputs stored as the stream passes.
"""

from __future__ import annotations

from functools import partial

import torch
import tyro

from avalanche_memplugins import DarkReplayPlugin, plugins
from avalanche_memplugins.lab.reproduce import load_preset
from avalanche_memplugins.lab.run import execute


def main(seed: int = 0) -> None:
    """Run it and print the accuracy on all tasks at the end."""
    torch.set_num_threads(1)
    row = next(row for row in load_preset("der-permuted-mnist").rows if row.label == "DER++ 500, ours")
    plugins.DarkReplayPlugin = partial(DarkReplayPlugin, write_at="experience")  # type: ignore[misc,assignment]
    result = execute(row.spec(seed))
    if not result.ok:
        raise SystemExit(result.error)
    print(f"outputs stored after the experience, seed {seed}: {100 * result.final_accuracy:.1f} %")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
