"""Rows that come from a GPU to host memory, with a stand-in for the GPU: put down when their copy is complete."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Size, Tensor

from avalanche_memplugins.memories.row_store import RowStore


class OnGPU(Tensor):
    """Claims to lie on a GPU."""

    is_cuda = True

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        assert kwargs == {"non_blocking": True}
        return ARRIVING.pop(0)


ARRIVING: list[Tensor] = []


class Event:
    """A copy that is complete once somebody has waited for it."""

    copies: list[tuple[Tensor, Tensor]]  # where it goes, what arrives
    done = False

    def record(self, stream: Any) -> None:
        self.mine = Event.copies.pop(0)

    def query(self) -> bool:
        if self.done:
            self.synchronize()
        return self.done

    def synchronize(self) -> None:
        target, rows = self.mine
        target.copy_(rows)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> RowStore:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    store = RowStore(4, "host")
    store.allocate("codes", Size([2]), torch.float32)
    ARRIVING.clear()
    Event.copies = []
    return store


def put(store: RowStore, slots: slice | Tensor, value: float) -> None:
    target = torch.full((2, 2), float("nan"))  # what the copy has not reached yet
    ARRIVING.append(target)
    Event.copies.append((target, torch.full((2, 2), value)))
    store.put("codes", slots, torch.zeros(2, 2).as_subclass(OnGPU))


def test_rows_are_put_down_in_order_when_somebody_looks(store: RowStore) -> None:
    put(store, slice(0, 2), 1.0)
    put(store, torch.tensor([1, 3]), 2.0)
    assert len(store._arriving) == 2
    assert float(store._buffers["codes"].abs().sum()) == 0  # nobody has waited
    assert store.gather(torch.arange(4))["codes"][:, 0].tolist() == [1.0, 2.0, 0.0, 2.0]
    assert store._arriving == []


def test_rows_that_have_arrived_do_not_pile_up_while_a_stream_is_only_written(
    store: RowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, slice(0, 2), 1.0)
    put(store, slice(2, 4), 2.0)
    assert len(store._arriving) == 2
    monkeypatch.setattr(Event, "done", True)
    put(store, slice(1, 3), 3.0)
    assert len(store._arriving) == 1
    assert store._buffers["codes"][:, 0].tolist() == [1.0, 1.0, 2.0, 2.0]
    assert store["codes"][:, 0].tolist() == [1.0, 3.0, 3.0, 2.0]


@pytest.mark.parametrize(
    "look",
    [
        lambda store: store["codes"],
        lambda store: store.get("codes", torch.arange(4)),
        lambda store: store.state_dict()["codes"],
        lambda store: dict(store.named_buffers())["codes"],
        lambda store: copy.deepcopy(store)["codes"],
        lambda store: (store.allocate("codes", Size([2]), torch.float32), store["codes"])[1],
        lambda store: store.to("cpu")["codes"],
    ],
)
def test_whoever_looks_sees_them(store: RowStore, look: Any) -> None:
    put(store, slice(0, 2), 3.0)
    assert look(store)[:, 0].tolist() == [3.0, 3.0, 0.0, 0.0]


def test_a_write_from_the_host_comes_after_those_under_way(store: RowStore) -> None:
    put(store, slice(0, 2), 3.0)
    store.put("codes", slice(1, 2), torch.ones(1, 2))
    assert store["codes"][:, 0].tolist() == [3.0, 1.0, 0.0, 0.0]
