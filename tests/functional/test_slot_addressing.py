"""Addressing of slots, against loops in NumPy that follow the papers' equations entry by entry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from avalanche_memplugins.functional.slot_addressing import (
    allocation_weights,
    content_weights,
    dnc_usage,
    least_used,
    link_slots,
    lrua_usage,
    lrua_write_weights,
    project_completions,
    slots_in_use,
)

S, W = 6, 4


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def test_content_is_a_softmax_of_cosines() -> None:
    slots, key = drawn(2, S, W) - 0.5, drawn(2, 3, W, seed=1) - 0.5
    got = content_weights(slots, key, 5.0)
    for e in range(2):
        for q in range(3):
            m, k = slots[e].numpy(), key[e, q].numpy()
            cosine = (m @ k) / np.linalg.norm(m, axis=1) / np.linalg.norm(k)
            np.testing.assert_allclose(got[e, q].numpy(), softmax(5 * cosine))


def test_a_trace_of_the_key_in_an_empty_slot_is_no_likeness() -> None:
    key = drawn(1, W)
    slots = torch.stack([key[0] + 0.1, 1e-6 * key[0]])
    assert float(content_weights(slots, key, 50.0)[0, 0]) > 0.999


def test_lrua_writes_to_one_unused_slot_or_to_what_was_read() -> None:
    usage = torch.tensor([[0.3, 0.1, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert least_used(usage).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]], "one slot, also where all are as unused"
    read = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 1.0]], dtype=torch.float64)
    got = lrua_write_weights(usage, read, torch.tensor([[0.25], [1.0]], dtype=torch.float64))
    assert got.tolist() == [[0.125, 0.125, 0.75, 0], [0, 0, 0, 1.0]]
    after = lrua_usage(usage, read, got, decay=0.9)
    np.testing.assert_allclose(after.numpy(), 0.9 * usage.numpy() + read.numpy() + got.numpy())


def test_lrua_fills_all_slots_before_it_overwrites_the_oldest() -> None:
    usage, read = torch.zeros(S), torch.zeros(S)
    written = []
    for _ in range(2 * S):
        write = lrua_write_weights(usage, read, torch.zeros(1))
        usage = lrua_usage(usage, read, write, decay=0.99)
        written.append(int(write.argmax()))
    assert written == [*range(S), *range(S)]


def test_usage_and_allocation_follow_the_paper() -> None:
    usage, write, read = drawn(S), drawn(S, seed=1) / S, drawn(S, seed=2) / S
    got = dnc_usage(usage, write, read, torch.tensor([0.7], dtype=torch.float64))
    u, w, r = usage.numpy(), write.numpy(), read.numpy()
    np.testing.assert_allclose(got.numpy(), (u + w - u * w) * (1 - 0.7 * r))
    order, wanted, product = np.argsort(u, kind="stable"), np.zeros(S), 1.0
    for j in order:
        wanted[j] = (1 - u[j]) * product
        product *= u[j]
    np.testing.assert_allclose(allocation_weights(usage).numpy(), wanted, atol=2e-3)
    assert float(allocation_weights(usage).sum()) <= 1


def test_allocation_has_a_slope_at_empty_and_full() -> None:
    usage = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(allocation_weights(usage)[1], usage)
    assert bool(slope.isfinite().all())
    assert float(slope.abs().sum()) > 0


@pytest.mark.parametrize(("free", "slots"), [(0.0, 6), (1.0, 1)])
def test_an_open_free_gate_brings_the_collapse_to_one_slot(free: float, slots: int) -> None:
    """Each write reads what it has just written, as content addressing does; a little of each write is blurred."""
    usage, blur = torch.zeros(S), torch.full((S,), 0.05 / S)
    written = []
    for _ in range(S):
        write = 0.95 * allocation_weights(usage) + blur
        written.append(int(write.argmax()))
        read = torch.nn.functional.one_hot(write.argmax(), S).float()
        usage = dnc_usage(usage, write, read, free)
    assert len(set(written)) == slots


def test_links_lead_along_the_order_of_writing() -> None:
    link, precedence = torch.zeros(S, S, dtype=torch.float64), torch.zeros(S, dtype=torch.float64)
    wanted, before = np.zeros((S, S)), np.zeros(S)
    for seed in range(4):
        write = drawn(S, seed=seed) / S
        link, precedence = link_slots(link, precedence, write)
        w = write.numpy()
        for i in range(S):
            for j in range(S):
                wanted[i, j] = 0 if i == j else (1 - w[i] - w[j]) * wanted[i, j] + w[i] * before[j]
        before = (1 - w.sum()) * before + w
        np.testing.assert_allclose(link.numpy(), wanted)
        np.testing.assert_allclose(precedence.numpy(), before)
    hard, last = torch.zeros(S, S), torch.zeros(S)
    order = [3, 0, 5]
    for slot in order:
        hard, last = link_slots(hard, last, torch.eye(S)[slot])
    assert (hard @ torch.eye(S)[3]).argmax() == 0
    assert (hard.mT @ torch.eye(S)[5]).argmax() == 0


def test_slots_in_use_count_those_that_hold_something() -> None:
    slots = torch.zeros(3, S, W)
    slots[1, 0] = 5.0
    slots[2, :4] = torch.eye(4)
    assert slots_in_use(slots).tolist() == [0, 1, 4]


def test_completions_are_ridge_regressions_slot_by_slot() -> None:
    n, width, ridge = 7, 5, 0.1
    projection, slots = drawn(n, width) - 0.5, drawn(1, 3, width, seed=1)
    cue, known = drawn(1, 2, n, seed=2), drawn(1, 2, n, seed=3) < 0.5
    got = project_completions(projection, slots, cue, known, ridge=ridge)
    for q in range(2):
        told, free = known[0, q].numpy(), ~known[0, q].numpy()
        a = projection.numpy()[free].T
        found = []
        for m in slots[0].numpy():
            d = m - cue[0, q].numpy()[told] @ projection.numpy()[told]
            u = np.linalg.solve(a.T @ a + ridge * np.eye(free.sum()), a.T @ d)
            found.append((np.sum((d - a @ u) ** 2) + ridge * np.sum(u**2), u))
        wanted = cue[0, q].numpy().copy()
        wanted[free] = min(found, key=lambda one: one[0])[1]
        np.testing.assert_allclose(got[0, q].numpy(), wanted)
