"""Whatever is saved and damaged comes back as it was, or is refused by its own error and changes nothing."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from avalanche_memplugins import memories

PATH = Path(__file__).parents[1] / "bench" / "_faults.py"


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("_faults", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_faults"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


faults = _load()


def test_every_memory_that_can_be_saved_is_a_target() -> None:
    kinds = {name for name in memories.__all__ if callable(getattr(getattr(memories, name), "save", None))}
    assert kinds <= {type(make()).__name__ for make in faults.MEMORIES.values()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", faults.TARGETS)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    found, notes = faults.try_all(name, faults.TARGETS[name], 63, 0, tmp_path)
    total: Counter[str] = sum(found.values(), Counter())
    assert not notes
    assert sum(total.values()) > 50
    assert set(total) <= {"refused, unchanged", "loaded equal"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["RandomMemory", "GaussianMemory", "run state", "pretrained codec"])
@pytest.mark.parametrize("way", ["try_kills", "try_full_disks"])
def test_interrupted_writes(name: str, way: str, tmp_path: Path) -> None:
    found, notes = getattr(faults, way)(name, faults.TARGETS[name], 4, 0, tmp_path)
    assert not notes
    assert found == {"whole" if way == "try_kills" else "refused, unchanged": 4}
