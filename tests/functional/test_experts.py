"""Products of experts against NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from avalanche_memplugins.functional import fit_experts, product_of_experts


def experts(seed: int, good: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Log probabilities of experts that know more or less, and the classes."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (200,), generator=g)
    known = torch.nn.functional.one_hot(y, 4).double()
    noise = torch.randn(len(good), 200, 4, generator=g, dtype=torch.float64)
    return torch.stack([(share * known + n).log_softmax(1) for share, n in zip(good, noise, strict=True)]), y


def test_the_product_is_that_of_the_probabilities() -> None:
    p, _ = experts(0, (1.0, 2.0))
    weights = torch.tensor([0.5, 2.0], dtype=torch.float64)
    joint = np.exp(p[0].numpy()) ** 0.5 * np.exp(p[1].numpy()) ** 2
    expected = joint / joint.sum(1, keepdims=True)
    np.testing.assert_allclose(product_of_experts(p, weights).exp().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("good", [(1.0, 2.0), (2.0, -3.0), (5.0,), (0.5, 1.0, 30.0)])
def test_weights_are_those_that_scipy_finds(good: tuple[float, ...]) -> None:
    p, y = experts(1, good)
    values = p.numpy()

    def loss(w: np.ndarray) -> float:
        joint = np.einsum("e,ebc->bc", w, values)
        nll = np.logaddexp.reduce(joint, 1) - joint[np.arange(200), y.numpy()]
        return float(nll.mean() + 5e-4 * ((w - 1) ** 2).sum())

    start = np.ones(len(good))
    found = minimize(loss, start, bounds=[(0, None)] * len(good), method="L-BFGS-B", options={"ftol": 1e-14})
    got = fit_experts(p, y).numpy()
    assert loss(got) <= found.fun + 1e-9
    np.testing.assert_allclose(got, found.x, atol=5e-3 * found.x.max())
