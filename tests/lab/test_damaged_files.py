"""Damaged lab files: what comes out is the same as from whole ones, done again, or one clear error."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from avalanche_memplugins._folders import set_aside
from avalanche_memplugins.cli import main
from avalanche_memplugins.energy_training.options import EnergyTraining
from avalanche_memplugins.energy_training.train import Training
from avalanche_memplugins.lab import Comparison, InProcess, ResultStore, RunResult, RunSpec, Settings, compare
from avalanche_memplugins.lab.report import Report, rewrite
from avalanche_memplugins.lab.reproduce import PRESETS, load_preset
from avalanche_memplugins.lab.run import Checkpoint, Progress


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Some bits turned over, or a part missing, or a part twice."""
    found = bytearray(content)
    kind = draw.randrange(4)
    if kind < 2:
        for _ in range(draw.choice((1, 1, 2, 5))):
            found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
    elif kind == 2:
        del found[draw.randrange(len(found)) :]
    else:
        start = draw.randrange(len(found))
        found[start:start] = found[start : start + draw.randrange(1, 50)]
    return bytes(found)


@pytest.fixture
def stored(spec: Callable[..., RunSpec], result: Callable[..., RunResult], tmp_path: Path) -> tuple[ResultStore, Any]:
    store = ResultStore(tmp_path / "runs")
    whole = result(spec(strategy="rma"), untrained=(0.1, 0.2), warnings=("w",), environment={"torch": "2"})
    store.put(whole)
    return store, whole


def test_a_damaged_result_is_the_same_or_none(stored: tuple[ResultStore, RunResult]) -> None:
    store, whole = stored
    path, draw = store.path(whole.spec), random.Random(0)
    content, same = path.read_bytes(), 0
    for _ in range(700):
        path.write_bytes(damaged(content, draw))
        found = store.get(whole.spec)
        assert found in (None, whole)
        assert store.results() in ([], [whole])
        same += found is not None
    assert 0 < same < 100, "few damages change nothing"


WRONG: dict[str, Any] = {
    "accuracy": [[[0.9, 0.1]], [[0.9, 0.1], [0.6, 1.8]], [[0.9], [0.6]], [[0.9, 0.1], [0.6, float("nan")]], "ab", 3],
    "train_seconds": [[1.0], [1.0, -1.0], [1.0, float("inf")], [1.0, True], None],
    "memory_bytes": [[1], [1, 1.5], [1, -1], [1, 2**70], {}],
    "untrained": [[0.1], [0.1, 7.0], [0.1, "x"]],
    "fixed_bytes": [-1, 0.5, None, "1"],
    "weights": [None, 3],
    "warnings": ["text", [1], None],
    "environment": [[], {"torch": 2}, None],
    "error": [3, ["x"], True],
    "key": ["0" * 16],
    "spec": [None, {}, [], {"benchmark": []}],
    "more": [1],
}


@pytest.mark.parametrize("field", WRONG)
def test_every_field_is_checked(field: str, stored: tuple[ResultStore, RunResult]) -> None:
    _, whole = stored
    values = whole.to_json()
    assert RunResult.from_json(json.loads(json.dumps(values))) == whole
    for value in WRONG[field]:
        with pytest.raises(ValueError, match=r"^\w+: ") as error:
            RunResult.from_json({**values, field: value})
        assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"[]", b"null", b"1e999", b"9" * 10_000],
    ids=["empty", "no-utf8", "deep-list", "deep-object", "list", "null", "inf", "digits"],
)
def test_what_is_no_json_is_done_again_or_one_error(content: bytes, tmp_path: Path, fake_executor: Any) -> None:
    comparison = Comparison(
        benchmarks=("split-digits",), strategies=("naive",), seeds=1, experiences=2, out=tmp_path / "out"
    )
    compare(comparison, console=Console(quiet=True), executor=fake_executor)
    (run,) = (tmp_path / "out" / "runs").glob("*.json")
    head = tmp_path / "out" / "comparison.json"
    head.write_bytes(content)
    assert rewrite(Report(folder=tmp_path / "out")), "the report does without"
    run.write_bytes(content)
    with pytest.raises(ValueError, match="folder: expected a folder of `memplugins compare` with finished runs"):
        rewrite(Report(folder=tmp_path / "out"))
    fake_executor.asked.clear()
    compare(comparison, console=Console(quiet=True), executor=fake_executor)
    assert len(fake_executor.asked) == 1


def test_a_result_of_an_earlier_version_has_no_checksum_and_is_read(stored: tuple[ResultStore, RunResult]) -> None:
    store, whole = stored
    path = store.path(whole.spec)
    values = json.loads(path.read_text())
    del values["sha256"]
    path.write_text(json.dumps(values))
    assert store.get(whole.spec) == whole


