"""Rows that are dicts, tuples and named tuples of tensors, codecs a tensor, rows of different lengths, groups."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from avalanche_memplugins import EpisodicMemory, RandomMemory
from avalanche_memplugins._structure import mapped, structure_of
from avalanche_memplugins.codecs import Bits, Integers

N = 40


class Pair(NamedTuple):
    left: Tensor
    right: Any


def rows(n: int = N) -> dict[str, Any]:
    """Values from which each row can be told: the first is its number."""
    number = torch.arange(n)
    pixels = (number[:, None, None, None] * 7 + torch.arange(12).view(3, 2, 2)) % 256 / 255
    return {"number": number, "pixels": pixels, "mask": number[:, None] * 3 >> torch.arange(9) & 1}


def structures(n: int = N) -> dict[str, Any]:
    r = rows(n)
    return {
        "dict": r,
        "tuple": (r["number"], r["pixels"]),
        "list": [r["number"], r["mask"]],
        "named": Pair(r["number"], r["pixels"]),
        "nested": {"number": r["number"], "in": Pair(r["mask"], (r["pixels"], {"deep": r["mask"].bool()}))},
    }


def number_of(x: Any) -> Tensor:
    return x["number"] if isinstance(x, dict) else x[0]


def same(found: Any, wanted: Any, index: Tensor) -> None:
    """What came back is what was given, of the same structure and types."""
    structure = structure_of("x", wanted)
    assert structure_of("x", found) == structure
    assert type(found) is type(wanted)
    for a, b in zip(structure.leaves("x", found), structure.leaves("x", wanted), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b[index])


def fill(memory: RandomMemory, x: Any, y: Any, step: int = 7) -> None:
    for start in range(0, N, step):
        part = slice(start, start + step)
        take = lambda value: mapped(lambda leaf: leaf[part], value)  # noqa: B023, E731
        memory.write(take(x), take(y), origin=start // 20)


@pytest.mark.parametrize("kind", structures())
@pytest.mark.parametrize("way", ["as it is", "state_dict", "folder", "pickle", "deepcopy"])
@pytest.mark.parametrize("policies", [("reservoir", "uniform"), ("ring", "cycle"), ("task_balanced", "task_balanced")])
def test_rows_come_back_as_they_were_given(kind: str, way: str, policies: tuple[str, str], tmp_path: Path) -> None:
    x = structures()[kind]
    y = {"target": torch.arange(N) * 0.5, "box": torch.arange(N * 4).view(N, 4)}

    def make() -> RandomMemory:
        return RandomMemory(15, write_policy=policies[0], read_policy=policies[1], seed=3)

    memory = make()
    fill(memory, x, y)
    other = make()
    if way == "state_dict":
        other.load_state_dict(memory.state_dict())
    elif way == "folder":
        memory.save(tmp_path / "saved")
        other = make().load(tmp_path / "saved")
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(memory))
    elif way == "deepcopy":
        other = copy.deepcopy(memory)
    else:
        fill(other, x, y)
    for _ in range(2):
        found, twin = other.sample(6), memory.sample(6)
        same(found.x, x, number_of(found.x))
        same(found.y, y, number_of(found.x))
        assert torch.equal(number_of(found.x), number_of(twin.x))
        fill(memory, x, y)
        fill(other, x, y)
    assert other.nbytes == memory.nbytes


def test_keys_may_come_in_another_order_and_in_another_mapping() -> None:
    r = rows()
    memory = RandomMemory(N, seed=0)
    memory.write(r, {"a": r["pixels"], "b": r["number"]})
    memory.write(OrderedDict(reversed(r.items())), {"b": r["number"], "a": r["pixels"]})
    found = memory.sample(N)
    same(found.x, r, found.x["number"])
    assert torch.equal(found.y["b"], found.x["number"])


def test_a_named_tuple_that_no_module_has_comes_back_as_itself_and_is_never_imported(tmp_path: Path) -> None:
    local: Any = namedtuple("local", "left right")
    memory = RandomMemory(N, seed=0)
    memory.write(local(torch.arange(N), torch.rand(N, 2)), torch.arange(N) % 3)
    assert type(memory.sample(2).x) is local
    memory.save(tmp_path / "saved")
    manifest = (tmp_path / "saved" / "manifest.json").read_text()
    assert "local" in manifest
    assert RandomMemory(N).load(tmp_path / "saved").sample(2).x._fields == ("left", "right")


def test_each_tensor_has_its_codec_and_all_bytes_count() -> None:
    r = rows()
    x, y = {"number": r["number"], "pixels": r["pixels"]}, r["mask"].bool().view(N, 3, 3)
    plain = RandomMemory(N, seed=0)
    packed = RandomMemory(N, codec={"pixels": "uint8", "x.number": "uint8", "y": "1bit"}, seed=0)
    for memory in (plain, packed):
        memory.write(x, y)
    found = packed.sample(N)
    same(found.x, x, found.x["number"])
    assert torch.equal(found.y, y[found.x["number"]])
    # By hand: 8 bytes a number, 12 pixels, 9 labels a mask, t and origin.
    assert plain.nbytes == N * (8 + 4 * 12 + 9 + 8)
    assert packed.nbytes == N * (1 + 12 + 2 + 8)


def test_a_codec_alone_is_for_the_floating_point_tensors_of_x() -> None:
    r = rows()
    memory = RandomMemory(N, codec=Bits(1), labels="uint8", store_tasks=False, seed=0)
    memory.write({"number": r["number"], "image": r["pixels"].round()}, torch.arange(N) % 3)
    assert memory.nbytes == N * (8 + 2 + 1)
    assert torch.equal(memory.sample(N).x["number"].sort().values, torch.arange(N))


@pytest.mark.parametrize("policy", ["reservoir", "task_balanced"])
@pytest.mark.parametrize("codec", ["raw", {"pixels": "uint8", "y": "1bit"}])
def test_budgets_count_all_tensors(policy: str, codec: Any) -> None:
    shape, dtype = {"pixels": (3, 2, 2), "number": ()}, {"pixels": torch.float32, "number": torch.int64}
    memory = RandomMemory.from_budget(
        5_000, shape=shape, dtype=dtype, target_shape=(9,), target_dtype=torch.bool, codec=codec, write_policy=policy
    )
    r = rows()
    for _ in range(10):
        memory.write({"pixels": r["pixels"], "number": r["number"]}, r["mask"].bool())
    assert memory.nbytes <= 5_000 < memory.nbytes * (memory.capacity + 1.5) / memory.capacity


def test_rows_below_a_folder_are_files_a_tensor(tmp_path: Path) -> None:
    r = rows()
    memory = RandomMemory(N, storage=tmp_path / "rows", seed=0)
    memory.write(r, torch.arange(N) % 5)
    found = memory.sample(9)
    same(found.x, r, found.x["number"])
    assert len(list((tmp_path / "rows").iterdir())) == 4  # three tensors, and the labels


# ---------------------------------------------------------------- rows of different lengths


def tokens(lengths: list[int], start: int = 1) -> dict[str, Tensor]:
    """A padded batch; each token tells its row."""
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = start + row
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


PAD = {"input_ids": 0, "attention_mask": 0, "y": -100}


@pytest.mark.parametrize("codec", ["raw", {"input_ids": "int16", "attention_mask": "uint8", "y": "int16"}])
@pytest.mark.parametrize("storage", ["device", "folder"])
def test_padded_rows_come_back_with_what_they_had_and_no_longer_than_needed(
    codec: Any, storage: str, tmp_path: Path
) -> None:
    memory = RandomMemory(
        50, pad=PAD, codec=codec, seed=1, storage="device" if storage == "device" else tmp_path / "rows"
    )
    given: dict[int, int] = {}
    for lengths in ([3, 5], [2, 2, 1], [9, 4, 1], [6]):
        start = 1 + len(given)
        batch = tokens(lengths, start)
        memory.write(batch, torch.where(batch["input_ids"] > 0, batch["input_ids"], -100))
        given |= {start + row: length for row, length in enumerate(lengths)}
    memory.save(tmp_path / "saved")
    loaded = RandomMemory(50, pad=PAD, codec=codec).load(tmp_path / "saved")
    for each in (memory, loaded, copy.deepcopy(memory)):
        seen = set()
        for slots in ([0, 1, 2], [3, 4], [5], list(range(9))):
            found = each.rows(torch.tensor(slots))
            ids, mask = found.x["input_ids"], found.x["attention_mask"]
            lengths = [given[int(row[0])] for row in ids]
            assert ids.shape == mask.shape == found.y.shape == (len(slots), max(lengths))
            for row, length in enumerate(lengths):
                number = int(ids[row, 0])
                seen.add(number)
                assert ids[row].tolist() == [number] * length + [0] * (max(lengths) - length)
                assert mask[row].tolist() == [1] * length + [0] * (max(lengths) - length)
                assert found.y[row].tolist() == [number] * length + [-100] * (max(lengths) - length)
        assert seen == set(given)


def test_tensors_of_one_length_keep_it_together() -> None:
    # Labels of -100 at the end of a row, as in tuning on answers only, do not cut off its tokens, nor the reverse.
    memory = RandomMemory(4, pad={"ids": 0, "y": -100})
    memory.write({"ids": torch.tensor([[5, 6, 0, 0, 0]])}, torch.tensor([[-100, 7, 8, -100, -100]]))
    found = memory.sample(1)
    assert found.x["ids"].tolist() == [[5, 6, 0]]
    assert found.y.tolist() == [[-100, 7, 8]]


def test_a_budget_says_how_long_padded_rows_may_be() -> None:
    memory = RandomMemory.from_budget(
        4_000, shape={"input_ids": (12,)}, dtype=torch.int64, pad={"input_ids": 0}, codec={"input_ids": "int16"}
    )
    for lengths in ([3] * 50, [12] * 50, [4, 12] * 100):
        memory.write({"input_ids": tokens(lengths)["input_ids"]}, torch.zeros(len(lengths), dtype=torch.int64))
        assert memory.nbytes <= 4_000
    assert memory.nbytes > 3_900
    with pytest.raises(ValueError, match=r"x\.input_ids: expected rows of at most 12"):
        memory.write({"input_ids": tokens([13])["input_ids"]}, torch.zeros(1, dtype=torch.int64))


# ---------------------------------------------------------------- groups


@pytest.mark.parametrize("way", ["as it is", "folder"])
def test_groups_of_rows_without_classes_are_balanced(way: str, tmp_path: Path) -> None:
    def group(x: Any, y: Any) -> Tensor:
        return (y["target"] >= 2).long()

    def make() -> RandomMemory:
        return RandomMemory(10, write_policy="class_balanced", read_policy="class_balanced", group=group, seed=0)

    memory = make()
    y = {"target": (torch.arange(200) % 100 > 94).float() * 2}  # 5 % are of group 1
    memory.write({"number": torch.arange(200)}, y)
    if way == "folder":
        memory.save(tmp_path / "saved")
        memory = make().load(tmp_path / "saved")
    assert memory.summary().per_class == {0: 5, 1: 5}
    drawn = memory.sample(6).y["target"]
    assert int((drawn == 2).sum()) == 3
    assert memory.classes_of(memory.slots()).sum() == 5


def test_a_group_function_may_stand_for_classes_that_there_are() -> None:
    memory = RandomMemory(8, write_policy="class_balanced", group=lambda x, y: y // 5, seed=0)
    memory.write(torch.rand(80, 3), torch.arange(80) % 10)
    assert memory.summary().per_class == {0: 4, 1: 4}
    assert int(memory.sample(8).y.max()) > 1  # classes come back as they are


# ---------------------------------------------------------------- what is refused


def bad_calls() -> dict[str, tuple[dict[str, Any], Any, Any, str]]:
    r, y = rows(4), torch.arange(4)
    return {
        "no tensor": ({}, {"a": "text"}, y, r"x: expected a tensor.*got a str at \['a'\]"),
        "rows differ": ({}, {"a": torch.rand(4, 2), "b": torch.rand(3, 2)}, y, "x: expected one row a row"),
        "empty": ({}, {}, y, "x: expected a dict of at least one tensor"),
        "keys": ({}, {1: torch.rand(4, 2)}, y, "x: expected keys that are strings"),
        "codec name": ({"codec": {"pixel": "uint8"}}, r, y, "codec: expected names among.*did you mean 'pixels'"),
        "codec kind": ({"codec": {"number": "uint9"}}, r, y, "codec: expected one of"),
        "codec values": ({"codec": {"number": "1bit"}}, r, y, "x.number: the codec Integers.*expected 0 to 1, got 3"),
        "codec float": ({"codec": {"pixels": "int16"}}, r, y, "codec: 'int16' expected integers"),
        "codec uint8": ({"codec": {"pixels": "uint8"}}, {**r, "pixels": r["pixels"] + 9}, y, "x.pixels: "),
        "not finite": ({}, {"a": torch.tensor([[float("nan")]])}, y[:1], "x.a: expected finite"),
        "target not finite": ({}, r, {"a": torch.full((4,), float("inf"))}, "y.a: expected finite"),
        "target rows": ({}, r, {"a": torch.rand(3, 1)}, "y.a: expected 4 rows"),
        "no classes": ({"write_policy": "class_balanced"}, r, torch.rand(4), "y: expected integer classes.*group="),
        "herding": ({"write_policy": "herding"}, r, y, "x: expected one tensor.*'herding'"),
        "pad name": ({"pad": {"token": 0}}, r, y, "pad: expected names among"),
        "pad codec": ({"pad": {"mask": 0}, "codec": {"mask": "1bit"}}, r, y, "codec: 'x.mask' has rows of different"),
        "pad row": ({"pad": {"number": 0}}, r, y, "pad: expected rows"),
        "group": ({"group": lambda x, y: 3}, r, y, "group: expected a function that gives integers"),
        "group sign": ({"group": lambda x, y: y - 2}, r, y, "group: expected integers from 0"),
    }


@pytest.mark.parametrize("name", bad_calls())
def test_what_is_refused_is_named_and_changes_nothing(name: str) -> None:
    options, x, y, message = bad_calls()[name]
    made = []

    def refused(call: str) -> None:
        made.append(RandomMemory(10, **options))
        getattr(made[-1], call)(x, y)

    for call in ("check_rows", "write"):
        with pytest.raises((TypeError, ValueError), match=message):
            refused(call)
    for memory in made:  # none, if the memory itself was refused
        assert len(memory) == memory.seen == 0
        assert not list(memory.store.named_buffers())


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"number": torch.arange(4)}, "x: expected a dict of tensors"),
        (torch.rand(4, 3), "x: expected a dict of tensors"),
        ({**rows(4), "pixels": torch.rand(4, 3, 2, 3)}, "x.pixels: expected torch.float32 rows"),
        ({**rows(4), "number": torch.rand(4)}, "x.number: expected torch.int64 rows"),
    ],
)
def test_later_rows_of_another_kind_are_refused(x: Any, message: str) -> None:
    memory = RandomMemory(10)
    memory.write(rows(4), torch.arange(4))
    with pytest.raises(ValueError, match=message):
        memory.write(x, torch.arange(4))
    assert memory.seen == 4


def test_a_damaged_structure_is_refused_and_nothing_has_changed() -> None:
    memory = RandomMemory(10, seed=0)
    memory.write(rows(4), torch.arange(4))
    before = memory.sample(4)
    for wrong in ("tensor", ["dict", []], ["dict", [["a", "tensor"]]], ["named tuple", [["a", "tensor"]], "os", "x y"]):
        state = memory.state_dict()
        extra = copy.deepcopy(state["_extra_state"])
        extra["layouts"]["x"]["structure"] = wrong
        state["_extra_state"] = extra
        with pytest.raises(ValueError, match="state"):
            memory.load_state_dict(state)
        assert len(memory) == 4
    assert torch.equal(memory.rows(memory.slots()).x["number"], torch.arange(4))
    assert before.x["pixels"].shape == (4, 3, 2, 2)


def test_memories_of_one_tensor_say_so() -> None:
    memory = EpisodicMemory(10)
    memory.write(rows(4), torch.arange(4))
    with pytest.raises(TypeError, match="x: expected a tensor"):
        memory.nearest(rows(2), 1)


# ---------------------------------------------------------------- integers


@pytest.mark.parametrize("kind", ["1bit", "2bit", "4bit", "uint8", "int8", "int16", "int32"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_integers_come_back_exactly(kind: str, dtype: torch.dtype) -> None:
    bits = {"1bit": 1, "2bit": 2, "4bit": 4, "uint8": 8, "int8": 7, "int16": 15, "int32": 31}[kind]
    most = min(2**bits - 1, 255 if dtype == torch.uint8 else 1 if dtype == torch.bool else 2**bits - 1)
    x = torch.randint(0, most + 1, (5, 3, 7)).to(dtype)
    x[0, 0, 0] = most
    if kind in ("int8", "int16", "int32") and dtype.is_signed:
        x[1] -= most // 2 + most // 2 + 1
    codec = Integers(kind)
    codec.check(x)
    assert torch.equal(codec.decode(codec.encode(x), x.shape[1:], dtype), x)
    size = {"1bit": 3, "2bit": 6, "4bit": 11}.get(kind, 21)
    assert codec.encode(x)[0].numel() == size
