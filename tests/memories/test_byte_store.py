"""Rows of different lengths against a Python list, through thousands of random writes; their bytes."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from avalanche_memplugins.memories.byte_store import ByteStore

LENGTHS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "short": lambda rng, n: rng.integers(0, 30, n),
    "around a byte's end": lambda rng, n: rng.integers(240, 270, n),
    "a few long": lambda rng, n: np.where(rng.random(n) < 0.05, rng.integers(300, 3000, n), rng.integers(0, 20, n)),
    "long": lambda rng, n: rng.integers(60_000, 70_000, n),
}


def put(store: ByteStore, gone: list[int], rows: list[bytes]) -> None:
    buffer = torch.frombuffer(bytearray(b"".join(rows)) or bytearray(1), dtype=torch.uint8)[: sum(map(len, rows))]
    store.replace(gone, buffer, torch.tensor([len(row) for row in rows], dtype=torch.int64))


def got(store: ByteStore, rows: list[int]) -> list[bytes]:
    buffer, starts, lengths = store.read(torch.tensor(rows, dtype=torch.int64))
    return [bytes(buffer[a : a + n].tolist()) for a, n in zip(starts.tolist(), lengths.tolist(), strict=True)]


def counted(store: ByteStore) -> int:
    """Bytes by the arrays that there are."""
    return sum(a.nbytes for page in store._pages for a in (page.data, page.lengths, page.offsets))


@pytest.mark.parametrize("page_bytes", [1, 100, 1 << 17])
@pytest.mark.parametrize("kind", LENGTHS)
def test_it_is_a_list_of_rows(kind: str, page_bytes: int) -> None:
    rng = np.random.default_rng(len(kind))
    scale = 100 if kind == "long" else 1
    budget = 60_000 * scale
    store, oracle = ByteStore(budget, page_bytes=page_bytes), [b""][:0]
    for step in range(60 if kind == "long" else 400):
        new = [rng.bytes(int(n)) for n in LENGTHS[kind](rng, int(rng.integers(0, 12)))]
        out = rng.permutation(len(oracle))[: int(rng.integers(0, 12))].tolist()
        if len(b"".join(oracle + new)) > 0.6 * budget:
            out, new = rng.permutation(len(oracle))[: len(oracle) // 2].tolist(), []
        put(store, out, new)
        oracle = [row for i, row in enumerate(oracle) if i not in set(out)] + new
        assert len(store) == len(oracle)
        assert store.nbytes == counted(store) <= budget
        some = rng.integers(0, max(1, len(oracle)), 9 if oracle else 0).tolist()
        assert got(store, some) == [oracle[i] for i in some]
        if step % 40 == 0:
            assert got(store, list(range(len(oracle)))) == oracle
            again = ByteStore(budget, page_bytes=page_bytes)
            again.load({name: value.clone() for name, value in store.state().items()})
            assert got(again, list(range(len(oracle)))) == oracle
            assert again.nbytes == store.nbytes
    assert got(store, list(range(len(oracle)))) == oracle


def test_a_row_of_fifteen_bytes_takes_sixteen_and_an_eighth() -> None:
    store = ByteStore(100_000)
    put(store, [], [bytes(15)] * 3200)
    assert store.nbytes == 3200 * 16 + 100 * 4
    assert store.costs(torch.tensor([5, 9])).tolist() == [16, 16]


def test_what_goes_beyond_the_budget_is_said_before() -> None:
    rng = np.random.default_rng(0)
    for page_bytes in (1, 300, 1 << 17):
        store = ByteStore(10**7, page_bytes=page_bytes)
        for _ in range(60):
            lengths = LENGTHS["a few long"](rng, int(rng.integers(0, 30)))
            gone = rng.permutation(len(store))[: int(rng.integers(0, 20))].tolist()
            said = store.excess(gone, torch.from_numpy(lengths))
            put(store, gone, [bytes(int(n)) for n in lengths])
            assert store.nbytes - store.budget_bytes == said


def test_an_error_changes_nothing() -> None:
    store = ByteStore(60)
    put(store, [], [b"abc", b"", b"de"])
    before = got(store, [0, 1, 2])
    zero = torch.zeros(0, dtype=torch.int64)
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: put(store, [0], [bytes(70)]), "buffer: expected rows that fit into 60 bytes"),
        (lambda: put(store, [0, 0], []), "gone: expected different rows"),
        (lambda: put(store, [3], []), "gone: expected rows from 0 to 2"),
        (lambda: store.read(torch.tensor([-1])), "rows: expected rows from 0 to 2"),
        (lambda: store.replace([], torch.zeros(3, dtype=torch.uint8), zero), r"buffer: expected uint8 \(0,\)"),
        (lambda: store.replace([], torch.zeros(3, dtype=torch.uint8), torch.tensor([-1, 4])), "lengths: expected 0 to"),
        (lambda: store.load({**store.state(), "lengths": torch.tensor([1, 1, 1])}), "state: expected 3 bytes"),
        (lambda: store.load({**store.state(), "pages": torch.tensor([[2, 1]])}), "state: expected pages of 3 rows"),
        (lambda: store.load({**store.state(), "pages": torch.tensor([[3, 3]])}), "state: expected pages of 3 rows"),
        (lambda: ByteStore(0), "budget_bytes"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()
    assert got(store, [0, 1, 2]) == before
    with pytest.raises(ValueError, match="state: expected at most 10 bytes"):
        ByteStore(10).load(store.state())


def test_a_copy_shares_bytes_and_goes_its_own_way() -> None:
    store = ByteStore(1000)
    put(store, [], [b"abc", b"de"])
    other = store.copy()
    put(other, [0], [b"xyz"])
    assert got(store, [0, 1]) == [b"abc", b"de"]
    assert got(other, [0, 1]) == [b"de", b"xyz"]


def _seconds(rows: int) -> tuple[float, float]:
    """Least seconds of a write and of a read of 32 rows in a store of so many."""
    store = ByteStore(10**9)
    lengths = torch.full((rows,), 16, dtype=torch.int64)
    store.replace([], torch.zeros(16 * rows, dtype=torch.uint8), lengths)
    generator, found = torch.Generator().manual_seed(0), []
    new, sizes = torch.zeros(16 * 32, dtype=torch.uint8), torch.full((32,), 16, dtype=torch.int64)
    for _ in range(7):
        numbers: Tensor = torch.randperm(rows, generator=generator)[:32]
        start = time.perf_counter()
        store.replace(numbers, new, sizes)
        middle = time.perf_counter()
        store.read(numbers)
        found.append((middle - start, time.perf_counter() - middle))
    return min(a for a, _ in found), min(b for _, b in found)


def test_time_does_not_grow_with_the_rows() -> None:
    (write, read), (large_write, large_read) = _seconds(60_000), _seconds(1_200_000)
    assert large_write < 12 * write + 0.01
    assert large_read < 12 * read + 0.01
