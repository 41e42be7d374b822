"""Kernels against their closed forms."""

import numpy as np
import pytest
import torch

from avalanche_memplugins.functional.kernels import inverse_distance, nearest_relative


def test_inverse_distance():
    got = inverse_distance(torch.tensor([[1.0, 3.0, 0.0]]), eps=0.5)
    raw = np.array([1 / 1.5, 1 / 3.5, 2.0])
    np.testing.assert_allclose(got[0].numpy(), raw / raw.sum(), rtol=1e-6)


def test_nearest_relative_falls_to_1_over_e_at_the_width_in_any_unit():
    squared = torch.tensor([[2.0, 2.5], [2e6, 2.5e6]])
    got = nearest_relative(squared, width=0.25)
    np.testing.assert_allclose((got[:, 1] / got[:, 0]).numpy(), np.exp([-1, -1]), rtol=1e-5)
    np.testing.assert_allclose(got.sum(1).numpy(), 1, rtol=1e-6)


def test_a_query_that_is_a_key_gives_finite_weights():
    for kernel in (inverse_distance, nearest_relative):
        weights = kernel(torch.tensor([[0.0, 0.0, 5.0]]))
        assert torch.isfinite(weights).all()
        np.testing.assert_allclose(weights[0, :2].numpy(), 0.5, atol=1e-3)


@pytest.mark.parametrize("call", [lambda d: inverse_distance(d, eps=0), lambda d: nearest_relative(d, width=-1)])
def test_bad_scales_are_refused(call):
    with pytest.raises(ValueError, match="expected a number > 0"):
        call(torch.ones(1, 2))
