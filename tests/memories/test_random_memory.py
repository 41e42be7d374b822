"""RandomMemory: what it holds, gives back, saves and refuses."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avalanche_memplugins import RandomMemory
from avalanche_memplugins.codecs import Uint8
from avalanche_memplugins.memories.policies import Balanced, GroupBalanced, Ring, Uniform

POLICIES = ("ring", "reservoir", "class_balanced", "task_balanced")
READS = ("uniform", "cycle", "class_balanced", "task_balanced")


def stream(rows: int, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that carry their number, so that what comes back can be told apart."""
    number = torch.arange(start, start + rows)
    return number.float()[:, None].expand(-1, 3).clone(), number % 5, number % 2


def held(memory: RandomMemory) -> list[int]:
    return memory.rows(torch.arange(len(memory))).x[:, 0].long().tolist()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("read", READS)
def test_rows_come_back_whole(policy: str, read: str) -> None:
    memory = RandomMemory(20, write_policy=policy, read_policy=read)
    for start in range(0, 200, 7):
        x, y, t = stream(7, start)
        memory.write(x, y, t, origin=start // 50)
        recall = memory.sample(6)
        number = recall.x[:, 0].long()
        assert torch.equal(recall.x, number.float()[:, None].expand(-1, 3))
        assert torch.equal(recall.y, number % 5)
        assert torch.equal(recall.t, number % 2)
        assert torch.equal(recall.origin, (number // 7 * 7) // 50)
        assert int(number.max()) < start + 7
        assert len(set(held(memory))) == len(memory) == min(20, start + 7)
    assert memory.seen == 203


def test_ring_holds_the_newest_rows_for_batches_of_any_size() -> None:
    memory = RandomMemory(10, write_policy="ring")
    written = 0
    for size in (3, 4, 5, 1, 10, 23, 7, 9):
        memory.write(*stream(size, written))
        written += size
        assert sorted(held(memory)) == list(range(max(0, written - 10), written))


def test_a_small_ring_forgets_the_first_task_and_a_reservoir_does_not() -> None:
    ring, reservoir = RandomMemory(40, write_policy="ring"), RandomMemory(40, write_policy="reservoir")
    for memory in (ring, reservoir):
        for task in range(4):
            x, y, _ = stream(40, 40 * task)
            memory.write(x, y, task)
    assert ring.summary().per_experience == {3: 40}
    assert set(reservoir.summary().per_experience) == {0, 1, 2, 3}


def test_sampling_without_replacement_repeats_nothing_and_covers_everything() -> None:
    memory = RandomMemory(30)
    memory.write(*stream(30))
    assert sorted(memory.sample(30).x[:, 0].long().tolist()) == list(range(30))
    assert len(memory.sample(100).y) == 30
    assert len(set(memory.sample(8).x[:, 0].tolist())) == 8
    again = RandomMemory(30, replacement=True)
    again.write(*stream(2))
    assert len(again.sample(100).y) == 100


def test_samples_are_uniform_over_the_rows_held() -> None:
    memory = RandomMemory(8, seed=3)
    memory.write(*stream(8))
    counts = torch.zeros(8)
    for _ in range(4_000):
        counts[memory.sample(3).x[:, 0].long()] += 1
    expected = 4_000 * 3 / 8
    assert (counts - expected).abs().max() < 5 * (expected * (1 - 3 / 8)) ** 0.5


@pytest.mark.parametrize("codec", ["raw", "float16", "uint8"])
def test_bytes_are_counted_and_near_the_content(codec: str) -> None:
    memory = RandomMemory(1_000, codec=codec)
    memory.write(torch.zeros(1, 1, 28, 28), torch.zeros(1, dtype=torch.int64))
    content = 1_000 * 784 * {"raw": 4, "float16": 2, "uint8": 1}[codec]
    assert content <= memory.nbytes <= 1.02 * content
    assert memory.nbytes == sum(t.nbytes for t in memory.buffers())
    assert memory.nbytes_fixed == 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("budget", [797, 50_000, 123_457])
def test_a_budget_is_used_up_to_the_last_row_and_never_exceeded(policy: str, read: str, budget: int) -> None:
    options: dict[str, Any] = {"write_policy": policy, "read_policy": read, "codec": Uint8(mean=0.1307, std=0.3081)}
    try:
        memory = RandomMemory.from_budget(budget, shape=(1, 28, 28), **options)
    except ValueError as error:
        assert budget == 797
        assert "got 797" in str(error)  # noqa: PT017
        return
    larger = RandomMemory(memory.capacity + 1, **options)
    for m in (memory, larger):
        m.write(torch.full((1, 1, 28, 28), -0.1307 / 0.3081), torch.zeros(1, dtype=torch.int64))
    assert memory.nbytes <= budget < larger.nbytes


def test_a_budget_with_logits_and_keys() -> None:
    memory = RandomMemory.from_budget(10_000, shape=(6,), classes=4, store_logits=True, embedding=nn.Linear(6, 2))
    memory.write(torch.zeros(1, 6), torch.zeros(1, dtype=torch.int64), logits=torch.zeros(1, 4))
    assert memory.capacity == 10_000 // (6 * 4 + 12 + 4 * 4 + 2 * 4)
    assert memory.nbytes <= 10_000
    with pytest.raises(ValueError, match="classes: expected the width of the logits, which this memory keeps, got 0"):
        RandomMemory.from_budget(10_000, shape=(6,), store_logits=True)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("way", ["state_dict", "folder", "pickle", "deepcopy"])
def test_a_restored_memory_goes_on_exactly(policy: str, read: str, way: str, tmp_path: Path) -> None:
    def make() -> RandomMemory:
        return RandomMemory(13, write_policy=policy, read_policy=read, store_logits=True, seed=4)

    def go_on(memory: RandomMemory, start: int) -> list[Tensor]:
        out: list[Tensor] = []
        for s in range(start, start + 60, 6):
            x, y, t = stream(6, s)
            memory.write(x, y, t, origin=s // 20, logits=x)
            recall = memory.sample(5)
            out += [recall.x, recall.y, recall.t, recall.origin]
            out += [] if recall.logits is None else [recall.logits]
        return out

    memory = make()
    go_on(memory, 0)
    if way == "state_dict":
        restored = make()
        restored.load_state_dict(copy.deepcopy(memory.state_dict()))
    elif way == "folder":
        memory.save(tmp_path / "memory")
        memory.save(tmp_path / "memory")  # over itself
        make().load(tmp_path / "memory").save(tmp_path / "again")
        restored = make().load(tmp_path / "again")
    elif way == "pickle":
        restored = pickle.loads(pickle.dumps(memory))
    else:
        restored = copy.deepcopy(memory)
    for a, b in zip(go_on(memory, 60), go_on(restored, 60), strict=True):
        assert torch.equal(a, b)
    assert str(memory.summary()) == str(restored.summary())


def test_an_empty_memory_can_be_saved_and_loaded(tmp_path: Path) -> None:
    RandomMemory(5).save(tmp_path / "m")
    memory = RandomMemory(5)
    memory.write(*stream(3))
    memory.load(tmp_path / "m")
    assert len(memory) == 0
    memory.load_state_dict(RandomMemory(5).state_dict())
    memory.write(torch.zeros(2, 7), torch.zeros(2, dtype=torch.int64))  # another shape: nothing is left of before
    assert memory.shape == (7,)


def test_loading_refuses_other_memories_and_damage(tmp_path: Path) -> None:
    memory = RandomMemory(9)
    memory.write(*stream(9))
    memory.save(tmp_path / "m")
    for other, part in ((RandomMemory(8), "capacity"), (RandomMemory(9, write_policy="ring"), "parts")):
        other.write(*stream(4))
        with pytest.raises(ValueError, match=part):
            other.load(tmp_path / "m")
        assert sorted(held(other)) == [0, 1, 2, 3]
    tensors = tmp_path / "m" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x01")
    fresh = RandomMemory(9)
    fresh.write(*stream(4))
    with pytest.raises(ValueError, match="damaged"):
        fresh.load(tmp_path / "m")
    assert sorted(held(fresh)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="no readable RandomMemory"):
        fresh.load(tmp_path / "nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="other contents"):
        fresh.save(tmp_path / "full")
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"


def test_the_same_seed_makes_the_same_choices() -> None:
    a, b, c = (RandomMemory(10, seed=s) for s in (1, 1, 2))
    state = torch.get_rng_state()
    for memory in (a, b, c):
        memory.write(*stream(100))
    assert held(a) == held(b) != held(c)
    assert torch.equal(a.sample(5).x, b.sample(5).x)
    assert torch.equal(torch.get_rng_state(), state)  # never the global generator


@pytest.mark.parametrize("keep", ["both", "key"])
def test_an_embedding_gives_keys(keep: str) -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    network[1].running_mean += 1
    memory = RandomMemory(10, embedding=network, keep=keep)
    x, y, t = stream(10)
    statistics = network[1].running_mean.clone()
    memory.write(x, y, t)
    assert network.training
    assert torch.equal(network[1].running_mean, statistics)
    recall = memory.rows(torch.arange(10))
    expected = copy.deepcopy(network).eval()(x).detach()
    assert recall.key is not None
    torch.testing.assert_close(recall.key, expected)
    assert torch.equal(recall.x, x if keep == "both" else recall.key)
    assert memory.nbytes_fixed == sum(p.nbytes for p in (*network.parameters(), *network.buffers()))
    assert not recall.key.requires_grad


def test_logits_grow_with_the_head() -> None:
    memory = RandomMemory(6, write_policy="ring", store_logits=True)
    memory.write(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64), logits=torch.full((3, 2), 1.0))
    memory.write(torch.ones(2, 2), torch.zeros(2, dtype=torch.int64), logits=torch.full((2, 4), 2.0))
    memory.write(torch.ones(1, 2), torch.zeros(1, dtype=torch.int64), logits=torch.full((1, 2), 3.0))
    logits = memory.rows(torch.arange(6)).logits
    assert logits is not None
    assert logits.tolist() == [[1, 1, 0, 0]] * 3 + [[2, 2, 2, 2]] * 2 + [[3, 3, 0, 0]]


def test_a_mapped_memory_is_the_same_memory_in_a_file(tmp_path: Path) -> None:
    mapped, plain = RandomMemory(50, storage=tmp_path / "rows", seed=0), RandomMemory(50, seed=0)
    for start in range(0, 200, 9):
        for memory in (mapped, plain):
            memory.write(*stream(9, start))
        assert torch.equal(mapped.sample(7).x, plain.sample(7).x)
    files = list((tmp_path / "rows").iterdir())
    assert sum(f.stat().st_size for f in files) == mapped.nbytes == plain.nbytes
    with pytest.raises(ValueError, match="expected a folder of its own"):
        RandomMemory(50, storage=tmp_path / "rows").write(*stream(2))


@pytest.mark.parametrize("name", ["hst", "Host", "devices", "cpu", "cuda:0", "gpu", "disk", "mmap", ""])
def test_a_mistaken_storage_makes_no_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="storage: expected 'device', 'host' or a folder, got") as told:
        RandomMemory(5, storage=name).write(*stream(5))
    assert f"a folder of that name is './{name}'" in str(told.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError, match="storage: expected 'device', 'host' or a folder, got int"):
        RandomMemory(5, storage=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("folder", ["./hst", "rows", Path("cpu")])
def test_a_folder_that_is_named_as_one_is_made(folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    RandomMemory(5, storage=folder).write(*stream(5))
    assert [path.name for path in tmp_path.iterdir()] == [Path(folder).name]


def test_device_and_type_changes_leave_the_rows_alone() -> None:
    memory = RandomMemory(5)
    memory.write(*stream(5))
    memory.half()
    assert memory.sample(2).x.dtype == torch.float32
    host = RandomMemory(5, storage="host")
    host.write(*stream(5))
    host.to("meta")
    assert host.store["codes"].device.type == "cpu"
    assert host.device.type == "meta"
    memory.to("meta")
    assert memory.store["codes"].device.type == "meta"


def test_the_summary_counts(capsys: pytest.CaptureFixture[str]) -> None:
    memory = RandomMemory(10)
    assert memory.summary().per_class == {}
    memory.write(*stream(8), origin=3)
    summary = memory.summary()
    assert summary.per_class == {0: 2, 1: 2, 2: 2, 3: 1, 4: 1}
    assert summary.per_task == {0: 4, 1: 4}
    assert summary.per_experience == {3: 8}
    print(summary)
    shown = capsys.readouterr().out
    assert "8 of 10 (80%), 8 offered" in shown
    assert "0: 2, 1: 2, 2: 2, 3: 1, 4: 1" in shown


X, Y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": [1, 2]}, TypeError, "x: expected a tensor"),
        ({"x": torch.zeros(4)}, ValueError, "x: expected a batch .* got \\(4,\\)"),
        (
            {"x": torch.zeros(4, 2)},
            ValueError,
            r"x: expected torch\.float32 rows of shape \(3,\), as this memory holds, got",
        ),
        ({"x": X.double()}, ValueError, "got torch.float64 rows"),
        ({"x": X + float("nan")}, ValueError, "x: expected finite values, got 12 that"),
        ({"x": X.index_fill(0, torch.tensor([1]), float("inf"))}, ValueError, "x: expected finite values, got 3 that"),
        ({"y": Y[:3]}, ValueError, "y: expected shape \\(4,\\).*got \\(3,\\)"),
        ({"y": Y.float()}, ValueError, r"y: expected integer classes \(B,\), as first written, got float32 \(B,\)"),
        ({"y": Y - 1}, ValueError, "y: expected integers from 0 .* got -1"),
        ({"y": Y + 2**31}, ValueError, "y: expected integers from 0 to 2\\*\\*31 - 1, got 2147483648"),
        ({"t": Y.bool()}, ValueError, "t: expected integers, got torch.bool"),
        ({"t": -1}, ValueError, "t: expected integers from 0"),
        ({"t": 1.0}, TypeError, "t: expected an integer or an integer tensor, got float"),
        ({"origin": Y[:1]}, ValueError, "origin: expected shape"),
        ({"logits": X}, ValueError, "logits: expected None, as this memory keeps none"),
    ],
)
@pytest.mark.parametrize("policy", POLICIES)
def test_bad_input_is_named_and_changes_nothing(
    arguments: dict[str, Any], error: type[Exception], message: str, policy: str
) -> None:
    memory = RandomMemory(6, write_policy=policy, read_policy="class_balanced", seed=7)
    memory.write(*stream(20))
    before = copy.deepcopy(memory)
    with pytest.raises(error, match=message):
        memory.write(**{"x": X, "y": Y, "t": 0, **arguments})
    for _ in range(3):
        memory.write(*stream(4, 50))
        before.write(*stream(4, 50))
    assert held(memory) == held(before)
    assert torch.equal(memory.sample(4).x, before.sample(4).x)


def test_a_codec_that_cannot_store_a_batch_changes_nothing() -> None:
    memory = RandomMemory(6, codec="uint8")
    with pytest.raises(ValueError, match="256 levels"):
        memory.write(torch.rand(4, 3) - 5, Y)
    assert len(memory) == 0
    memory.write(torch.zeros(4, 3), Y)
    with pytest.raises(ValueError, match="256 levels"):
        memory.write(torch.rand(4, 3) - 5, Y)
    assert memory.seen == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity": 0}, "capacity: expected an integer >= 1, got 0"),
        ({"capacity": 2.5}, "capacity: expected an integer >= 1, got 2.5"),
        ({"write_policy": "resevoir"}, "write_policy: expected one of .* did you mean 'reservoir'"),
        ({"read_policy": "x"}, "read_policy: expected one of"),
        ({"codec": "uint9"}, "codec: .* did you mean 'uint8'"),
        ({"keep": "x"}, "keep: expected one of 'both', 'key'"),
        ({"validate": "never"}, "validate: expected one of"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomMemory(**{"capacity": 10, **arguments})


def test_one_policy_given_to_two_memories_serves_each_alone() -> None:
    write, read = GroupBalanced("class"), Balanced("class")
    small, large = (RandomMemory(capacity, write_policy=write, read_policy=read) for capacity in (10, 20))
    for start in (0, 30):
        for memory in (small, large):
            memory.write(*stream(30, start))
    assert (set(small.summary().per_class.values()), set(large.summary().per_class.values())) == ({2}, {4})
    assert len(large.sample(10).y.unique()) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codec": Uint8}, r"codec: expected an instance, got the class Uint8; call it: Uint8\(...\)"),
        ({"write_policy": Ring}, "write_policy: expected an instance, got the class Ring"),
        ({"read_policy": Uniform}, "read_policy: expected an instance, got the class Uniform"),
        ({"embedding": "resnet18"}, "embedding: expected a module or None, got"),
    ],
)
def test_what_was_not_made_is_told_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        RandomMemory(10, **arguments)


def test_a_codec_that_lacks_a_part_is_refused() -> None:
    class Half:
        def encode(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(TypeError, match="codec: expected a name or a Codec, got"):
        RandomMemory(3, codec=Half())  # type: ignore[arg-type]


def test_sampling_from_nothing_or_nothing_from_something() -> None:
    memory = RandomMemory(3)
    assert bool(memory)
    with pytest.raises(ValueError, match="nothing has been written"):
        memory.sample(2)
    memory.write(X[:0], Y[:0])
    assert len(memory) == 0
    memory.write(X, Y)
    with pytest.raises(ValueError, match="n: expected an integer >= 1, got 0"):
        memory.sample(0)
    with pytest.raises(ValueError, match="logits: expected the outputs of every row, as store_logits=True, got None"):
        RandomMemory(3, store_logits=True).write(X, Y)
    with pytest.raises(ValueError, match="logits: expected shape \\(4, classes\\), got \\(3, 2\\)"):
        RandomMemory(3, store_logits=True).write(X, Y, logits=torch.zeros(3, 2))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_integer_type_come_back(dtype: torch.dtype) -> None:
    memory = RandomMemory(4)
    y = torch.tensor([3, 200, 0, 7])
    memory.write(torch.zeros(4, 2), y.to(dtype), y.flip(0).to(dtype), origin=5)
    recall = memory.rows(torch.arange(4))
    assert torch.equal(recall.y, y)
    assert torch.equal(recall.t, y.flip(0))
    assert recall.origin.tolist() == [5] * 4


@pytest.mark.parametrize("name", ["y", "t", "origin"])
def test_a_label_out_of_range_is_named_in_any_column(name: str) -> None:
    labels = {"y": torch.zeros(2, dtype=torch.int64), "t": torch.zeros(2, dtype=torch.int64), "origin": 0}
    labels[name] = torch.tensor([0, 2**32])  # 0 in 32 bits
    memory = RandomMemory(4)
    with pytest.raises(ValueError, match=f"{name}: expected integers from 0"):
        memory.write(torch.zeros(2, 2), labels["y"], labels["t"], origin=labels["origin"])
    assert len(memory) == 0


@pytest.mark.parametrize("validate", ["always", "first"])
@pytest.mark.parametrize("policy", ["ring", "reservoir", "class_balanced"])
def test_rows_encoded_by_the_check_are_those_encoded_by_the_codec(policy: str, validate: str) -> None:
    x = torch.randint(256, (40, 1, 4, 4)) / 255
    plain = RandomMemory(16, write_policy=policy, seed=3)
    coded = RandomMemory(16, write_policy=policy, codec="uint8", validate=validate, seed=3)
    for memory in (plain, coded):
        for part in x.split(10):
            memory.write(part, torch.arange(10) % 3)
    assert torch.equal(plain.rows(torch.arange(16)).x, coded.rows(torch.arange(16)).x)


@pytest.mark.parametrize("read", ["cycle", "class_balanced"])
@pytest.mark.parametrize("codec", ["raw", "int8"])
@pytest.mark.parametrize("batch_size", [1, 7, 32, 500])
@pytest.mark.parametrize("policy", POLICIES)
def test_rows_of_a_tensor_are_written_as_batches_are(policy: str, batch_size: int, codec: str, read: str) -> None:
    source = torch.randn(150, 3)
    one, other = (
        RandomMemory(40, write_policy=policy, read_policy=read, codec=codec, labels="int16", seed=3) for _ in range(2)
    )
    for experience in range(3):
        rows = torch.randperm(150)[:130]
        y, t = rows % 5, rows % 2
        for part in torch.arange(130).split(batch_size):
            one.write(source[rows[part]], y[part], t[part], origin=experience)
        other.write_from(source, rows, y, t, origin=experience, batch_size=batch_size, checked=experience != 1)
        assert torch.equal(one.sample(8).x, other.sample(8).x)
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))
    assert torch.equal(one._generator.get_state(), other._generator.get_state())
    assert one.seen == other.seen


def test_rows_of_a_tensor_may_have_other_targets_and_are_checked_like_batches() -> None:
    memory, rows = RandomMemory(4), torch.tensor([2, 0, 1])
    memory.write_from(torch.eye(3), rows, rows / 2, batch_size=2, checked=True)
    assert torch.equal(memory.rows(torch.arange(3)).y, rows / 2)
    with pytest.raises(ValueError, match=r"x: expected torch\.float32 rows of shape"):
        memory.write_from(torch.eye(4), rows, rows / 2, batch_size=2, checked=True)
    with pytest.raises(ValueError, match="x: expected finite values"):
        RandomMemory(4).write_from(torch.eye(3) / 0, rows, rows, batch_size=2)
    with pytest.raises(ValueError, match="batch_size: expected an integer >= 1, got 0"):
        memory.write_from(torch.eye(3), rows, rows / 2, batch_size=0)


def test_what_was_checked_is_not_looked_at_again_unless_always() -> None:
    x, y = torch.full((3, 2), torch.nan), torch.arange(3)
    RandomMemory(4).write(x, y, checked=True)
    RandomMemory(4).write(x[:, :1].nan_to_num(), y, checked=True)
    with pytest.raises(ValueError, match="x: expected finite values"):
        RandomMemory(4, validate="always").write(x, y, checked=True)
    with pytest.raises(ValueError, match="y: expected integers from 0 to 255"):
        RandomMemory(4, labels="uint8").write(torch.zeros(3, 2), y + 254, checked=True)


def test_a_sample_is_put_where_it_is_wanted_if_it_fits() -> None:
    memory, other = RandomMemory(6, seed=1), RandomMemory(6, seed=1)
    for one in (memory, other):
        one.write(*stream(6))
    room = torch.zeros(9, 3)
    recall = memory.sample(4, into=room[2:6])
    assert torch.equal(recall.x, other.sample(4).x)
    assert recall.x.data_ptr() == room[2].data_ptr()
    assert not room[:2].any()
    assert not room[6:].any()
    assert len(memory.sample(8, into=torch.zeros(8, 3)).x) == 6
    for wrong in (torch.zeros(4, 2), torch.zeros(3, 3), torch.zeros(4, 3).double(), torch.zeros(3, 4).T):
        before = wrong.clone()
        assert memory.sample(4, into=wrong).x.shape == (4, 3)
        assert torch.equal(wrong, before)
