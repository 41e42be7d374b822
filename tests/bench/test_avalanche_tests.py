"""bench/avalanche_tests.py: what counts as refused, as failed, and as another batch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import _avalanche_pytest
    import avalanche_tests

    return avalanche_tests, _avalanche_pytest


def raised(action) -> Exception:
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def unnamed():
    raise ValueError("something is wrong")


@pytest.mark.parametrize(
    ("action", "refused"),
    [
        (lambda: MemoryReplayPlugin(RandomMemory(4), replay_weight=2.0), True),  # ours, and it names the argument
        (lambda: torch.zeros(2) @ torch.zeros(3), False),  # not ours
        (unnamed, False),
    ],
)
def test_only_a_named_error_of_ours_is_a_refusal(bench, action, refused):
    _, plugin = bench
    error = raised(action)
    assert plugin._is_refusal(error, list(plugin._frames(error.__traceback__))) is refused


def outcome(plugin, seen, **options):
    sizes = {"before ours": [seen], "after ours": []}
    return plugin.Outcome("t", ["Naive"], injected=1, sizes=[sizes], **options)


@pytest.mark.parametrize(
    ("seen", "options", "kind"),
    [
        (("before_backward", 4, 4, 4, True), {}, "as without"),
        (("before_backward", 8, 8, 8, True), {}, "other batch"),
        (("before_backward", 4, 4, 4, False), {}, "FAILS"),
        (("before_backward", 4, 4, 4, True), {"error": "ValueError: x"}, "FAILS"),
        (("before_backward", 4, 4, 4, True), {"error": "ValueError: x", "refused": True}, "refused by name"),
        (("before_backward", 4, 4, 4, True), {"faults": ["left behind on Naive: ['forward']"]}, "FAILS"),
        (("before_backward", 4, 4, 4, True), {"error": "x: y", "refused": True, "faults": ["left behind: z"]}, "FAILS"),
    ],
)
def test_outcomes_are_judged(bench, seen, options, kind):
    script, plugin = bench
    without = outcome(plugin, ("before_backward", 4, 4, 4, True))
    assert script.judge(outcome(plugin, seen, **options), without, plugin.Variant("replay"))[0] == kind


def test_every_injection_can_be_made(bench):
    from _avalanche_injections import ACCELERATIONS, PLUGINS
    from avalanche.models import SimpleMLP

    for make in PLUGINS.values():
        for first, second in zip(*(make(SimpleMLP(input_size=6), "Naive") for _ in range(2)), strict=True):
            assert first is not second
    assert [len(make()) for make in ACCELERATIONS.values()] == [0, 1, 1, 2]
    assert sys.path[0] == str(BENCH)
