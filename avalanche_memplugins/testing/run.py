"""Runs the checks of a case: one after the other, as a report, or as tests of pytest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal, NamedTuple

from avalanche_memplugins import _checks as check
from avalanche_memplugins.testing._promise import Check
from avalanche_memplugins.testing.cases import Case, CodecCase, MemoryCase, PluginCase, PolicyCase

# Imported when they are used: the checks of plugins need Avalanche, the others do not.
_MODULES: dict[type[Case], str] = {
    MemoryCase: "_memory_checks",
    CodecCase: "_codec_checks",
    PolicyCase: "_policy_checks",
    PluginCase: "_plugin_checks",
}


class Outcome(NamedTuple):
    """How one check ended.

    ``check``: its name; ``promise``: what it promises; ``result``: ``"kept"``, ``"broken"`` or ``"known"``, a failure
    that the case expects; ``told``: the message of what is broken, or the reason of what is known.

    >>> Outcome("check_sums", "Sums are right.", "kept", "").result
    'kept'
    """

    check: str
    promise: str
    result: Literal["kept", "broken", "known"]
    told: str


@dataclass(frozen=True)
class Report:
    """How all checks of a case ended; ``str()`` of it is a table.

    :param name: of the case.
    :param outcomes: one for each check.

    >>> print(Report("mine", (Outcome("check_sums", "Sums are right.", "kept", ""),)))
    mine: 1 kept, 0 broken, 0 known
    kept    check_sums  Sums are right.
    """

    name: str
    outcomes: tuple[Outcome, ...]

    @property
    def broken(self) -> list[str]:
        """Names of the checks that failed and were not expected to."""
        return [outcome.check for outcome in self.outcomes if outcome.result == "broken"]

    def __str__(self) -> str:
        width = max((len(outcome.check) for outcome in self.outcomes), default=0)
        results = [outcome.result for outcome in self.outcomes]
        counts = ", ".join(f"{results.count(result)} {result}" for result in ("kept", "broken", "known"))
        lines = [f"{self.name}: {counts}"]
        lines += [f"{o.result:<6}  {o.check:<{width}}  {o.promise}" for o in self.outcomes]
        lines += [o.told for o in self.outcomes if o.result == "broken"]
        return "\n".join(lines)


def checks_of(case: Case) -> list[Check]:
    """The checks that apply to a case, in the order in which they run.

    :param case: a record of the thing to check.
    :raises TypeError: for something that is no case.
    :raises ValueError: if an expected failure has the name of no check that applies.

    >>> from avalanche_memplugins.codecs import Raw
    >>> checks_of(CodecCase("raw", Raw))[0].__name__
    'check_the_code_is_as_stated'
    """
    if type(case) not in _MODULES:
        names = ", ".join(kind.__name__ for kind in _MODULES)
        raise TypeError(f"case: expected one of {names}, got {check.show(case)}")
    module = import_module(f"{__package__}.{_MODULES[type(case)]}")
    thing = case.probe
    found = [value for name, value in vars(module).items() if name.startswith("check_") and value.applies(case, thing)]
    unknown = sorted(case.expected_failures.keys() - {found_check.__name__ for found_check in found})
    if unknown:
        raise ValueError(f"expected_failures: expected names of checks that apply to {case.name}, got {unknown}")
    return found


def check_memory(factory: Callable[..., Any] | MemoryCase, *, report: bool = False, **options: Any) -> Report:
    """Check all that a memory promises.

    :param factory: makes a memory, ``factory(capacity, seed=seed)``, such as its class; or a :class:`MemoryCase`.
    :param report: go on after a failure. Otherwise the first failure raises.
    :param options: other fields of :class:`MemoryCase`.
    :raises AssertionError: for the first broken promise: what was promised, what happened, how to fix it.
    :raises TypeError: for a factory that cannot be called, or an unknown option.

    >>> from avalanche_memplugins import RandomMemory
    >>> check_memory(RandomMemory).broken
    []
    """
    return _checked(factory, MemoryCase, report, options)


def check_codec(factory: Callable[[], Any] | CodecCase, *, report: bool = False, **options: Any) -> Report:
    """Check all that a codec promises.

    :param factory: makes a codec, such as its class; or a :class:`CodecCase`.
    :param report: go on after a failure. Otherwise the first failure raises.
    :param options: other fields of :class:`CodecCase`.
    :raises AssertionError: for the first broken promise: what was promised, what happened, how to fix it.
    :raises TypeError: for a factory that cannot be called, or an unknown option.

    >>> from avalanche_memplugins.codecs import Float16
    >>> check_codec(Float16, error=2e-3, nbytes=16).broken
    []
    """
    return _checked(factory, CodecCase, report, options)


def check_policy(factory: Callable[[], Any] | PolicyCase, *, report: bool = False, **options: Any) -> Report:
    """Check all that a write policy or a read policy promises.

    :param factory: makes a policy, such as its class; or a :class:`PolicyCase`.
    :param report: go on after a failure. Otherwise the first failure raises.
    :param options: other fields of :class:`PolicyCase`.
    :raises AssertionError: for the first broken promise: what was promised, what happened, how to fix it.
    :raises TypeError: for a factory that cannot be called, or an unknown option.

    >>> from avalanche_memplugins.memories.policies import Reservoir
    >>> check_policy(Reservoir, uniform=True).broken
    []
    """
    return _checked(factory, PolicyCase, report, options)


def check_plugin(factory: Callable[[], Any] | PluginCase, *, report: bool = False, **options: Any) -> Report:
    """Check all that a plugin promises, on small streams of every kind; takes some seconds.

    :param factory: makes a plugin with its memory, ``factory()``; or a :class:`PluginCase`.
    :param report: go on after a failure. Otherwise the first failure raises.
    :param options: other fields of :class:`PluginCase`.
    :raises AssertionError: for the first broken promise: what was promised, what happened, how to fix it.
    :raises TypeError: for a factory that cannot be called, or an unknown option.

    >>> from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
    >>> check_plugin(lambda: MemoryReplayPlugin(RandomMemory(40, seed=0))).broken
    []
    """
    return _checked(factory, PluginCase, report, options)


def parametrize_with_checks(cases: Sequence[Case]) -> Callable[[Any], Any]:
    """Decorator of a pytest test that gets ``case`` and ``check``: one test for each check of each case.

    Expected failures are marked ``xfail``, and have to fail.

    :param cases: the records.

    >>> from avalanche_memplugins.codecs import Raw
    >>> @parametrize_with_checks([CodecCase("raw", Raw)])
    ... def test_my_codecs(case, check):
    ...     check(case)
    """
    import pytest

    parameters = []
    for case in cases:
        for found in checks_of(case):
            reason = case.expected_failures.get(found.__name__)
            marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True, raises=AssertionError)]
            parameters.append(pytest.param(case, found, id=f"{case.name}-{found.__name__}", marks=marks))
    decorator: Callable[[Any], Any] = pytest.mark.parametrize(("case", "check"), parameters)
    return decorator


def _checked(factory: Any, kind: type[Any], report: bool, options: dict[str, Any]) -> Report:
    if isinstance(factory, kind):
        case: Any = replace(factory, **options)
    elif callable(factory):
        case = kind(**{"name": getattr(factory, "__name__", "yours"), "factory": factory, **options})
    else:
        raise TypeError(f"factory: expected what can be called, or a case, got {check.show(factory)}")
    outcomes = []
    for found in checks_of(case):
        outcome = _outcome(case, found)
        if outcome.result == "broken" and not report:
            raise AssertionError(outcome.told)
        outcomes.append(outcome)
    return Report(case.name, tuple(outcomes))


def _outcome(case: Case, found: Check) -> Outcome:
    name, reason = found.__name__, case.expected_failures.get(found.__name__)
    promised = (found.__doc__ or "").strip()
    try:
        found(case)
    except AssertionError as error:
        return Outcome(name, promised, *(("broken", str(error)) if reason is None else ("known", reason)))
    if reason is not None:
        told = f"{case.name} keeps {name}\n  expected to fail: {reason}\n  to fix it: take it out of expected_failures"
        return Outcome(name, promised, "broken", told)
    return Outcome(name, promised, "kept", "")
