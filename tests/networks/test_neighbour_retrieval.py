"""Neighbours fed to the classifier, against brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from avalanche_memplugins.memories import EpisodicMemory
from avalanche_memplugins.networks import MLPVAE, RetrievalClassifier

CLASSES, K, C = 4, 3, 3


def images(n: int, seed: int) -> Tensor:
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def setup(held: int, codec: str = "raw", **options: object) -> tuple[RetrievalClassifier, Tensor, Tensor]:
    torch.manual_seed(0)
    vae = MLPVAE(C, hidden=16, size=4)
    memory = EpisodicMemory(50, write_policy="ring", codec=codec)
    x, y = images(held, 1), torch.arange(held) % CLASSES
    net = RetrievalClassifier(vae, memory, classes=CLASSES, neighbours=K, hidden=8, **options)
    if held:
        memory.write(net.encoder(x), y)
    return net, x, y


def brute(query: Tensor, codes: Tensor, y: Tensor, leave_out: Tensor | None = None) -> Tensor:
    rows = []
    for i, q in enumerate(query.double()):
        distance = (codes.double() - q).square().sum(1)
        if leave_out is not None:
            distance[leave_out[i]] = torch.inf
        order = distance.argsort()[: min(K, len(codes) - (leave_out is not None))]
        code, label = torch.zeros(K, C), torch.zeros(K, CLASSES)
        code[: len(order)] = codes[order]
        label[range(len(order)), y[order]] = 1
        rows.append(torch.cat([code.flatten(), label.flatten()]))
    return torch.stack(rows)


@pytest.mark.parametrize("codec", ["raw", "float16"])
def test_evaluation_feeds_the_nearest_codes_and_labels(codec: str) -> None:
    net, _, y = setup(30, codec)
    net.eval()
    query = net.encoder(images(8, 2))
    codes = net.memory.rows(torch.arange(30)).x
    assert torch.equal(net.retrieve(query), brute(query, codes, y))
    assert torch.equal(net(images(8, 2)), net.head(torch.cat([query, brute(query, codes, y)], 1)))


@pytest.mark.parametrize("codec", ["raw", "float16"])
def test_in_training_a_row_does_not_find_itself(codec: str) -> None:
    net, x, y = setup(30, codec)
    net.train()
    codes = net.memory.rows(torch.arange(30)).x
    stored, new = net.encoder(x[5:9]), net.encoder(images(4, 2))
    left_out = brute(stored, codes, y, leave_out=torch.arange(5, 9))
    assert torch.equal(net.retrieve(stored), left_out)  # seen in an earlier epoch
    assert torch.equal(net.retrieve(codes[5:9]), left_out)  # replayed
    assert torch.equal(net.retrieve(new), brute(new, codes, y))  # not in the memory: nobody is passed over
    net.eval()
    assert torch.equal(net.retrieve(stored)[:, :C], codes[5:9])


@pytest.mark.parametrize("held", [0, 1, 2, 3])
def test_places_without_a_neighbour_hold_zeros(held: int) -> None:
    net, x, y = setup(held)
    query = net.encoder(images(4, 2))
    found = net.eval().retrieve(query)
    codes = net.encoder(x) if held else torch.zeros(0, C)
    assert torch.equal(found, brute(query, codes, y))
    if held:
        net.train()
        own = net.retrieve(codes)
        assert torch.equal(own, brute(codes, codes, y, leave_out=torch.arange(held)))


def test_labels_can_be_left_out() -> None:
    net, _, y = setup(30, labels=False)
    query = net.eval().encoder(images(4, 2))
    codes = net.memory.rows(torch.arange(30)).x
    assert torch.equal(net.retrieve(query), brute(query, codes, y)[:, : K * C])
    assert net(images(4, 2)).shape == (4, CLASSES)


def test_the_memory_is_no_part_of_the_model() -> None:
    net, _, _ = setup(30)
    assert not any("memory" in name for name, _ in net.named_modules())
    assert not any("memory" in name for name in net.state_dict())


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="neighbours: expected an integer >= 1, got 0"):
        RetrievalClassifier(MLPVAE(C, size=4), EpisodicMemory(5), neighbours=0)
    with pytest.raises(ValueError, match="same: expected a number >= 0, got -1"):
        RetrievalClassifier(MLPVAE(C, size=4), EpisodicMemory(5), same=-1)
