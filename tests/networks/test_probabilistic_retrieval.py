"""The classifier over drawn latents."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avalanche_memplugins.functional import sample_latents
from avalanche_memplugins.networks import MLPVAE, ProbabilisticRetrievalClassifier

X = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(9))


def model(**options: Any) -> ProbabilisticRetrievalClassifier:
    torch.manual_seed(0)
    vae = MLPVAE(3, hidden=16, size=4)
    return ProbabilisticRetrievalClassifier(vae, **{"classes": 5, "n": 4, "hidden": 8, "seed": 1, **options})


def latents(net: ProbabilisticRetrievalClassifier, generator: torch.Generator) -> Tensor:
    mu, log_variance = net.encoder.autoencoder.posterior(X)
    return sample_latents(mu, log_variance, net.n, alpha_std=net.alpha_std, generator=generator).flatten(1)


def test_the_defaults_are_the_published_classifier() -> None:
    net = ProbabilisticRetrievalClassifier(MLPVAE())
    assert (net.n, net.alpha_std, net.draws) == (10, 0.5, 1)
    kinds = [type(m).__name__ for m in net.head]
    assert kinds == ["Linear", "LayerNorm", "ReLU"] * 4 + ["Linear"]
    shapes = [tuple(m.weight.shape) for m in net.head if isinstance(m, nn.Linear)]
    assert shapes == [(40, 20), (40, 40), (40, 40), (40, 40), (10, 40)]


def test_training_draws_anew_from_its_own_generator() -> None:
    net = model().train()
    before = torch.get_rng_state()
    first, second = net(X), net(X)
    assert torch.equal(torch.get_rng_state(), before)
    g = torch.Generator().manual_seed(1)
    assert torch.equal(first, net.head(latents(net, g)))
    assert torch.equal(second, net.head(latents(net, g)))
    assert not torch.equal(first, second)
    first.sum().backward()
    assert all(p.grad is not None for p in net.head.parameters())
    assert all(p.grad is None for p in net.encoder.parameters())


@pytest.mark.parametrize("draws", [1, 3])
def test_evaluation_averages_probabilities_and_moves_no_generator(draws: int) -> None:
    net = model(draws=draws)
    undisturbed = copy.deepcopy(net).train()
    net.eval()
    found = net(X)
    assert torch.equal(found, net(X))
    g = torch.Generator().manual_seed(1)
    wanted = torch.stack([net.head(latents(net, g)).softmax(1) for _ in range(draws)]).mean(0)
    torch.testing.assert_close(found.exp(), wanted)
    assert torch.equal(net.train()(X), undisturbed(X))


def test_without_draws_the_answer_is_that_of_the_mean() -> None:
    net = model(draws=0).eval()
    mu = net.encoder.autoencoder.encode(X)
    assert torch.equal(net(X), net.head(torch.cat([mu] * 4, 1)))


@pytest.mark.parametrize(
    "again",
    [
        lambda net: copy.deepcopy(net),
        lambda net: pickle.loads(pickle.dumps(net)),
        lambda net: _loaded(net),
    ],
    ids=["deepcopy", "pickle", "state dict"],
)
def test_a_copy_goes_on_with_the_same_draws(again: Any) -> None:
    net = model().train()
    net(X)
    other = again(net)
    assert torch.equal(net(X), other(X))
    net(X)  # and on its own from there
    assert not torch.equal(net(X), other(X))


def _loaded(net: ProbabilisticRetrievalClassifier) -> ProbabilisticRetrievalClassifier:
    other = model(seed=77).train()
    other.load_state_dict(net.state_dict())
    return other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n: expected an integer >= 1, got 0"),
        ({"draws": -1}, "draws: expected an integer >= 0, got -1"),
        ({"classes": True}, "classes: expected an integer >= 1, got True"),
        ({"alpha_std": -1.0}, "alpha_std: expected a number >= 0, got -1.0"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**options)
