"""The softmax read against float64 loops in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from avalanche_memplugins.functional import modern_hopfield_read
from avalanche_memplugins.functional.modern_hopfield import masked_distances


def by_loops(patterns: NDArray, cue: NDArray, known: NDArray, beta: float, similarity: str, steps: int) -> NDArray:
    out = []
    for state, mask in zip(cue, known, strict=True):
        for _ in range(steps):
            if similarity == "dot":
                scores = [sum(p[i] * state[i] for i in np.flatnonzero(mask)) for p in patterns]
            else:
                scores = [-sum((p[i] - state[i]) ** 2 for i in np.flatnonzero(mask)) for p in patterns]
            weights = np.exp(beta * (np.array(scores) - max(scores)))
            state = (weights / weights.sum()) @ patterns
        out.append(state)
    return np.array(out)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("similarity", ["dot", "distance"])
def test_reads_are_softmax_means(similarity: str, steps: int, masked: bool) -> None:
    g = torch.Generator().manual_seed(0)
    patterns, cue = (torch.rand(2, n, 6, generator=g, dtype=torch.float64) for n in (5, 4))
    known = torch.rand(cue.shape, generator=g) < 0.6
    got = modern_hopfield_read(
        patterns, cue, beta=3.0, similarity=similarity, steps=steps, known=known if masked else None
    )
    for e in range(2):
        mask = known[e].numpy() if masked else np.ones((4, 6), bool)
        want = by_loops(patterns[e].numpy(), cue[e].numpy(), mask, 3.0, similarity, steps)
        np.testing.assert_allclose(got[e].numpy(), want, atol=1e-12)


def test_the_mask_finds_the_right_pattern() -> None:
    bright, dark = [1.0, 1, 1, 1, 0.9, 0], [0.0, 0, 0, 0, 0.5, 0]
    patterns = torch.tensor([bright, dark])
    cue, known = torch.tensor([[0.0, 0, 0, 0, 0.9, 0]]), torch.tensor([[False] * 4 + [True] * 2])
    torch.testing.assert_close(modern_hopfield_read(patterns, cue, beta=1e3, known=known), patterns[:1])
    torch.testing.assert_close(modern_hopfield_read(patterns, cue, beta=1e3), patterns[1:])


def test_what_is_far_from_all_comes_back() -> None:
    patterns = torch.tensor([[0.0, 0, 1, 1]])
    cue = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]])
    known = torch.tensor([[True, True, False, False]] * 3)  # squared distances 0, 1, 2
    read = modern_hopfield_read(patterns, cue, beta=1.0, known=known, threshold=1.5)
    torch.testing.assert_close(read, torch.cat([patterns, patterns, cue[2:]]))


def test_distances_never_fall_below_zero() -> None:
    g = torch.Generator().manual_seed(1)
    x, mask = torch.rand(3, 20, 50, generator=g), (torch.rand(3, 20, 50, generator=g) < 0.5).float()
    got = masked_distances(x, x, mask)
    differences = (mask.double()[:, :, None] * (x.double()[:, None] - x.double()[:, :, None]).square()).sum(-1)
    np.testing.assert_allclose(got, differences, atol=1e-5)
    assert float(got.min()) >= 0


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"patterns": torch.zeros(0, 3)}, "patterns"),
        ({"cue": torch.zeros(2, 4)}, "cue"),
        ({"known": torch.ones(2, 3)}, "known"),
        ({"similarity": "cosine"}, "similarity"),
        ({"steps": 0}, "steps"),
    ],
)
def test_bad_input_is_named(change: dict, name: str) -> None:
    arguments = {"patterns": torch.zeros(5, 3), "cue": torch.zeros(2, 3), "beta": 1.0, **change}
    with pytest.raises(ValueError, match=name):
        modern_hopfield_read(**arguments)
