"""Recipes: what a name stands for, and that nothing heavy is imported for it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from avalanche.training.plugins import EvaluationPlugin

from avalanche_memplugins import MemoryReplayPlugin, lab
from avalanche_memplugins.lab import STRATEGIES, RunSpec
from avalanche_memplugins.lab.before import unsuitable
from avalanche_memplugins.lab.run import build
from avalanche_memplugins.lab.strategies import make_memory
from avalanche_memplugins.lab.streams import open_benchmark

FIELDS = {"benchmark": "split-mnist", "seed": 0, "n_experiences": 5, "epochs": 1}


@pytest.mark.parametrize("name", [name for name, recipe in STRATEGIES.items() if recipe.of])
def test_a_name_for_a_setting_is_its_recipe_with_that_setting(name: str) -> None:
    recipe = STRATEGIES[name]
    base = STRATEGIES[recipe.of]
    options = {key: value for key, value in recipe.options.items() if value != base.options[key]}
    assert options or name == "er-reservoir"
    if recipe.memory is None:
        return
    one, other = (RunSpec(strategy=name, **FIELDS), RunSpec(strategy=base.name, options=options, **FIELDS))
    assert repr(make_memory(one)) == repr(make_memory(other))
    assert one.all_options == other.all_options


def test_two_bits_a_pixel_take_half_the_bytes_of_four() -> None:
    capacities = [
        make_memory(RunSpec(strategy="er", options={"codec": codec}, budget="20KB", **FIELDS)).capacity
        for codec in ("2bit", "4bit")
    ]
    assert capacities == [20_000 // (14 * 14 // 4 + 1), 20_000 // (14 * 14 // 2 + 1)]


def test_names_are_listed_without_torch() -> None:
    code = (
        "import sys, avalanche_memplugins.cli; from avalanche_memplugins.lab import RunSpec;"
        "RunSpec(benchmark='split-mnist', strategy='er-4bit', seed=0, n_experiences=5, epochs=1).key;"
        "print(sorted({'torch', 'avalanche', 'torchvision', 'pandas'} & set(sys.modules)))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_the_former_name_of_recipe_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"lab\.StrategyInfo is now lab\.Recipe"):
        assert lab.StrategyInfo is lab.Recipe


def replay_of(strategy: str, **options: Any) -> MemoryReplayPlugin:
    fields = {"benchmark": "split-digits", "seed": 0, "n_experiences": 2, "epochs": 1, "memory_size": 20}
    spec = RunSpec(strategy=strategy, options=options, **fields)
    built = build(spec, open_benchmark(spec), EvaluationPlugin())
    return next(plugin for plugin in built.strategy.plugins if isinstance(plugin, MemoryReplayPlugin))


def test_dark_replay_stores_outputs_as_the_stream_passes_or_after_the_experience() -> None:
    assert replay_of("dark-replay").write_at == "iteration"
    assert replay_of("dark-replay", write_at="experience").write_at == "experience"


@pytest.mark.parametrize(
    ("strategy", "options", "expected"),
    [
        ("er", {}, ("auto", "auto")),
        ("er", {"write_at": "iteration"}, ("iteration", None)),
        ("er", {"write_at": "iteration", "replay_weight": "growing"}, ("iteration", "growing")),
        *((name, {}, ("iteration", None)) for name in ("er-reservoir", "er-uint8", "rma", "er-mbpa", "gaussian")),
    ],
)
def test_replay_is_by_default_as_the_stream_is_in_er_and_as_published_elsewhere(
    strategy: str, options: dict[str, Any], expected: tuple[str, Any]
) -> None:
    plugin = replay_of(strategy, **options)
    assert (plugin.write_at, plugin.replay_weight) == expected


def test_generative_replay_is_labelled_and_knows_classes_as_its_options_say() -> None:
    plain, told = replay_of("vae"), replay_of("vae", labels="soft", by_class=True)
    assert (plain.targets.labels, plain.memory.network.classes) == ("old_model", None)
    assert (told.targets.labels, told.memory.network.classes) == ("soft", 10)


@pytest.mark.parametrize(
    ("labels", "budget", "message"),
    [
        ("soft", "500KB", "outside the budget"),
        ("sotf", None, "expected memory, old_model or soft"),
        ("memory", 1, None),
    ],
)
def test_labels_that_need_a_copy_of_the_model_do_not_fit_a_budget(
    labels: str | None, budget: Any, message: str | None
) -> None:
    said = STRATEGIES["vae"].unsuitable(RunSpec(strategy="vae", options={"labels": labels}, budget=budget, **FIELDS))
    assert said is None if message is None else message in (said or "")
    assert unsuitable(RunSpec(strategy="vae", **FIELDS)) is None
