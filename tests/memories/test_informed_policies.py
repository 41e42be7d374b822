"""Write policies that ask for losses, logits or rows: what they keep, against brute force."""

from __future__ import annotations

import copy
import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avalanche_memplugins import RandomMemory
from avalanche_memplugins.codecs import StreamCodec
from avalanche_memplugins.memories import LatentMemory
from avalanche_memplugins.memories.policies import GSS, GroupBalanced, Hardest, Herding, Offered, Placement, Reservoir
from avalanche_memplugins.memories.policies.herding import herd
from avalanche_memplugins.networks import MLPVAE

NAMES = ("hardest", "hardest by class", "herding", "gss")


def make(name: str, capacity: int = 12, **options: Any) -> RandomMemory:
    policy = Hardest("class") if name == "hardest by class" else name
    return RandomMemory(capacity, write_policy=policy, seed=3, **options)


def batches(sizes: list[int], classes: int = 4, seed: int = 0, levels: int = 0) -> list[dict[str, Tensor]]:
    """Batches whose first number is the row's place in the stream; later classes come later."""
    generator = torch.Generator().manual_seed(seed)
    out, start = [], 0
    for i, size in enumerate(sizes):
        number = torch.arange(start, start + size)
        known = 1 + i * classes // len(sizes)
        y = torch.randint(known, (size,), generator=generator)
        loss = torch.rand(size, generator=generator)
        loss = (loss * levels).floor() if levels else loss
        x = torch.cat([number[:, None].float(), torch.randn(size, 2, generator=generator)], 1)
        out.append({"x": x, "y": y, "loss": loss, "logits": torch.randn(size, classes, generator=generator)})
        start += size
    return out


def write(memory: RandomMemory, batch: dict[str, Tensor]) -> None:
    memory.write(batch["x"], batch["y"], **{name: batch[name] for name in memory.needs & {"loss", "logits"}})


def held(memory: RandomMemory) -> list[int]:
    return sorted(memory.rows(memory.slots()).x[:, 0].long().tolist())


def whole(stream: list[dict[str, Tensor]], name: str) -> np.ndarray:
    return torch.cat([batch[name] for batch in stream]).numpy()


def shares(limits: list[int], capacity: int) -> list[int]:
    """One slot after the other to the groups with the fewest; those of a round that is not full, to the last ones."""
    out = [0] * len(limits)
    while True:
        able = [i for i, limit in enumerate(limits) if out[i] < limit]
        left = capacity - sum(out)
        for i in able[max(0, len(able) - left) :]:
            out[i] += 1
        if not able or left <= len(able):
            return out


SIZES = [3, 7, 1, 10, 25, 4, 4, 8, 2, 30, 5, 6]

# ---------------------------------------------------------------- hardest


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("capacity", [1, 5, 12, 200])
def test_hardest_holds_the_largest_losses_of_the_stream(capacity: int, seed: int) -> None:
    memory, stream = make("hardest", capacity), batches(SIZES, seed=seed)
    for i, batch in enumerate(stream):
        write(memory, batch)
        loss = whole(stream[: i + 1], "loss")
        assert held(memory) == sorted(np.argsort(-loss)[:capacity].tolist())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("capacity", [4, 13, 200])
def test_by_class_every_class_holds_its_hardest_and_as_many_as_when_balanced(capacity: int, seed: int) -> None:
    memory, stream = make("hardest by class", capacity), batches(SIZES, seed=seed)
    balanced = RandomMemory(capacity, write_policy=GroupBalanced("class"))
    for i, batch in enumerate(stream):
        write(memory, batch)
        balanced.write(batch["x"], batch["y"])
        sizes = memory.summary().per_class
        assert sizes == balanced.summary().per_class
        loss, y = whole(stream[: i + 1], "loss"), whole(stream[: i + 1], "y")
        hardest = [np.flatnonzero(y == c)[np.argsort(-loss[y == c])][:n] for c, n in sizes.items()]
        assert held(memory) == sorted(np.concatenate(hardest).tolist())


