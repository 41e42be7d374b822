"""Every public callable, called wrongly: an error that names the argument, nothing raw, nothing taken in silence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bad_calls_codecs as bad_calls_codecs
import bad_calls_functional as bad_calls_functional
import bad_calls_memories as bad_calls_memories
import pytest
from _call_record import RECORDS, Record

# Two arguments do not go together: either may be named.
BETWEEN = ("too wide", "a row more", "no dimensions")
tried: dict[str, int] = {}


def wrong_calls(record: Record) -> Iterator[tuple[str, str, Any]]:
    for argument, kind in record.kinds.items():
        for label, value in kind.wrong(record.arguments()[argument]):
            yield argument, label, value


def fault(record: Record, argument: str, label: str, value: Any) -> str | None:
    """What is wrong with how a wrong call is answered."""
    arguments = {**record.arguments(), argument: value}
    try:
        record.call(**arguments)
    except (ValueError, TypeError) as error:
        told = str(error)
    except Exception as error:
        return f"raw {type(error).__name__}: {error}"
    else:
        return "accepted"
    names = record.named.get(argument, (argument,))
    if label in BETWEEN:
        names = (*names, *record.kinds)
    if not any(told.startswith((f"{known}: ", f"{known}, ")) for known in names):
        return f"does not begin with the argument: {told}"
    if not any(word in told for word in ("expected ", "wants ", "want ")) or "got " not in told:
        return f"does not say what is expected and got: {told}"
    return f"too long: {told}" if len(told) > 600 else None


@pytest.mark.parametrize("name", RECORDS)
def test_the_call_that_others_are_made_wrong_from_is_right(name: str) -> None:
    RECORDS[name].call(**RECORDS[name].arguments())


@pytest.mark.parametrize("name", RECORDS)
def test_wrong_arguments_are_named(name: str) -> None:
    record = RECORDS[name]
    calls = list(wrong_calls(record))
    tried[name] = len(calls)
    faults = {f"{argument}: {label}": fault(record, argument, label, value) for argument, label, value in calls}
    assert not {call: told for call, told in faults.items() if told}


def test_there_are_many() -> None:
    if set(tried) == set(RECORDS):  # not where only some were chosen to run
        assert sum(tried.values()) >= 700
