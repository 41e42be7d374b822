"""Memories that answer in a run, beside classifiers of scikit-learn; coded rows; what a name stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

from avalanche_memplugins.benchmarks import SplitDigits
from avalanche_memplugins.lab import ABSENT, STRATEGIES, RunResult, RunSpec
from avalanche_memplugins.lab.before import unsuitable
from avalanche_memplugins.lab.run import execute
from avalanche_memplugins.lab.strategies import make_memory
from avalanche_memplugins.memories import CodedMemory, MixedMemory

FIELDS = {"benchmark": "split-digits", "seed": 0, "n_experiences": 5, "epochs": 1}
MNIST = {**FIELDS, "benchmark": "split-mnist"}


def rows(stream: Any) -> tuple[np.ndarray, np.ndarray]:
    """All of a stream."""
    held = [row for experience in stream for row in experience.dataset]
    return np.stack([np.asarray(row[0]).ravel() for row in held]), np.array([int(row[1]) for row in held])


def answered(name: str, **changes: Any) -> RunResult:
    result = execute(RunSpec(**{**FIELDS, "strategy": name, "batch_size": 16, **changes}))
    assert result.ok, result.error
    assert not result.warnings
    return result


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("nearest-mean", NearestCentroid()),
        ("slda", LinearDiscriminantAnalysis(solver="lsqr", shrinkage=3e-3, priors=[0.1] * 10)),
        ("avalanche-slda", LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1e-3, priors=[0.1] * 10)),
        ("qda", QuadraticDiscriminantAnalysis(reg_param=0.05, priors=[0.1] * 10)),
    ],
)
def test_a_memory_answers_as_the_classifier_does_that_saw_all_rows_at_once(name: str, peer: Any) -> None:
    result = answered(name)
    benchmark = SplitDigits(5, seed=0)
    peer.fit(*rows(benchmark.train_stream))
    expected = [float(peer.score(*rows([experience]))) for experience in benchmark.test_stream]
    assert result.accuracy[-1] == pytest.approx(expected, abs=0.05)
    assert np.mean(result.accuracy[-1]) == pytest.approx(np.mean(expected), abs=0.015)


def test_nothing_is_trained() -> None:
    names = ("nearest-mean", "slda", "qda", "fecam", "ranpac")
    assert len({answered(name, n_experiences=2).weights for name in names}) == 1


def test_avalanches_own_holds_means_counts_and_one_matrix() -> None:
    """It needs no pretrained network, so it is no longer among those left out."""
    assert "StreamingLDA" not in {absent.name for absent in ABSENT}
    least = 4 * (10 * 64 + 10 + 64 * 64)
    assert answered("avalanche-slda", n_experiences=2).memory_bytes == (least, least)
    assert unsuitable(RunSpec(strategy="avalanche-slda", budget=least, **FIELDS)) is None
    short = unsuitable(RunSpec(strategy="avalanche-slda", budget=least - 1, **FIELDS))
    assert short == f"budget: expected at least {least} bytes, got {least - 1}"


@pytest.mark.parametrize("name", ["nearest-mean", "slda", "qda", "fecam"])
def test_bytes_are_counted_when_the_memory_has_settled(name: str) -> None:
    result = answered(name, budget=12_000)
    assert result.memory_bytes[-1] == make_memory(result.spec).settled_nbytes(classes=10, width=64) <= 12_000


def test_a_budget_is_shared_by_rows_and_gaussians() -> None:
    held, gaussians = make_memory(RunSpec(strategy="er+qda", budget=20_000, options={"share": 0.7}, **FIELDS))
    assert held.capacity == 6_000 // 257
    assert 0.9 * 14_000 < gaussians.settled_nbytes(classes=10, width=64) <= 14_000
    more, _ = make_memory(RunSpec(strategy="er+qda", budget=20_000, options={"codec": "4bit-coded"}, **FIELDS))
    assert isinstance(more, CodedMemory)
    assert more.budget_bytes == 10_000
    for share in (0.0, 1.0):
        spec = RunSpec(strategy="er+qda", budget=20_000, options={"share": share}, **FIELDS)
        assert unsuitable(spec) == f"share: expected a number between 0 and 1, got {share}"


def test_rows_and_gaussians_together_are_better_than_rows_alone() -> None:
    budget = {"budget": 12_000, "epochs": 2}
    alone = answered("er", options={"codec": "4bit"}, **budget)
    both = answered("er+qda", options={"codec": "4bit"}, **budget)
    assert both.final_accuracy > alone.final_accuracy + 0.02
    assert 0.9 * 12_000 < both.memory_bytes[-1] <= 12_000


def test_on_streams_of_one_task_in_other_guises_each_experience_has_its_gaussians() -> None:
    spec = RunSpec(**{**FIELDS, "benchmark": "permuted-digits"}, strategy="nearest-mean", budget=12_000)
    assert make_memory(spec).by == "experience"
    assert make_memory(RunSpec(strategy="nearest-mean", budget=12_000, **FIELDS)).by == "class"
    told = {**FIELDS, "benchmark": "permuted-digits", "options": {"by": "class"}}
    assert make_memory(RunSpec(strategy="slda", budget=12_000, **told)).by == "class"


@pytest.mark.parametrize("name", ["nearest-mean", "slda", "qda"])
def test_as_many_numbers_of_scattering_as_a_budget_holds(name: str) -> None:
    memory = make_memory(RunSpec(strategy=name, options={"embedding": "scattering"}, budget=5_000, **MNIST))
    numbers = memory.embedding.numbers
    assert memory.settled_nbytes(classes=10, width=numbers) <= 5_000
    assert memory.settled_nbytes(classes=10, width=numbers + 1) > 5_000 or numbers == memory.embedding.width
    assert memory.embedding(torch.zeros(1, 1, 28, 28)).shape == (1, numbers)
    told = {"embedding": "scattering", "numbers": 30}
    assert make_memory(RunSpec(strategy=name, options=told, budget=8_000, **MNIST)).embedding.numbers == 30


def test_codes_of_the_pretrained_network_where_there_is_one() -> None:
    budgets = {4_700: 1, 9_200: 2, 20_000: 4, 50_000: 8}
    for budget, components in budgets.items():
        memory = make_memory(RunSpec(strategy="qda", budget=budget, **MNIST))
        assert (memory.components, memory.precision, memory.rank) == (components, 4, None)
        assert memory.codec.code_size == 32
    assert make_memory(RunSpec(strategy="qda", budget="20KB", **FIELDS)).codec is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"embedding": "codes"}, r"qda expected images of \(1, 28, 28\).*those of split-digits"),
        ({"embedding": "wavelets"}, "embedding: expected auto, raw, codes, scattering or projection, got 'wavelets'"),
        ({"numbers": 7}, "numbers: expected none with embedding=raw, got 7"),
        ({"precision": 5}, "precision: expected"),
        ({"by": "day"}, "by: expected"),
    ],
)
def test_settings_that_do_not_suit_are_told(options: dict[str, Any], expected: str) -> None:
    for budget in (None, 12_000):
        with pytest.raises(ValueError, match=expected):
            make_memory(RunSpec(strategy="qda", options=options, budget=budget, **FIELDS))


def test_vectors_are_no_images() -> None:
    fields = {**FIELDS, "benchmark": "split-cifar10-features"}
    spec = RunSpec(strategy="slda", options={"embedding": "scattering"}, budget="50KB", **fields)
    assert str(unsuitable(spec)).startswith("embedding: expected images for scattering; rows of split-cifar10-features")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_coded_rows_are_more_rows_for_the_same_bytes(bits: int) -> None:
    packed, coded = (
        make_memory(RunSpec(strategy="er", options={"codec": codec}, budget=4_000, **FIELDS))
        for codec in (f"{bits}bit", f"{bits}bit-coded")
    )
    x, y = rows(SplitDigits(5, seed=0).train_stream)
    images = torch.tensor(x).view(-1, 1, 8, 8)
    for memory in (packed, coded):
        memory.write(images, torch.tensor(y))
    assert len(coded) > (1.1 if bits > 1 else 0.9) * len(packed)
    assert coded.nbytes <= 4_000
    assert set(coded.rows(coded.slots()).x.unique().tolist()) == set(packed.rows(packed.slots()).x.unique().tolist())


@pytest.mark.parametrize(
    ("name", "options", "budget", "expected"),
    [
        ("er", {}, None, "codec: rows of 2bit-coded differ in length, expected a budget"),
        ("mbpa", {}, 9_000, "codec: mbpa expected rows of one length, got 2bit-coded"),
        ("er", {"read": "cycle"}, 9_000, "codec: rows of 2bit-coded are read uniformly"),
        ("dark-replay", {}, 9_000, "codec: rows of 2bit-coded are read uniformly and without outputs"),
    ],
)
def test_what_cannot_read_coded_rows_says_so(
    name: str, options: dict[str, Any], budget: int | None, expected: str
) -> None:
    spec = RunSpec(strategy=name, options={"codec": "2bit-coded", **options}, budget=budget, **FIELDS)
    assert str(unsuitable(spec)).startswith(expected)


def test_coded_rows_replay_and_answer() -> None:
    for name in ("er", "knn"):
        result = answered(name, options={"codec": "4bit-coded"}, budget=6_000)
        assert 0.98 * 6_000 < result.memory_bytes[-1] <= 6_000
        assert result.final_accuracy > {"er": 0.4, "knn": 0.95}[name]
        assert result.fixed_bytes > 0, "the table that comes with the codec"


@pytest.mark.parametrize("name", ["nearest-mean", "slda", "qda", "fecam", "er+qda", "avalanche-slda"])
def test_seeds_and_names_have_keys_of_their_own(name: str, spec: Callable[..., RunSpec]) -> None:
    keys = {spec(strategy=other, seed=3).key for other in STRATEGIES}
    assert len(keys) == len(STRATEGIES)
    assert spec(strategy=name, options=dict(STRATEGIES[name].options)).key == spec(strategy=name).key


def test_random_features_take_what_the_budget_holds() -> None:
    result = answered("ranpac", budget=20_000)
    memory = make_memory(result.spec)
    assert 0.97 * 20_000 < result.memory_bytes[-1] <= 20_000
    assert result.fixed_bytes == 4 * memory.width * 64
    assert result.final_accuracy > answered("nearest-mean").final_accuracy
    assert memory.held_back == 20  # vectors of 257 bytes: a tenth of the bytes
    told = {"width": 30, "ridge": 1.0, "held_back": 50}
    assert make_memory(RunSpec(strategy="ranpac", budget=20_000, options=told, **FIELDS)).width == 30


PERMUTED = {**FIELDS, "benchmark": "permuted-digits"}


def test_rows_and_gaussians_are_one_memory_whose_budget_is_kept() -> None:
    spec = RunSpec(strategy="mixed", budget=20_000, options={"share": 0.6, "codec": "2bit-coded"}, **PERMUTED)
    memory = make_memory(spec)
    assert isinstance(memory, MixedMemory)
    assert isinstance(memory.rows, CodedMemory)
    assert memory.gaussians.by == "experience"
    mixed = execute(spec)
    assert mixed.ok, mixed.error
    assert 0.97 * 20_000 < mixed.memory_bytes[-1] <= 20_000
    rows = execute(RunSpec(strategy="er", budget=20_000, options={"codec": "2bit-coded"}, **PERMUTED))
    assert mixed.final_accuracy > rows.final_accuracy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.0}, "share: expected a number between 0 and 1, got 1.0"),
        ({"weight": 0.0}, "weight: expected a number > 0, or none to fit it, got 0.0"),
    ],
)
def test_what_a_mixed_memory_cannot_be_is_told_before(options: dict[str, Any], message: str) -> None:
    assert unsuitable(RunSpec(strategy="mixed", budget=20_000, options=options, **PERMUTED)) == message


def test_a_projection_has_as_many_numbers_as_the_budget_holds() -> None:
    options = {"embedding": "projection", "rank": 4, "deviations": 4, "precision": 4}
    memory = make_memory(RunSpec(strategy="qda", budget=3_000, options=options, **MNIST))
    numbers = memory.embedding.numbers
    assert memory.settled_nbytes(classes=10, width=numbers) <= 3_000
    assert memory.settled_nbytes(classes=10, width=numbers + 1) > 3_000
    assert memory.deviations == 4
