"""Hopfield rules and recall against literal loops in numpy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from avalanche_memplugins.functional import hebb_rule, hopfield_recall, pseudo_inverse_rule, storkey_rule


def whole(weights: Tensor, patterns: Tensor) -> Tensor:
    return storkey_rule(weights, patterns, whole_field=True)


RULES = {"hebb": hebb_rule, "storkey": storkey_rule, "storkey-whole": whole, "pseudo-inverse": pseudo_inverse_rule}


def signs(*shape: int, seed: int = 0) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)).double() - 1


def empty(*shape: int) -> Tensor:
    return torch.zeros(*shape, shape[-1], dtype=torch.float64)


def storkey_by_its_definition(patterns: NDArray) -> NDArray:
    n = patterns.shape[1]
    w = np.zeros((n, n))
    for x in patterns:
        h = np.zeros((n, n))
        for i, j in product(range(n), repeat=2):
            h[i, j] = sum(w[i, k] * x[k] for k in range(n) if k not in (i, j))
        new = w.copy()
        for i, j in product(range(n), repeat=2):
            new[i, j] += (x[i] * x[j] - x[i] * h[j, i] - h[i, j] * x[j]) / n
        w = new
    return w


def storkey_with_whole_fields(patterns: NDArray) -> NDArray:
    n = patterns.shape[1]
    w = np.zeros((n, n))
    for x in patterns:
        h = [sum(w[i, k] * x[k] for k in range(n)) for i in range(n)]
        new = w.copy()
        for i, j in product(range(n), repeat=2):
            new[i, j] += (x[i] * x[j] - x[i] * h[j] - h[i] * x[j]) / n if i != j else 0
        w = new
    return w


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_in_every_episode(rule: str) -> None:
    x = signs(2, 3, 5, 9)
    got = RULES[rule](empty(2, 3, 9), x)
    for i, j in product(range(2), range(3)):
        one = x[i, j].numpy()
        want = {
            "hebb": lambda p: sum(np.outer(row, row) for row in p),
            "storkey": storkey_by_its_definition,
            "storkey-whole": storkey_with_whole_fields,
            "pseudo-inverse": lambda p: np.linalg.pinv(p) @ p,
        }[rule](one)
        np.testing.assert_allclose(got[i, j].numpy(), want, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_writing_goes_on(rule: str) -> None:
    x = signs(2, 6, 11)
    once = RULES[rule](empty(2, 11), x)
    first = RULES[rule](empty(2, 11), x[:, :2])
    np.testing.assert_allclose(RULES[rule](first, x[:, 2:]), once, atol=1e-12)


def test_storkey_outside_its_diagonal_does_not_depend_on_it() -> None:
    x = signs(6, 11)
    first = storkey_rule(empty(11), x[:3])
    zeroed = storkey_rule(first - torch.diag(first.diagonal()), x[3:])
    off = ~torch.eye(11, dtype=torch.bool)
    np.testing.assert_allclose(zeroed[off], storkey_rule(first, x[3:])[off], atol=1e-12)


def test_a_projection_takes_repeated_patterns_and_float32() -> None:
    x = signs(40, 64).float()
    weights = pseudo_inverse_rule(torch.zeros(64, 64), x)
    again = pseudo_inverse_rule(weights, torch.cat([x[:3], -x[5:9]]))
    torch.testing.assert_close(again, weights, atol=0, rtol=0)
    both = pseudo_inverse_rule(weights, torch.cat([x[:3], signs(1, 64, seed=1).float()]))
    assert both.trace().item() == pytest.approx(41, abs=1e-3)


def recall_by_loops(
    w: NDArray, cue: NDArray, known: NDArray, *, synchronous: bool, keep: bool, orders: list[list[int]]
) -> NDArray:
    n, out = len(w), cue.copy()
    for row, clamped in zip(out, known, strict=True):
        for order in orders:
            seen = row.copy() if synchronous else row
            fields = []
            for i in order:
                field = sum(w[i, j] * seen[j] for j in range(n) if keep or j != i)
                fields.append(field)
                if field != 0 and not clamped[i]:
                    row[i] = np.sign(field)
    return out


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("clamped", [False, True])
@pytest.mark.parametrize("update", ["asynchronous", "synchronous", "random order"])
def test_recall_is_sign_updates(update: str, clamped: bool, keep: bool) -> None:
    g = torch.Generator().manual_seed(3)
    root = torch.randint(-2, 3, (2, 10, 10), generator=g).double()
    weights = root + root.mT  # whole numbers: fields of exactly zero occur
    cue = torch.randint(-1, 2, (2, 4, 10), generator=g).double()
    known = torch.rand(cue.shape, generator=g) < 0.4
    orders = [list(range(10))] * 3
    kwargs: dict = {"update": update}
    if update == "random order":
        same = torch.Generator().manual_seed(7)
        orders = [torch.randperm(10, generator=same).tolist() for _ in range(3)]
        kwargs = {"generator": torch.Generator().manual_seed(7)}
    got = hopfield_recall(weights, cue, known=known if clamped else None, keep_diagonal=keep, sweeps=3, **kwargs)
    for e in range(2):
        want = recall_by_loops(
            weights[e].numpy(),
            cue[e].numpy(),
            (known[e] & clamped).numpy(),
            synchronous=update == "synchronous",
            keep=keep,
            orders=orders,
        )
        np.testing.assert_array_equal(got[e].numpy(), want)
    assert not torch.equal(got, cue)


def test_settled_states_have_lower_energy_and_stay() -> None:
    weights = hebb_rule(empty(30), signs(8, 30))
    cue = signs(50, 30, seed=5)
    state = hopfield_recall(weights, cue, sweeps=50)

    def energy(s: Tensor) -> Tensor:
        return -((s @ (weights - torch.diag(weights.diagonal()))) * s).sum(-1) / 2

    assert bool((energy(state) <= energy(cue)).all())
    assert bool((energy(state) < energy(cue)).any())
    torch.testing.assert_close(hopfield_recall(weights, state, sweeps=1), state)


def test_without_fields_nothing_moves() -> None:
    cue = torch.tensor([[1.0, -1.0, 0.0]])
    torch.testing.assert_close(hopfield_recall(torch.zeros(3, 3), cue), cue)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"weights": torch.zeros(3, 4)}, "weights"),
        ({"cue": torch.zeros(2, 4)}, "cue: expected"),
        ({"known": torch.ones(2, 3)}, "known"),
        ({"known": torch.ones(1, 3, dtype=torch.bool)}, "known"),
        ({"update": "both"}, "update"),
        ({"sweeps": 0}, "sweeps"),
    ],
)
def test_bad_input_is_named(change: dict, name: str) -> None:
    arguments = {"weights": torch.zeros(3, 3), "cue": torch.zeros(2, 3), **change}
    with pytest.raises(ValueError, match=name):
        hopfield_recall(**arguments)
