"""Shared fixtures and the rules for slow and data-hungry tests."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite runs on two processes, file by file, if pytest-xdist is there; parts of it in this one."""
    options = config.option
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    plain = not (options.usepdb or options.collectonly or options.capture == "no")
    if whole and plain and getattr(options, "numprocesses", 0) is None and (os.cpu_count() or 1) > 1:
        options.numprocesses, options.dist = 2, "loadfile"


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
