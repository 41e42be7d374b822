"""Checks of arguments: each error names the argument, says what is expected and what it got."""

from avalanche_memplugins._checks._rows import *  # noqa: F403
from avalanche_memplugins._checks._tensors import *  # noqa: F403
from avalanche_memplugins._checks._values import *  # noqa: F403
