"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}


def parse_bytes(text: str | int, name: str = "budget") -> int:
    """Bytes from ``50KB``, ``2MB``, ``1.5 MiB`` or a plain number; kB, MB and GB are decimal, as on the screen.

    :param text: what was written.
    :param name: of the setting; the error begins with it.
    :raises ValueError: if it is no positive whole number of bytes.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        number: float = text
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(text).lower())
        if isinstance(text, bool) or match is None or match[2] not in _UNITS:
            raise ValueError(f"{name}: wants bytes such as 50KB, 2MB, 1.5MiB or 50000, got {text!r}")
        number = float(match[1]) * _UNITS[match[2]]
    if number < 1 or number != int(number):
        raise ValueError(f"{name}: wants a whole number of bytes, at least 1, got {text!r}")
    return int(number)
