"""How often a strategy lists a plugin, and how many strategies a memory has served."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

_FILLED_BY: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = weakref.WeakKeyDictionary()


def listed_once(plugin: Any, strategy: Any) -> None:
    """Raise if the strategy lists the very same plugin more than once: it would do everything as often.

    :raises ValueError: naming the plugin.
    """
    times = sum(one is plugin for one in strategy.plugins)
    if times > 1:
        raise ValueError(
            f"plugins: expected each plugin once, got the same {type(plugin).__name__} {times} times, which would "
            "run every callback as often"
        )


def told_of_another_run(memory: Any, strategy: Any) -> None:
    """Warn if a memory that another strategy has filled joins this one."""
    if type(memory).__hash__ is None:
        return
    before = _FILLED_BY.get(memory)
    if before is not None and before() is not strategy and len(memory):
        warnings.warn(
            f"memory: this {type(memory).__name__} joins a second strategy with {len(memory)} rows from the first; if "
            "that is not meant, make a new memory and a new plugin for each run",
            stacklevel=3,
        )
    _FILLED_BY[memory] = weakref.ref(strategy)
