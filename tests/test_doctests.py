"""Examples in docstrings run as they stand; they may use torch, and the names of the module that they are in."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest
import torch

import avalanche_memplugins

ROOTS = {"avalanche_memplugins": Path(avalanche_memplugins.__file__).parent}
ROOTS["avalanche_memplugins.strategies"] = ROOTS["avalanche_memplugins"].parent / "strategies"
EXEMPT = {"avalanche_memplugins.checkpointing.compat"}  # its example needs a strategy; tests/checkpointing runs it
COMPLETE = ("functional", "memories.comparators", "networks", "networks.energy")
"""Packages in which every public class and function has an example."""


def with_examples() -> list[str]:
    """Modules with an example; the others are not imported."""
    found = []
    for root, folder in ROOTS.items():
        for path in sorted(folder.rglob("*.py")):
            name = ".".join([root, *path.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__")
            if ">>> " in path.read_text(encoding="utf-8") and name not in EXEMPT:
                found.append(name)
    return found


@pytest.mark.parametrize("name", with_examples())
def test_examples_run_and_give_what_they_say(name: str) -> None:
    module = importlib.import_module(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        failed, tried = doctest.testmod(module, extraglobs={"torch": torch}, optionflags=doctest.ELLIPSIS)
    assert tried
    assert not failed


@pytest.mark.parametrize("package", COMPLETE)
def test_every_public_class_and_function_has_an_example(package: str) -> None:
    module = importlib.import_module(f"avalanche_memplugins.{package}")
    without = [name for name in module.__all__ if ">>> " not in (inspect.getdoc(getattr(module, name)) or "")]
    assert without == []
