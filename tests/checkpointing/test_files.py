"""What is on the disk: whole or not at all, checked before use, no pickle."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_runs import Run, assert_same
from safetensors.torch import load_file, save_file

from avalanche_memplugins import _drafts, _folders
from avalanche_memplugins.checkpointing import CheckpointError, load_run_state, run_state, save_run_state

MANIFEST, TENSORS = "manifest.json", "tensors.safetensors"


@pytest.fixture
def run() -> Run:
    return Run("incremental", "adam")


@pytest.fixture
def saved(run: Run, tmp_path: Path) -> Path:
    strategy = run.strategy(seed=1)
    run.train(strategy, run.benchmark().train_stream[:2])
    save_run_state(strategy, tmp_path / "run")
    return tmp_path / "run"


def refuses(run: Run, folder: Path, match: str, **kwargs: Any) -> None:
    """Loading fails with a message that names the matter and leaves the strategy as it was."""
    fresh, same = run.strategy(seed=3), run.strategy(seed=3)
    random_state = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=match):
        load_run_state(fresh, folder, **kwargs)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_same(fresh, same)


def rewritten(folder: Path, change: Any) -> None:
    """Change the manifest, and make its checksum right."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    manifest["manifest_sha256"] = _folders.manifest_digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(trained_experiences="2"),
        lambda m: m.update(trained_experiences=-1),
        lambda m: m.update(left_out=3),
        lambda m: m.update(state=[]),
        lambda m: m["state"].pop("random"),
        lambda m: m["state"].update(random=3),
        lambda m: m["state"]["random"].update(torch=[1, 2]),
        lambda m: m["state"].update(optimizer={}),
        lambda m: m["state"]["optimizer"]["groups"][0]["parameters"].append({"kind": "model", "name": "nothing"}),
        lambda m: m["state"]["optimizer"]["groups"][0].update(options=None),
        lambda m: m["state"]["model"].update(attributes={"nowhere": {"x": 1}}),
        lambda m: m["state"]["model"].update(state=[["x"]]),
        lambda m: m["state"]["model"].update(evaluating=7),
        lambda m: m["state"].update(plugins=[{"class": 3}]),
        lambda m: m["state"].update(strategy={"_criterion": {"$": "nothing"}}),
        lambda m: m["state"].update(strategy={"_criterion": {"$": "tensor", "at": ["x"], "home": True}}),
    ],
)
def test_wrong_nodes_with_a_right_checksum_change_nothing(change: Any, run: Run, saved: Path) -> None:
    rewritten(saved, change)
    refuses(run, saved, "folder: |strategy")


