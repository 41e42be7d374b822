"""The bounds of the VAE and of the Kanerva machines, term by term, against torch.distributions and Monte Carlo."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from avalanche_memplugins.functional import kanerva_address, kanerva_posterior
from avalanche_memplugins.networks import VAE, DynamicKanervaMachine, KanervaMachine

EPISODES, ITEMS = 2, 5


def machine(kind: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(code_size=6, width=4, **options).double()


def episodes(size: int = 28, channels: int = 1) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.rand(EPISODES, ITEMS, channels, size, size, generator=g, dtype=torch.float64)


def decoded(network: Any, call: Any) -> Tensor:
    """The codes that a call gave to the decoder."""
    seen: list[Tensor] = []
    handle = network.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    call()
    handle.remove()
    return seen[0]


def flat(mean: Tensor, row_cov: Tensor) -> MultivariateNormal:
    return MultivariateNormal(mean.flatten(), torch.kron(row_cov, torch.eye(mean.shape[1], dtype=mean.dtype)))


def nll(network: Any, code: Tensor, x: Tensor) -> Tensor:
    """Bernoulli cross-entropy from the probabilities, not from logits."""
    p = network.decode(code)
    return -(x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(1)


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3)])
@pytest.mark.parametrize("kind", [VAE, DynamicKanervaMachine, KanervaMachine])
def test_images_go_in_and_come_out(kind: Any, size: int, channels: int) -> None:
    network = machine(kind, size=size, channels=channels)
    x = episodes(size, channels)[0]
    out = network.decode(network.encode(x))
    assert out.shape == x.shape
    assert 0 <= float(out.detach().min()) <= float(out.detach().max()) <= 1
    twin = kind(**network.architecture()).double()
    twin.load_state_dict(network.state_dict())
    assert torch.equal(twin.decode(twin.encode(x)), out)


@pytest.mark.parametrize("kind", [VAE, DynamicKanervaMachine, KanervaMachine])
def test_other_sizes_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="size: expected an image of 28 or 32 pixels a side, got 64"):
        kind(size=64)


def test_vae_bound() -> None:
    network = machine(VAE)
    x = episodes().flatten(0, 1)
    bound = network.bound(x, generator=torch.Generator().manual_seed(3))
    code = decoded(network, lambda: network.bound(x, generator=torch.Generator().manual_seed(3)))
    mean, log_var = network.posterior(x)
    want = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(bound.kl, want)
    torch.testing.assert_close(bound.reconstruction, nll(network, code, x))
    torch.testing.assert_close(bound.total, bound.kl + bound.reconstruction)
    noise = (code - mean) / (0.5 * log_var).exp()
    assert 0.5 < float(noise.detach().std()) < 1.5


def test_dynamic_bound_term_by_term() -> None:
    network = machine(DynamicKanervaMachine, rows=4, noise_std=0.7, address_std=1.3)
    x = episodes()
    bound = network.bound(x, generator=torch.Generator().manual_seed(3))
    codes = decoded(network, lambda: network.bound(x, generator=torch.Generator().manual_seed(3)))
    code, log_scale = (part.view(EPISODES, ITEMS, -1) for part in network.features(x.flatten(0, 1)))
    r0, u0 = network.prior()
    for e in range(EPISODES):
        first = kanerva_address(r0, code[e], ridge=0.7**2 / 1.3**2)
        mean, row_cov = kanerva_posterior(r0, u0, first, code[e], noise_var=0.7**2)
        torch.testing.assert_close(bound.kl_memory[e] * ITEMS, kl_divergence(flat(mean, row_cov), flat(r0, u0)))
        address = kanerva_address(mean, code[e], ridge=0.7**2 / 1.3**2)
        want = kl_divergence(Normal(address, log_scale[e].exp()), Normal(0.0, 1.3)).sum(-1)
        torch.testing.assert_close(bound.kl_item[e], want)
    drawn, own = codes.view(2, EPISODES, ITEMS, -1)
    torch.testing.assert_close(own, code)
    torch.testing.assert_close(bound.reconstruction.flatten(), nll(network, drawn.flatten(0, 1), x.flatten(0, 1)))
    torch.testing.assert_close(bound.autoencoder.flatten(), nll(network, code.flatten(0, 1), x.flatten(0, 1)))
    torch.testing.assert_close(bound.conditional, bound.reconstruction + bound.kl_item)
    torch.testing.assert_close(bound.total, bound.conditional + bound.kl_memory[:, None])


def test_dynamic_bound_draws_words_of_the_posterior_memory() -> None:
    """Words of sampled addresses and memories, against memories and addresses drawn one by one."""
    network = machine(DynamicKanervaMachine, rows=3)
    network.prior_log_var.data.fill_(1.0)
    network.log_scale.data.fill_(-0.5)
    x = episodes()[:1]
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        drawn = torch.stack(
            [decoded(network, lambda: network.bound(x, generator=g)).view(2, ITEMS, -1)[0] for _ in range(1000)]
        )
        mean, row_cov = network.written(x)
        code, log_scale = network.features(x[0])
        address = kanerva_address(mean[0], code, ridge=network.ridge)
        root = torch.linalg.cholesky(row_cov[0])
        memories = mean[0] + root @ torch.randn(1000, 3, 6, generator=g, dtype=torch.float64)
        words = address + log_scale.exp() * torch.randn(1000, ITEMS, 3, generator=g, dtype=torch.float64)
        want = words @ memories
    torch.testing.assert_close(drawn.mean(0), want.mean(0), atol=0.3, rtol=0)
    torch.testing.assert_close(drawn.std(0), want.std(0), atol=0, rtol=0.2)


def test_kanerva_bound_term_by_term() -> None:
    network = machine(KanervaMachine, rows=4, address_size=3, key_size=5, noise_std=0.8)
    x = episodes()
    bound = network.bound(x, generator=torch.Generator().manual_seed(3))
    codes = decoded(network, lambda: network.bound(x, generator=torch.Generator().manual_seed(3)))
    noise = torch.randn(EPISODES, ITEMS, 3 + 6 + 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    features = network.features(x.flatten(0, 1)).view(EPISODES, ITEMS, -1)
    mean_y, log_var_y = network.address_posterior(features)
    q_y = Normal(mean_y, (0.5 * log_var_y).exp())
    weights = network.weights(q_y.loc + q_y.scale * noise[..., :3])
    r0, u0 = network.prior()
    code = network.to_code(features)
    drawn, own = codes.view(2, EPISODES, ITEMS, -1)
    torch.testing.assert_close(own, code)
    for e in range(EPISODES):
        mean, row_cov = kanerva_posterior(r0, u0, weights[e], code[e], noise_var=0.64)
        torch.testing.assert_close(bound.kl_memory[e] * ITEMS, kl_divergence(flat(mean, row_cov), flat(r0, u0)))
        spread = torch.einsum("tk,kl,tl->t", weights[e], row_cov, weights[e]).sqrt()
        recalled = weights[e] @ mean + spread[:, None] * noise[e, :, 3:9]
        mean_z, log_var_z = network.code_posterior(features[e], recalled)
        q_z = Normal(mean_z, (0.5 * log_var_z).exp())
        want = kl_divergence(q_y, Normal(0.0, 1.0)).sum(-1)[e] + kl_divergence(q_z, Normal(recalled, 0.8)).sum(-1)
        torch.testing.assert_close(bound.kl_item[e], want)
        torch.testing.assert_close(drawn[e], q_z.loc + q_z.scale * noise[e, :, 9:])
    torch.testing.assert_close(bound.reconstruction.flatten(), nll(network, drawn.flatten(0, 1), x.flatten(0, 1)))


@pytest.mark.parametrize("kind", [DynamicKanervaMachine, KanervaMachine])
def test_a_sequential_write_costs_no_other_bound(kind: Any) -> None:
    network, x = machine(kind, rows=4), episodes()
    both = [network.bound(x, sequential=s, generator=torch.Generator().manual_seed(0)).total for s in (False, True)]
    # The dynamic machine addresses items under what the earlier ones left, so its two writes differ a little.
    tolerance = 1e-8 if kind is KanervaMachine else 2.0
    torch.testing.assert_close(both[0], both[1], atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", [DynamicKanervaMachine, KanervaMachine])
def test_reads_start_from_what_the_read_before_gave(kind: Any) -> None:
    network, x = machine(kind, rows=4), episodes()
    with torch.no_grad():
        mean, _ = network.written(x)
        two = network.read(mean, x, steps=2)
        again = network.read(mean, torch.sigmoid(two[0]), steps=1)
    assert len(two) == 2
    torch.testing.assert_close(two[1], again[0])


@pytest.mark.parametrize("kind", [DynamicKanervaMachine, KanervaMachine])
def test_training_lowers_the_bound_and_makes_the_memory_of_use(kind: Any) -> None:
    torch.manual_seed(0)
    network = kind(code_size=8, width=4, rows=8)
    # Bars: an episode holds few, so its memory can tell which.
    x = torch.zeros(4, 8, 1, 28, 28)
    for e in range(4):
        for i in range(8):
            at = 3 * ((2 * e + i % 2) % 8) + 2
            x[e, i, 0, at : at + 3] = 1
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        bound = network.bound(x)
        loss = bound.total.mean() + bound.autoencoder.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(bound.total.mean().item())
    assert losses[-1] < 0.4 * losses[0]
    with torch.no_grad():
        written, _ = network.written(x)
        empty = network.prior()[0].expand_as(written)
        error = [(torch.sigmoid(network.read(m, x)[0]) - x).square().mean().item() for m in (written, empty)]
    assert error[0] < error[1]


def test_at_the_mean_of_the_memory_a_sure_address_is_a_read() -> None:
    network = machine(DynamicKanervaMachine, rows=4)
    x = episodes()
    with torch.no_grad():
        network.log_scale.fill_(-40.0)
        parts = network.bound(x, sample_memory=False, generator=torch.Generator().manual_seed(2))
        (logits,) = network.read(network.written(x)[0], x)
        p = logits.sigmoid()
        wanted = -(x * p.log() + (1 - x) * (1 - p).log()).flatten(2).sum(2)
        torch.testing.assert_close(parts.reconstruction, wanted)
        sampled = network.bound(x, generator=torch.Generator().manual_seed(2))
    assert float((sampled.reconstruction - wanted).abs().max()) > 1e-4
    for same in ("kl_item", "kl_memory", "autoencoder"):
        assert torch.equal(getattr(sampled, same), getattr(parts, same))


def test_a_fresh_address_is_drawn_for_the_read_alone() -> None:
    network = machine(KanervaMachine, rows=4, address_size=3, key_size=3)
    x = episodes()

    def parts(fresh: bool) -> Any:
        with torch.no_grad():
            return network.bound(
                x, sample_memory=False, fresh_address=fresh, generator=torch.Generator().manual_seed(2)
            )

    one, other = parts(False), parts(True)
    assert torch.equal(one.kl_memory, other.kl_memory), "what is written is the same"
    assert not torch.allclose(one.reconstruction, other.reconstruction)
    with torch.no_grad():  # where q(y|x) is a point, a fresh draw is the old one
        network.to_address.weight[3:] = 0
        network.to_address.bias[3:] = -80.0
    torch.testing.assert_close(parts(False).reconstruction, parts(True).reconstruction)


def test_the_objective_weighs_what_the_memory_costs() -> None:
    parts = machine(DynamicKanervaMachine, rows=4).bound(episodes(), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(parts.objective(), parts.total)
    torch.testing.assert_close(parts.objective(0.0), parts.conditional)
    wanted = parts.conditional + 0.5 * parts.kl_memory[:, None] + 2 * parts.autoencoder
    torch.testing.assert_close(parts.objective(0.5, autoencoder=2.0), wanted)
    for wrong in ({"memory_cost": -1.0}, {"autoencoder": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            parts.objective(**wrong)
