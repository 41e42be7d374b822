"""Tables on narrow screens: no number is lost, no line is too long."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from avalanche_memplugins.lab.formatting import NumberTable


def shown(table: NumberTable, width: int) -> str:
    screen = Console(file=io.StringIO(), width=width)
    screen.print(table)
    return screen.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("columns", [1, 3, 6, 12])
@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
def test_every_number_is_there_whole_and_every_line_fits(width: int, columns: int) -> None:
    table = NumberTable("strategy", [f"heading {i}" for i in range(columns)])
    names = ["Naive", "Replay (Avalanche)", "ER + MbPA, latent", "Kanerva, shared"]
    for row, name in enumerate(names):
        table.add_row(name, *(f"{10 * row + i}.5 ± {i}.{row}" for i in range(columns)))
    screen = shown(table, width)
    assert "…" not in screen
    assert max(map(len, screen.splitlines())) <= width
    for row in range(len(names)):
        for i in range(columns):
            assert f"{10 * row + i}.5 ± {i}.{row}" in screen


def test_a_wide_screen_has_one_table_and_missing_numbers_are_empty() -> None:
    table = NumberTable("memory", ["5 kB", "10 kB"])
    table.add_row("Naive", "20.0")
    table.add_row("ER", "90.0", "95.0")
    lines = shown(table, 80).splitlines()
    assert sum("memory" in line for line in lines) == 1
    assert next(line for line in lines if "Naive" in line).split() == ["Naive", "20.0"]
