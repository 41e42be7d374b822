"""The parts of RandomMemory by themselves: slots that hold a row, rows in a budget, files that wait for nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from avalanche_memplugins.memories._rows import WrittenSlots, embed, one_row, rows_within
from avalanche_memplugins.memories._saved import check_made_alike
from avalanche_memplugins.memories.row_store import RowStore


@pytest.mark.parametrize("seed", range(6))
def test_written_slots_are_those_of_a_list(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    capacity = 30
    slots, order = WrittenSlots(capacity), list[int]()
    while len(order) < capacity:
        start = int(torch.randint(capacity, (), generator=generator))
        if seed % 2:
            stop = min(capacity, start + int(torch.randint(1, 5, (), generator=generator)))
            slots.add(slice(start, stop))
            new = list(range(start, stop))
        else:
            new = torch.randperm(capacity, generator=generator)[: 1 + start % 4].tolist()
            slots.add(torch.tensor(new))
        added = [slot for slot in new if slot not in order]
        order += added
        assert slots.count == len(order)
        assert slots.all().tolist() == sorted(order)
        numbers = torch.arange(slots.count)
        assert sorted(slots.by_number(numbers).tolist()) == sorted(order)
        if slots.has_gaps:
            assert slots.by_number(numbers).tolist()[len(order) - len(added) :] == added
        again = slots.restored(slots.state(), seen=1_000)
        assert torch.equal(again.by_number(numbers), slots.by_number(numbers))
        for slot in range(capacity):
            if slot in order:
                slots.check(torch.tensor([slot]))
            else:
                with pytest.raises(ValueError, match=f"slots: expected slots that hold a row .*got {slot}"):
                    slots.check(torch.tensor([slot]))
    assert slots.nbytes == 0


@pytest.mark.parametrize(("row", "shared"), [(1, 0), (7, 0), (7, 100)])
def test_a_budget_holds_as_many_rows_as_a_search_finds(row: int, shared: int) -> None:
    def takes(rows: int) -> int:
        return shared + rows * row

    for budget in range(row + shared, row + shared + 40):
        assert rows_within(budget, takes) == max(n for n in range(1, 200) if takes(n) <= budget)
    with pytest.raises(ValueError, match=rf"^nbytes: expected at least the {row} bytes .*got {row + shared - 1}"):
        rows_within(row + shared - 1, takes)


def test_one_row_is_what_was_asked_for() -> None:
    x, y = one_row((3, 2), torch.uint8, None, torch.float32)
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((1, 3, 2), torch.uint8, (1,), torch.int64)
    x, y = one_row((3,), torch.float32, (4, 5), torch.bool)
    assert (y.shape, y.dtype) == ((1, 4, 5), torch.bool)
    with pytest.raises(ValueError, match="shape: expected integers >= 1"):
        one_row((0,), torch.float32, None, torch.float32)
    with pytest.raises(TypeError, match=r"dtype: expected a torch.dtype, got 3"):
        one_row((3,), 3, None, torch.float32)


def test_entries_that_differ_are_named_alone() -> None:
    check_made_alike({"capacity": 3, "parts": ["a", "b"], "more": 1}, {"capacity": 3, "parts": ["a", "b"]})
    with pytest.raises(ValueError, match=r"^state: expected that of a memory with parts \['b'\], got \['c'\]$"):
        check_made_alike({"parts": ["a", "c"]}, {"parts": ["a", "b"]})
    with pytest.raises(ValueError, match=r"^state: expected that of a memory with parts \['a'\], got \['a', 'c'\]$"):
        check_made_alike({"parts": ["a", "c"]}, {"parts": ["a"]})


def test_keys_are_made_in_eval_mode_and_must_be_as_those_held() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.9))
    x = torch.rand(4, 3)
    key = embed(network, x, like=None)
    torch.testing.assert_close(key, network[0](x))
    assert network[1].training
    with pytest.raises(ValueError, match=r"embedding: expected torch.float32 keys of \(3,\), as this memory holds"):
        embed(network, x, like=torch.zeros(9, 3))
    with pytest.raises(ValueError, match="x: expected rows that the embedding takes"):
        embed(network, torch.rand(4, 5), like=None)


@pytest.mark.parametrize("first", [True, False])
def test_tensors_that_cannot_all_be_made_are_let_go_of_if_nothing_is_held(first: bool, tmp_path: Path) -> None:
    store = RowStore(5)
    rows = {"codes": (torch.Size([2]), torch.float32), "keys": (torch.Size([2**45]), torch.float32)}
    with pytest.raises(ValueError, match="capacity: expected a number of rows that fits"):
        store.allocate_all(rows, first=first)
    assert ("codes" in store) is not first
