"""Probabilities of pixels given those around them, counted on images that are no benchmark's."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.context_model import from_rounded_probabilities

TABLES = ("omniglot", "grey", "mixed")
_FILE = Path(__file__).parent / "contexts" / "tables.safetensors"


@cache
def _levels() -> dict[str, Tensor]:
    return load_file(_FILE)


@cache
def _table(name: str, bits: int) -> Tensor:
    return from_rounded_probabilities(_levels()[f"{name}-{bits}"])


def context_table(name: str, bits: int) -> Tensor:
    """A shipped table for images of ``bits`` bits a pixel: probabilities of a 1, int32 ``(contexts,)``, 65536 for one.

    :param name: ``"omniglot"``: strokes; ``"grey"``: photographs in grey; ``"mixed"``: the counts of both.
    :param bits: 1, 2 or 4.
    :raises ValueError: for another.

    >>> context_table("omniglot", 1).shape
    torch.Size([1024])
    """
    check.choice("name", name, TABLES)
    if isinstance(bits, bool) or bits not in (1, 2, 4):
        raise ValueError(f"bits: expected 1, 2 or 4, got {check.show(bits)}")
    return _table(name, int(bits)).clone()
