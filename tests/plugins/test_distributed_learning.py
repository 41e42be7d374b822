"""Two ranks with memories that learn or model: one model, no row twice, what a single process gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from avalanche_memplugins.benchmarks import SplitDigits

sys.path.insert(0, str(Path(__file__).parent))
import _learning_ranks as part

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available() or not hasattr(os, "fork"),
    reason="needs gloo and fork",
)
OLD_MODEL = ("vae old_model", "vae soft", "gaussians iteration", "gaussians experience")
AT_THE_END = ("vae memory", "vae old_model", "vae soft", "strategy", "gaussians experience", "kanerva all")
LEARNS = ("vae memory", "gaussians experience", "kanerva all")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the ranks have left."""
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, str(Path(part.__file__)), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", [*(name for name in part.PARTS if name != "too few"), "resumed"])
def test_both_ranks_end_with_one_model(name: str, ranks: list[dict[str, Any]]) -> None:
    one, other = (rank[name]["model"] for rank in ranks)
    assert one == other
    assert all(np.isfinite(values).all() for values in one.values())


@pytest.mark.parametrize("name", OLD_MODEL)
def test_the_old_model_is_the_model_that_the_ranks_share(name: str, ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank[name]["teacher"] == rank[name]["model"], "copied before the ranks' buffers were brought together"


@pytest.mark.parametrize("labels", ["memory", "old_model", "soft"])
def test_growing_weights_and_labels_add_up_to_a_single_process(labels: str, ranks: list[dict[str, Any]]) -> None:
    alone = part.full_batches(0, 1, labels)["model"]
    for name, values in ranks[0][f"full {labels}"]["model"].items():
        np.testing.assert_allclose(values, alone[name], rtol=0, atol=1e-6)


def test_replay_moves_the_weights_that_are_compared() -> None:
    models = [part.full_batches(0, 1, labels)["model"] for labels in ("memory", "old_model", "soft")]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        gap = max(np.abs(np.subtract(models[one][name], models[other][name])).max() for name in models[one])
        assert gap > 1e-3, "the tolerance would hide a wrong target"


@pytest.mark.parametrize("labels", ["memory", "old_model", "soft"])
def test_a_generator_learns_every_row_on_one_of_the_ranks(labels: str, ranks: list[dict[str, Any]]) -> None:
    given = Counter(tuple(np.round(row, 4)) for rank in ranks for row in rank[f"vae {labels}"]["given"])
    x, _, _ = _stream()
    assert given == Counter(tuple(np.round(row, 4)) for row in x.tolist())


@pytest.mark.parametrize("name", [*AT_THE_END, "energy", "latent", "resumed"])
def test_rows_counted_by_class_sum_to_the_stream(name: str, ranks: list[dict[str, Any]]) -> None:
    _, y, _ = _stream()
    assert sum((Counter(rank[name]["per_class"]) for rank in ranks), Counter()) == Counter(map(str, y.tolist()))


@pytest.mark.parametrize("name", ["gaussians iteration", "kanerva class"])
def test_written_as_they_pass_all_but_the_left_out_rows_are_counted(name: str, ranks: list[dict[str, Any]]) -> None:
    _, y, kept = _stream()
    assert sum((Counter(rank[name]["per_class"]) for rank in ranks), Counter()) == Counter(map(str, y[kept].tolist()))


@pytest.mark.parametrize("write_at", ["iteration", "experience"])
def test_gaussians_of_the_ranks_together_have_the_means_of_the_stream(
    write_at: str, ranks: list[dict[str, Any]]
) -> None:
    x, y, kept = _stream()
    if write_at == "iteration":
        x, y = x[kept], y[kept]
    sums = np.zeros((10, 64))
    for rank in ranks:
        held = rank[f"gaussians {write_at}"]
        for label, mean in zip(held["classes"], held["mean"], strict=True):
            sums[label] += held["per_class"][str(label)] * np.asarray(mean)
    wanted = np.stack([x[y == label].sum(0) for label in range(10)])
    np.testing.assert_allclose(sums, wanted, atol=1e-3)


@pytest.mark.parametrize("name", LEARNS)
def test_accuracy_is_that_of_a_single_process(name: str, ranks: list[dict[str, Any]]) -> None:
    alone = part.PARTS[name](0, 1)["accuracy"]
    assert alone > 0.7, "the comparison means something only where something is remembered"
    assert ranks[0][name]["accuracy"] == pytest.approx(alone, abs=0.1)


def test_each_rank_goes_on_from_what_it_saved(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["resumed"]["model"] == rank["resumed"]["whole"]


def test_an_experience_with_fewer_rows_than_ranks_is_refused(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["too few"] == "experience: expected a row for each of 2 ranks at least, got 1 rows"


def _stream() -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """All rows, their classes, and which of them two ranks train on: all but the last of an odd number."""
    rows, labels, kept = [], [], []
    for experience in SplitDigits(n_experiences=5, seed=0).train_stream:
        number = len(experience.dataset)
        for index, row in enumerate(experience.dataset):
            rows.append(np.asarray(row[0], dtype=np.float64).ravel())
            labels.append(int(row[1]))
            kept.append(index < number - number % 2)
    return np.stack(rows), np.asarray(labels), np.asarray(kept)
