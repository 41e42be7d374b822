"""The energy networks that come with the library do what their cards say; files come back whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from avalanche_memplugins import pretrained
from avalanche_memplugins.functional.episodes import corrupt_strings, string_episodes
from avalanche_memplugins.memories import EnergyMemory
from avalanche_memplugins.networks import VAE
from avalanche_memplugins.networks.energy import ConvolutionalEnergy, FullyConnectedEnergy, GatedEnergy
from avalanche_memplugins.pretrained.energy_files import energy_folder


def test_names_cards_and_sizes() -> None:
    assert pretrained.energy_names() == ("omniglot-16", "omniglot-28", "rehearsal-28", "strings-128")
    for name in pretrained.energy_names():
        found = pretrained.load_energy(name)
        assert found.card.startswith(f"# {name}\n")
        assert "Recipe" in found.card
        assert found.manifest["cpu_minutes"] > 0
        assert not found.network.training
        assert (energy_folder() / f"{name}.safetensors").stat().st_size < 4e6


def test_strings_are_read_as_the_card_says() -> None:
    network = pretrained.load_energy("strings-128").network
    assert network.writable_floats == 8_256
    generator = torch.Generator().manual_seed(1)
    x = string_episodes(4, 64, generator=generator)
    cue, _ = corrupt_strings(x, generator=generator)
    with torch.no_grad():
        read = network.read(cue, network.write(x))[-1]
        blank = network.read(cue)[-1]
    assert float(((read > 0.5) != (x > 0.5)).sum(-1).float().mean()) < 2
    assert float(((blank > 0.5) != (x > 0.5)).sum(-1).float().mean()) > 25


@pytest.mark.parametrize(
    "network",
    [
        GatedEnergy((1, 4, 4), writable=2, width=5, rank=6, hops=2, write_steps=2, read_steps=3, slope_rate=1.0),
        FullyConnectedEnergy((1, 8, 8), writable=2, code=4, width=5, channels=(2, 3), hidden=4, hops=1),
        ConvolutionalEnergy((1, 8, 8), writable=2, channels=(2, 3), width=4, bottleneck=2, hops=2, hidden=4),
    ],
    ids=["gated", "fully connected", "convolutional"],
)
def test_what_is_saved_comes_back(network: GatedEnergy, tmp_path: Path) -> None:
    with torch.no_grad():
        for part in network.parameters():
            part.add_(0.1 * torch.randn(part.shape))
    path = pretrained.save_energy(tmp_path / "mine", network, patterns=7, manifest={"data": ["a", 1]}, card="# Mine\n")
    found = pretrained.load_energy(path)
    x = torch.rand(2, 3, *network.shape)
    with torch.no_grad():
        assert torch.equal(found.network.read(x, found.network.write(x))[-1], network.read(x, network.write(x))[-1])
    assert (found.patterns, found.card) == (7, "# Mine\n")
    assert found.manifest == {"data": ["a", 1], "patterns": 7}
    memory = EnergyMemory.from_pretrained(str(path), slots=2)
    assert memory.slot_size == 7
    memory.write(x[0], torch.zeros(3, dtype=torch.int64))


def test_what_is_no_energy_network_is_refused(tmp_path: Path) -> None:
    vae = pretrained.save(tmp_path / "vae", VAE(code_size=4, width=2), code_mean=torch.zeros(4), code_std=torch.ones(4))
    with pytest.raises(ValueError, match="architecture 'VAE', which is no energy network"):
        pretrained.load_energy(vae)
    with pytest.raises(ValueError, match=r"name: expected one of .*'strings-128'.*did you mean 'omniglot-28'"):
        pretrained.load_energy("omniglot28")
