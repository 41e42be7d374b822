"""The memory's linear-Gaussian maths against float64 NumPy, dense Gaussians and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from avalanche_memplugins.functional.kanerva import (
    address_second_moment,
    kanerva_address,
    kanerva_dynamic_write,
    kanerva_posterior,
    kanerva_unwrite,
    matrix_normal_kl,
)

NOISE = 0.3


def episode(seed: int, *lead: int, rows: int = 5, columns: int = 4, items: int = 7) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(*lead, rows, rows, generator=g, dtype=torch.float64)
    return (
        torch.randn(*lead, rows, columns, generator=g, dtype=torch.float64),
        root @ root.mT + 0.1 * torch.eye(rows, dtype=torch.float64),
        torch.randn(*lead, items, rows, generator=g, dtype=torch.float64),
        torch.randn(*lead, items, columns, generator=g, dtype=torch.float64),
    )


def information_form(mean: Tensor, cov: Tensor, address: Tensor, code: Tensor) -> tuple[NDArray, NDArray]:
    """Bayesian linear regression by precisions: another route than any in the library's write."""
    r, u, w, z = (part.numpy() for part in (mean, cov, address, code))
    precision = np.linalg.inv(u) + w.T @ w / NOISE
    after = np.linalg.inv(precision)
    return after @ (np.linalg.inv(u) @ r + w.T @ z / NOISE), after


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("items", [1, 3, 40])
def test_write_is_bayesian_linear_regression(sequential: bool, items: int) -> None:
    mean, cov, address, code = episode(1, items=items)
    got = kanerva_posterior(mean, cov, address, code, noise_var=NOISE, sequential=sequential)
    for ours, theirs in zip(got, information_form(mean, cov, address, code), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-8)


@pytest.mark.parametrize("sequential", [False, True])
def test_leading_dimensions_are_independent_episodes(sequential: bool) -> None:
    mean, cov, address, code = episode(2, 2, 3)
    got_mean, got_cov = kanerva_posterior(mean, cov, address, code, noise_var=NOISE, sequential=sequential)
    for i in range(2):
        for j in range(3):
            want = information_form(mean[i, j], cov[i, j], address[i, j], code[i, j])
            np.testing.assert_allclose(got_mean[i, j].numpy(), want[0], atol=1e-8)
            np.testing.assert_allclose(got_cov[i, j].numpy(), want[1], atol=1e-8)


def test_noise_may_differ_between_episodes() -> None:
    mean, cov, address, code = episode(3, 2)
    noise = torch.tensor([0.3, 2.0], dtype=torch.float64)
    both = kanerva_posterior(mean, cov, address, code, noise_var=noise)
    for i in range(2):
        one = kanerva_posterior(mean[i], cov[i], address[i], code[i], noise_var=float(noise[i]))
        torch.testing.assert_close(both[0][i], one[0])
        torch.testing.assert_close(both[1][i], one[1])


def test_row_covariance_stays_positive_over_many_float32_writes() -> None:
    g = torch.Generator().manual_seed(0)
    mean, cov = torch.randn(8, 6, generator=g), torch.eye(8)
    # Addresses of very different sizes, so that some directions become a million times surer than others.
    scale = 10.0 ** torch.linspace(-2, 1, 8)
    for _ in range(200):
        address = torch.randn(500, 8, generator=g) * scale
        mean, cov = kanerva_posterior(mean, cov, address, torch.randn(500, 6, generator=g), noise_var=0.1)
    assert torch.equal(cov, cov.mT)
    lowest, highest = torch.linalg.eigvalsh(cov.double())[[0, -1]].tolist()
    assert lowest > 0
    assert highest < 1


def test_batched_write_is_the_sequential_one_in_float32_after_a_hundred_thousand_items() -> None:
    g = torch.Generator().manual_seed(4)
    truth = torch.randn(4, 3, generator=g)
    address = torch.randn(100_000, 4, generator=g)
    code = address @ truth + 0.3 * torch.randn(100_000, 3, generator=g)
    mean, cov = torch.randn(4, 3, generator=g), torch.eye(4)
    for w, z in zip(address.split(1000), code.split(1000), strict=True):
        mean, cov = kanerva_posterior(mean, cov, w, z, noise_var=0.09)
    torch.testing.assert_close(mean, truth, atol=5e-3, rtol=0)
    assert float(torch.linalg.eigvalsh(cov.double())[0]) > 0


def test_sequential_float32_writes_keep_the_covariance_positive() -> None:
    g = torch.Generator().manual_seed(5)
    # 500 memories of 200 items each are 1e5 rank-one writes.
    mean, cov = torch.randn(500, 4, 3, generator=g), torch.eye(4).repeat(500, 1, 1)
    address, code = torch.randn(500, 200, 4, generator=g), torch.randn(500, 200, 3, generator=g)
    _, cov = kanerva_posterior(mean, cov, address, code, noise_var=0.1, sequential=True)
    assert float(torch.linalg.eigvalsh(cov.double()).min()) > 0


@pytest.mark.parametrize("order", [[2], [0, 5], [6, 1, 3]])
def test_unwrite_gives_the_posterior_of_the_other_items(order: list[int]) -> None:
    mean, cov, address, code = episode(6)
    after = kanerva_posterior(mean, cov, address, code, noise_var=NOISE)
    left = [i for i in range(7) if i not in order]
    got = kanerva_unwrite(*after, address[order], code[order], noise_var=NOISE)
    for ours, theirs in zip(got, information_form(mean, cov, address[left], code[left]), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-8)


