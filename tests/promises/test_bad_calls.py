"""Every public callable, called wrongly: an error that names the argument, nothing raw, nothing taken in silence."""

from __future__ import annotations

from typing import Any

import bad_calls_codecs as bad_calls_codecs
import bad_calls_functional as bad_calls_functional
import pytest
from _call_record import RECORDS

WRONG: list[tuple[str, str, str, Any]] = [
    (name, argument, label, value)
    for name, record in RECORDS.items()
    for argument, kind in record.kinds.items()
    for label, value in kind.wrong(record.arguments()[argument])
]


@pytest.mark.parametrize("name", RECORDS)
def test_the_call_that_others_are_made_wrong_from_is_right(name: str) -> None:
    RECORDS[name].call(**RECORDS[name].arguments())


BETWEEN = ("too wide", "a row more", "no dimensions")


@pytest.mark.parametrize(
    ("name", "argument", "label", "value"),
    [pytest.param(n, a, label, v, id=f"{n}({a}: {label})") for n, a, label, v in WRONG],
)
def test_a_wrong_argument_is_named(name: str, argument: str, label: str, value: Any) -> None:
    record = RECORDS[name]
    arguments = {**record.arguments(), argument: value}
    with pytest.raises((ValueError, TypeError)) as caught:
        record.call(**arguments)
    told = str(caught.value)
    names = record.named.get(argument, (argument,))
    if label in BETWEEN:  # two arguments do not go together, and either may be named
        names = (*names, *record.kinds)
    assert any(told.startswith(f"{known}: ") or told.startswith(f"{known}, ") for known in names), told
    assert "expected " in told or "wants " in told or "want " in told, told
    assert "got " in told, told
    assert len(told) < 600, told


def test_there_are_many() -> None:
    assert len(WRONG) >= 700