@pytest.mark.parametrize("place", ["file", "file/run", "x" * 300])
def test_places_where_no_checkpoint_can_be(
    place: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    strategy = run.strategy(seed=1)
    monkeypatch.setattr(run_state, "capture_model", None)  # nothing is done for it
    with pytest.raises(CheckpointError, match=r"^folder: "):
        save_run_state(strategy, tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk(run: Run, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = run.strategy(seed=1)
    monkeypatch.setattr(_drafts, "free_bytes", lambda folder: 10)
    with pytest.raises(CheckpointError, match=r"^folder: expected [\d,]+ free bytes for .*, got 10"):
        save_run_state(strategy, saved)
    monkeypatch.undo()
    assert load_run_state(run.strategy(seed=4), saved) == 2
    assert [path.name for path in saved.parent.iterdir()] == ["run"]


def test_holds_safetensors_and_json_only(saved: Path) -> None:
    assert sorted(os.listdir(saved)) == [MANIFEST, TENSORS]
    tensors = load_file(saved / TENSORS)
    assert tensors["model/classifier.classifier.weight"].shape == (6, 16)
    manifest = json.loads((saved / MANIFEST).read_text())
    assert manifest["trained_experiences"] == 2
    assert manifest["written_with"]["torch"] == torch.__version__


def test_data_are_not_saved(saved: Path) -> None:
    # 240 rows of 12 floats would be 11,520 bytes; the model and Adam's three moments are 5,576.
    assert (saved / TENSORS).stat().st_size < 25_000
    assert not any(tensor.shape[:1] == (240,) for tensor in load_file(saved / TENSORS).values())


@pytest.mark.parametrize("name", [MANIFEST, TENSORS])
def test_a_missing_file(name: str, run: Run, saved: Path) -> None:
    (saved / name).unlink()
    refuses(run, saved, "folder: .* holds no readable avalanche run state")


@pytest.mark.parametrize("name", [MANIFEST, TENSORS])
@pytest.mark.parametrize("keep", [0, 0.5, 0.999])
def test_a_cut_file(name: str, keep: float, run: Run, saved: Path) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(keep * len(content))])
    refuses(run, saved, "folder: ")


def test_any_changed_byte_of_the_tensors(run: Run, saved: Path) -> None:
    content = bytearray((saved / TENSORS).read_bytes())
    content[-100] ^= 1
    (saved / TENSORS).write_bytes(content)
    refuses(run, saved, "damaged: its checksum differs")


def test_a_changed_number_of_the_manifest(run: Run, saved: Path) -> None:
    text = (saved / MANIFEST).read_text()
    assert text.count('"trained_experiences": 2') == 1
    (saved / MANIFEST).write_text(text.replace('"trained_experiences": 2', '"trained_experiences": 3'))
    refuses(run, saved, "the manifest in .* is damaged")


def test_a_later_format(run: Run, saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    manifest["format"] = 99
    (saved / MANIFEST).write_text(json.dumps({**manifest, "manifest_sha256": _folders.manifest_digest(manifest)}))
    refuses(run, saved, "expected a run state of format 1, got 99")


def test_another_kind_of_folder(run: Run, saved: Path, tmp_path: Path) -> None:
    _folders.save_folder(tmp_path / "memory", {"x": torch.zeros(2)}, {"kind": "random memory"})
    refuses(run, tmp_path / "memory", "expected a saved avalanche run state, got 'random memory'")


def test_no_checkpoint(run: Run, tmp_path: Path) -> None:
    refuses(run, tmp_path / "none", "holds no readable avalanche run state")
    assert load_run_state(run.strategy(seed=1), tmp_path / "none", missing_ok=True) == 0


def test_missing_ok_does_not_hide_damage(run: Run, saved: Path) -> None:
    (saved / TENSORS).unlink()
    refuses(run, saved, "holds no readable", missing_ok=True)


@pytest.mark.parametrize("step", ["save_file", "_digest", "_exchange", "rename"])
def test_an_interrupted_write_leaves_the_earlier_checkpoint(
    step: str, run: Run, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*args: Any, **kwargs: Any) -> None:
        raise Killed

    strategy = run.strategy(seed=1)
    run.train(strategy, run.benchmark().train_stream[:3])
    with monkeypatch.context() as patch:
        if step == "rename":
            patch.setattr(_drafts, "_exchange", lambda one, other: False)
            patch.setattr(Path, "rename", killed)
        elif step == "_exchange":
            patch.setattr(_drafts, step, killed)
        else:
            patch.setattr(_folders, step, killed)
        with pytest.raises(Killed):
            save_run_state(strategy, saved)
    fresh = run.strategy(seed=4)
    assert load_run_state(fresh, saved) == 2
    save_run_state(strategy, saved)
    assert load_run_state(run.strategy(seed=4), saved) == 3


def test_a_crash_between_the_two_renames(run: Run, saved: Path) -> None:
    (saved.with_name(".run-0123abcd.draft")).mkdir()
    shutil.copy(saved / MANIFEST, saved.with_name(".run-0123abcd.draft"))
    saved.rename(_folders.set_aside(saved))
    assert load_run_state(run.strategy(seed=4), saved, missing_ok=True) == 2


def test_replaces_nothing_but_run_states(run: Run, tmp_path: Path) -> None:
    strategy = run.strategy(seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / MANIFEST).write_text('{"kind": "a web page"}')
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("dear diary")
    save_run_state(strategy, tmp_path / "state")
    (tmp_path / "state" / "notes.txt").write_text("dear diary")
    for name in ("mine", "kept", "state"):
        before = sorted(os.listdir(tmp_path / name))
        with pytest.raises(
            CheckpointError, match="folder: expected a new folder or an earlier saved avalanche run state"
        ):
            save_run_state(strategy, tmp_path / name)
        assert sorted(os.listdir(tmp_path / name)) == before


def test_a_damaged_checkpoint_can_be_replaced(run: Run, saved: Path) -> None:
    (saved / TENSORS).write_bytes(b"")
    save_run_state(run.strategy(seed=1), saved)
    assert load_run_state(run.strategy(seed=2), saved) == 0


def test_not_inside_training(run: Run, saved: Path) -> None:
    class Saver:
        def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
            save_run_state(strategy, saved)

    strategy = run.strategy(seed=1)
    strategy.plugins.insert(0, Saver())
    with pytest.raises(CheckpointError, match="between two calls of train"):
        strategy.train(run.benchmark().train_stream[0])


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(12, 12), torch.nn.Linear(12, 12)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x).relu())

    import checkpoint_runs

    checkpoint_runs.MODELS["tied"] = Tied
    run = Run("tied")
    whole = run.whole(tmp_path)
    resumed = run.resumed(tmp_path / "2")
    assert resumed.model.a.weight is resumed.model.b.weight
    assert_same(whole, resumed)


def test_a_foreign_tensor_table(run: Run, saved: Path) -> None:
    # Consistent checksums, yet a tensor that the manifest names is not there.
    tensors = load_file(saved / TENSORS)
    del tensors["optimizer/0/0/exp_avg"]
    save_file(tensors, saved / TENSORS)
    manifest = json.loads((saved / MANIFEST).read_text())
    manifest["sha256"] = _folders._digest(saved / TENSORS)
    (saved / MANIFEST).write_text(json.dumps(manifest))
    refuses(run, saved, "lacks the tensor 'optimizer/0/0/exp_avg'")
