"""A memory of rows by bytes: what it holds, what it costs, who stays, and its state."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from sklearn.datasets import load_digits
from torch import Size, Tensor, nn
from torch.nn.functional import interpolate

from avalanche_memplugins.benchmarks import SplitDigits
from avalanche_memplugins.codecs import Bits, Downsampled, EntropyCoded, ImageFile
from avalanche_memplugins.functional.reservoir import distinct_integers
from avalanche_memplugins.memories import CodedMemory, EpisodicMemory, RandomMemory
from avalanche_memplugins.plugins import MemoryReplayPlugin
from avalanche_memplugins.strategies import ExperienceReplay


class Numbers:
    """A row ``(B, 1)`` holds a whole number and takes as many bytes as told by it, at least two."""

    variable: Literal[True] = True
    nbytes = nbytes_fixed = 0

    def __init__(self, lengths: Any = lambda number: 2 + number % 7) -> None:
        self.lengths = lengths

    def check(self, x: Tensor) -> None:
        if bool((x < 0).any()):
            raise ValueError("x: expected numbers >= 0")

    def encode_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = [int(n).to_bytes(2, "little") + bytes(self.lengths(int(n)) - 2) for n in x[:, 0]]
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        return torch.tensor(list(b"".join(rows)), dtype=torch.uint8), lengths

    def decode_rows(self, buffer: Tensor, starts: Tensor, lengths: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        numbers = buffer[starts].long() + 256 * buffer[starts + 1].long()
        assert lengths.tolist() == [self.lengths(int(n)) for n in numbers]
        return numbers[:, None].to(dtype)

    def __repr__(self) -> str:
        return "Numbers()"


def offer(memory: CodedMemory, numbers: Any, batch: int = 50, classes: int = 10) -> None:
    x = torch.as_tensor(numbers, dtype=torch.float32)[:, None]
    for rows in torch.split(x, batch):
        memory.write(rows, rows[:, 0].long() % classes)


def digits(count: int = 1700) -> tuple[Tensor, Tensor]:
    data = load_digits()
    x = torch.from_numpy(data.images[:count]).float()[:, None] / 16
    return interpolate(x, (28, 28), mode="bilinear").clamp(0, 1), torch.from_numpy(data.target[:count]).long()


@pytest.mark.parametrize("policy", ["reservoir", "ring", "class_balanced"])
@pytest.mark.parametrize("batch", [1, 37, 500])
def test_the_budget_is_kept_and_nearly_full(policy: Any, batch: int) -> None:
    memory = CodedMemory(1500, codec=Numbers(), write_policy=policy, seed=0)
    count = 400 if batch == 1 else 1000
    for start in range(0, count, batch):
        offer(memory, range(start, min(count, start + batch)), batch)
        assert memory.nbytes <= 1500
        if start % 7:
            continue
        recall = memory.rows(memory.slots())
        assert torch.equal(recall.y, recall.x[:, 0].long() % 10)
    assert memory.seen == count
    assert memory.nbytes > 1500 - 25
    assert len(set(memory.rows(memory.slots()).x[:, 0].tolist())) == len(memory)


def test_a_ring_holds_the_newest_in_order() -> None:
    memory = CodedMemory(900, codec=Numbers(), write_policy="ring", seed=0)
    offer(memory, range(700))
    held = memory.rows(memory.slots()).x[:, 0].tolist()
    assert held == list(range(700 - len(held), 700))


def test_a_reservoir_keeps_every_part_of_the_stream_and_no_length_rather_than_another() -> None:
    """Over 60 runs: rows held by tenth of the stream, and by length, against equal shares."""
    held = np.zeros(1000)
    for seed in range(60):
        memory = CodedMemory(1200, codec=Numbers(lambda n: 2 + n % 2 * 10), seed=seed)
        offer(memory, range(1000), batch=100)
        held[memory.rows(memory.slots()).x[:, 0].long().numpy()] += 1
    tenths = held.reshape(10, 100).sum(1)
    expected = tenths.mean()
    # Rows are spread by chance: three deviations of a binomial, and 5 % for decisions taken for 64 rows at a time.
    assert (abs(tenths - expected) < 3 * np.sqrt(expected) + 0.05 * expected).all(), tenths
    short, long = held[::2].sum(), held[1::2].sum()
    assert abs(long - short) < 4 * np.sqrt(short + long)


def test_a_balanced_memory_keeps_rare_classes_whole() -> None:
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 30)
    labels = labels[torch.randperm(930, generator=torch.Generator().manual_seed(0))]
    memory = CodedMemory(1000, codec=Numbers(lambda n: 5), write_policy="class_balanced", seed=0)
    for rows in torch.split(torch.arange(930), 40):
        memory.write(rows[:, None].float(), labels[rows])
    counts = memory.summary().per_class
    assert counts[2] == 30
    assert abs(counts[0] - counts[1]) <= 6
    assert memory.nbytes <= 1000


def test_a_row_takes_its_code_its_label_and_its_length() -> None:
    memory = CodedMemory(100_000, codec=Numbers(lambda n: 15), seed=0)
    offer(memory, range(3200))
    assert memory.nbytes == 3200 * 17 + 400
    with_tasks = CodedMemory(100_000, codec=Numbers(lambda n: 15), labels="int16", store_tasks=True, seed=0)
    with_tasks.write(torch.arange(32.0)[:, None], torch.arange(32) * 1000, 3, origin=5)
    assert with_tasks.nbytes == 32 * 22 + 4
    recall = with_tasks.rows(torch.tensor([31, 0]))
    assert (recall.y.tolist(), recall.t.tolist(), recall.origin.tolist()) == ([31000, 0], [3, 3], [5, 5])
    assert memory.rows(torch.tensor([0])).origin.tolist() == [-1]


@pytest.mark.parametrize(("inner", "budget"), [(lambda: Bits(1), 24_000), (lambda: Downsampled(14, Bits(2)), 8_000)])
def test_a_learned_table_makes_room_and_loses_nothing(inner: Any, budget: int) -> None:
    x, y = digits()
    own, fixed = (CodedMemory(budget, codec=EntropyCoded(inner(), table=t), seed=0) for t in ("own", "mixed"))
    for rows, labels in zip(torch.split(x, 100), torch.split(y, 100), strict=True):
        for memory in (own, fixed):
            memory.write(rows, labels)
            assert memory.nbytes <= budget
    assert own.codec.nbytes > 400
    assert len(own) > 1.04 * len(fixed)
    codec = inner()
    known = {row.numpy().tobytes() for row in codec.decode(codec.encode(x), x.shape[1:], x.dtype)}
    for memory in (own, fixed):
        assert all(row.numpy().tobytes() in known for row in memory.rows(memory.slots()).x)


def test_image_files_in_a_memory() -> None:
    x, y = digits(200)
    x = x.mul(255).round().div(255)
    memory = CodedMemory("20kB", codec=ImageFile("webp"), seed=0)
    memory.write(x, y)
    assert 40 < len(memory) < 200
    rows = {tuple(row.flatten().tolist()) for row in x}
    assert all(tuple(row.flatten().tolist()) in rows for row in memory.sample(30).x)


def test_samples_are_different_rows_and_repeat_by_seed() -> None:
    first, second = (CodedMemory(2000, codec=Numbers(), seed=4) for _ in range(2))
    for memory in (first, second):
        offer(memory, range(500))
    for _ in range(5):
        a, b = first.sample(32), second.sample(32)
        assert torch.equal(a.x, b.x)
        assert len(set(a.x[:, 0].tolist())) == 32
    assert len(first.sample(10**6).y) == len(first)
    drawn = np.zeros(500)
    for _ in range(600):
        drawn[first.sample(16).x[:, 0].long().numpy()] += 1
    held = drawn[drawn > 0]
    assert len(held) == len(first)
    assert held.max() < held.mean() + 6 * np.sqrt(held.mean())


@pytest.mark.parametrize("policy", ["reservoir", "ring", "class_balanced"])
def test_state_goes_on_exactly(policy: Any, tmp_path: Path) -> None:
    x, y = digits(900)

    def make() -> CodedMemory:
        return CodedMemory(6_000, codec=EntropyCoded(Bits(2)), write_policy=policy, seed=1)

    memory = make()
    memory.write(x[:500], y[:500])
    memory.save(tmp_path / "memory")
    others = [make(), make().load(tmp_path / "memory"), copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))]
    others[0].load_state_dict(memory.state_dict())
    memory.write(x[500:], y[500:])
    drawn = memory.sample(20)
    for other in others:
        assert len(other) > 0
        other.write(x[500:], y[500:])
        assert other.nbytes == memory.nbytes
        assert torch.equal(other.rows(other.slots()).x, memory.rows(memory.slots()).x)
        assert torch.equal(other.sample(20).x, drawn.x)


def test_an_error_changes_nothing(tmp_path: Path) -> None:
    memory = CodedMemory(300, codec=Numbers(lambda n: 400 if n == 77 else 5), write_policy="ring", seed=0)
    offer(memory, range(30))
    before = memory.rows(memory.slots()).x
    state = memory.get_extra_state()["generator"]
    ok = torch.zeros(1, dtype=torch.int64)
    wrong: list[tuple[Any, str]] = [
        (lambda: offer(memory, [*range(100, 170), 77], 100), "x: expected rows that fit into the budget of 300 bytes"),
        (lambda: memory.write(torch.tensor([[-1.0]]), ok), "x: expected numbers >= 0"),
        (lambda: memory.write(torch.tensor([[1.0, 2.0]]), ok), "x: expected torch.float32 rows"),
        (lambda: memory.write(torch.tensor([[torch.nan]]), ok), "x: expected finite"),
        (lambda: memory.write(torch.tensor([[1.0]]), ok + 256), "y: expected"),
        (lambda: memory.write(torch.tensor([[1.0]]), ok, 1), "t: a memory with store_tasks=False"),
        (lambda: memory.check_rows(torch.tensor([[-1.0]])), "x: expected numbers >= 0"),
        (lambda: memory.rows(torch.tensor([999])), "slots: expected"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()
    assert torch.equal(memory.rows(memory.slots()).x, before)
    assert torch.equal(memory.get_extra_state()["generator"], state)
    assert memory.seen == 30
    with pytest.raises(ValueError, match="nothing has been written"):
        CodedMemory(300, codec=Numbers()).sample(1)
    with pytest.raises(TypeError, match="codec: expected a VariableCodec"):
        CodedMemory(300, codec=Bits(1))  # type: ignore[arg-type]
    memory.save(tmp_path / "memory")
    other = CodedMemory(301, codec=Numbers())
    with pytest.raises(ValueError, match="folder: does not fit this CodedMemory: expected that of"):
        other.load(tmp_path / "memory")
    assert len(other) == 0


def test_it_replays_in_a_strategy() -> None:
    torch.manual_seed(0)
    stream = SplitDigits(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    memory = CodedMemory(4_000, codec=EntropyCoded(Bits(2)), seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    strategy = Naive(
        model=model,
        optimizer=optimizer,
        train_mb_size=16,
        evaluator=EvaluationPlugin(),
        plugins=[MemoryReplayPlugin(memory)],
    )
    for experience in stream.train_stream:
        strategy.train(experience)
    assert set(memory.summary().per_class) == set(range(10))
    assert memory.nbytes <= 4_000
    with torch.no_grad():
        rows = torch.stack([row[0] for row in stream.test_stream[0].dataset])
        labels = torch.tensor([row[1] for row in stream.test_stream[0].dataset])
        assert float((model(rows).argmax(1) == labels).float().mean()) > 0.25  # without replay it is 0


def test_nearest_rows_answer_as_a_search_through_all_of_them_does() -> None:
    images, y = load_digits(return_X_y=True)
    x = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    memory = CodedMemory(9_000, codec=EntropyCoded(Bits(4)), seed=0)
    memory.write(x[:900], torch.tensor(y[:900]))
    for _step in range(2):
        held = memory.rows(memory.slots())
        stored, labels, queries = (t.flatten(1).double().numpy() for t in (held.x, held.y[:, None], x[900:1000]))
        distance = ((queries[:, None] - stored[None]) ** 2).sum(2)
        for k in (1, 5):
            found = memory.predict(x[900:1000], classes=12, k=k).exp().numpy()
            near = np.argsort(distance, axis=1, kind="stable")[:, :k]
            votes = np.stack([np.bincount(labels[row, 0].astype(int), minlength=12) / k for row in near])
            assert (np.abs(found - votes).max(1) < 1e-6).mean() > 0.97, "ties may fall otherwise"
        memory.write(x[1000:1500], torch.tensor(y[1000:1500]))  # what was decoded before is stale now


def test_a_task_is_answered_by_its_own_rows_and_what_does_not_fit_is_told() -> None:
    memory = CodedMemory(1_000, codec=Numbers(), store_tasks=True, seed=0)
    with pytest.raises(ValueError, match="expected a memory that holds rows"):
        memory.predict(torch.zeros(1, 1))
    memory.write(torch.tensor([[1.0], [5.0]]), torch.tensor([0, 1]), torch.tensor([3, 4]))
    assert memory.predict(torch.tensor([[1.0]]), task=4).argmax(1).tolist() == [1]
    assert memory.predict(torch.tensor([[4.0]]), task=3).argmax(1).tolist() == [0]
    assert memory.predict(torch.tensor([[4.0]])).argmax(1).tolist() == [1]
    with pytest.raises(ValueError, match="holds rows of task 7"):
        memory.predict(torch.zeros(1, 1), task=7)
    with pytest.raises(ValueError, match="classes: expected more than 1"):
        memory.predict(torch.zeros(1, 1), classes=1)
    with pytest.raises(ValueError, match="x: expected queries"):
        memory.predict(torch.zeros(1, 2))


# ---------------------------------------------------------------- by rows, and by the constructor of RandomMemory


@pytest.mark.parametrize("policy", ["reservoir", "ring", "class_balanced"])
def test_so_many_rows_and_no_more(policy: Any) -> None:
    memory = CodedMemory(codec=Numbers(), capacity=40, write_policy=policy, seed=0)
    for start in range(0, 600, 100):
        offer(memory, range(start, start + 100), 100)
        assert len(memory) == 40
    held = memory.rows(memory.slots())
    assert torch.equal(held.y, held.x[:, 0].long() % 10)
    assert len(set(held.x[:, 0].tolist())) == 40
    if policy == "ring":
        assert held.x[:, 0].tolist() == list(range(560, 600))
    if policy == "class_balanced":
        rare = CodedMemory(codec=Numbers(), capacity=40, write_policy=policy, seed=0)
        x = torch.arange(600.0)[:, None]
        for few in torch.arange(600).split(20):
            rare.write(x[few], (few % 10 == 0).long())
        assert min(rare.summary().per_class.values()) > 15  # a tenth of the stream
    assert memory.summary().capacity == 40
    again = CodedMemory(codec=Numbers(), capacity=40, write_policy=policy, seed=1)
    again.load_state_dict(memory.state_dict())
    assert torch.equal(again.sample(9).x, memory.sample(9).x)


def test_a_reservoir_of_rows_is_a_uniform_sample() -> None:
    kept = np.zeros(300)
    for seed in range(150):
        memory = CodedMemory(codec=Numbers(), capacity=30, seed=seed)
        offer(memory, range(300), 20)
        kept[memory.rows(memory.slots()).x[:, 0].long().numpy()] += 1
    thirds = kept.reshape(3, 100).sum(1) / kept.sum()
    assert np.abs(thirds - 1 / 3).max() < 0.03


def test_bytes_and_rows_may_both_be_bounded() -> None:
    for budget, capacity in ((300, 1000), (100_000, 25)):
        memory = CodedMemory(budget, codec=Numbers(), capacity=capacity, seed=0)
        offer(memory, range(500))
        assert memory.nbytes <= budget
        assert len(memory) <= capacity
        assert len(memory) == capacity or memory.nbytes > budget - 20
    with pytest.raises(ValueError, match="budget_bytes: expected a number of bytes, or a capacity in rows"):
        CodedMemory(codec=Numbers())


def test_a_random_memory_of_rows_that_differ_in_length_is_a_coded_one() -> None:
    x, y = digits(300)
    by_bytes = RandomMemory.from_budget("4kB", codec=EntropyCoded(Bits(1)), seed=0)
    by_rows = RandomMemory(50, codec=EntropyCoded(Bits(1)), write_policy="ring", seed=0)
    for memory in (by_bytes, by_rows):
        assert isinstance(memory, CodedMemory)
        memory.write(x, y)
    assert 0.97 * 4_000 < by_bytes.nbytes <= 4_000
    assert len(by_rows) == 50
    assert torch.equal(by_rows.rows(by_rows.slots()).y, y[-50:])
    copied = [copy.deepcopy(by_rows), pickle.loads(pickle.dumps(by_rows))]
    assert all(torch.equal(other.sample(5).x, copy.deepcopy(by_rows).sample(5).x) for other in copied)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store_logits": True}, "store_logits: expected False beside .*, whose rows differ in length, got True"),
        ({"read_policy": "cycle"}, "read_policy: expected 'auto' beside"),
        ({"write_policy": "hardest"}, "write_policy: expected"),
    ],
)
def test_what_such_rows_cannot_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomMemory(10, codec=ImageFile("png"), **options)
    with pytest.raises(TypeError, match="codec: expected"):
        EpisodicMemory(10, codec=ImageFile("png"))


def test_a_strategy_replays_image_files() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    strategy = ExperienceReplay(
        model=net, optimizer=torch.optim.SGD(net.parameters(), lr=0.1), train_mb_size=64, mem_size=60,
        codec=EntropyCoded(Bits(4)), seed=0, evaluator=None,
    )  # fmt: skip
    strategy.train(SplitDigits(5, seed=0).train_stream[0])
    assert isinstance(strategy.memory, CodedMemory)
    assert len(strategy.memory) == 60


# ---------------------------------------------------------------- samples that are decoded together


def one_by_one(memory: CodedMemory, n: int) -> Tensor:
    """As a sample was before several were decoded at once."""
    slots = distinct_integers(len(memory), min(n, len(memory)), generator=memory._generator)
    return memory.rows(slots).x


def test_samples_are_what_they_are_one_by_one_whatever_comes_between() -> None:
    """Draws of two sizes, writes that store and that do not, copies, states."""
    together, alone = (CodedMemory(1500, codec=Numbers(), seed=0) for _ in range(2))
    choices = np.random.default_rng(0).integers(0, 10, 300).tolist()
    for step, choice in enumerate([0, *choices]):
        if choice == 0:
            for memory in (together, alone):
                offer(memory, range(step * 10, step * 10 + 30), 30)
        elif choice == 1:
            together = copy.deepcopy(together)
        elif choice == 2:
            fresh = CodedMemory(1500, codec=Numbers(), seed=9)
            fresh.load_state_dict(together.state_dict())
            together = fresh
        elif choice == 3:
            together.prefetch(8)
        n = 5 if choice == 4 else 8
        assert torch.equal(together.sample(n).x, one_by_one(alone, n))
    assert torch.equal(together._generator.get_state(), alone._generator.get_state())


def test_samples_that_wait_take_a_fiftieth_of_the_bytes_at_most() -> None:
    decoded = []
    memory = CodedMemory(capacity=4_000, codec=ImageFile("png"), seed=0)
    memory.write((255 * torch.rand(4_000, 1, 8, 8)).round() / 255, torch.arange(4_000) % 2)
    rows = memory.rows
    memory.rows = lambda slots: decoded.append(len(slots)) or rows(slots)  # type: ignore[method-assign, func-returns-value]
    for _ in range(60):
        memory.sample(4)
    assert decoded[0] == 4
    assert 2 * 4 < max(decoded) == 4 * (1 + memory.nbytes // 50 // (4 * 8 * 8 * 4)) <= 16 * 4
    assert memory._drawn is not None
    memory.sample(30)
    assert memory._drawn._rows is None  # given out, and not kept


def test_a_sample_drawn_in_inference_mode_leaves_the_next_fit_for_training() -> None:
    memory = CodedMemory(1500, codec=Numbers(), seed=0)
    offer(memory, range(100))
    for _ in range(3):
        with torch.inference_mode():
            memory.sample(4)
        weight = torch.ones(1, requires_grad=True)
        (memory.sample(4).x * weight).sum().backward()


def test_prefetched_rows_are_those_of_the_next_sample_and_a_write_discards_them() -> None:
    memory, plain = (CodedMemory(1500, codec=Numbers(), seed=0) for _ in range(2))
    memory.prefetch(4)  # of nothing
    for start in range(0, 400, 100):
        for held in (memory, plain):
            offer(held, range(start, start + 100))
        memory.prefetch(8)
        state = memory.state_dict()["_extra_state"]["generator"]
        assert torch.equal(state, plain.state_dict()["_extra_state"]["generator"])
        if start == 200:
            for held in (memory, plain):
                offer(held, range(1_000, 1_400))
        assert torch.equal(memory.sample(8).x, plain.sample(8).x)
    with pytest.raises(ValueError, match="n: expected"):
        memory.prefetch(0)
