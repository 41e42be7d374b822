"""Keys of runs that were done long ago: a key that changes makes every stored result worthless."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avalanche_memplugins.lab import STRATEGIES, RunSpec

# Recorded before recipes had options in common: every strategy on three streams, by rows, by bytes, with options.
RECORDED = json.loads((Path(__file__).parent / "run_keys.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("strategy", sorted({run["spec"]["strategy"] for run in RECORDED}))
def test_no_recorded_key_has_changed(strategy: str) -> None:
    runs = [run for run in RECORDED if run["spec"]["strategy"] == strategy]
    assert len(runs) >= 3
    for run in runs:
        spec = RunSpec(**run["spec"])
        assert spec.to_json() == run["spec"]
        assert spec.key == run["key"]


def test_every_strategy_of_that_time_is_recorded_and_there() -> None:
    recorded = {run["spec"]["strategy"] for run in RECORDED}
    assert len(recorded) == 39
    assert recorded <= set(STRATEGIES)
