"""The fully connected VAE: its shape, its bound, its training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from avalanche_memplugins.benchmarks.digits_data import digits
from avalanche_memplugins.networks import MLPVAE, FrozenEncoder, train_vae


def small(seed: int = 0) -> MLPVAE:
    torch.manual_seed(seed)
    return MLPVAE(3, hidden=16, size=4)


def test_the_published_shape() -> None:
    vae = MLPVAE()
    shapes = {tuple(m.weight.shape) for m in vae.modules() if isinstance(m, nn.Linear)}
    assert shapes == {(400, 784), (400, 400), (2, 400), (400, 2), (784, 400)}
    assert sum(isinstance(m, nn.Linear) for m in vae.modules()) == 7
    assert {m.negative_slope for m in vae.modules() if isinstance(m, nn.LeakyReLU)} == {0.2}


def test_the_bound_against_numpy() -> None:
    vae = small()
    x = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    found = vae.bound(x, generator=torch.Generator().manual_seed(2))
    noise = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))

    def dense(layer: nn.Module, h: np.ndarray) -> np.ndarray:
        weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        return h @ weight.T + bias

    def leaky(h: np.ndarray) -> np.ndarray:
        return np.where(h > 0, h, 0.2 * h)

    pixels = x.flatten(1).double().numpy()
    h = leaky(dense(vae.trunk[3], leaky(dense(vae.trunk[1], pixels))))
    mu, log_variance = dense(vae.mean, h), dense(vae.log_variance, h)
    z = mu + np.exp(log_variance / 2) * noise.double().numpy()
    out = dense(vae.decoder[4], leaky(dense(vae.decoder[2], leaky(dense(vae.decoder[0], z)))))
    p = 1 / (1 + np.exp(-out))
    reconstruction = -(pixels * np.log(p) + (1 - pixels) * np.log(1 - p)).sum(1)
    kl = 0.5 * (mu**2 + np.exp(log_variance) - 1 - log_variance).sum(1)
    np.testing.assert_allclose(found.reconstruction.detach(), reconstruction, rtol=1e-5)
    np.testing.assert_allclose(found.kl.detach(), kl, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(vae.encode(x).detach(), mu, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(vae.decode(torch.from_numpy(z).float()).detach().flatten(1), p, rtol=1e-4)


def test_training_lowers_the_bound_repeatably_and_leaves_the_global_generator() -> None:
    x = digits().x_train[:256]
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        vae = MLPVAE(4, hidden=32, size=8)
        before = torch.get_rng_state()
        seen: list[tuple[int, float]] = []
        bounds = train_vae(
            vae, x, epochs=40, batch_size=32, lr=5e-3, seed=5, after_epoch=lambda *a, s=seen: s.append(a)
        )
        assert torch.equal(torch.get_rng_state(), before)
        assert seen == list(enumerate(bounds, start=1))
        assert not vae.training
        runs.append(bounds)
    assert runs[0] == runs[1]
    mean_image = x.mean(0, keepdim=True).clamp(1e-6, 1 - 1e-6)
    blank = -(x * mean_image.log() + (1 - x) * (1 - mean_image).log()).flatten(1).sum(1).mean()
    assert runs[0][-1] < blank  # better than the average image


def test_bytes_are_255ths() -> None:
    x = torch.randint(256, (40, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert train_vae(small(), x, epochs=2) == train_vae(small(), x.float() / 255, epochs=2)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="code_size: expected an integer >= 1, got 0"):
        MLPVAE(0)
    with pytest.raises(ValueError, match=r"x: expected values in \[0, 1\], got -1 to 1"):
        train_vae(small(), torch.tensor([-1.0, 1.0]).repeat(8).view(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"x: expected .* with N at least 1"):
        train_vae(small(), torch.zeros(0, 1, 4, 4))


def test_a_frozen_encoder_stays_as_it_is_and_undoes_normalisation() -> None:
    vae = small()
    x = torch.rand(6, 1, 4, 4)
    mu, log_variance = vae.posterior(x)
    encoder = FrozenEncoder(vae, code="posterior", mean=0.2, std=0.5)
    code = encoder.train()((x - 0.2) / 0.5)
    torch.testing.assert_close(code, torch.cat([mu, log_variance], 1).detach())
    assert not code.requires_grad
    assert encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not any(m.training for m in encoder.autoencoder.modules())
    torch.testing.assert_close(FrozenEncoder(vae)(x), mu.detach())
    assert encoder.code_size == 3


def test_a_frozen_encoder_undoes_each_channel() -> None:
    torch.manual_seed(0)
    vae = MLPVAE(3, hidden=16, channels=2, size=4)
    x = torch.rand(6, 2, 4, 4)
    mean, std = torch.tensor([0.1, 0.4]), torch.tensor([0.5, 2.0])
    normalised = (x - mean.view(2, 1, 1)) / std.view(2, 1, 1)
    found = FrozenEncoder(vae, mean=mean.tolist(), std=std.tolist())(normalised)
    torch.testing.assert_close(found, vae.encode(x), rtol=1e-4, atol=1e-5)


def test_an_encoder_wants_its_methods() -> None:
    with pytest.raises(
        ValueError, match=r"expected a module with a method posterior\(x\) for code=.posterior., got Linear"
    ):
        FrozenEncoder(nn.Linear(2, 2), code="posterior")
    with pytest.raises(ValueError, match="code: expected one of 'mean', 'posterior', got 'mode'"):
        FrozenEncoder(small(), code="mode")  # type: ignore[arg-type]
