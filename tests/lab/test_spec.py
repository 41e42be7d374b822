"""Specs: checked, hashed the same everywhere."""

from __future__ import annotations

import dataclasses
import json
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
        "optimizer": "adamw",
        "lr": 0.002,
        "batch_size": 33,
        "budget": 50_000,
        "iterations": 7,
        "hidden_layers": 1,
        "dropout": 0.5,
        "train_rows": 100,
        "test_rows": 100,
        "options": {"write_every": 3},
        "benchmark_options": {"return_task_id": True},
        "model_options": {"channels": 8},
        "momentum": 0.9,
        "weight_decay": 0.1,
        "schedule": "cosine",
    }
    # The code is that of functions of the user's own, see test_doors.
    assert changed.keys() == {field.name for field in dataclasses.fields(RunSpec)} - {"code"}
    base = {**PINNED.to_json(), "optimizer": "sgd", "model": "cnn"}
    keys = {RunSpec(**{**base, name: value}).key for name, value in changed.items()}
    assert len(keys | {RunSpec(**base).key}) == len(changed) + 1


def test_fields_that_came_later_change_no_old_key() -> None:
    assert PINNED.to_json().keys().isdisjoint({"budget", "iterations", "options", "dropout"})
    said = RunSpec(**PINNED.to_json(), budget=None, iterations=None, hidden_layers=2, dropout=0, options={})
    assert said == PINNED
    assert said.key == PINNED.key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"budget": "50KB"}, {"budget": 50_000}),
        ({"budget": 50_000, "memory_size": 7}, {"budget": 50_000}),
        ({"iterations": 9, "epochs": 3}, {"iterations": 9}),
        ({"options": {"write_every": None}}, {}),
        (
            {"options": (("write_every", 3), ("write_epochs", "all"))},
            {"options": {"write_epochs": "all", "write_every": 3}},
        ),
        ({"benchmark_options": {"fixed_class_order": [1, 0]}}, {"benchmark_options": {"fixed_class_order": (1, 0)}}),
    ],
)
def test_what_is_the_same_run_has_the_same_key(one: dict[str, object], other: dict[str, object]) -> None:
    a, b = (RunSpec(**{**PINNED.to_json(), **change}) for change in (one, other))
    assert a == b
    assert a.key == b.key
    assert RunSpec(**json.loads(json.dumps(a.to_json()))) == a, "back from its file"


def test_an_option_that_is_a_whole_number_of_a_float_is_that_float() -> None:
    a, b = (RunSpec(**{**PINNED.to_json(), "strategy": "ewc"}, options={"ewc_lambda": value}) for value in (3, 3.0))
    assert a.key == b.key
    assert a.all_options == {"ewc_lambda": 3.0, "mode": "separate", "decay_factor": None}


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
        ({"epochs": 0}, "epochs: expected an integer >= 1, got 0"),
        ({"seed": -1}, "seed: expected an integer >= 0, got -1"),
        ({"memory_size": 1.5}, "memory_size: expected an integer >= 1, got 1.5"),
        ({"hidden": True}, "hidden: expected an integer >= 1, got True"),
        ({"lr": 0}, "lr: expected a number above 0, got 0"),
        ({"lr": float("nan")}, "lr: expected a number above 0, got nan"),
        ({"lr": "fast"}, "lr: expected a number above 0, got 'fast'"),
        ({"budget": "50 kilos"}, "budget: expected bytes such as 50KB, 2M, 1.5MiB, 1e6 or 50000, got '50 kilos'"),
        ({"budget": 0}, "budget: expected a whole number of bytes from 1 to"),
        ({"budget": "50KB", "strategy": "naive"}, "budget: naive has no memory that a budget could size"),
        ({"iterations": 0}, "iterations: expected an integer >= 1, got 0"),
        ({"train_rows": 1.5}, "train_rows: expected an integer >= 1, got 1.5"),
        ({"dropout": 1}, "dropout: expected a number from 0 to below 1, got 1"),
        ({"options": {"lambda": 1}}, "options: rma has no 'lambda'; it has write_every, write_epochs, codec"),
        ({"options": {"write_epochs": 3}}, "options: write_epochs: expected a value like 'first', got 3"),
        ({"options": 3}, "options: expected a mapping of settings, got 3"),
        ({"momentum": 0.9}, "momentum: expected 0 with adam, which has its own, got 0.9"),
        ({"momentum": 1, "optimizer": "sgd"}, "momentum: expected a number from 0 to below 1, got 1"),
        ({"weight_decay": -1}, "weight_decay: expected a number from 0 to below inf, got -1"),
        ({"schedule": "cosin"}, "schedule: no 'cosin'; did you mean 'cosine'"),
        ({"model_options": {"channels": 3}}, "model_options: mlp has no 'channels'; it has none"),
    ],
)
def test_bad_fields_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunSpec(**{**PINNED.to_json(), **change})
