"""How often a strategy lists a plugin."""

from __future__ import annotations

from typing import Any


def listed_once(plugin: Any, strategy: Any) -> None:
    """Raise if the strategy lists the very same plugin more than once: it would do everything as often.

    :raises ValueError: naming the plugin.
    """
    times = sum(one is plugin for one in strategy.plugins)
    if times > 1:
        raise ValueError(
            f"plugins: wants each plugin once, got the same {type(plugin).__name__} {times} times, which would "
            "run every callback as often"
        )