@pytest.mark.parametrize("name", ["hardest", "hardest by class"])
def test_of_equal_losses_what_is_held_stays_and_a_restored_memory_chooses_alike(name: str, tmp_path: Path) -> None:
    memory, stream = make(name), batches(SIZES, levels=3)
    for i, batch in enumerate(stream):
        other = make(name)
        other.load_state_dict(copy.deepcopy(memory.state_dict()))
        for m in (memory, other):
            write(m, batch)
        assert torch.equal(memory.rows(memory.slots()).x, other.rows(other.slots()).x)
        if name == "hardest":
            loss = whole(stream[: i + 1], "loss")
            assert sorted(loss[held(memory)]) == sorted(np.sort(loss)[::-1][:12])
    full = make("hardest", 2)
    for start in (0, 2):
        full.write(torch.arange(start, start + 2.0)[:, None], torch.zeros(2, dtype=torch.int64), loss=torch.ones(2))
    assert held(full) == [0, 1]


def test_accepting_a_row_does_not_cost_a_pass_over_the_memory() -> None:
    def steps(capacity: int) -> int:
        policy = Hardest()
        policy.start(capacity)
        generator, count = torch.Generator(), 0
        policy.place(0, capacity, None, generator, Offered(loss=torch.rand(capacity)))
        before = policy._before

        def counted(a: int, b: int) -> bool:
            nonlocal count
            count += 1
            return before(a, b)

        policy._before = counted  # type: ignore[method-assign]
        for i in range(100):
            policy.place(capacity + i, 1, None, generator, Offered(loss=torch.rand(1) + 1))
        return count

    assert steps(20_000) < 3 * steps(500)


# ---------------------------------------------------------------- herding


