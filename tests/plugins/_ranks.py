"""What a rank does in the test of distributed training; started by torchrun, or alone."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from avalanche.distributed import DistributedHelper
from avalanche.models import IncrementalClassifier, SimpleMLP
from avalanche.training import Naive
from torch import nn

from avalanche_memplugins import LeanStepPlugin, MemoryReplayPlugin, RandomMemory, TensorLoaderPlugin
from avalanche_memplugins.benchmarks import SplitDigits
from avalanche_memplugins.plugins import GradientAveragingPlugin, LatentReplayPlugin


def replay(rank: int, ranks: int, seed: int) -> dict[str, Any]:
    """Rehearsal on a stream, with the same room in one memory as in the ranks' together."""
    benchmark = SplitDigits(n_experiences=5, seed=seed)
    torch.manual_seed(seed)
    model = SimpleMLP(num_classes=10, input_size=64, hidden_size=256, drop_rate=0.0)
    memory = RandomMemory(400 // ranks, write_policy="reservoir", seed=rank)
    strategy = naive(model, 32 // ranks, [MemoryReplayPlugin(memory)], epochs=10)
    strategy.train(benchmark.train_stream)
    rows = memory.sample(len(memory)).x  # without replacement: each row held comes once
    return {"accuracy": accuracy(model, benchmark), "weights": flat(model), "rows": rows.flatten(1).tolist()}


def latent(rank: int, ranks: int, seed: int) -> dict[str, Any]:
    """Heads that grow, and replay below them."""
    benchmark = SplitDigits(n_experiences=5, seed=seed)
    torch.manual_seed(seed + 100 * rank)  # first weights differ, as they may where a rank draws more numbers
    layers = [nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), IncrementalClassifier(32)]
    model = nn.Sequential(*layers)
    memory = RandomMemory(100, write_policy="reservoir")
    strategy = naive(model, 32 // ranks, [LatentReplayPlugin(memory, at="2", freeze_below=False)])
    strategy.train(benchmark.train_stream)
    return {"weights": flat(model)}


def at_the_end(rank: int, ranks: int, seed: int) -> dict[str, Any]:
    """Experiences written when they have ended, by memories with room for all of the shards."""
    benchmark = SplitDigits(n_experiences=5, seed=seed)
    torch.manual_seed(seed)
    model = SimpleMLP(num_classes=10, input_size=64, hidden_size=64, drop_rate=0.0)
    memory = RandomMemory(1_438, write_policy="reservoir", seed=rank)
    naive(model, 32 // ranks, [MemoryReplayPlugin(memory, write_at="experience")]).train(benchmark.train_stream)
    return {"weights": flat(model), "rows": memory.sample(len(memory)).x.flatten(1).tolist()}


def quick(rank: int, ranks: int, seed: int) -> dict[str, Any]:
    """The lean loop, and a tensor loader that has to step aside."""
    weights, warned = [], []
    for plugins in ([], [LeanStepPlugin(), TensorLoaderPlugin()]):
        torch.manual_seed(seed)
        model = SimpleMLP(num_classes=10, input_size=64, hidden_size=64, drop_rate=0.0)
        memory = RandomMemory(100, write_policy="reservoir", seed=rank)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            strategy = naive(model, 32 // ranks, [MemoryReplayPlugin(memory), *plugins])
            strategy.train(SplitDigits(n_experiences=5, seed=seed).train_stream[:2])
        weights.append(flat(model))
        warned += [str(one.message) for one in told if "TensorLoader" in str(one.message)]
    return {"weights": weights[1], "plain": weights[0], "warned": warned}


def full_batch(rank: int, ranks: int, seed: int) -> dict[str, Any]:
    """One step of gradient descent on a whole experience: the same sum, whoever adds it up."""
    benchmark = SplitDigits(n_experiences=5, seed=seed)
    experience = benchmark.train_stream[0]
    torch.manual_seed(seed)
    model = SimpleMLP(num_classes=10, input_size=64, hidden_size=64, drop_rate=0.0).double()
    model.classifier.register_buffer("seen", torch.full((1,), float(rank)))
    even = len(experience.dataset) - len(experience.dataset) % 2
    experience.dataset = experience.dataset.subset(range(even))  # the single process leaves nothing out
    strategy = Naive(
        model=Doubled(model),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=10_000,
        plugins=[GradientAveragingPlugin()],
        evaluator=None,
    )
    strategy.train(experience)
    return {"weights": flat(model), "buffer": float(model.classifier.seen)}


class Doubled(nn.Module):
    """Double precision, in which the order of adding shows in the last digits only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As modules do."""
        return self.model(x.double())


def naive(model: nn.Module, batch: int, plugins: list[Any], epochs: int = 1) -> Naive:
    return Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch,
        train_epochs=epochs,
        eval_mb_size=256,
        plugins=[*plugins, GradientAveragingPlugin()],
        evaluator=None,
    )


def accuracy(model: nn.Module, benchmark: Any) -> float:
    """On all test rows: Avalanche's metrics count a rank's shard only."""
    right = total = 0
    model.eval()
    with torch.no_grad():
        for experience in benchmark.test_stream:
            x = torch.stack([row[0] for row in experience.dataset])
            y = torch.tensor([int(row[1]) for row in experience.dataset])
            right += int((model(x).argmax(1) == y).sum())
            total += len(y)
    return right / total


def flat(model: nn.Module) -> list[float]:
    return torch.nn.utils.parameters_to_vector(model.parameters()).tolist()


if __name__ == "__main__":
    torch.set_num_threads(1)
    if not DistributedHelper.init_distributed(0, backend="gloo", use_cuda=False):
        raise SystemExit("no ranks")
    rank, ranks = DistributedHelper.rank, DistributedHelper.world_size
    out = {f"replay {seed}": replay(rank, ranks, seed) for seed in range(2)}
    out |= {"at the end": at_the_end(rank, ranks, 0), "quick": quick(rank, ranks, 0)}
    out |= {"latent": latent(rank, ranks, 0), "full batch": full_batch(rank, ranks, 0)}
    Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(out))