def test_a_reader_beside_a_writer_tries_twice(
    stored: tuple[ResultStore, RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    from avalanche_memplugins.lab import store as module

    store, whole = stored
    unsealed, tries = module.unsealed, []

    def late(path: Path) -> dict[str, Any]:
        tries.append(path)
        if len(tries) == 1:
            raise OSError(116, "Stale file handle")
        return unsealed(path)

    monkeypatch.setattr(module, "unsealed", late)
    assert store.get(whole.spec) == whole
    assert len(tries) == 2


def test_damaged_numbers_of_an_unfinished_run_are_the_same_or_none(
    spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    run, draw = spec(), random.Random(1)
    folder = tmp_path / "unfinished"
    progress = Progress([0.1, 0.2], [[0.5, 0.25]], [1.5], [10], ["w"])

    class Unsaved:
        pass

    checkpoint = Checkpoint(folder, run, {"torch": "2"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avalanche_memplugins.lab.run.save_run_state", lambda *args: None)
        checkpoint.save(Unsaved(), progress)
    content = (folder / "numbers.json").read_bytes()
    assert Checkpoint(folder, run, {"torch": "2"}).numbers() == progress
    for _ in range(500):
        folder.mkdir(exist_ok=True)
        (folder / "numbers.json").write_bytes(damaged(content, draw))
        assert Checkpoint(folder, run, {"torch": "2"}).numbers() in (None, progress)


def test_a_damaged_comparison_is_reported_whole_or_not_at_all(tmp_path: Path, fake_executor: Any) -> None:
    comparison = Comparison(benchmarks=("split-digits",), strategies=("naive", "rma"), seeds=2, experiences=2)
    out, draw = tmp_path / "out", random.Random(2)
    from dataclasses import replace

    compare(replace(comparison, out=out), console=Console(quiet=True), executor=fake_executor)
    content, table = (out / "comparison.json").read_bytes(), (out / "results.csv").read_text()
    deadline = time.monotonic() + 4
    for _ in range(8):
        (out / "comparison.json").write_bytes(damaged(content, draw))
        rewrite(Report(folder=out))
        assert sorted((out / "results.csv").read_text().splitlines()) == sorted(table.splitlines())
        if time.monotonic() > deadline:
            break


@pytest.mark.parametrize("name", ["der-split-mnist", "three-scenarios-split-mnist"])
def test_a_damaged_preset_is_a_preset_or_one_error(name: str, tmp_path: Path) -> None:
    content, draw = (PRESETS / f"{name}.yaml").read_bytes(), random.Random(3)
    path = tmp_path / "damaged.yaml"
    refused = []
    for _ in range(60):
        path.write_bytes(damaged(content, draw))
        try:
            load_preset(path)
        except ValueError as problem:
            refused.append(str(problem))
    assert len(refused) > 5
    assert [text for text in refused if not text.startswith("preset") or len(text) > 600] == []


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghijk", "bcdefghijkl", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"b{i}: &b{i} {{<<: [{', '.join([f'*b{i - 1}' if i else '*a'] * 9)}]}}\n" for i in range(12)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        MERGES,
        "&a [*a]",
        "[" * 50_000,
        "- " * 5_000 + "x",
        "rows: " + "9" * 5_000,
        "rows: 2024-99-99",
        "rows: !!timestamp x",
        "rows: !!int ''",
        "rows: !!python/object:os.system {}",
        "? [a]\n: b",
        "? {a: b}\n: c",
        "1: 2",
        "\x00",
        "rows: [" + ", ".join(["x"] * 50_000) + "]",
        "rows:\n- {label: " + "x" * 50_000 + "}",
        "rows:\n- {label: {a: b}, run: {}}",
        "common: {strategy: [naive]}\nrows:\n- {label: a, run: {benchmark: {a: b}}, expected: 1, tolerance: 1}",
        "x" * 2_000_000,
    ],
    ids=range(19),
)
def test_hostile_presets_are_one_short_error_at_once(text: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(text)
    begun = time.process_time()  # however busy the machine is
    assert main(["reproduce", str(path), "--out", str(tmp_path / "out")]) == 2
    assert time.process_time() - begun < 5
    error = capsys.readouterr().err
    assert error.startswith("error: preset")
    assert error.count("\n") == 1
    assert len(error) < 700
    assert not (tmp_path / "out").exists()


def test_presets_may_use_aliases_and_must_be_utf8(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "own.yaml"
    run = "{benchmark: split-digits, strategy: naive, n_experiences: 5}"
    rows = f"rows:\n- {{label: a, run: &run {run}, expected: 20, tolerance: 5}}\n"
    rows += "- {label: b, run: {<<: *run, strategy: rma}, expected: 90, tolerance: 5}\n"
    path.write_text("summary: s\nsource: s\nseeds: 1\nminutes: 1\n" + rows)
    assert [row.spec(0).strategy for row in load_preset(path).rows] == ["naive", "rma"]
    path.write_bytes(b"summary: \xff\n")
    with pytest.raises(ValueError, match="is no preset: 'utf-8' codec"):
        load_preset(path)


# ---------------------------------------------------------------- checkpoints of energy training

OPTIONS: dict[str, Any] = {
    **{"bits": 12, "writable": 4, "width": 8, "write_steps": 2, "read_steps": 2, "write_rate": 2.0},
    **{"patterns": (2, 3), "rows": 6, "steps": 12, "validate_every": 4},
}


def _state(training: Training) -> str:
    tensors = {**training.network.state_dict(), **{f"a{k}": v for k, v in training.average.state_dict().items()}}
    tensors |= {f"b{k}": v for k, v in training.best.items()} | {"g": training.generator.get_state()}
    numbers = [training.step, training.seconds, training.skipped, training.best_score, training.history]
    moments = training.optimizer.state_dict()["state"]
    tensors |= {f"m{number}{name}": value for number, held in moments.items() for name, value in held.items()}
    return repr([{name: value.tolist() for name, value in sorted(tensors.items())}, numbers])


@pytest.fixture
def training(tmp_path: Path) -> Training:
    """Stopped after its first checkpoint."""
    found = Training(EnergyTraining(out=tmp_path / "net.safetensors", **OPTIONS))
    found._round()
    found.best_score = found.validate()
    found.history.append([found.step, found.seconds, *found.best_score])
    found._save()
    return found


@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json"])
def test_a_damaged_checkpoint_is_the_same_or_one_error(name: str, training: Training) -> None:
    path, whole, draw = training.folder / name, _state(training), random.Random(4)
    content, refused = path.read_bytes(), []
    for _ in range(60):
        path.write_bytes(damaged(content, draw))
        try:
            again = Training(training.options)
        except ValueError as problem:
            refused.append(str(problem))
        else:
            # Numbers of the manifest are told wrong from right by its checksum only.
            assert _state(again) == whole or (name == "manifest.json" and b"manifest_sha256" not in content)
    assert len(refused) > 20
    assert [text for text in refused if not text.startswith(("folder: ", "out: ")) or len(text) > 1000] == []


def test_a_checkpoint_left_aside_by_a_crash_is_gone_on_from(training: Training) -> None:
    whole = _state(training)
    # As a crash between the two renames leaves it: the old one aside, the new one a draft.
    aside = set_aside(training.folder)
    shutil.copytree(training.folder, training.folder.with_name(f".{training.folder.name}-0123abcd.draft"))
    training.folder.rename(aside)
    assert _state(Training(training.options)) == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, "step: expected an integer >= 0, got -1"),
        ({"step": "4"}, "step: expected an integer"),
        ({"seconds": float("inf")}, "seconds: expected a number >= 0"),
        ({"skipped": None}, "skipped: expected an integer"),
        ({"best_score": [1.0]}, "best_score: expected 3 numbers"),
        ({"history": [[1.0]]}, "history: expected rows of 5 numbers"),
        ({"options": 3}, "options: expected names and values"),
    ],
)
def test_wrong_numbers_with_a_right_checksum_change_nothing(
    change: dict[str, Any], message: str, training: Training
) -> None:
    from avalanche_memplugins._folders import load_folder, save_folder

    tensors, manifest = load_folder(training.folder, kind="EnergyTraining")
    save_folder(training.folder, tensors, {**manifest, **change})
    with pytest.raises(ValueError, match=f"out: the checkpoint .* is damaged: {message}"):
        Training(training.options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(next(iter(tensors))), "expected and not found"),
        (lambda tensors: tensors.update(more=tensors["generator"]), "expected and not found"),
        (lambda tensors: tensors.update(generator=tensors["generator"][:-1]), "generator: expected uint8"),
        (lambda tensors: tensors.update(generator=tensors["generator"] * 0), "generator: expected the state"),
        (lambda tensors: tensors["optimizer.0.exp_avg"].fill_(float("nan")), "expected finite numbers"),
        (lambda tensors: tensors.update({"optimizer.0.exp_avg": tensors["optimizer.0.step"]}), "exp_avg: expected"),
        (lambda tensors: tensors.update({"optimizer.99.step": tensors["optimizer.0.step"]}), "there is no parameter"),
        (lambda tensors: tensors.pop("optimizer.0.step"), "optimizer.0: expected"),
    ],
)
def test_wrong_tensors_with_a_right_checksum_change_nothing(
    change: Callable[[Any], Any], message: str, training: Training
) -> None:
    from avalanche_memplugins._folders import load_folder, save_folder

    tensors, manifest = load_folder(training.folder, kind="EnergyTraining")
    change(tensors)
    save_folder(training.folder, tensors, manifest)
    with pytest.raises(ValueError, match=f"out: the checkpoint .* is damaged: .*{message}"):
        Training(training.options)


def test_a_run_beside_damaged_files_of_its_own_ends_as_one_alone(spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    run, store = spec(strategy="rma"), ResultStore(tmp_path / "runs")
    folder = store.folder / ".unfinished" / run.key
    folder.mkdir(parents=True)
    (folder / "numbers.json").write_bytes(b"{" * 10_000)
    (found,) = InProcess(Settings()).run([run], store)
    assert found.ok
    assert not folder.exists()
