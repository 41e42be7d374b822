"""What ``memplugins gallery`` takes. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Gallery:
    """Draw what memories replay, how reads restore, and how addresses look."""

    images: Literal["digits", "mnist", "fashion"] = "digits"
    """what to write: the digits that come with scikit-learn, enlarged, or a data set of 28 x 28 images"""
    budget: str = "50KB"
    """bytes for each memory, such as 50KB or 2MB"""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("gallery")
    """folder for the pictures"""
    data_root: Annotated[Path | None, tyro.conf.arg(aliases=["--data"])] = None
    """folder of the data sets, as torchvision lays them out; MEMPLUGINS_DATA if not given"""
    seed: int = 0
    """of the draws"""
