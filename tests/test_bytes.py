"""Bytes as people write them: one parser, and every budget goes through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from _comparators import NEEDED

from avalanche_memplugins import (
    CodedMemory,
    DynamicKanervaMemory,
    EnergyMemory,
    EpisodicMemory,
    GaussianMemory,
    MixedMemory,
    RandomMemory,
    RandomProjectionMemory,
    VAEMemory,
)
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins.codecs import Bits, EntropyCoded
from avalanche_memplugins.lab import RunSpec
from avalanche_memplugins.memories import comparators
from avalanche_memplugins.networks.energy import GatedEnergy


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("50KB", 50_000),
        ("50kB", 50_000),
        ("50k", 50_000),
        ("2M", 2_000_000),
        (" 2 MB ", 2_000_000),
        ("2MiB", 2 * 1024**2),
        ("2Mi", 2 * 1024**2),
        ("1.5MiB", 1_572_864),
        ("1.1kB", 1100),  # 1.1 * 1000 is no whole number in binary
        ("0.5kb", 500),
        ("1GB", 10**9),
        ("2 TB", 2 * 10**12),
        ("1TiB", 1024**4),
        (".5MB", 500_000),
        ("784 bytes", 784),
        ("1 byte", 1),
        ("1e6", 10**6),
        ("2.5e4", 25_000),
        ("1e3kB", 10**6),
        ("1_000_000", 10**6),
        ("300", 300),
        ("7b", 7),
        (300, 300),
        (5e4, 50_000),
        (np.int64(300), 300),
    ],
)
def test_bytes_are_read_as_written(text: Any, number: int) -> None:
    assert parse_bytes(text) == number
    assert type(parse_bytes(text)) is int


BAD = ["", "KB", "50KBs", "50 K B", "-5KB", "1e-3", "e6", "fifty", "1e", "٣", None, True, [50], float("nan"), 2.5]
HARD = ["1e999999999", "9" * 10_000, "1" + " " * 100_000 + "x"]


@pytest.mark.parametrize("text", BAD + HARD)
def test_what_is_no_number_of_bytes_is_named(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^budgets: expected bytes such as") as error:
        parse_bytes(text, "budgets")
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("text", ["0", 0, -3, "0.5", "1.0005KB", "1e99", 2**63, 1e30])
def test_parts_of_bytes_and_too_many_are_refused(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^budget: expected a whole number of bytes from 1 to"):
        parse_bytes(text)


def _energy(budget: Any) -> Any:
    network = GatedEnergy(16, writable=4, width=8, write_steps=1, read_steps=1)
    return EnergyMemory.from_budget(budget, network, shape=(1, 4, 4), classes=2)


BUDGETED: dict[str, Callable[[Any], Any]] = {
    "RandomMemory": lambda budget: RandomMemory.from_budget(budget, shape=(4,)),
    "EpisodicMemory": lambda budget: EpisodicMemory.from_budget(budget, shape=(4,)),
    "GaussianMemory": lambda budget: GaussianMemory.from_budget(budget, shape=(4,), classes=2),
    "DynamicKanervaMemory": lambda budget: DynamicKanervaMemory.from_budget(budget, shape=(4,), classes=2),
    "VAEMemory": lambda budget: VAEMemory.from_budget(budget, shape=(1, 8, 8), classes=2),
    "EnergyMemory": _energy,
    "CodedMemory": lambda budget: CodedMemory.from_budget(budget, codec=EntropyCoded(Bits(1))),
    "MixedMemory": lambda budget: MixedMemory.from_budget(budget, shape=(4,), classes=2, codec="raw"),
    "RandomProjectionMemory": lambda budget: RandomProjectionMemory.from_budget(budget, shape=(4,), classes=2),
    **{
        name: lambda budget, name=name: getattr(comparators, name).from_budget(budget, size=4, **NEEDED.get(name, {}))
        for name in comparators.__all__
        if hasattr(getattr(comparators, name), "from_budget")
    },
}


@pytest.mark.parametrize("name", BUDGETED)
def test_every_memory_reads_its_budget_in_all_spellings(name: str) -> None:
    plain = BUDGETED[name](200_000)
    for spelling in ("200KB", "200k", "0.2M", "2e5", 2e5):
        assert repr(BUDGETED[name](spelling)) == repr(plain)
    for bad in (0, "much", True, None, 2.5, "1e40"):
        with pytest.raises(ValueError, match=r"^nbytes: expected"):
            BUDGETED[name](bad)


def test_every_memory_with_a_budget_is_among_these() -> None:
    from avalanche_memplugins import memories

    kinds = {name: getattr(home, name) for home in (memories, comparators) for name in home.__all__}
    found = {name for name, kind in kinds.items() if hasattr(kind, "from_budget")}
    # Not in the table, since they need a trained network; they inherit the method.
    assert found - {"KanervaMemory", "LatentMemory"} == set(BUDGETED)


def test_runs_read_theirs_likewise() -> None:
    fields: dict[str, Any] = {"benchmark": "split-digits", "strategy": "er-uint8", "seed": 0, "n_experiences": 5}
    keys = {RunSpec(**fields, epochs=1, budget=budget).key for budget in ("50KB", "50k", "5e4", 50_000)}
    assert len(keys) == 1
