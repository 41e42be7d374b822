"""ConditionalVAE: its bound against an importance-weighted estimate of the likelihood, classes, errors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from avalanche_memplugins.networks import ConditionalVAE


def vae(**options: object) -> ConditionalVAE:
    torch.manual_seed(0)
    return ConditionalVAE((1, 2, 3), **{"code_size": 2, "hidden": (8, 5), **options}).double()  # type: ignore[arg-type]


def log_evidence(net: ConditionalVAE, x: Tensor, y: Tensor | None) -> Tensor:
    """log p(x) by 40,000 draws from the prior: nothing of the encoder is in it."""
    z = torch.randn(40_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    out = net.decode(z, None if y is None else y[:1].expand(len(z)))
    if net.log_variance is None:
        log_p = Bernoulli(probs=out).log_prob(x.expand_as(out)).flatten(1).sum(1)
    else:
        log_p = Normal(out, (0.5 * net.log_variance).exp()).log_prob(x.expand_as(out)).flatten(1).sum(1)
    return log_p.logsumexp(0) - torch.tensor(len(z)).log()


@torch.no_grad()
@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_bound_bounds_the_likelihood(likelihood: str, classes: int | None) -> None:
    net = vae(likelihood=likelihood, classes=classes)
    x = (torch.rand(1, 1, 2, 3, dtype=torch.float64) > 0.5).double()
    y = None if classes is None else torch.tensor([2])
    many = x.expand(40_000, -1, -1, -1), None if y is None else y.expand(40_000)
    parts = net.bound(*many, generator=torch.Generator().manual_seed(2))
    gap = float(parts.total.mean() + log_evidence(net, x, y))
    mean, log_variance = net.posterior(x, y)
    # The gap is KL(q(z|x) || p(z|x)): small for a fresh decoder, whose posterior is nearly the prior.
    assert -0.01 < gap < float(parts.kl.mean()) + 0.2
    assert parts.kl.std() < 1e-9
    q = Normal(mean, (0.5 * log_variance).exp())
    kl = torch.distributions.kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum()
    torch.testing.assert_close(parts.kl[0], kl)


def test_classes_change_rows_codes_and_bounds() -> None:
    net = vae(classes=3)
    z, x = torch.zeros(3, 2, dtype=torch.float64), torch.rand(1, 1, 2, 3, dtype=torch.float64).expand(3, -1, -1, -1)
    y = torch.arange(3)
    for out in (net.decode(z, y), net.encode(x, y)):
        assert len({tuple(row.flatten().tolist()) for row in out}) == 3
    assert net.decode(z, y).shape == (3, 1, 2, 3)
    with pytest.raises(ValueError, match=r"y: expected classes .*got None"):
        net.decode(z)
    with pytest.raises(ValueError, match="y: expected None, as the network has no classes"):
        vae().decode(z, y)


def test_made_again_from_its_architecture() -> None:
    net = vae(classes=3, likelihood="gaussian")
    other = ConditionalVAE(**net.architecture()).double()
    other.load_state_dict(copy.deepcopy(net.state_dict()))
    x, y = torch.rand(4, 1, 2, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    assert torch.equal(net.encode(x, y), other.encode(x, y))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"expected .* >= 1"):
        vae(code_size=0)
    with pytest.raises(ValueError, match=r"expected .* >= 1"):
        vae(hidden=())
    with pytest.raises(ValueError, match="likelihood: expected one of 'bernoulli', 'gaussian', got 'poisson'"):
        vae(likelihood="poisson")
