"""Bytes as people write them."""

from __future__ import annotations

import pytest

from avalanche_memplugins.lab.budget import parse_bytes


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("50KB", 50_000),
        ("50kB", 50_000),
        (" 2 MB ", 2_000_000),
        ("1.5MiB", 1_572_864),
        ("0.5kb", 500),
        ("1GB", 10**9),
        ("300", 300),
        ("7b", 7),
        (300, 300),
    ],
)
def test_bytes_are_read_as_written(text: str | int, number: int) -> None:
    assert parse_bytes(text) == number


@pytest.mark.parametrize("text", ["", "KB", "50KBs", "50 K B", "-5KB", "1e3", "fifty", None, True, 2.5])
def test_what_is_no_number_of_bytes_is_named(text: object) -> None:
    with pytest.raises(ValueError, match="budgets: wants "):
        parse_bytes(text, "budgets")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["0", 0, -3, "0.5", "1.0005KB"])
def test_parts_of_bytes_are_refused(text: str | int) -> None:
    with pytest.raises(ValueError, match="budget: wants a whole number of bytes, at least 1"):
        parse_bytes(text)
