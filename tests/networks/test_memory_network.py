"""A memory network finds slots by their content, and training makes it use them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from avalanche_memplugins.networks import MemoryNetwork, train_memory_network


def episode(generator: torch.Generator, *, episodes: int = 16) -> tuple[Tensor, Tensor]:
    """Eight random strings of 16 bits each, eight of the bits erased."""
    x = torch.randint(2, (episodes, 8, 16), generator=generator).float()
    known = torch.rand(x.shape, generator=generator).argsort(-1) < 8
    return x, torch.where(known, x, 0.5)


def test_a_read_does_not_depend_on_the_order_of_slots() -> None:
    torch.manual_seed(0)
    network = MemoryNetwork(16, 6, hidden=8)
    torch.nn.init.normal_(network.decoder[-1].weight)
    x, cue = episode(torch.Generator().manual_seed(0))
    order = torch.randperm(8)
    torch.testing.assert_close(network(x[:, order], cue), network(x, cue))
    assert not torch.allclose(network(x.flip(0), cue), network(x, cue))


def test_attention_is_a_softmax_of_cosines() -> None:
    torch.manual_seed(0)
    network = MemoryNetwork(16, 6, hidden=8)
    x, cue = episode(torch.Generator().manual_seed(0), episodes=2)
    slots = network.write(x)
    got = network.attention(slots, cue)
    cosines = torch.nn.functional.cosine_similarity(network.encoder(cue)[:, :, None], slots[:, None], dim=-1)
    torch.testing.assert_close(got, (10 * cosines).softmax(-1))
    assert bool((network.attention(slots, x).argmax(-1) == torch.arange(8)).all())


def test_training_makes_it_remember() -> None:
    errors = {}
    for memory in (True, False):
        torch.manual_seed(0)
        network = MemoryNetwork(16, 16, hidden=64, memory=memory)
        g = torch.Generator().manual_seed(1)
        seen: list[int] = []
        log = train_memory_network(
            network, lambda g=g: episode(g), steps=300, after_step=lambda k, _, s=seen: s.append(k)
        )
        assert seen == list(range(1, 301))
        assert log[0] == pytest.approx(2.0)  # of the cue: eight erased bits, a quarter each
        errors[memory] = sum(log[-20:]) / 20
    assert errors[True] < 1.0
    assert errors[False] == pytest.approx(2.0, abs=0.05)  # fair bits cannot be guessed


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="code_size"):
        MemoryNetwork(16, 0)
    with pytest.raises(ValueError, match="steps"):
        train_memory_network(MemoryNetwork(2, 2, hidden=2), lambda: (torch.zeros(1, 1, 2),) * 2, steps=0)


def images(count: int, generator: torch.Generator) -> Tensor:
    """Smooth rows of 24 numbers that lie near six directions."""
    base = torch.randn(6, 24, generator=torch.Generator().manual_seed(9))
    return torch.sigmoid(torch.randn(count, 6, generator=generator) @ base + 0.1)


def test_a_linear_network_starts_at_principal_components() -> None:
    g = torch.Generator().manual_seed(0)
    pool = images(200, g)
    network = MemoryNetwork(24, 8, hidden=4, linear=True)
    network.start_at(pool)
    centred = pool.double().numpy() - pool.double().numpy().mean(0)
    _, _, right = np.linalg.svd(centred, full_matrices=False)
    wanted = pool.double().numpy().mean(0) + centred @ right[:8].T @ right[:8]
    with torch.no_grad():
        slots = network.write(pool.unsqueeze(0))
        np.testing.assert_allclose((network.mean + slots[0] @ network.back).numpy(), wanted, atol=1e-4)


def test_a_linear_network_finds_slots_by_known_entries() -> None:
    g = torch.Generator().manual_seed(0)
    network = MemoryNetwork(24, 8, hidden=4, linear=True)
    network.start_at(images(200, g))
    x = images(40, g).view(2, 20, 24)
    known = torch.arange(24).expand_as(x) < 12
    cue = x * known
    with torch.no_grad():
        network.log_sharpness.fill_(3.0)
        slots = network.write(x)
        rebuilt = network.mean + slots @ network.back
        distances = ((rebuilt[:, None] - cue[:, :, None]) * known[:, :, None]).square().sum(-1)
        torch.testing.assert_close(network.attention(slots, cue, known), (-np.exp(3.0) * distances).softmax(-1))
        right = network.attention(slots, cue, known).argmax(-1) == torch.arange(20)
        blind = network.attention(slots, cue).argmax(-1) == torch.arange(20)
    assert float(right.float().mean()) > 0.9 > float(blind.float().mean())


def test_a_linear_network_has_a_memory_and_enough_images() -> None:
    with pytest.raises(ValueError, match="linear: expected False without memory"):
        MemoryNetwork(4, 2, hidden=2, memory=False, linear=True)
    with pytest.raises(ValueError, match="images: expected at least 3 rows"):
        MemoryNetwork(4, 3, hidden=2, linear=True).start_at(torch.rand(2, 4))
    with pytest.raises(ValueError, match="start_at: expected a network with linear=True"):
        MemoryNetwork(4, 3, hidden=2).start_at(torch.rand(5, 4))
