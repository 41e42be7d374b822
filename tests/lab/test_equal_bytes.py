"""Every memory within the same bytes, and its bytes counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from avalanche_memplugins import pretrained
from avalanche_memplugins.codecs import LatentCodec
from avalanche_memplugins.lab import STRATEGIES, RunSpec
from avalanche_memplugins.lab.run import execute
from avalanche_memplugins.lab.strategies import OURS
from avalanche_memplugins.lab.strategies import memory as factory
from avalanche_memplugins.lab.streams import open_benchmark
from avalanche_memplugins.networks import VAE

BUDGET = 12_000
NOT_ON_DIGITS = ("er-latent", "er-mbpa-latent", "knn-latent", "energy")
# Discriminants that take less than they may: nothing would be better for it. Tests of their own are in test_answering.
FEW_BYTES = ("nearest-mean", "slda", "avalanche-slda")
ON_DIGITS = [name for name, info in STRATEGIES.items() if info.sized != "no" and name not in NOT_ON_DIGITS + FEW_BYTES]
# Bytes of a row: its pixels and a label; of Avalanche's, float32 pixels, two labels of eight, logits or a score.
ROW = {
    **dict.fromkeys(("rma", "er", "er-reservoir", "mbpa", "er-mbpa", "knn"), 64 * 4 + 1),
    "er-uint8": 64 + 1,
    "dark-replay": 64 + 1 + 40,
    **dict.fromkeys(("er-4bit", "er-mbpa-4bit", "knn-4bit"), 32 + 1),
    **dict.fromkeys(("er-2bit", "er-mbpa-2bit", "knn-2bit"), 16 + 1),
    "er-1bit": 8 + 1,
    "der": 64 * 4 + 16 + 40,
    "der-pp": 64 * 4 + 16 + 40,
    "gss": 64 * 4 + 8 + 4,
}


@pytest.mark.parametrize("strategy", ON_DIGITS)
def test_a_budget_is_kept_and_used(strategy: str, spec: Callable[..., RunSpec]) -> None:
    if STRATEGIES[strategy].requires:
        pytest.importorskip(STRATEGIES[strategy].requires)
    # Five experiences of two classes: memories that grow with the classes are then at their largest. GEM and A-GEM keep
    # whole batches, and GSS needs several in its memory.
    batch = 8 if strategy in ("gem", "agem", "gss") else 32
    result = execute(spec(strategy=strategy, budget=BUDGET, n_experiences=5, batch_size=batch))
    assert result.ok, result.error
    assert max(result.memory_bytes) <= BUDGET
    row = ROW.get(strategy, 64 * 4 + 16)
    if strategy in ("gem", "agem"):
        assert result.memory_bytes[-1] > BUDGET - 5 * 8 * row, "whole batches, an equal share an experience"
    elif strategy == "icarl":
        assert result.memory_bytes[-1] > BUDGET - 10 * row, "an equal share a class"
    elif STRATEGIES[strategy].sized == "rows" and strategy != "er+qda":
        assert result.memory_bytes[-1] == BUDGET // row * row
    else:
        assert result.memory_bytes[-1] > 0.6 * BUDGET


def test_a_budget_below_one_row_says_what_one_takes(spec: Callable[..., RunSpec]) -> None:
    for strategy, needs in (("er-reservoir", 257), ("replay", 272), ("gaussian", 5440)):
        result = execute(spec(strategy=strategy, budget=100))
        assert not result.ok
        assert f"{needs} bytes" in (result.error or "").splitlines()[-1]


@pytest.mark.parametrize("strategy", ["er-4bit", "er-1bit", "er-uint8"])
def test_codecs_store_what_the_benchmarks_transforms_make(strategy: str, spec: Callable[..., RunSpec]) -> None:
    run = spec(strategy=strategy)
    memory = factory.make_memory(run)
    rows = [open_benchmark(run).train_stream[0].dataset[i] for i in range(32)]
    x, y = torch.stack([row[0] for row in rows]), torch.tensor([int(row[1]) for row in rows])
    memory.write(x, y)
    back = memory.rows(torch.arange(32)).x
    std = 240 / 255
    worst = {"er-uint8": 0.0, "er-4bit": 1 / 30, "er-1bit": 1 / 2}[strategy] / std
    assert float((back - x).abs().max()) <= worst + 1e-6
    assert not torch.equal(back, torch.zeros_like(back))


def test_images_above_14_pixels_are_reduced_for_four_bits() -> None:
    run = RunSpec(benchmark="split-mnist", strategy="er-4bit", seed=0, n_experiences=5, epochs=1, budget=9_900)
    assert factory.make_memory(run).capacity == 9_900 // (14 * 14 // 2 + 1)


def test_raw_images_have_no_normalisation_to_undo() -> None:
    plain = RunSpec(benchmark="split-mnist", strategy="er-4bit", seed=0, n_experiences=5, epochs=1)
    raw = RunSpec(**plain.to_json(), benchmark_options={"normalise": False})
    assert factory.make_memory(raw).codec.codec.normalisation.undo(torch.ones(1, 1)) == 1
    assert factory.make_memory(plain).codec.codec.normalisation.undo(torch.ones(1, 1)) == pytest.approx(0.1307 + 0.3081)


@pytest.fixture
def autoencoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    network = VAE(code_size=8, width=4)
    path = pretrained.save(tmp_path / "tiny", network, code_mean=torch.zeros(8), code_std=torch.ones(8))
    monkeypatch.setitem(factory.AUTOENCODERS, (1, 28, 28), str(path))
    return path


@pytest.mark.parametrize("strategy", ["er-latent", "gaussian", "kanerva", "kanerva-shared"])
def test_memories_over_codes_have_fixed_bytes_apart(strategy: str, autoencoder: Path) -> None:
    run = RunSpec(benchmark="split-mnist", strategy=strategy, seed=0, n_experiences=5, epochs=1, budget=9_000)
    memory = factory.make_memory(run)
    x = torch.rand(40, 1, 28, 28).sub(0.1307).div(0.3081)
    memory.write(x, torch.arange(40) % 10)
    assert memory.nbytes <= 9_000
    network = sum(p.nbytes for p in pretrained.load(autoencoder).autoencoder.parameters())
    assert memory.nbytes_fixed >= network
    assert memory.sample(4).x.shape == (4, 1, 28, 28)
    if strategy == "er-latent":
        assert memory.capacity == 1000, "eight int8 numbers and a label"


def test_energy_memories_fill_their_budget_with_whole_slots() -> None:
    fields = {"strategy": "energy", "seed": 0, "n_experiences": 5, "epochs": 1}
    memory = factory.make_memory(RunSpec(benchmark="split-mnist", budget=20_000, **fields))
    x = torch.rand(80, 1, 28, 28).sub(0.1307).div(0.3081)
    for origin in range(2):
        memory.consolidate([(x, torch.arange(80) % 4, 0)], origin=origin)
    slot = memory.network.writable_floats + 8 + 16 + memory.slot_size * (25 + 1)
    assert memory.slots == (20_000 - 10 * 32) // slot == 5, "one for each experience"
    assert 5 * (slot + 26) > 20_000 - 10 * 32, "and no row less than fits"
    assert memory.nbytes <= 20_000
    assert memory.sample(4).x.shape == (4, 1, 28, 28)
    rows = factory.make_memory(RunSpec(benchmark="split-mnist", memory_size=200, **fields))
    assert (rows.slots, rows.slot_size) == (5, 40)
    with pytest.raises(ValueError, match=r"energy expected images of \(1, 28, 28\).*those of split-digits"):
        factory.make_memory(RunSpec(benchmark="split-digits", **fields))


def test_the_autoencoders_are_shipped_and_images_that_suit_none_are_named() -> None:
    for shape, name in factory.AUTOENCODERS.items():
        assert LatentCodec.from_pretrained(name).image_shape == shape
    fields = {"strategy": "er-latent", "seed": 0, "n_experiences": 5, "epochs": 1}
    with pytest.raises(ValueError, match=r"er-latent expected images of \(1, 28, 28\).*those of split-digits"):
        factory.make_memory(RunSpec(benchmark="split-digits", **fields))


def test_only_what_has_a_memory_of_its_own_can_be_asked_for_bytes() -> None:
    assert {name for name in OURS if STRATEGIES[name].sized == "no"} == set()


def test_few_rows_are_drawn_by_the_seed_and_tests_stay_whole(spec: Callable[..., RunSpec]) -> None:
    few = [open_benchmark(spec(train_rows=20, seed=seed)) for seed in (0, 0)]
    rows = [[row[0] for exp in benchmark.train_stream for row in exp.dataset] for benchmark in few]
    assert len(rows[0]) == 40
    assert all(torch.equal(a, b) for a, b in zip(*rows, strict=True))
    whole = open_benchmark(spec())
    assert [len(e.dataset) for e in few[0].test_stream] == [len(e.dataset) for e in whole.test_stream]
    held = {tuple(row[0].flatten().tolist()) for row in whole.train_stream[1].dataset}
    assert all(tuple(x.flatten().tolist()) in held for x in rows[0][20:]), "of that experience"
    labels = [int(row[1]) for row in few[0].train_stream[0].dataset]
    assert len(set(labels)) > 2, "not the first rows, which may be of one class"


SAME = ("gaussian", "kanerva-shared", "nearest-mean", "slda", "fecam")  # 20 kB are all that they take of these codes


@pytest.mark.parametrize("strategy", [name for name in OURS if name not in SAME])
def test_memories_of_different_size_do_not_look_the_same(strategy: str) -> None:
    """Sweeps take memories that look the same for one that cannot use more bytes."""
    common: dict[str, Any] = {
        "benchmark": "split-mnist",
        "strategy": strategy,
        "seed": 0,
        "n_experiences": 5,
        "epochs": 1,
    }
    small, large = (repr(factory.make_memory(RunSpec(**common, budget=budget))) for budget in (20_000, 50_000))
    assert small != large


def test_nearest_neighbours_learn_nothing_and_answer_with_their_rows_classes(spec: Callable[..., RunSpec]) -> None:
    result = execute(spec(strategy="knn-4bit", memory_size=100_000, n_experiences=5))
    naive = execute(spec(strategy="knn-4bit", memory_size=1, n_experiences=5))
    assert result.weights == naive.weights, "no step was taken"
    benchmark = open_benchmark(result.spec)
    x, y = ([], [])
    for experience in benchmark.train_stream:
        x += [row[0] for row in experience.dataset]
        y += [int(row[1]) for row in experience.dataset]
    stored = (torch.stack(x) * 15).round() / 15  # levels of 4 bits; digits are from 0 to 1
    labels = torch.tensor(y)
    expected = []
    for experience in benchmark.test_stream:
        queries = torch.stack([row[0] for row in experience.dataset]).flatten(1).double()
        nearest = labels[torch.cdist(queries, stored.flatten(1).double()).argmin(1)]
        truth = torch.tensor([int(row[1]) for row in experience.dataset])
        expected.append(float((nearest == truth).double().mean()))
    assert result.accuracy[-1] == pytest.approx(expected, abs=0.02), "ties may fall otherwise"
