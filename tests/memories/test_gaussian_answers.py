"""GaussianMemory as a classifier, packed, tied, in mixtures and by experience: against scikit-learn and NumPy."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestCentroid
from torch import Tensor, nn

from avalanche_memplugins.memories import GaussianMemory

WIDTH = 6
KINDS: dict[str, dict[str, Any]] = {
    "full": {"rank": None},
    "rank": {"rank": 2},
    "diagonal": {"rank": 0},
    "tied": {"tied": True, "rank": 0},
    "unit": {"tied": "unit", "rank": 0},
    "tied and rank": {"tied": True, "rank": 2},
    "mixtures": {"rank": None, "components": 3},
    "mixtures of rank": {"rank": 2, "components": 2},
    "tied mixtures": {"tied": True, "rank": 0, "components": 3},
    "tied mixtures of rank": {"tied": True, "rank": 1, "components": 2},
    "tied and leading": {"tied": True, "rank": 0, "leading": 3},
    "tied and leading mixtures": {"tied": True, "rank": 0, "leading": 2, "components": 2},
    "by experience": {"rank": None, "by": "experience"},
    "tied by experience": {"tied": True, "rank": 1, "by": "experience"},
    "tied and leading by experience": {"tied": True, "rank": 0, "leading": 4, "by": "experience"},
    "tied by experience, few bits of deviations": {"tied": True, "rank": 1, "by": "experience", "deviations": 4},
    "tied and leading, few bits of deviations": {"tied": True, "rank": 0, "leading": 3, "deviations": 4},
    "full, few bits of deviations": {"rank": None, "deviations": 4},
    "mixtures by experience": {"rank": 1, "components": 2, "by": "experience"},
}
PRECISIONS = ("float32", 8, 6, 4)


def stream(rows: int, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of correlated classes around different means; labels 5, 6, 7, ..."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (rows,), generator=g)
    turn = torch.randn(classes, WIDTH, WIDTH, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(rows, 1, WIDTH, generator=g)
    return 20 + 2.0 * y[:, None] + torch.bmm(noise, turn[y])[:, 0], y + 5


def filled(*, settle: bool = True, **options: Any) -> GaussianMemory:
    """Three experiences of three classes, in batches of all sizes."""
    memory = GaussianMemory(seed=3, **options)
    x, y = stream(600)
    for first in range(0, 600, 37):
        batch = slice(first, first + 37)
        memory.write(x[batch], y[batch], 1, origin=first // 222)
    if settle:
        memory.settle()
    return memory


def test_without_shrinkage_it_is_the_discriminants_of_scikit_learn() -> None:
    x, y = stream(600)
    queries = stream(50, seed=1)[0]
    for kind, model in (
        ("full", QuadraticDiscriminantAnalysis(store_covariance=True)),
        ("tied", LinearDiscriminantAnalysis(solver="lsqr")),
        ("diagonal", GaussianNB(var_smoothing=0)),
    ):
        memory = filled(**KINDS[kind], balance="count", shrinkage=0.0, ridge=0.0)
        model.fit(x.double().numpy(), y.numpy())
        got = memory.predict(queries)
        assert bool((got[:, :5] == -torch.inf).all())
        expected = model.predict_log_proba(queries.double().numpy())
        # Scikit-learn's versions divide the quadratic one's scatter by n or by n - 1.
        np.testing.assert_allclose(got[:, 5:].numpy(), expected, rtol=2e-2, atol=2e-2)


def test_of_means_alone_it_is_the_nearest_mean() -> None:
    x, y = stream(600)
    queries = stream(200, seed=1)[0]
    expected = NearestCentroid().fit(x.numpy(), y.numpy()).predict(queries.numpy())
    memory = filled(**KINDS["unit"])
    assert np.array_equal(memory.predict(queries).argmax(1).numpy(), expected)
    assert memory.nbytes == 3 * (4 * WIDTH + 32)
    recall = memory.sample(9)
    assert torch.equal(recall.x, memory.mean[[memory.classes.index(label) for label in recall.y.tolist()]])


def test_shrinkage_goes_from_each_classes_covariance_to_their_mean() -> None:
    memory = filled(rank=None, shrinkage=0.7, ridge=0.05)
    x, y = (part.double().numpy() for part in stream(600))
    queries = stream(40, seed=1)[0]
    covariances = [np.cov(x[y == k].T, bias=True) for k in (5, 6, 7)]
    tied = sum(c * (y == k).mean() for c, k in zip(covariances, (5, 6, 7), strict=True))
    density = []
    for c, k in zip(covariances, (5, 6, 7), strict=True):
        used = 0.3 * c + 0.7 * tied + 0.05 * np.trace(tied) / WIDTH * np.eye(WIDTH)
        gap = queries.double().numpy() - x[y == k].mean(0)
        density.append(
            -0.5 * np.einsum("bi,ij,bj->b", gap, np.linalg.inv(used), gap) - 0.5 * np.linalg.slogdet(used)[1]
        )
    joint = np.stack(density, 1)
    expected = joint - np.logaddexp.reduce(joint, 1, keepdims=True)
    np.testing.assert_allclose(memory.predict(queries)[:, 5:].numpy(), expected, rtol=1e-3, atol=1e-3)


def test_leading_numbers_have_each_classs_covariance_and_the_rest_follows_as_in_all() -> None:
    k = 3
    memory = filled(**KINDS["tied and leading"], shrinkage=0.4, ridge=0.0)
    x, y = (part.double().numpy() for part in stream(600))
    queries = stream(40, seed=1)[0].double().numpy()
    covariances = {c: np.cov(x[y == c].T, bias=True) for c in (5, 6, 7)}
    tied = sum(covariance * (y == c).mean() for c, covariance in covariances.items())
    follows = tied[k:, :k] @ np.linalg.inv(tied[:k, :k])
    rest = tied[k:, k:] - follows @ tied[:k, k:]
    density = []
    for c, covariance in covariances.items():
        gap = queries - x[y == c].mean(0)
        head = multivariate_normal(cov=0.6 * covariance[:k, :k] + 0.4 * tied[:k, :k]).logpdf(gap[:, :k])
        density.append(head + multivariate_normal(cov=rest).logpdf(gap[:, k:] - gap[:, :k] @ follows.T))
    joint = np.stack(density, 1)
    expected = joint - np.logaddexp.reduce(joint, 1, keepdims=True)
    queries = torch.from_numpy(queries).float()
    np.testing.assert_allclose(memory.predict(queries)[:, 5:].numpy(), expected, rtol=1e-3, atol=1e-3)
    drawn = memory.sample(6_000)
    mine = drawn.x[drawn.y == 6].double().numpy()
    np.testing.assert_allclose(np.cov(mine.T)[:k, :k], covariances[6][:k, :k], atol=0.12 * covariances[6].max())
    np.testing.assert_allclose(np.cov(mine.T)[k:, :k], follows @ covariances[6][:k, :k], atol=0.12 * tied.max())


@pytest.mark.parametrize("kind", KINDS)
def test_in_fewer_bits_it_answers_nearly_the_same(kind: str) -> None:
    x, y = stream(300, seed=1)
    right = [float((filled(**KINDS[kind], precision=p).predict(x).argmax(1) == y).float().mean()) for p in PRECISIONS]
    assert right[0] > (0.5 if kind == "unit" else 0.85)
    assert min(right[1:3]) > right[0] - 0.03
    assert right[3] > right[0] - 0.06


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_exactly_those_told_once_settled(kind: str, precision: Any) -> None:
    memory = filled(**KINDS[kind], precision=precision, settle=False)
    work = memory.nbytes
    memory.settle()
    times = 3 if "experience" in kind else 1
    told = memory.settled_nbytes(3, WIDTH, times)
    waits = KINDS[kind].get("components", 1)
    assert len(memory._bank.rows) == 3 * times * waits
    assert memory.nbytes == told
    bank = memory._bank
    tensors = [*memory.buffers(), memory._table, bank.groups, bank.open, bank.open_shared, bank.waits]
    assert memory.nbytes == sum(t.numel() * t.element_size() for t in tensors)
    if precision != "float32":
        assert work > told


def test_a_class_of_thirty_two_numbers_takes_what_the_recipe_says() -> None:
    memory = GaussianMemory(rank=None, precision=4)
    # 496 numbers of 4 bits, 4 bytes a row, a mean of 32 bytes; three words a class and its line of the table.
    assert memory.settled_nbytes(10, 32) == 10 * (248 + 4 * 32 + 4 + 32 + 4 + 32) + 3 * 32


@pytest.mark.parametrize("kind", KINDS)
def test_packing_at_every_write_leaves_no_work_space(kind: str) -> None:
    memory = filled(**KINDS[kind], precision=8, settle=False)
    eager = GaussianMemory(seed=3, **KINDS[kind], precision=8, settle="write")
    x, y = stream(600)
    for first in range(0, 600, 100):
        eager.write(x[first : first + 100], y[first : first + 100], 1, origin=first // 200)
        assert eager.nbytes <= eager.settled_nbytes(3, WIDTH, 3)
        assert len(eager._bank.open) == len(eager._bank.waits) == 0
    memory.settle()
    if "mixtures" not in kind:
        x, y = stream(300, seed=1)
        agree = (eager.predict(x).argmax(1) == memory.predict(x).argmax(1)).float().mean()
        assert float(agree) > 0.94


@pytest.mark.parametrize("precision", ["float32", 8])
def test_what_comes_back_is_merged_into_what_was_packed(precision: Any) -> None:
    """Moments of all rows, whatever was packed in between."""
    x, y = stream(600)
    for order in (range(3), (2, 0, 1)):
        memory = GaussianMemory(rank=None, precision=precision)
        for part in order:
            rows = slice(200 * part, 200 * part + 200)
            memory.write(x[rows], y[rows], origin=part)
        memory.settle()
        groups = memory._bank.read(memory._table[:, 0])
        assert groups.own is not None
        for k, label in enumerate(groups.label.tolist()):
            mine = x[y == label].double().numpy()
            deviation = mine.std(0)
            assert np.abs((groups.mean[k].numpy() - mine.mean(0)) / deviation).max() < 0.03
            factors = groups.own[0][k].double().numpy()
            gap = (factors.T @ factors - np.cov(mine.T, bias=True)) / np.outer(deviation, deviation)
            assert np.abs(gap).max() < (0.03 if precision == 8 else 1e-4)
            assert int(groups.rows[k]) == len(mine)


def test_an_experience_ends_when_another_begins() -> None:
    memory = GaussianMemory(rank=None, precision=8)
    x, y = stream(100)
    memory.write(x, y, origin=0)
    assert len(memory._bank.open) == 3
    memory.write(x[:1], y[:1], origin=1)
    assert memory._bank.open.tolist() == [memory.classes.index(int(y[0]))]


def test_a_mixture_answers_where_one_gaussian_cannot() -> None:
    """One class at both ends, the other in the middle; in one dimension means are alike."""
    g = torch.Generator().manual_seed(0)
    x = torch.cat(
        [torch.randn(200, 2, generator=g) + 8 * (torch.arange(200) % 2 * 2 - 1)[:, None], torch.randn(200, 2)]
    )
    y = torch.arange(400) // 200
    order = torch.randperm(400, generator=g)
    answers = {}
    for components in (1, 2):
        memory = GaussianMemory(rank=0, components=components, seed=0, shrinkage=0.9)
        for batch in order.split(16):
            memory.write(x[batch], y[batch])
        memory.settle()
        answers[components] = memory
    ends = torch.tensor([[8.0, 8.0], [-8.0, -8.0], [0.0, 0.0], [3.0, 3.0]])
    assert answers[2].predict(ends).argmax(1).tolist() == [0, 0, 1, 1]
    groups = answers[2]._bank.read(answers[2]._table[:, 0])
    mine = groups.mean[groups.label == 0]
    assert sorted(mine.mean(1).round().tolist()) == [-8, 8]
    assert groups.rows[groups.label == 0].tolist() == [100, 100]


@pytest.mark.parametrize("batch", [13, 400])
@pytest.mark.parametrize("precision", ["float32", 8])
def test_parts_of_tied_mixtures_share_the_covariance_about_their_own_means(batch: int, precision: Any) -> None:
    """Two classes of two clusters far apart: all four have one covariance, which the distances are no part of."""
    g = torch.Generator().manual_seed(0)
    cluster, turn = torch.arange(400) % 4, torch.tensor([[1.0, 0.6], [0.0, 0.5]])
    centres = torch.tensor([[0.0, 0.0], [60.0, 0.0], [0.0, 60.0], [60.0, 60.0]])
    x, y = torch.randn(400, 2, generator=g) @ turn + centres[cluster], cluster // 2
    memory = GaussianMemory(tied=True, rank=0, components=2, precision=precision, seed=0)
    for rows in torch.arange(400).split(batch):
        memory.write(x[rows], y[rows])
    memory.settle()
    shared = memory._bank._all_shared()[0].numpy()
    rows = x.double().numpy()
    expected = sum(np.cov(rows[cluster == c].T, bias=True) / 4 for c in range(4))
    np.testing.assert_allclose(shared, expected, rtol=1e-3 if precision == "float32" else 3e-2)
    assert sorted(memory._bank.groups[:, 2].tolist()) == [100] * 4


def test_a_mixture_answers_and_generates_before_it_starts() -> None:
    memory = GaussianMemory(rank=0, components=4, seed=0)
    x, y = stream(60)
    memory.write(x, y)
    assert len(memory._bank.groups) == 3
    assert len(memory._bank.waits) == 60
    assert memory.predict(x).argmax(1).eq(y).float().mean() > 0.6
    assert len(memory.sample(10).x) == 10
    memory.settle()
    assert len(memory._bank.waits) == 0
    assert len(memory._bank.groups) > 3
    assert int(memory._bank.groups[:, 2].sum()) == len(memory) == 60


def test_by_experience_each_guise_has_a_gaussian_of_its_own() -> None:
    x, y = stream(300)
    memory = GaussianMemory(rank=None, by="experience", seed=0)
    for e in range(3):
        memory.write(x + 40 * e, (y - 5 + e) % 3, origin=e)  # each time the classes change places
    for e in range(3):
        answer = memory.predict(stream(200, seed=1)[0] + 40 * e).argmax(1)
        assert float((answer == (stream(200, seed=1)[1] - 5 + e) % 3).float().mean()) > 0.85
    assert len(memory._bank.groups) == 9
    assert memory.summary().per_class == {0: 300, 1: 300, 2: 300}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_moments_that_are_held(kind: str, precision: Any) -> None:
    memory = filled(**KINDS[kind], precision=precision)
    recall = memory.sample(30_000)
    assert torch.bincount(recall.y).tolist() == [0] * 5 + [10_000] * 3
    x, y = stream(600)
    for label in (5, 6, 7):
        rows, mine = recall.x[recall.y == label].double(), x[y == label].double()
        assert float(((rows.mean(0) - mine.mean(0)).abs() / mine.std(0)).max()) < 0.12
        if "tied" not in kind and kind != "unit":
            assert float((rows.std(0) / mine.std(0) - 1).abs().max()) < 0.1


@pytest.mark.parametrize("when", ["in an experience", "after it"])
@pytest.mark.parametrize("way", ["state_dict", "pickle", "folder"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_goes_on_exactly(kind: str, way: str, when: str, tmp_path: Path) -> None:
    options = {**KINDS[kind], "precision": 6}
    memory = filled(**options, settle=when == "after it")
    memory.write(*stream(20, classes=4, seed=7), origin=2)  # a class that waits, too
    if way == "state_dict":
        other = GaussianMemory(**options)
        other.load_state_dict(copy.deepcopy(memory.state_dict()))
    elif way == "folder":
        memory.save(tmp_path / "memory")
        other = GaussianMemory(**options).load(tmp_path / "memory")
    else:
        other = pickle.loads(pickle.dumps(memory))
    x, y = stream(200, classes=5, seed=3)
    for m in (memory, other):
        m.write(x, y, origin=8)
        m.settle()
    assert torch.equal(memory.predict(x), other.predict(x))
    assert torch.equal(memory.sample(20).x, other.sample(20).x)
    assert memory.nbytes == other.nbytes


def test_an_answer_changes_nothing_and_follows_every_write() -> None:
    memory, plain = (filled(rank=None, precision=8, settle=False) for _ in range(2))
    x, y = stream(50, seed=4)
    before = memory.predict(x)
    assert torch.equal(memory.predict(x), before)
    assert all(torch.equal(a, b) for a, b in zip(memory.buffers(), plain.buffers(), strict=True))
    assert torch.equal(memory.sample(5).x, plain.sample(5).x)
    memory.write(x + 3, y)
    assert not torch.equal(memory.predict(x), before)
    memory.shrinkage = 1.0
    tied = memory.predict(x)
    memory.settle()
    assert 0 < float((memory.predict(x) - tied)[:, 5:].abs().max()) < 0.5


def test_an_embedding_is_modelled_in_the_place_of_rows() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, 4), nn.Dropout())
    memory, plain = GaussianMemory(rank=None, embedding=network, seed=0), GaussianMemory(rank=None, seed=0)
    x, y = stream(100)
    memory.write(x.view(-1, 1, 2, 3), y)
    plain.write(network.eval()(x).detach(), y)
    queries = stream(9, seed=1)[0]
    assert torch.equal(memory.predict(queries.view(-1, 1, 2, 3)), plain.predict(network(queries).detach()))
    assert memory.nbytes == plain.nbytes
    assert memory.nbytes_fixed == 4 * (4 * WIDTH + 4)
    assert network[1].weight.requires_grad
    with pytest.raises(ValueError, match="memory: expected a codec, which decodes, to sample rows"):
        memory.sample(3)
    other = GaussianMemory(rank=None, embedding=nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, 4)))
    with pytest.raises(ValueError, match=r"expected that of GaussianMemory of rank None.*embedding=Sequential"):
        other.load_state_dict(memory.state_dict())


def test_only_classes_of_the_task_answer() -> None:
    memory = GaussianMemory(rank=None)
    x, y = stream(200)
    memory.write(x, y, (y == 7).long())
    assert set(memory.predict(x, task=0).argmax(1).tolist()) == {5, 6}
    assert set(memory.predict(x, task=1).argmax(1).tolist()) == {7}
    assert memory.predict(x, classes=20).shape == (200, 20)
    with pytest.raises(ValueError, match="task: expected one that was written, got 3"):
        memory.predict(x, task=3)
    with pytest.raises(ValueError, match="classes: expected more than 7, the largest class held, got 7"):
        memory.predict(x, classes=7)
    with pytest.raises(ValueError, match="x: expected rows of shape"):
        memory.predict(x[:, 1:])
    with pytest.raises(ValueError, match="x: expected a memory that something has been written to"):
        GaussianMemory().predict(x)


@pytest.mark.parametrize("rank", [None, 0, 2])
def test_classes_of_one_row_and_of_equal_rows_answer(rank: int | None) -> None:
    for precision in PRECISIONS:
        memory = GaussianMemory(rank=rank, precision=precision)
        memory.write(torch.tensor([[0.0, 0.0], [4.0, 1.0], [4.0, 1.0]]), torch.tensor([0, 1, 1]))
        memory.settle()
        assert memory.predict(torch.tensor([[0.1, 0.0], [3.9, 1.0]])).argmax(1).tolist() == [0, 1]


def test_a_budget_takes_the_first_of_a_rule_that_fits() -> None:
    def chosen(nbytes: int, **options: Any) -> tuple[Any, ...]:
        memory = GaussianMemory.from_budget(nbytes, classes=10, shape=(32,), **options)
        x = torch.randn(2_000, 32, generator=torch.Generator().manual_seed(0))
        memory.write(x, torch.arange(2_000) % 10)
        memory.settle()
        assert memory.nbytes <= nbytes
        return memory.rank, memory.tied, memory.precision, memory.components

    assert chosen(7_000, precision="auto") == (None, False, 6, 1)
    assert chosen(5_000, precision="auto") == (None, False, 4, 1)
    assert chosen(3_000, precision="auto")[1:] == (True, 6, 1)
    assert chosen(1_500, precision="auto") == (0, True, 6, 1)
    assert chosen(5_000, precision=8)[1:] == (False, 8, 1)
    assert chosen(9_000, precision=8)[0] is None
    with pytest.raises(ValueError, match="nbytes: expected at least the 1156 bytes"):
        chosen(1_000, precision="auto")


def test_a_budget_takes_what_answers_best_on_rows_held_back() -> None:
    """Classes that differ in covariance alone, and classes that differ in means alone."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    scale = torch.where(y == 0, 0.2, 2.0)[:, None]
    x = torch.randn(400, 8, generator=g) * scale
    chosen = GaussianMemory.from_budget(2_000, classes=2, shape=(8,), rows=(x, y), seed=0)
    assert not (chosen.tied and chosen.rank == 0)
    assert len(chosen) == 0
    chosen.write(x, y)
    chosen.settle()
    assert chosen.nbytes <= 2_000
    assert float((chosen.predict(x).argmax(1) == y).float().mean()) > 0.97
    kept = GaussianMemory.from_budget(2_000, classes=2, shape=(8,), rows=(x, y), tied=True, shrinkage=0.2, precision=6)
    assert (kept.tied, kept.precision, kept.shrinkage) == (True, 6, 0.2)