def herded(features: np.ndarray, mean: np.ndarray, count: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(count):
        gaps = {i: np.linalg.norm(mean - features[[*chosen, i]].mean(0)) for i in set(range(len(features))) - {*chosen}}
        chosen.append(min(gaps, key=lambda i: (gaps[i], i)))
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_herded_as_icarl_does(seed: int) -> None:
    features = np.random.default_rng(seed).normal(size=(30, 4))
    mean = features.mean(0)
    assert herd(torch.from_numpy(features), torch.from_numpy(mean), 12).tolist() == herded(features, mean, 12)


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("capacity", [7, 12, 40, 200])
def test_herding_holds_what_choosing_anew_from_held_and_new_rows_gives(capacity: int, embedded: bool) -> None:
    network = nn.Linear(3, 2) if embedded else None
    memory, stream = make("herding", capacity, embedding=network), batches(SIZES)
    features = torch.from_numpy(whole(stream, "x"))
    features = (features if network is None else network(features).detach()).double().numpy()
    y = whole(stream, "y")
    order: dict[int, list[int]] = {}
    start = 0
    for batch in stream:
        end = start + len(batch["y"])
        write(memory, batch)
        new = {int(c): np.flatnonzero(y[start:end] == c) + start for c in np.unique(y[start:end])}
        names = sorted({*order, *new})
        limits = [len(order.get(c, ())) + len(new.get(c, ())) for c in names]
        for c, share in zip(names, shares(limits, capacity), strict=True):
            if c in new:
                pool = np.array([*order.get(c, ()), *new[c]])
                mean = features[:end][y[:end] == c].mean(0)
                order[c] = pool[herded(features[pool], mean, share)].tolist()
            order[c] = order[c][:share]
        start = end
        assert held(memory) == sorted(i for rows in order.values() for i in rows)


def test_a_class_in_one_write_is_icarls_own_choice() -> None:
    memory, rng = make("herding", 10), np.random.default_rng(0)
    features = {c: rng.normal(size=(40, 3)).astype(np.float32) for c in range(3)}
    for c, rows in features.items():
        memory.write(torch.from_numpy(rows), torch.full((40,), c))
    for c, n in memory.summary().per_class.items():
        slots = memory.slots()
        mine = memory.rows(slots[memory.labels_of(slots)[0] == c]).x.numpy()
        rows = features[c].astype(np.float64)
        want = features[c][herded(rows, rows.mean(0), n)]
        assert sorted(mine.tolist()) == sorted(want.tolist())


# ---------------------------------------------------------------- gss


def gradient(logits: Tensor, y: int) -> np.ndarray:
    z = logits.double().numpy()
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    return p - np.eye(len(z))[y]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_gss_replaces_as_often_as_the_algorithm_says() -> None:
    first, new = torch.tensor([[2.0, 0, -1], [0.3, 0.2, 0], [0, 1.5, 1]]), torch.tensor([0.2, -0.5, 0.9])
    y, mine = [0, 1, 0], 2
    gradients = [gradient(z, c) for z, c in zip(first, y, strict=True)]
    scores = [1.0]  # of the first row; of the others the largest cosine to those before, and 1
    for i in (1, 2):
        scores.append(1 + max(cosine(gradients[i], gradients[j]) for j in range(i)))
    score = 1 + max(cosine(gradient(new, mine), g) for g in gradients)
    assert score < 1
    expected = [c / sum(scores) * c / (c + score) for c in scores]
    counts: Counter[int | None] = Counter()
    runs = 4_000
    policy = GSS()
    policy.start(3)
    generator = torch.Generator().manual_seed(0)
    policy.place(0, 3, None, generator, Offered(y=torch.tensor(y), logits=first))
    filled = policy.state_dict()
    np.testing.assert_allclose(filled["scores"], scores, atol=1e-5)
    for _ in range(runs):
        policy.load_state_dict(filled)
        placed = policy.place(3, 1, None, generator, Offered(y=torch.tensor([mine]), logits=new[None]))
        counts[int(placed[0].slots[0]) if placed else None] += 1  # type: ignore[index]
    for slot, share in enumerate(expected):
        assert abs(counts[slot] - runs * share) < 5 * (runs * share * (1 - share)) ** 0.5
    assert sum(counts.values()) == runs
    assert counts[None] > 0


def test_gss_draws_in_proportion_to_scores_that_are_nearly_all_zero() -> None:
    policy = GSS()
    policy.start(1_000)
    scores = torch.zeros(1_000)
    scores[[3, 700]] = torch.tensor([0.01, 0.03])
    policy.load_state_dict({"scores": scores, "gradients": torch.zeros(1_000, 2)})
    generator = torch.Generator().manual_seed(1)
    drawn = Counter(policy._drawn(generator) for _ in range(600))
    assert set(drawn) == {3, 700}
    assert abs(drawn[3] - 150) < 5 * (600 * 0.25 * 0.75) ** 0.5


def test_a_full_gss_refuses_what_is_like_a_row_held_and_spreads_gradients() -> None:
    memory = make("gss", 10)
    z = torch.tensor([[0.0, 0.0, 0.0]])
    for y in [0] * 50:
        memory.write(torch.zeros(1, 2), torch.tensor([y]), logits=z)
    for y in [1, 2] * 50:
        memory.write(torch.zeros(1, 2), torch.tensor([y]), logits=z)
    # Copies of one row fill it; of what is unlike them some comes in, and once there keeps its like out.
    assert memory.summary().per_class.keys() == {0, 1, 2}
    before = memory.write_policy.state_dict()["scores"]
    assert float(before.max()) == 2
    assert memory.seen == 150


def test_gradients_grow_wider_with_the_head() -> None:
    memory = make("gss", 6)
    for width in (2, 4, 3):
        memory.write(torch.rand(3, 2), torch.tensor([0, 1, 0]), logits=torch.randn(3, width))
    assert memory.write_policy.state_dict()["gradients"].shape == (6, 4)
    assert memory.write_policy.nbytes == 6 * 5 * 4


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["state_dict", "folder", "pickle", "deepcopy"])
@pytest.mark.parametrize("codec", ["raw", "float16"])
def test_a_restored_memory_goes_on_exactly(name: str, way: str, codec: str, tmp_path: Path) -> None:
    memory, stream = make(name, codec=codec), batches(SIZES)
    for batch in stream[:6]:
        write(memory, batch)
    if way == "state_dict":
        other = make(name, codec=codec)
        write(other, stream[8])
        other.load_state_dict(copy.deepcopy(memory.state_dict()))
    elif way == "folder":
        memory.save(tmp_path / "m")
        other = make(name, codec=codec)
        write(other, stream[8])
        other.load(tmp_path / "m")
    else:
        other = pickle.loads(pickle.dumps(memory)) if way == "pickle" else copy.deepcopy(memory)
    for batch in stream[6:]:
        for m in (memory, other):
            write(m, batch)
        assert torch.equal(memory.rows(memory.slots()).x, other.rows(other.slots()).x)
        assert torch.equal(memory.sample(5).x, other.sample(5).x)
        assert memory.nbytes == other.nbytes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", ["a row less", "a part less", "too many"])
