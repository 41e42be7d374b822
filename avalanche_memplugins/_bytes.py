"""Numbers of bytes as people write them. Every floor uses it, so it imports nothing."""

from __future__ import annotations

import operator
import re
from decimal import Decimal
from reprlib import repr as short

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_UNITS |= {"ki": 1024, "mi": 1024**2, "gi": 1024**3, "ti": 1024**4}
_SPELLING = re.compile(
    r"\s*((?:\d[\d_]{0,30}(?:\.\d{1,30})?|\.\d{1,30})(?:e\+?\d{1,2})?)\s*([kmgt]i?)?(?:b|bytes?)?\s*", re.ASCII
)
_LARGEST = 2**63 - 1
_LONGEST = 100  # letters


def parse_bytes(value: str | int | float, name: str = "budget") -> int:
    """Bytes from ``50KB``, ``50k``, ``1.5 MiB``, ``1e6`` or a number; k, M, G and T are decimal, as on the screen.

    :param value: what was written.
    :param name: of the setting; the error begins with it.
    :raises ValueError: if it is no whole number of bytes from 1 to 2**63 - 1.
    """
    number = _number(value)
    if number is None:
        raise ValueError(f"{name}: expected bytes such as 50KB, 2M, 1.5MiB, 1e6 or 50000, got {short(value)}")
    if number != int(number) or not 1 <= number <= _LARGEST:
        raise ValueError(f"{name}: expected a whole number of bytes from 1 to 2**63 - 1, got {short(value)}")
    return int(number)


def show_bytes(nbytes: int) -> str:
    """Bytes for people to read: ``512 bytes``, ``181 kB``, ``3.14 MB``; k, M, G and T are decimal."""
    if nbytes < 1000:
        return f"{nbytes} bytes"
    shown = float(nbytes)
    for unit in ("kB", "MB", "GB", "TB"):
        shown /= 1000
        if shown < 999.5 or unit == "TB":
            break
    return f"{shown:,.0f} {unit}" if shown >= 99.95 else f"{shown:.3g} {unit}"


def _number(value: object) -> Decimal | int | None:
    if isinstance(value, str):
        match = _SPELLING.fullmatch(value.lower()) if len(value) <= _LONGEST else None
        # Decimal, since 1.1 kB are 1100 bytes but 1.1 * 1000 is not 1100.
        return None if match is None else Decimal(match[1].replace("_", "")) * _UNITS[match[2] or ""]
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
