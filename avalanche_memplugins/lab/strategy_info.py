"""What the lab knows about a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# Of a label and a task label, eight each, kept with every float32 image of Avalanche's.
LABEL_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class StrategyInfo:
    """A strategy of the lab.

    :param name: as on the command line.
    :param label: as in tables and pictures.
    :param summary: one line for a reader.
    :param builder: name of the function in :mod:`.builders` or :mod:`.baseline_builders`.
    :param sized: what a run's ``memory_size`` and ``budget`` mean to it: ``"rows"``, it holds so many rows, or as many
        as the budget buys; ``"bytes"``, only a budget sizes it, by its memory's ``from_budget``; ``"no"``: nothing
        does, and a budget is refused.
    :param options: its own settings by name, with their defaults.
    :param source: where these defaults are from.
    :param note: what a reader must know before trusting its numbers.
    :param requires: module beside the installation's own that it needs.
    """

    name: str
    label: str
    summary: str
    builder: str
    sized: Literal["rows", "bytes", "no"] = "no"
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    note: str = ""
    requires: str = ""

    def with_defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options, those given and the others at their defaults.

        :raises ValueError: for one that the strategy does not have, or of another kind than the default.
        """
        strange = sorted(set(options) - set(self.options))
        if strange:
            known = ", ".join(self.options) or "none"
            raise ValueError(f"options: {self.name} has no {strange[0]!r}; it has {known}")
        given = {name: _like(f"options: {name}", value, self.options[name]) for name, value in options.items()}
        return {**self.options, **given}


def _like(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if default is not None and value is not None and type(value) is not type(default):
        raise ValueError(f"{name} wants a value like {default!r}, got {value!r}")
    return value