def test_a_state_that_contradicts_itself_is_refused(name: str, change: str) -> None:
    memory = make(name)
    for batch in batches(SIZES[:6]):
        write(memory, batch)
    before = memory.write_policy.state_dict()
    first = next(iter(before))
    state = dict(before)
    if change == "a row less":
        state[first] = state[first][:-1]
    elif change == "a part less":
        del state[first]
    else:
        state = {part: torch.cat([value, value]) if len(value) == 12 else value for part, value in state.items()}
    with pytest.raises(ValueError, match=r"^state: expected"):
        memory.write_policy.load_state_dict(state)
    after = memory.write_policy.state_dict()
    assert all(torch.equal(value, after[part]) for part, value in before.items())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [3_000, 20_001])
def test_a_budget_is_used_up_and_never_exceeded(name: str, budget: int) -> None:
    policy: Any = Hardest("class") if name == "hardest by class" else name
    try:
        memory = RandomMemory.from_budget(budget, shape=(3,), classes=4, write_policy=policy)
    except ValueError:
        assert budget == 3_000
        assert name == "hardest by class"  # whose table of 16 classes takes more
        return
    larger = RandomMemory(memory.capacity + 1, write_policy=policy)
    for batch in batches(SIZES * 12):
        for m in (memory, larger):
            write(m, batch)
    assert memory.nbytes <= budget < larger.nbytes


def test_the_logits_that_a_policy_keeps_have_a_width_to_be_told() -> None:
    with pytest.raises(ValueError, match="classes: expected the width of the logits"):
        RandomMemory.from_budget(5_000, shape=(3,), write_policy="gss")


LOSS, LOGITS, X, Y = torch.ones(4), torch.ones(4, 3), torch.rand(4, 3), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("hardest", {}, "loss: expected that of every row, which 'hardest' needs, got None"),
        ("hardest", {"loss": LOSS[:3]}, r"loss: expected shape \(4,\), one number a row of x, got \(3,\)"),
        ("hardest", {"loss": LOSS.long()}, "loss: expected floating-point numbers, got torch.int64"),
        ("hardest", {"loss": LOSS / 0}, "loss: expected finite values, got 4"),
        ("hardest", {"loss": LOSS, "logits": LOGITS}, "logits: expected None, as this memory keeps none"),
        ("gss", {}, "logits: expected that of every row, which 'gss' needs, got None"),
        ("gss", {"logits": LOGITS[:, :2]}, "logits: expected an output for each class, got 2 for class 2"),
        ("gss", {"logits": LOGITS, "y": torch.rand(4)}, r"y: expected integer classes \(B,\), which the policy 'gss'"),
        ("herding", {"y": torch.rand(4)}, r"y: expected integer classes \(B,\), as .* by class"),
    ],
)
@pytest.mark.parametrize("fresh", [True, False])
def test_what_is_missing_or_does_not_fit_is_named_and_changes_nothing(
    name: str, arguments: dict[str, Any], message: str, fresh: bool
) -> None:
    if "y" in arguments and not fresh:
        message = "y: expected integer classes"
    memory, same = make(name), make(name)
    good = {"x": X, "y": Y, "loss": LOSS, "logits": LOGITS}
    if not fresh:
        write(memory, good)
        write(same, good)
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        memory.write(**{"x": X, "y": Y, **arguments})
    assert memory.nbytes == same.nbytes
    for batch in batches(SIZES[:4]):
        for m in (memory, same):
            write(m, batch)
    assert torch.equal(memory.rows(memory.slots()).x, same.rows(same.slots()).x)


