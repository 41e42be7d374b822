"""Memories of pixels on streams that normalise: they find mean and std, or say before training what to pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.training import Naive
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision import transforms

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.codecs import Bits, Downsampled, LatentCodec, Uint8
from avalanche_memplugins.memories import EnergyMemory, KanervaMemory, VAEMemory
from avalanche_memplugins.networks import ConditionalVAE, KanervaMachine
from avalanche_memplugins.networks.energy import GatedEnergy
from avalanche_memplugins.plugins import EnergyReplayPlugin
from avalanche_memplugins.plugins._experience import normalisation_of
from avalanche_memplugins.strategies import EnergyRehearsal, VAEReplay

MEAN, STD = 0.1307, 0.3081
SIDE = 28
NORMALIZE = transforms.Normalize((MEAN,), (STD,))
TRANSFORMS: dict[str, Any] = {
    "none": None,
    "Normalize": NORMALIZE,
    "in a Compose": transforms.Compose([nn.Identity(), transforms.Compose([NORMALIZE]), nn.Identity()]),
    "twice": transforms.Compose([NORMALIZE, transforms.Normalize((0.5,), (2.0,))]),
}
FOUND = {
    "none": None,
    "Normalize": (MEAN, STD),
    "in a Compose": (MEAN, STD),
    "twice": (MEAN + 0.5 * STD, 2.0 * STD),
}


def pixels(rows: int, seed: int) -> Tensor:
    return (torch.rand(rows, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 255).round() / 255


def stream(transform: Any) -> Any:
    data = [TensorDataset(pixels(24, seed), torch.arange(24) % 4) for seed in (0, 1)]
    return nc_benchmark(
        *data, n_experiences=2, task_labels=False, seed=0, train_transform=transform, eval_transform=transform
    )


def model() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 4))


def common() -> dict[str, Any]:
    net = model()
    return {"model": net, "optimizer": torch.optim.SGD(net.parameters(), 0.01), "train_mb_size": 8, "evaluator": None}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_normalisation_of_a_stream_is_found(name: str) -> None:
    experience = stream(TRANSFORMS[name]).train_stream[0]
    for dataset in (experience.dataset, experience.dataset.subset([1, 3]), experience.dataset.eval()):
        found = normalisation_of(dataset)
        if FOUND[name] is None:
            assert found is None
        else:
            assert [list(values) for values in found or ()] == [
                pytest.approx([value], rel=1e-6) for value in FOUND[name] or ()
            ]


STRATEGIES: dict[str, Any] = {
    "VAEReplay": lambda: VAEReplay(steps=2, batch_size=8, **common()),
    "EnergyRehearsal": lambda: EnergyRehearsal(budget=60_000, classes=4, **{**common(), "train_mb_size": 8}),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("strategy_name", STRATEGIES)
def test_strategies_of_pixels_work_with_their_defaults(strategy_name: str, name: str) -> None:
    strategy = STRATEGIES[strategy_name]()
    for experience in stream(TRANSFORMS[name]).train_stream:
        strategy.train(experience)
    x = strategy.memory.sample(16).x
    mean, std = FOUND[name] or (0.0, 1.0)
    undone = x * std + mean
    assert float(undone.min()) >= -1e-3
    assert float(undone.max()) <= 1 + 1e-3
    known = strategy.memory.normalisation
    assert (known.mean.item(), known.std.item()) == pytest.approx((mean, std))


def vae() -> VAEMemory:
    return VAEMemory(ConditionalVAE((1, SIDE, SIDE), code_size=2, hidden=(4,)), steps=2, batch_size=8, seed=1)


def energy() -> EnergyMemory:
    torch.manual_seed(0)
    return EnergyMemory(GatedEnergy(SIDE * SIDE, writable=2, width=4, write_steps=1, read_steps=1), slots=4, cue=7)


def kanerva() -> KanervaMemory:
    torch.manual_seed(0)
    return KanervaMemory(KanervaMachine(rows=2, code_size=2, address_size=2, key_size=2, width=1))


MEMORIES: dict[str, Any] = {"VAE": vae, "energy": energy, "Kanerva": kanerva}


def trained(name: str) -> Any:
    memory = MEMORIES[name]()
    plugin = (EnergyReplayPlugin if name == "energy" else MemoryReplayPlugin)(memory)
    strategy = Naive(**common(), plugins=[plugin])
    strategy.train(stream(NORMALIZE).train_stream[0])
    return memory


@pytest.mark.parametrize("name", MEMORIES)
def test_what_was_found_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    memory = trained(name)
    memory.save(tmp_path / "memory")
    loaded = MEMORIES[name]().load(tmp_path / "memory")
    state = MEMORIES[name]()
    state.load_state_dict(memory.state_dict())
    wanted = memory.sample(8).x
    assert torch.equal(loaded.sample(8).x, wanted)
    assert torch.equal(state.sample(8).x, wanted)
    assert loaded.normalisation.mean.item() == state.normalisation.mean.item() == pytest.approx(MEAN)


@pytest.mark.parametrize("name", MEMORIES)
def test_what_the_user_gave_is_left_alone_and_so_is_what_is_held(name: str) -> None:
    memory = trained(name)
    before = memory.sample(8).x
    memory.normalise_as(0.9, 0.9)
    assert memory.normalisation.mean.item() == pytest.approx(MEAN)
    assert before.shape == memory.sample(8).x.shape
    given = VAEMemory(ConditionalVAE((1, SIDE, SIDE)), mean=0.25, std=0.5)
    given.normalise_as(MEAN, STD)
    assert given.normalisation.mean.item() == 0.25


class Halves(nn.Module):
    """Rows of eight numbers as three."""

    code_size = 3

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(8, 3), nn.Linear(3, 8)

    def encode(self, x: Tensor) -> Tensor:
        return self.into(x)  # type: ignore[no-any-return]

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.out(z))


def latent() -> LatentCodec:
    return LatentCodec(Halves(), code_mean=torch.zeros(3), code_std=torch.ones(3))


@pytest.mark.parametrize("codec", [Bits(4), Bits(1), Uint8(), Downsampled(7, Bits(2)), latent()], ids=repr)
def test_a_codec_without_the_statistics_of_the_data_is_told_before_training(codec: Any) -> None:
    strategy = Naive(**common(), plugins=[MemoryReplayPlugin(RandomMemory(10, codec=codec))])
    before = [p.clone() for p in strategy.model.parameters()]
    with pytest.raises(
        ValueError, match=rf"codec: .* expected .*, got data of mean={MEAN} and std={STD}; make it with"
    ):
        strategy.train(stream(NORMALIZE).train_stream[0])
    assert all(torch.equal(a, b) for a, b in zip(before, strategy.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("codec", "x", "told"),
    [
        (Bits(4), torch.randn(4, 512), r"rows of \(512,\).*codec='int8'"),
        (Uint8(), torch.randn(4, 512), r"rows of \(512,\).*codec='int8'"),
        (Bits(4), torch.randn(4, 3, 8, 8), r"pixels .*rows of \(3, 8, 8\).*Uint8\(mean="),
        (latent(), torch.randn(4, 9), r"expected \(B, 8\), got \(4, 9\)"),
        (
            Bits(4, mean=(0.1, 0.2, 0.3), std=(1, 1, 1)),
            torch.randn(4, 1, 8, 8),
            r"expected \(B, 3, H, W\).*got \(4, 1, 8, 8\)",
        ),
    ],
)
def test_codecs_speak_of_the_shape_first_and_name_the_codec_that_fits(codec: Any, x: Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RandomMemory(8, codec=codec).write(x, torch.zeros(4, dtype=torch.int64))
