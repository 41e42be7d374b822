"""Little noise, equal rows, huge values and huge requests: finite samples, or an error that names the argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from avalanche_memplugins import RandomMemory
from avalanche_memplugins.functional import address_second_moment, kanerva_posterior
from avalanche_memplugins.memories import DynamicKanervaMemory, EnergyMemory, GaussianMemory, VAEMemory
from avalanche_memplugins.networks import ConditionalVAE
from avalanche_memplugins.networks.energy import GatedEnergy

NOISES = (1e-1, 1e-4, 1e-8, 1e-12, 1e-20, 1e-30)


@pytest.mark.parametrize("share", ["class", "all"])
@pytest.mark.parametrize("noise_var", NOISES)
def test_a_kanerva_memory_samples_whatever_its_noise_and_however_often_a_row_comes(
    noise_var: float, share: Any
) -> None:
    memory = DynamicKanervaMemory(rows=4, noise_var=noise_var, share=share, seed=3)
    row = torch.randn(1, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(20):
        memory.write(row.repeat(16, 1), torch.arange(16) % 2)
    x = memory.sample(64).x
    assert bool(x.isfinite().all())
    # All rows written are one and the same, and four memory rows can hold it.
    if noise_var <= 1e-4:
        assert float((x - row).abs().max()) < 0.2


@pytest.mark.parametrize("noise_var", [1.0, 1e-2, 1e-3])
def test_the_moment_of_addresses_is_their_sum_where_the_covariance_can_tell_it(noise_var: float) -> None:
    addresses = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prior = torch.eye(4, dtype=torch.float64)
    _, row_cov = kanerva_posterior(
        torch.zeros(4, 2, dtype=torch.float64), prior, addresses, torch.zeros(30, 2, dtype=torch.float64),
        noise_var=noise_var,
    )  # fmt: skip
    summed = sum(torch.outer(address, address) for address in addresses)
    torch.testing.assert_close(address_second_moment(row_cov, prior, noise_var=noise_var), summed, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_a_covariance_cannot_tell_any_more_counts_as_little_as_it_can(dtype: torch.dtype) -> None:
    """An oracle by hand: U is diagonal, two directions of it are rounded to nothing, one of them to below zero."""
    noise = 1e-9
    row_cov = torch.diag(torch.tensor([0.5, 0.25, 0.0, -1e-12], dtype=dtype))
    moment = address_second_moment(row_cov, torch.eye(4, dtype=dtype), noise_var=noise)
    told = noise / (4 * torch.finfo(dtype).eps * 0.5) - noise
    expected = torch.diag(torch.tensor([noise * (2 - 1), noise * (4 - 1), told, told], dtype=torch.float64))
    torch.testing.assert_close(moment, expected, rtol=1e-6, atol=1e-18)


@pytest.mark.parametrize("rank", [None, 0, 3])
@pytest.mark.parametrize("size", [1e3, 1e10, 1e14, 1e16, 1e30, 3e38])
def test_gaussian_rows_of_any_size_give_finite_samples_or_are_refused(size: float, rank: int | None) -> None:
    memory = GaussianMemory(rank=rank, seed=0)
    x = size * torch.rand(16, 4, generator=torch.Generator().manual_seed(0))
    if size > 1e15:
        with pytest.raises(ValueError, match=r"x: expected values within \+-1e\+15, .*, got"):
            memory.write(x, torch.arange(16) % 2)
        assert len(memory) == 0
        assert memory.classes == []
        return
    for _ in range(3):
        memory.write(x, torch.arange(16) % 2)
    assert bool(memory.sample(50).x.isfinite().all())


def kanerva() -> DynamicKanervaMemory:
    return DynamicKanervaMemory(rows=3)


def energy() -> EnergyMemory:
    return EnergyMemory(GatedEnergy(8, writable=2, width=4, write_steps=1, read_steps=1), slots=2)


def vae() -> VAEMemory:
    return VAEMemory(ConditionalVAE((8,), code_size=2, hidden=(4,), classes=2), steps=1, batch_size=4)


MEMORIES: dict[str, Callable[[], Any]] = {
    "energy": energy,
    "Gaussian": GaussianMemory,
    "Kanerva": kanerva,
    "rows with replacement": lambda: RandomMemory(8, replacement=True),
    "balanced rows with replacement": lambda: RandomMemory(8, read_policy="class_balanced", replacement=True),
    "VAE": vae,
}


@pytest.mark.parametrize("n", [10**14, 10**30])
@pytest.mark.parametrize("name", MEMORIES)
def test_more_rows_than_can_be_in_memory_are_refused_at_once(name: str, n: int) -> None:
    memory = MEMORIES[name]()
    x, y = torch.rand(8, 8), torch.arange(8) % 2
    if hasattr(memory, "consolidate") and not isinstance(memory, EnergyMemory):
        memory.consolidate([(x, y, torch.zeros(8, dtype=torch.int64))], origin=0)
    else:
        memory.write(x, y)
    with pytest.raises(ValueError, match=r"n: expected .*, got 10000000"):
        memory.sample(n)
    assert len(memory.sample(3).y) == 3
