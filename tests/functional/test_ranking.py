"""The area under the ROC curve against counting all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avalanche_memplugins.functional.ranking import auroc


def counted(scores: np.ndarray, positive: np.ndarray) -> float:
    wins = [(p > n) + 0.5 * (p == n) for p in scores[positive] for n in scores[~positive]]
    return float(np.mean(wins))


@pytest.mark.parametrize("seed", range(5))
def test_it_counts_pairs_ties_as_half(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 6, 50).astype(np.float32), rng.random(50) < 0.3
    assert auroc(torch.from_numpy(scores), torch.from_numpy(positive)) == pytest.approx(counted(scores, positive))


def test_its_ends() -> None:
    scores, positive = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([False, False, True])
    assert auroc(scores, positive) == 1
    assert auroc(-scores, positive) == 0
    assert auroc(torch.zeros(3), positive) == 0.5


@pytest.mark.parametrize(
    ("scores", "positive", "message"),
    [
        ([0.0, 1.0], [True], "positive: expected shape"),
        ([0.0, 1.0], [True, True], "positive: expected rows of both kinds, got 2 of 2"),
        ([0.0, float("nan")], [True, False], "scores: expected numbers, got NaN"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores: list[float], positive: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auroc(torch.tensor(scores), torch.tensor(positive))
