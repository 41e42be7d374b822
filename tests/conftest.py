"""Shared fixtures and the rules for slow and data-hungry tests."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skips = {
        "slow": None if config.getoption("--slow") else "slow: run with --slow",
        "data": None if os.environ.get("MEMPLUGINS_DATA") else "needs MEMPLUGINS_DATA=<folder with the data sets>",
        "gpu": None if torch.cuda.is_available() else "needs a CUDA device",
        "browser": None if shutil.which("chromium") or shutil.which("google-chrome") else "needs a headless Chromium",
    }
    for item in items:
        for marker, reason in skips.items():
            if reason is not None and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