def test_unwrite_of_everything_restores_the_prior_in_float32() -> None:
    mean, cov, address, code = (part.float() for part in episode(7, 3))
    after = kanerva_posterior(mean, cov, address, code, noise_var=NOISE)
    # The posterior itself was rounded to float32 between the two.
    back = kanerva_unwrite(*after, address, code, noise_var=NOISE)
    torch.testing.assert_close(back[0], mean, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(back[1], cov, atol=1e-2, rtol=1e-2)


def test_unwrite_of_what_was_never_written_is_refused() -> None:
    mean, cov, address, code = episode(8)
    with pytest.raises(ValueError, match="address: expected addresses under which items were written"):
        kanerva_unwrite(mean, cov, 10 * address, code, noise_var=NOISE)


def test_address_is_the_most_probable_one() -> None:
    mean, _, _, code = episode(9)
    got = kanerva_address(mean, code, ridge=0.7).numpy()
    # Ridge regression as ordinary least squares on extended data.
    extended = np.vstack([mean.numpy().T, np.sqrt(0.7) * np.eye(5)])
    want = np.linalg.lstsq(extended, np.vstack([code.numpy().T, np.zeros((5, 7))]), rcond=None)[0].T
    np.testing.assert_allclose(got, want, atol=1e-10)


def test_released_address_has_the_ridge_on_the_squared_system() -> None:
    mean, _, _, code = episode(10)
    r = mean.numpy()
    gram = r @ r.T
    want = np.linalg.solve(gram @ gram + 0.7 * np.eye(5), gram @ r @ code.numpy().T).T
    np.testing.assert_allclose(kanerva_address(mean, code, ridge=0.7, released=True).numpy(), want, atol=1e-10)
    assert not np.allclose(want, kanerva_address(mean, code, ridge=0.7).numpy(), atol=1e-3)


def test_dynamic_write_addresses_each_item_under_what_the_earlier_ones_left() -> None:
    mean, cov, _, code = episode(11)
    got_mean, got_cov, addresses = kanerva_dynamic_write(mean, cov, code, noise_var=NOISE, ridge=0.5)
    r, u = mean.numpy(), cov.numpy()
    for i, z in enumerate(code.numpy()):
        w = np.linalg.solve(r @ r.T + 0.5 * np.eye(5), r @ z)
        np.testing.assert_allclose(addresses[i].numpy(), w, atol=1e-8)
        precision = np.linalg.inv(u)
        u_new = np.linalg.inv(precision + np.outer(w, w) / NOISE)
        r, u = u_new @ (precision @ r + np.outer(w, z) / NOISE), u_new
    np.testing.assert_allclose(got_mean.numpy(), r, atol=1e-8)
    np.testing.assert_allclose(got_cov.numpy(), u, atol=1e-8)


def test_divergence_is_that_of_the_flattened_gaussians() -> None:
    mean, cov, _, _ = episode(12)
    other_mean, other_cov, _, _ = episode(13)
    eye = torch.eye(4, dtype=torch.float64)

    def flat(m: Tensor, u: Tensor) -> torch.distributions.MultivariateNormal:
        # vec of a K × C matrix row by row has covariance U ⊗ I.
        return torch.distributions.MultivariateNormal(m.flatten(), torch.kron(u, eye))

    want = torch.distributions.kl_divergence(flat(mean, cov), flat(other_mean, other_cov))
    torch.testing.assert_close(matrix_normal_kl(mean, cov, other_mean, other_cov), want)
    assert float(matrix_normal_kl(mean, cov, mean, cov)) == pytest.approx(0, abs=1e-9)


def test_the_memory_holds_the_second_moment_of_its_addresses() -> None:
    mean, cov, address, code = episode(14, 2)
    _, after = kanerva_posterior(mean, cov, address, code, noise_var=NOISE)
    got = address_second_moment(after, cov, noise_var=NOISE).numpy()
    np.testing.assert_allclose(got, np.einsum("btk,btl->bkl", address.numpy(), address.numpy()), atol=1e-8)


def test_gradients_pass_through_a_write() -> None:
    parts = [part.requires_grad_() for part in episode(15, rows=3, columns=2, items=2)]

    def written(mean: Tensor, root: Tensor, address: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        cov = 0.5 * (root + root.mT)
        return kanerva_posterior(mean, cov, address, code, noise_var=NOISE)

    assert torch.autograd.gradcheck(written, parts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_cov": torch.eye(4)}, r"row_cov: expected \(\.\.\., 5, 5\), got \(4, 4\)"),
        ({"address": torch.zeros(7, 4)}, r"address: expected \(\.\.\., T, 5\), got \(7, 4\)"),
        ({"code": torch.zeros(6, 4)}, r"code: expected \(\.\.\., 7, 4\), got \(6, 4\)"),
        ({"mean": torch.zeros(5)}, r"mean: expected \(\.\.\., K, C\), got \(5,\)"),
        ({"noise_var": 0.0}, "noise_var: expected a number > 0, got 0"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Tensor | float], message: str) -> None:
    mean, cov, address, code = episode(16)
    arguments = {"mean": mean, "row_cov": cov, "address": address, "code": code, "noise_var": NOISE, **change}
    with pytest.raises(ValueError, match=message):
        kanerva_posterior(**arguments)  # type: ignore[arg-type]
