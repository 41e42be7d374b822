"""Specs: checked, hashed the same everywhere."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

from avalanche_memplugins.lab import RunSpec

PINNED = RunSpec(benchmark="split-digits", strategy="rma", seed=3, n_experiences=5, epochs=10)


def test_key_is_stable_over_processes_and_time() -> None:
    code = (
        "from avalanche_memplugins.lab import RunSpec;"
        "print(RunSpec(benchmark='split-digits', strategy='rma', seed=3, n_experiences=5, epochs=10).key)"
    )
    env = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONWARNINGS": "ignore"}
    said = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout
    assert said.strip() == PINNED.key
    # Written down: a key that changes makes every stored result worthless.
    assert PINNED.key == "7bf4bb905b5d26f3"


def test_every_field_changes_the_key() -> None:
    changed = {
        "benchmark": "permuted-digits",
        "strategy": "naive",
        "seed": 4,
        "n_experiences": 2,
        "epochs": 11,
        "memory_size": 201,
        "model": "linear",
        "hidden": 257,
        "optimizer": "sgd",
        "lr": 0.002,
        "batch_size": 33,
    }
    fields = PINNED.to_json()
    assert changed.keys() == fields.keys()
    keys = {RunSpec(**{**fields, name: value}).key for name, value in changed.items()}
    assert len(keys | {PINNED.key}) == len(fields) + 1


def test_equal_numbers_make_equal_specs() -> None:
    fields = PINNED.to_json()
    assert RunSpec(**{**fields, "lr": 1}) == RunSpec(**{**fields, "lr": 1.0})
    assert RunSpec(**{**fields, "lr": 1}).key == RunSpec(**{**fields, "lr": 1.0}).key


def test_frozen_and_picklable() -> None:
    with pytest.raises(FrozenInstanceError):
        PINNED.seed = 5  # type: ignore[misc]
    copy = pickle.loads(pickle.dumps(PINNED))
    assert copy == PINNED
    assert copy.key == PINNED.key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"benchmark": "split-digit"}, "benchmark: no 'split-digit'; did you mean 'split-digits'"),
        ({"strategy": "er-resevoir"}, "strategy: no 'er-resevoir'; did you mean 'er-reservoir'"),
        ({"model": "transformer"}, "model: no 'transformer'; there are mlp, linear"),
        ({"optimizer": "Adam"}, "optimizer: no 'Adam'; did you mean 'adam'"),
        ({"epochs": 0}, "epochs: wants an integer >= 1, got 0"),
        ({"seed": -1}, "seed: wants an integer >= 0, got -1"),
        ({"memory_size": 1.5}, "memory_size: wants an integer >= 1, got 1.5"),
        ({"hidden": True}, "hidden: wants an integer >= 1, got True"),
        ({"lr": 0}, "lr: wants a number above 0, got 0"),
        ({"lr": float("nan")}, "lr: wants a number above 0, got nan"),
        ({"lr": "fast"}, "lr: wants a number above 0, got 'fast'"),
    ],
)
def test_bad_fields_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunSpec(**{**PINNED.to_json(), **change})
