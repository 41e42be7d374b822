"""Every public name has an example in its docstring, and the example runs."""

from __future__ import annotations

import doctest
import warnings
from importlib import import_module

import pytest
import torch

# Subpackages whose every name has one.
PACKAGES = ("plugins", "strategies", "metrics", "checkpointing")
NAMES = [
    f"{package}.{name}" for package in PACKAGES for name in import_module(f"avalanche_memplugins.{package}").__all__
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(name: str) -> None:
    package, _, public = name.partition(".")
    thing = getattr(import_module(f"avalanche_memplugins.{package}"), public)
    module = import_module(thing.__module__)
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    tests = [test for test in finder.find(thing, public, module=module, globs=dict(vars(module))) if test.examples]
    assert tests, f"{name}: expected an example (>>>) in the docstring"
    torch.manual_seed(0)
    told: list[str] = []
    with warnings.catch_warnings():
        for test in tests:
            runner.run(test, out=told.append)
    assert not runner.failures, "".join(told)
