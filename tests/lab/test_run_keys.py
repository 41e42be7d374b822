"""Keys of runs that were done long ago: a key that changes makes every stored result worthless."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avalanche_memplugins.lab import STRATEGIES, ResultStore, RunResult, RunSpec
from avalanche_memplugins.lab.store import sealed

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


FORMER = {"read": "uniform", "write_at": "iteration", "replay_weight": None}
OF_ER = {"benchmark": "split-digits", "strategy": "er", "seed": 3, "n_experiences": 5, "epochs": 10}


@pytest.mark.parametrize(
    ("then", "key"),
    [({}, "9a48407be30bcd18"), ({"codec": "uint8"}, "fa566b3a4ea6e46b"), ({"read": "cycle"}, "0e384bfb4b8cb2d3")],
)
def test_a_default_that_has_changed_makes_another_key_and_the_old_one_is_reached(
    then: dict[str, str], key: str
) -> None:
    now, same = RunSpec(**OF_ER, options=then), RunSpec(**OF_ER, options={**FORMER, **then})
    assert same.key == key, "recorded before the default changed"
    assert now.key != key
    for spec in (now, same):
        assert RunSpec(**json.loads(json.dumps(spec.to_json()))) == spec


def test_an_old_result_of_er_is_found_as_what_it_was(tmp_path: Path) -> None:
    store, same = ResultStore(tmp_path), RunSpec(**OF_ER, options=FORMER)
    path = store.put(RunResult(spec=same, error="none"))
    values = json.loads(path.read_text(encoding="utf-8"))
    # As version 0.1 wrote it: nothing at its default is told.
    values = {name: value for name, value in values.items() if name != "sha256"}
    assert values["spec"].pop("options") == FORMER
    path.write_bytes(sealed(values))
    assert store.get(RunSpec(**OF_ER)) is None
    found = store.get(same)
    assert found is not None
    assert [one.spec.method for one in store.results()] == ["er:read=uniform,replay_weight=none,write_at=iteration"]
