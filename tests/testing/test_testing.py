"""The checks themselves: each one fails for a thing that breaks its promise, and only that one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from broken import ALSO, BROKEN, GOOD, Saves

from avalanche_memplugins.codecs import Raw
from avalanche_memplugins.testing import (
    CodecCase,
    MemoryCase,
    check_codec,
    check_memory,
    check_plugin,
    check_policy,
    checks_of,
    parametrize_with_checks,
)
from avalanche_memplugins.testing import run as runner

RUN = {"MemoryCase": check_memory, "CodecCase": check_codec, "PolicyCase": check_policy, "PluginCase": check_plugin}
MODULES = ("_memory_checks", "_codec_checks", "_policy_checks", "_plugin_checks")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_told_by_its_check_alone(name: str) -> None:
    case = BROKEN[name]
    report = RUN[type(case).__name__](case, report=True)
    assert set(report.broken) == ALSO[name]
    told = next(outcome.told for outcome in report.outcomes if outcome.check == name)
    for part in (f"{case.name} breaks {name}", "\n  promised: ", "\n  happened: ", "\n  to fix it: "):
        assert part in told


def test_every_check_has_something_that_it_catches() -> None:
    found = {
        name
        for module in MODULES
        for name in vars(import_module(f"avalanche_memplugins.testing.{module}"))
        if name.startswith("check_")
    }
    assert found == set(BROKEN)


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_what_keeps_its_promises_passes(case: Any) -> None:
    assert RUN[type(case).__name__](case).broken == []


def test_the_first_broken_promise_is_raised() -> None:
    with pytest.raises(AssertionError, match=r"^raw breaks check_a_row_takes_the_stated_bytes\n  promised: A row's"):
        check_codec(Raw, name="raw", nbytes=31)


def test_an_expected_failure_is_known_and_one_that_passes_is_told() -> None:
    case = CodecCase("raw", Raw, {"check_a_row_takes_the_stated_bytes": "for this test"}, nbytes=31)
    report = check_codec(case)
    assert [outcome.told for outcome in report.outcomes if outcome.result == "known"] == ["for this test"]
    assert "1 known" in str(report).splitlines()[0]
    with pytest.raises(AssertionError, match=r"raw keeps check_a_row_takes_the_stated_bytes\n  expected to fail"):
        check_codec(case, nbytes=32)
    with pytest.raises(
        ValueError, match=r"^expected_failures: expected names of checks that apply to raw, got \['x'\]"
    ):
        check_codec(Raw, name="raw", expected_failures={"x": "no such check"})


def test_only_what_is_there_is_checked() -> None:
    names = {check.__name__ for check in checks_of(MemoryCase("saves", Saves))}
    assert "check_a_damaged_folder_is_refused" in names
    assert not names & {"check_forgotten_rows_do_not_come_back", "check_from_budget_uses_its_budget"}


def test_tests_of_pytest_have_names_and_marks() -> None:
    reason = {"check_a_row_takes_the_stated_bytes": "for this test"}

    @parametrize_with_checks([CodecCase("raw", Raw, reason, nbytes=31)])
    def test(case: Any, check: Any) -> None: ...

    parameters = test.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert f"raw-{next(iter(reason))}" in [parameter.id for parameter in parameters]
    assert [mark.kwargs["reason"] for parameter in parameters for mark in parameter.marks] == ["for this test"]


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(TypeError, match=r"^factory: expected what can be called, or a case, got 3"):
        check_memory(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^case: expected one of MemoryCase, .*, got 3"):
        checks_of(3)  # type: ignore[arg-type]
    for field in ("writes", "reads", "grows"):
        with pytest.raises(ValueError, match=f"^{field}: "):
            MemoryCase("saves", Saves, **{field: "x"})  # type: ignore[arg-type]


def test_pytest_is_not_needed_to_import() -> None:
    assert not hasattr(runner, "pytest")
