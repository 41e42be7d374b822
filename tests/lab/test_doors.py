"""What a user brings: found by name, checked before any run, the same in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avalanche_memplugins.lab import (
    Comparison,
    InProcess,
    LocalProcesses,
    ResultStore,
    RunSpec,
    Settings,
    compare,
    doors,
)
from avalanche_memplugins.lab.before import check_before
from avalanche_memplugins.lab.executors import run_all
from avalanche_memplugins.lab.run import execute
from avalanche_memplugins.lab.strategies import make_memory

# All kinds in one file. The benchmark gives 4 classes of 1 x 6 x 6 rows that a linear model can tell apart.
OWN = '''
"""Things of a user's own."""
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import _make_taskaware_classification_dataset
from avalanche.training import Naive
from torch.utils.data import TensorDataset

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.codecs import Uint8


def stream(n_experiences=2, *, seed, rows=20):
    """Four bright corners."""
    def part(k, seed):
        draw = torch.Generator().manual_seed(seed)
        y = torch.arange(rows) % 2 + 2 * k
        x = torch.rand(rows, 1, 6, 6, generator=draw) / 4
        for i, label in enumerate(y.tolist()):
            x[i, 0, 3 * (label // 2) : 3 * (label // 2) + 3, 3 * (label % 2) : 3 * (label % 2) + 3] += 0.75
        data = TensorDataset((255 * x).clamp(0, 255).round() / 255, y)
        data.targets = y.tolist()
        return _make_taskaware_classification_dataset(data, task_labels=0)
    sides = [[part(k, seed + 10 * k + 100 * side) for k in range(n_experiences)] for side in (0, 1)]
    return benchmark_from_datasets(train=sides[0], test=sides[1])


def net(input_shape, n_classes, width=8):
    """A small one."""
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(36, width), torch.nn.ReLU(), torch.nn.Linear(width, n_classes)
    )


def method(setup, share=1.0):
    """Replay from a memory of its own."""
    memory = RandomMemory(max(1, int(share * setup.rows())), seed=setup.spec.seed)
    return Naive(**setup.extended(MemoryReplayPlugin(memory, seed=setup.spec.seed)))


def memory(capacity, *, budget, codec, shape, classes, experiences, seed):
    return RandomMemory(capacity or budget // 999, codec=codec, seed=seed, write_policy="ring")


def codec(shape, *, mean, std):
    return Uint8(mean=mean, std=std)


def optimiser(parameters, *, lr):
    return torch.optim.SGD(parameters, lr=10 * lr)


def slower(optimizer, steps):
    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
'''
KEY = "import json, sys; from avalanche_memplugins.lab import RunSpec; print(RunSpec(**json.loads(sys.argv[1])).key)"
FIELDS: dict[str, Any] = {
    "benchmark": "{}:stream",
    "strategy": "{}:method",
    "model": "{}:net",
    "optimizer": "{}:optimiser",
    "schedule": "{}:slower",
    "seed": 0,
    "n_experiences": 2,
    "epochs": 8,
    "batch_size": 4,
    "lr": 0.02,
    "memory_size": 12,
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of the module, in the current folder, which is new for every test."""
    name = f"own_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    # As in the installed command, where the current folder is not on the path; what the lab adds goes with the test.
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    return name


def spec_of(own: str, **changes: Any) -> RunSpec:
    fields = {**FIELDS, **changes}
    return RunSpec(**{name: value.format(own) if isinstance(value, str) else value for name, value in fields.items()})


def test_all_at_once_run_in_this_process_and_in_another_with_the_same_numbers(own: str, tmp_path: Path) -> None:
    spec = spec_of(own)
    here = execute(spec)
    assert here.ok, here.error
    assert here.final_accuracy > 0.7, "two rows a class are enough"
    # Twelve rows of float32, int32 labels and tasks, as RandomMemory counts them.
    assert 12 * 36 * 4 < here.memory_bytes[-1] < 12 * (36 * 4 + 24)
    (there,) = run_all([spec], ResultStore(tmp_path / "runs"), LocalProcesses(1))
    assert there.ok, there.error
    assert there.weights == here.weights
    assert there.accuracy == here.accuracy


def test_each_kind_does_what_its_function_says(own: str) -> None:
    from avalanche_memplugins.lab.run import build
    from avalanche_memplugins.lab.streams import open_benchmark

    spec = spec_of(own, model_options={"width": 5}, options={"share": 0.5})
    assert spec.info.input_shape == (1, 6, 6)
    assert (spec.info.n_classes, spec.info.scenario) == (4, "class-incremental")
    built = build(spec, open_benchmark(spec), None)
    assert built.strategy.model[1].out_features == 5
    assert built.strategy.optimizer.param_groups[0]["lr"] == pytest.approx(0.2), "ten times that of the run"
    assert next(p.memory for p in built.strategy.plugins if hasattr(p, "memory")).capacity == 6


def test_memories_and_codecs_of_ones_own_are_options_of_er(own: str) -> None:
    options = {"memory": f"{own}:memory", "codec": f"{own}:codec"}
    spec = spec_of(own, strategy="er", options=options)
    memory = make_memory(spec)
    assert (memory.capacity, repr(memory.write_policy)) == (12, "Ring()")
    assert type(memory.codec).__name__ == "Uint8"
    assert execute(spec).ok
    assert spec.method == f"er:codec={own}:codec,memory={own}:memory"
    with pytest.raises(ValueError, match=r"codec: no '3bit'; did you mean '4bit'"):
        spec_of(own, strategy="er", options={"codec": "3bit"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "no_such_module:net"}, r"model: cannot import 'no_such_module': ModuleNotFoundError"),
        ({"model": "{}:nett"}, r"model: own_\d+ has no 'nett'"),
        ({"model": "{}:OWN.x"}, r"model: own_\d+ has no 'OWN.x'"),
        ({"model": "no.py:net"}, r"model: cannot import 'no.py': FileNotFoundError"),
        ({"model": "mpl"}, r"model: no 'mpl'; did you mean 'mlp'"),
        (
            {"model": "{}:codec"},
            r"called as \(input_shape, n_classes, \*\*options\), got own_\d+:codec\(shape",
        ),
        ({"strategy": "{}:stream"}, r"strategy: expected a function .*\(setup, \*\*options\).*seed"),
        ({"optimizer": "{}:slower"}, r"optimizer: expected a function .*\(parameters, \*, lr, \*\*options\)"),
        ({"schedule": "{}:net"}, None),  # may be called with two arguments: told when it returns a network
        ({"benchmark": "{}:method"}, r"benchmark: expected a function .*\(n_experiences, \*, seed, \*\*options\)"),
        ({"options": {"sare": 1}}, r"options: own_\d+:method has no 'sare'; it has share"),
        ({"options": {"share": "much"}}, r"options: share: expected a value like 1.0, got 'much'"),
        ({"model_options": {"widht": 1}}, r"model_options: own_\d+:net has no 'widht'; it has width"),
    ],
)
def test_what_cannot_be_imported_or_called_is_told_when_the_spec_is_made(
    own: str, change: dict[str, Any], message: str | None
) -> None:
    if message is None:
        spec_of(own, **{name: value for name, value in change.items() if name != "options"})
        return
    with pytest.raises(ValueError, match=message):
        spec_of(own, **change)


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        (
            "def bad(setup): return 3",
            {"strategy": "{}:bad"},
            r"bad\(setup, \*\*options\) to return an Avalanche str",
        ),
        ("def bad(setup): return 1 / 0", {"strategy": "{}:bad"}, r"strategy: own_\d+:bad raised ZeroDivisionError"),
        (
            "def bad(shape, n): return [1]",
            {"model": "{}:bad"},
            r"to return a torch.nn.Module, got a list",
        ),
        (
            "def bad(shape, n): return torch.nn.Flatten()",
            {"model": "{}:bad", "strategy": "naive", "optimizer": "adam"},
            r"optimizer got an empty parameter list",
        ),
        (
            "def bad(shape, n): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3))",
            {"model": "{}:bad"},
            r"model: expected own_\d+:bad to make outputs \(2, 4\) of two rows, got \(2, 3\)",
        ),
        ("def bad(shape, n): return torch.nn.Linear(5, n)", {"model": "{}:bad"}, r"RuntimeError: mat1 and mat2"),
        (
            "def bad(n_experiences=2, *, seed): return stream(3, seed=seed)",
            {"benchmark": "{}:bad"},
            r"benchmark: expected own_\d+:bad to return 2 experiences to train and to test on, got \(3, 3\)",
        ),
        (
            "def bad(n, *, seed): return 0",
            {"benchmark": "{}:bad"},
            r"an Avalanche benchmark, got a int",
        ),
        (
            "def bad(optimizer, steps): return None",
            {"schedule": "{}:bad"},
            r"return a torch scheduler, got a None",
        ),
        ("def bad(p, lr): return None", {"optimizer": "{}:bad"}, r"to return a torch optimiser, got a NoneType"),
        (
            "def bad(c, *, budget, codec, shape, classes, experiences, seed): return object()",
            {"strategy": "er", "options": {"memory": "{}:bad"}},
            r"memory: expected own_\d+:bad.* return a memory with sample and nbytes, got a object without sample",
        ),
        (
            "def bad(shape, mean, std): return 7",
            {"strategy": "er", "options": {"codec": "{}:bad"}},
            r"codec: expected own_\d+:bad.* to return a codec, got a int without check",
        ),
    ],
)
def test_what_returns_something_else_is_told_before_any_run(
    own: str, function: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / f"{own}.py"
    path.write_text(path.read_text() + "\n\n" + function + "\n")
    if "options" in change:
        change = {**change, "options": {name: value.format(own) for name, value in change["options"].items()}}
    spec = spec_of(own, **change)
    with pytest.raises(ValueError, match=message):
        check_before([spec], tmp_path / "out", Settings())


def test_the_key_is_that_of_name_options_and_the_files_content(own: str, tmp_path: Path) -> None:
    fields = json.dumps({**spec_of(own).to_json(), "code": ""})

    command = [sys.executable, "-W", "ignore", "-c", KEY, fields]
    elsewhere = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout.strip()
    first = spec_of(own).key
    assert elsewhere == first
    assert spec_of(own, options={"share": 0.5}).key != first
    path = tmp_path / f"{own}.py"
    path.write_text(path.read_text() + "\n# another\n")
    assert spec_of(own).key == first, "the file is read once a process, as it was imported"
    doors._content.cache_clear()
    assert spec_of(own).key != first


def test_a_spec_comes_back_from_its_file_when_the_module_is_gone(own: str, tmp_path: Path) -> None:
    spec = spec_of(own, options={"share": 0.5})
    (tmp_path / f"{own}.py").unlink()
    command = [sys.executable, "-W", "ignore", "-c", KEY, json.dumps(spec.to_json())]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == spec.key
    assert RunSpec(**spec.to_json()) == spec
    assert replace(spec, seed=1).code == spec.code
    assert (
        replace(
            spec,
            **dict.fromkeys(("model",), "mlp"),
            benchmark="split-digits",
            strategy="naive",
            options=(),
            optimizer="adam",
            schedule="constant",
        ).code
        == ""
    )


def test_a_file_that_was_edited_since_is_told_by_the_run(own: str, tmp_path: Path) -> None:
    spec = spec_of(own)
    path = tmp_path / f"{own}.py"
    path.write_text(path.read_text() + "\n# another\n")
    (result,) = run_all([spec], ResultStore(tmp_path / "runs"), LocalProcesses(1))
    assert "code: expected the files as they were when the runs began" in (result.error or "")


def test_files_by_path_and_classes_of_torch(own: str, tmp_path: Path) -> None:
    spec = spec_of(own, model=f"{own}.py:net", optimizer="torch.optim:NAdam", schedule="constant")
    assert execute(spec).ok
    with pytest.raises(ValueError, match="schedule: expected builtins:max"):
        doors.make("schedule", "builtins:max", {}, 1, 2)


class _Point:
    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value


def test_entry_points_are_names_like_ours(own: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from avalanche_memplugins.cli import main

    points = {
        "avalanche_memplugins.strategies": [_Point("corner-replay", f"{own}:method")],
        "avalanche_memplugins.benchmarks": [_Point("corners", f"{own}:stream")],
        "avalanche_memplugins.codecs": [_Point("byte", f"{own}:codec")],
        "avalanche_memplugins.memories": [_Point("ring-of-mine", f"{own}:memory")],
        "avalanche_memplugins.models": [_Point("tiny", f"{own}:net")],
    }
    monkeypatch.setattr(doors, "entry_points", lambda group: points.get(group, []))
    spec = spec_of(own, strategy="corner-replay", benchmark="corners", model="tiny")
    by_hand = spec_of(own)
    assert execute(spec).weights == execute(by_hand).weights
    assert make_memory(spec_of(own, strategy="er", options={"memory": "ring-of-mine", "codec": "byte"})).capacity == 12
    with pytest.raises(ValueError, match="strategy: no 'corner-repaly'; did you mean 'corner-replay'"):
        spec_of(own, strategy="corner-repaly")
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for name in ("corner-replay", "corners", "byte", "ring-of-mine", "tiny"):
        assert name in said


def test_a_comparison_of_two_settings_of_one_recipe_and_an_own_one(own: str, tmp_path: Path) -> None:
    from rich.console import Console

    comparison = Comparison(
        benchmarks=(f"{own}:stream:rows=12",),
        strategies=("naive", "er", "er:codec=1bit", f"{own}:method", f"{own}:method:share=0.5"),
        options=("policy=ring",),
        model=f"{own}:net:width=6",
        seeds=2,
        batch_size=4,
        memory_size=8,
        out=tmp_path / "out",
    )
    console = Console(width=120, record=True)
    outcome = compare(comparison, console=console, executor=InProcess())
    assert [result.error for result in outcome.results] == [None] * 10
    assert list(outcome.summary["strategy"]) == [
        "naive",
        "er:policy=ring",
        "er:codec=1bit,policy=ring",
        f"{own}:method",
        f"{own}:method:share=0.5",
    ]
    said = console.export_text()
    assert "ER (codec=1bit,policy=ring)" in said
    assert "method (share=0.5)" in said
    options = {dict(result.spec.benchmark_options)["rows"] for result in outcome.results}
    assert options == {12}
    with pytest.raises(ValueError, match="options: none of naive, rma has an option 'share'"):
        Comparison(strategies=("naive", "rma"), options=("share=1",)).specs()


def test_presets_name_functions_of_ones_own(own: str, tmp_path: Path) -> None:
    from avalanche_memplugins.lab.reproduce import load_preset

    lines = [
        "summary: corners",
        "source: mine",
        "seeds: 1",
        "minutes: 0.1",
        f"common: {{benchmark: '{own}:stream', n_experiences: 2, epochs: 1, model: '{own}:net'}}",
        "rows:",
        f"  - {{label: mine, run: {{strategy: '{own}:method', options: {{share: 0.5}}}}, expected: 50, tolerance: 50}}",
    ]
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join(lines))
    (row,) = load_preset(path).rows
    assert execute(row.spec(0)).ok
    path.write_text("\n".join(lines).replace("'" + own + ":net'", "'" + own + ":nut'"))
    with pytest.raises(ValueError, match=r"preset mine, row mine: model: own_\d+ has no 'nut'"):
        load_preset(path)
