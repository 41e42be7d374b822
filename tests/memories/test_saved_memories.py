"""What holds of the saved state of every kind of memory: whole or not at all, also when it is wrong on purpose."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from _comparators import NAMES, made
from safetensors.torch import load_file, save_file

from avalanche_memplugins import RandomMemory, _drafts, _folders
from avalanche_memplugins._drafts import UnwritableError
from avalanche_memplugins.memories import row_store
from avalanche_memplugins.memories.differentiable_neural_dictionary import DifferentiableNeuralDictionary


def _targets() -> Any:
    path = Path(__file__).parents[2] / "bench" / "_faults.py"
    spec = importlib.util.spec_from_file_location("_faults", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_faults"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


faults = _targets()
KINDS = faults.MEMORIES


def rewritten(folder: Path, change: Any) -> None:
    """Change manifest and tensors, and make the checksums right."""
    manifest = json.loads((folder / _folders.MANIFEST).read_text())
    tensors = load_file(folder / _folders.TENSORS)
    change(manifest, tensors)
    save_file(tensors, folder / _folders.TENSORS)
    manifest["sha256"] = _folders._digest(folder / _folders.TENSORS)
    if "manifest_sha256" in manifest:
        manifest["manifest_sha256"] = _folders.manifest_digest(manifest)
    (folder / _folders.MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", KINDS)
def test_folders_of_earlier_versions_load(name: str, tmp_path: Path) -> None:
    saved = faults._filled(KINDS[name], 0)
    saved.save(tmp_path / "m")
    rewritten(tmp_path / "m", lambda manifest, tensors: [manifest.pop(key) for key in ("manifest_sha256", "format")])
    loaded = faults._filled(KINDS[name], 1).load(tmp_path / "m")
    if name == "RandomProjectionMemory":  # it answers, and keeps no rows
        x = faults._rows(0)[0]
        assert torch.equal(loaded.predict(x), saved.predict(x))
    else:
        assert faults.digest(loaded.sample(9)) == faults.digest(saved.sample(9))


@pytest.mark.parametrize("name", KINDS)
def test_values_that_cannot_be_written_cannot_be_loaded(name: str, tmp_path: Path) -> None:
    saved = faults._filled(KINDS[name], 0)
    saved.save(tmp_path / "m")
    floats = [
        key
        for key, value in load_file(tmp_path / "m" / _folders.TENSORS).items()
        if value.is_floating_point() and value.numel() and key not in ("keys",)
    ]
    for key in floats:
        target = faults._filled(KINDS[name], 1)
        before = faults.digest(dict(target.state_dict()))
        saved.save(tmp_path / "m")
        rewritten(tmp_path / "m", lambda manifest, tensors, key=key: tensors[key].view(-1)[:1].fill_(float("nan")))
        with pytest.raises(ValueError, match=r"^folder: "):
            target.load(tmp_path / "m")
        assert faults.digest(dict(target.state_dict())) == before


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("wrong", ["none left", "one less", "another type"])
def test_folders_that_lack_tensors_or_have_others_are_refused_or_work(name: str, wrong: str, tmp_path: Path) -> None:
    saved = faults._filled(KINDS[name], 0)
    saved.save(tmp_path / "m")
    keys = list(load_file(tmp_path / "m" / _folders.TENSORS))

    def change(manifest: Any, tensors: Any, key: str) -> None:
        if wrong == "none left":
            tensors.clear()
        elif wrong == "one less":
            del tensors[key]
        else:
            other = torch.int32 if tensors[key].dtype == torch.int64 else torch.int64
            tensors[key] = tensors[key].to(other)

    refused = 0
    for key in keys[:1] if wrong == "none left" else keys:
        saved.save(tmp_path / "m")
        rewritten(tmp_path / "m", lambda manifest, tensors, key=key: change(manifest, tensors, key))
        target = faults._filled(KINDS[name], 1)
        before = faults.digest(dict(target.state_dict()))
        said = ""
        try:
            target.load(tmp_path / "m")
        except ValueError as error:
            said = str(error)
        if said:
            refused += 1
            assert said.startswith("folder: ")
            assert faults.digest(dict(target.state_dict())) == before
        else:
            faults._used(target)
    assert refused


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("wrong", ["a key less", "a key more", "a shape", "a generator", "parts", "a table or count"])
def test_a_state_dict_that_does_not_fit_changes_nothing(name: str, wrong: str) -> None:
    target, state = faults._filled(KINDS[name], 1), dict(faults._filled(KINDS[name], 0).state_dict())
    extra = state["_extra_state"] = dict(state["_extra_state"])
    some = next((key for key, value in state.items() if isinstance(value, torch.Tensor) and value.numel()), "")
    if not some and wrong in ("a key less", "a shape", "parts"):
        pytest.skip("all that it holds is in its extra state, which has no parts")
    if wrong == "a key less":
        del state[some]
    elif wrong == "a key more":
        state["another"] = torch.zeros(3)
    elif wrong == "a shape":
        state[some] = torch.zeros(3, 4, 5)
    elif wrong == "a generator":
        extra["generator"] = torch.zeros(7, dtype=torch.uint8)
    elif wrong == "parts":
        extra["parts"] = ["another"]
    else:
        extra["seen" if "seen" in extra else "table"] = -1
    before = faults.digest(dict(target.state_dict()))
    with pytest.raises(ValueError, match=r"^state: "):
        target.load_state_dict(state)
    assert faults.digest(dict(target.state_dict())) == before


def _other_modules() -> dict[str, Any]:
    def associative(memory: Any, seed: int) -> Any:
        bits = torch.randint(2, (2, 3, 8), generator=torch.Generator().manual_seed(seed)).float()
        memory.write(bits)
        return memory

    def dictionary(seed: int) -> Any:
        found = DifferentiableNeuralDictionary(2, 4, 3)
        generator = torch.Generator().manual_seed(seed)
        found.write(torch.randn(6, 3, generator=generator), torch.arange(6) % 2, torch.ones(6))
        return found

    return {
        **{name: lambda seed, name=name: associative(made(name, 8), seed) for name in NAMES},
        "dictionary": dictionary,
        "codec": lambda seed: faults._filled(KINDS["LatentMemory"], seed).codec,
    }


@pytest.mark.parametrize("name", _other_modules())
@pytest.mark.parametrize("wrong", ["a key less", "a key more", "a shape", "NaN", "no tensor"])
def test_states_of_what_is_no_replay_memory(name: str, wrong: str) -> None:
    make = _other_modules()[name]
    target, state = make(1), dict(make(0).state_dict())
    target.load_state_dict(state)
    assert faults.digest(dict(target.state_dict())) == faults.digest(state)
    target = make(1)
    tensors = [key for key, value in state.items() if isinstance(value, torch.Tensor)]
    floats = [key for key in tensors if state[key].is_floating_point()]
    if wrong == "NaN" and not floats:
        pytest.skip("holds integers only")
    last = (floats or tensors)[-1] if wrong != "NaN" else floats[0]
    if wrong == "a key less":
        del state[last]
    elif wrong == "a key more":
        state["another"] = torch.zeros(3)
    elif wrong == "a shape":
        state[last] = torch.zeros(3, 4, 5, 6)
    else:
        state[last] = torch.full_like(state[last], float("nan")) if wrong == "NaN" else "x"
    before = faults.digest(dict(target.state_dict()))
    with pytest.raises(ValueError, match=r"^state: "):
        target.load_state_dict(state)
    assert faults.digest(dict(target.state_dict())) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=2), "expected a RandomMemory of format 1, got 2"),
        (lambda m: m.update(more=2), r"has entries of no RandomMemory: \['more'\]"),
        (lambda m: m["state"].update(seen=10**30), "as seen, got 1000"),
        (lambda m: m["state"].update(seen=5), "expected 0 to 5 rows held, got 20"),
        (lambda m: m["state"].update(shape=[10**9, 10**9]), "expected codes of shape"),
        (lambda m: m["state"].update(dtype="load"), "expected a type of rows"),
        (lambda m: m["state"].pop("policy"), "policy"),
    ],
)
def test_manifests_that_are_wrong_on_purpose(change: Any, message: str, tmp_path: Path) -> None:
    target = faults._filled(KINDS["RandomMemory"], 1)
    before = faults.digest(dict(target.state_dict()))
    faults._filled(KINDS["RandomMemory"], 0).save(tmp_path / "m")
    rewritten(tmp_path / "m", lambda manifest, tensors: change(manifest))
    with pytest.raises(ValueError, match=rf"^folder: .*{message}"):
        target.load(tmp_path / "m")
    assert faults.digest(dict(target.state_dict())) == before


# ------------------------------------------------------------------------------------------------ mapped files


def test_a_mapped_memory_goes_on_in_another_process_with_the_same_arguments(tmp_path: Path) -> None:
    x, y = torch.randn(80, 3), torch.arange(80) % 7
    plain = RandomMemory(50, seed=0)
    plain.write(x, y)
    if not (first := os.fork()):
        try:
            mapped = RandomMemory(50, storage=tmp_path / "rows", seed=0)
            mapped.write(x, y)
            mapped.save(tmp_path / "m")
        finally:
            os._exit(0)
    os.waitpid(first, 0)
    assert len(list((tmp_path / "rows").iterdir())) == 2
    mapped = RandomMemory(50, storage=tmp_path / "rows").load(tmp_path / "m")
    for _ in range(3):
        assert torch.equal(mapped.sample(20).x, plain.sample(20).x)
        for memory in (mapped, plain):
            memory.write(x[:9], y[:9])


@pytest.mark.parametrize("way", ["folder", "state_dict"])
def test_files_that_nobody_uses_any_more_are_taken_over(way: str, tmp_path: Path) -> None:
    rows, x, y = tmp_path / "rows", torch.randn(30, 3), torch.arange(30) % 5
    first = RandomMemory(20, storage=rows)
    first.write(x, y)
    first.save(tmp_path / "m")
    state = first.state_dict() if way == "state_dict" else None
    # As long as it lives, nobody else gets its files, and what fails leaves both as they were.
    other = RandomMemory(20, storage=rows)
    for taken in (lambda: other.load(tmp_path / "m"), lambda: other.write(x, y)):
        with pytest.raises(ValueError, match=r"storage: expected a folder of its own, got .* another memory uses"):
            taken()
        assert len(other) == 0
        assert not list(other.store.named_buffers())
    expected = first.sample(9).x
    del first
    if state is not None:
        state = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in state.items()}
        other.load_state_dict(state)
    else:
        other.load(tmp_path / "m")
    assert torch.equal(other.sample(9).x, expected)
    assert sum(path.stat().st_size for path in rows.iterdir()) == other.nbytes


def test_mapped_files_have_their_blocks_from_the_start(tmp_path: Path) -> None:
    RandomMemory(2_000, storage=tmp_path / "rows").write(torch.zeros(1, 100), torch.zeros(1, dtype=torch.int64))
    for path in (tmp_path / "rows").iterdir():
        assert path.stat().st_blocks * 512 >= path.stat().st_size > 0


@pytest.mark.parametrize("told", ["beforehand", "by the system"])
def test_a_mapped_file_larger_than_the_disk_is_refused(told: str, tmp_path: Path, monkeypatch: Any) -> None:
    memory = RandomMemory(10**12, storage=tmp_path / "rows", write_policy="ring")
    if told == "by the system":
        monkeypatch.setattr(_drafts, "free_bytes", lambda folder: None)
        monkeypatch.setattr(row_store, "free_bytes", lambda folder: 7)
    said = r"storage: expected 400,000,000,000,000 free bytes for .*codes-1000000000000x100.bin, got [\d,]+"
    for _ in range(2):
        with pytest.raises(UnwritableError, match=said):
            memory.write(torch.zeros(3, 100), torch.zeros(3, dtype=torch.int64))
        assert len(memory) == 0
        assert not (tmp_path / "rows").exists() or not list((tmp_path / "rows").iterdir())


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "rows", tmp_path / ("x" * 300)):
        memory = RandomMemory(5, storage=place)
        with pytest.raises(ValueError, match=r"^storage: "):
            memory.write(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    assert (tmp_path / "file").read_text() == "mine"


def test_rows_that_grow_leave_no_file_behind(tmp_path: Path) -> None:
    memory = RandomMemory(10, storage=tmp_path / "rows", store_logits=True)
    for width in (2, 5):
        memory.write(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), logits=torch.ones(3, width))
    assert sorted(path.name for path in (tmp_path / "rows").glob("logits*")) == ["logits-10x5.bin"]
    assert memory.rows(torch.arange(6)).logits.sum() == 21  # type: ignore[union-attr]
    assert os.path.exists(tmp_path / "rows" / "codes-10x2.bin")
