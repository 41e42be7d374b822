"""Numbers and names for a reader: on the screen, in pictures, in the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from .spec import RunSpec
from .store import RunResult
from .strategies import STRATEGIES, own_label, parsed

_NAME = 14  # columns that a name keeps at least, if its words are so long
_BESIDE, _GAP = 2, 2  # what the box takes at its ends, and before each column


def label(strategy: str) -> str:
    """Name of a strategy, with its options if it has any, in tables and pictures.

    >>> label("er-reservoir"), label("er:codec=2bit"), label("mypackage.methods:hardest")
    ('ER-reservoir', 'ER (codec=2bit)', 'hardest')
    """
    name, options = parsed(strategy)
    known = STRATEGIES[name].label if name in STRATEGIES else own_label(name)
    return f"{known} ({strategy[len(name) + 1 :]})" if options else known


def count(number: int, thing: str) -> str:
    """The number and its thing, in the plural where that is due.

    >>> count(1, "run"), count(3, "seed")
    ('1 run', '3 seeds')
    """
    return f"{number} {thing}{'s' * (number != 1)}"


def nbytes(number: float) -> str:
    """A number of bytes in decimal units.

    >>> nbytes(54_400)
    '54.4 kB'
    """
    if number < 1000:
        return f"{number:.0f} B"
    for unit in ("kB", "MB"):
        number /= 1000
        if number < 1000:
            return f"{number:.1f} {unit}"
    return f"{number / 1000:.1f} GB"


def percent(value: float, half_width: float = math.nan, sign: str = "") -> str:
    """A share in percent with half of its interval; ``-`` if it is not known.

    :param value: the share; NaN if it is not known.
    :param half_width: of its interval; NaN if there is none.
    :param sign: ``"+"`` shows the sign of positive values, too.

    >>> percent(0.905, 0.0124), percent(0.02, sign="+"), percent(float("nan"))
    ('90.5 ± 1.2', '+2.0', '-')
    """
    if not math.isfinite(value):
        return "-"
    return f"{100 * value:{sign}.1f}" + (f" ± {100 * half_width:.1f}" if math.isfinite(half_width) else "")


def amounts(spec: RunSpec) -> list[str]:
    """How much a run trains on: experiences, epochs or steps, and rows where they are fewer than all.

    :param spec: the run.
    """
    passes = count(spec.epochs, "epoch") if spec.iterations is None else f"{spec.iterations:,} steps"
    rows = [
        f"{number:,} {kind} rows each"
        for number, kind in ((spec.train_rows, "training"), (spec.test_rows, "test"))
        if number is not None
    ]
    return [count(spec.n_experiences, "experience"), f"{passes} each", *rows]


def last_line(result: RunResult) -> str:
    """What a failed run's traceback ends with."""
    lines = (result.error or "").strip().splitlines()
    return lines[-1] if lines else "no message"


class NumberTable:
    """Names at the left, numbers in columns. Where they do not fit side by side, the columns go on in a further table
    below, under the names again; a name that is too long is broken, a number never.

    :param name: heading of the names.
    :param headings: of the columns.
    """

    def __init__(self, name: str, headings: Sequence[str]) -> None:
        self.name, self.headings = name, list(headings)
        self.rows: list[tuple[str, list[Text], str]] = []

    def add_row(self, name: str, *cells: str | Text, style: str = "") -> None:
        """A row; numbers that are missing at its end are empty."""
        texts = [cell if isinstance(cell, Text) else Text(cell, "dim" if cell == "-" else "") for cell in cells]
        self.rows.append((name, texts + [Text("")] * (len(self.headings) - len(texts)), style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        cells = [[heading, *(row[i].plain for _, row, _ in self.rows)] for i, heading in enumerate(self.headings)]
        name = max(cell_len(text) for text in [self.name, *(text for text, _, _ in self.rows)])
        room = options.max_width - _BESIDE
        whole = [_GAP + max(map(cell_len, column)) for column in cells]
        if name + sum(whole) <= room:
            yield self._part(range(len(cells)), name, whole)
            return
        # A heading may be broken between its words.
        widths = [_GAP + max(map(cell_len, [*column[0].split(), *column[1:]])) for column in cells]
        # Short enough names leave room for two columns beside them.
        pair = max([max(widths, default=0), *(a + b for a, b in pairwise(widths))])
        words = [word for text in [self.name, *(text for text, _, _ in self.rows)] for word in text.split()]
        name = min(name, max(min(_NAME, max(map(cell_len, words), default=0)), room - pair))
        for part in _parts(widths, room - name):
            yield self._part(part, name, widths)

    def _part(self, columns: Iterable[int], name: int, widths: Sequence[int]) -> Table:
        columns = list(columns)
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column(self.name, overflow="fold", width=name)
        for i in columns:
            table.add_column(self.headings[i], justify="right", overflow="fold", width=widths[i] - _GAP)
        for text, cells, style in self.rows:
            table.add_row(Text(text), *(cells[i] for i in columns), style=style)
        return table


def _parts(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Columns in their order, as many at a time as there is room for, one at least."""
    part: list[int] = []
    for i in range(len(widths)):
        if part and sum(widths[j] for j in part) + widths[i] > room:
            yield part
            part = []
        part.append(i)
    if part:
        yield part