class Told(Reservoir):
    """A policy of the user's own that takes note of what it is told."""

    def __init__(self, needs: Any) -> None:
        self.needs = needs
        self.told: list[Offered] = []

    def place(self, *arguments: Any) -> list[Placement]:
        self.told += arguments[4:]
        return super().place(*arguments[:4])


@pytest.mark.parametrize("needs", [(), ("x",), ("y",), ("loss",), ("logits",), ("x", "loss"), ("y", "logits", "loss")])
def test_a_policy_is_told_what_it_needs_and_nothing_else(needs: tuple[str, ...]) -> None:
    memory = RandomMemory(10, write_policy=Told(frozenset(needs)), embedding=nn.Flatten())
    assert memory.needs == {*needs}
    given = {"loss": LOSS, "logits": LOGITS}
    memory.write(X, Y, **{name: given[name] for name in needs if name in given})
    assert len(memory.write_policy.told) == bool(needs)  # type: ignore[attr-defined]
    for offered in memory.write_policy.told:  # type: ignore[attr-defined]
        for name, value in (("x", X), ("y", Y), ("loss", LOSS), ("logits", LOGITS)):
            assert getattr(offered, name) is (value if name in needs else None)
        assert (offered.key is not None) == ("x" in needs)
        assert torch.equal(offered.held(torch.tensor([2, 0])).x, X[[2, 0]])


def test_stored_logits_are_needed_too() -> None:
    assert RandomMemory(3, store_logits=True).needs == {"logits"}
    assert RandomMemory(3, store_logits=True, write_policy="hardest").needs == {"logits", "loss"}
    assert RandomMemory(3).needs == frozenset()


@pytest.mark.parametrize("needs", ["loss", {"colour"}, frozenset({"x", "t"}), ["loss"], None])
def test_only_what_a_memory_can_tell_may_be_needed(needs: Any) -> None:
    with pytest.raises(ValueError, match=r"^write_policy: expected needs of logits, loss, x, y, got"):
        RandomMemory(5, write_policy=Told(needs))


@pytest.mark.parametrize("policy", ["hardest", "gss"])
def test_memories_that_are_given_whole_experiences_refuse_what_they_cannot_tell(policy: str) -> None:
    codec = StreamCodec(MLPVAE(hidden=4, size=4))
    with pytest.raises(ValueError, match=r"^write_policy: expected one that needs neither loss nor logits, got"):
        LatentMemory(5, codec=codec, write_policy=policy)
    with pytest.raises(ValueError, match=r"^memory: expected one that needs no (loss|logits)"):
        RandomMemory(5, write_policy=policy).pre_adapt(None, None)


def test_the_policy_of_the_guide_keeps_what_it_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "memories.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "needs" in block]
    given: dict[str, Any] = {"RandomMemory": RandomMemory}
    exec(code, given)
    memory = RandomMemory(4, write_policy=given["Confident"]())
    loss = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.3, 0.9, 0.9, 0.9])
    memory.write(torch.arange(8.0)[:, None], torch.zeros(8, dtype=torch.int64), loss=loss)
    assert held(memory) == [2, 4]


def test_herding_serves_a_memory_whose_codec_learns() -> None:
    memory = LatentMemory(5, codec=StreamCodec(MLPVAE(hidden=4, size=4), steps=2), write_policy=Herding())
    memory.consolidate([(torch.rand(20, 1, 4, 4), torch.arange(20) % 2, 0)], origin=0)
    assert len(memory) == 5
