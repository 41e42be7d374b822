"""Names at the top of the package: all there, and none loads anything before it is used."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
from avalanche.core import SupervisedPlugin
from torch import nn

import avalanche_memplugins


def test_every_name_is_the_class_of_its_home() -> None:
    names = set(avalanche_memplugins.__all__) - {"__version__"}
    assert names == set(avalanche_memplugins._HOME)
    for name, home in avalanche_memplugins._HOME.items():
        module = import_module(f"avalanche_memplugins.{home}")
        assert getattr(avalanche_memplugins, name) is getattr(module, name)
        assert name in module.__all__
    assert set(dir(avalanche_memplugins)) >= names


def test_every_memory_and_every_plugin_is_at_the_top() -> None:
    for home in ("memories", "plugins"):
        module = import_module(f"avalanche_memplugins.{home}")
        kinds = {name for name in module.__all__ if issubclass(getattr(module, name), nn.Module | SupervisedPlugin)}
        assert len(kinds) > 8
        assert kinds <= set(avalanche_memplugins.__all__)


def test_the_package_itself_and_its_memories_load_nothing_heavy() -> None:
    code = (
        "import sys, avalanche_memplugins\n"
        "assert not {'torch', 'avalanche'} & sys.modules.keys()\n"
        "avalanche_memplugins.GaussianMemory, avalanche_memplugins.KanervaMemory, avalanche_memplugins.LatentCodec\n"
        "assert 'torch' in sys.modules and 'avalanche' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'GausianMemory'"):
        _ = avalanche_memplugins.GausianMemory