def test_arguments_that_exclude_each_other_are_told() -> None:
    for options, message in (
        ({"tied": True, "rank": None}, "rank: with tied=True expected an integer"),
        ({"tied": "unit"}, "rank: with tied='unit' expected 0, as no spread is kept, got 16"),
        ({"precision": 5}, "precision: expected 'float32', 8, 6 or 4 bits, got 5"),
        ({"precision": True}, "precision: expected 'float32', 8, 6 or 4 bits, got True"),
        ({"leading": 2}, "leading: expected None without tied=True and rank=0, got 2"),
        ({"leading": 0, "tied": True, "rank": 0}, "leading: expected an integer >= 1"),
        ({"components": 0}, "components: expected an integer >= 1"),
        ({"shrinkage": 1.5}, "shrinkage: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            GaussianMemory(**options)


def test_a_plain_memory_holds_and_saves_what_it_always_did() -> None:
    memory = filled(rank=2)
    assert sorted(memory.state_dict()) == ["_extra_state", "mean", "residual", "spread"]
    keys = {"table", "shape", "dtype", "generator", "parts"}
    assert set(memory.get_extra_state()) == keys
    assert memory._parts() == ["GaussianMemory of rank 2", "codec None"]
    assert repr(memory) == "GaussianMemory(rank=2, balance='class', codec=None)"


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("packed.mean", lambda held: held[:-1]),
        ("packed.own_codes", lambda held: held[:, :-1]),
        ("packed.own_deviation", lambda held: held.float()),
        ("packed.own_unit", lambda held: held * torch.nan),
        ("mean", lambda held: torch.zeros(2, WIDTH)),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(name: str, spoil: Any) -> None:
    memory, other = (filled(rank=None, precision=6, components=2) for _ in range(2))
    x = stream(20, seed=5)[0]
    before = memory.predict(x)
    state = copy.deepcopy(other.state_dict())
    state[name] = spoil(state[name])
    with pytest.raises(ValueError, match="state: "):
        memory.load_state_dict(state)
    state = copy.deepcopy(other.state_dict())
    state["_extra_state"]["groups"][0, 2] += 1
    with pytest.raises(ValueError, match="state: expected groups that hold the rows of the classes"):
        memory.load_state_dict(state)
    assert torch.equal(memory.predict(x), before)
