"""A network that goes on learning: what statistics of its old features are worth, beside replay.

    python bench/trained_backbone.py --data DIR

Split MNIST from pixels, five experiences of two classes, 1,600 training rows and 500 test rows each, with
replay. After each experience the features of its rows, as the network makes them then, go into discriminants. They
answer at the end, when the network makes others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _common import DataOptions, launch, once
from _record import interval, table
from avalanche.training import Naive
from torch import Tensor, nn

from avalanche_memplugins import GaussianMemory, MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.benchmarks import BENCHMARKS

KINDS: dict[str, dict[str, Any]] = {
    "nearest mean": {"tied": "unit", "rank": 0},
    "LDA": {"tied": True, "rank": 0},
    "QDA": {"rank": None, "shrinkage": 0.3},
}
COMMAND = "python bench/trained_backbone.py --data DIR"


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """What to do."""

    out: Path = Path("results/trained-backbone")
    seeds: int = 3
    stored: int = 200
    """Rows that replay keeps."""
    epochs: int = 5


def discriminants() -> dict[str, GaussianMemory]:
    """One of each kind, empty."""
    return {name: GaussianMemory(seed=0, **made) for name, made in KINDS.items()}


def right(answer: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    """Per cent."""
    return 100 * float((answer(x).argmax(1) == y).float().mean())


@torch.no_grad()
def features(network: nn.Sequential, x: Tensor) -> Tensor:
    """All but the last layer."""
    return network[:-1].eval()(x)


def measure(options: Options, seed: int) -> dict[str, float]:
    """Per cent right at the end, by each answer."""
    rows = {"train_rows": 100, "test_rows": 40} if options.quick else {"train_rows": 1_600, "test_rows": 500}
    benchmark = BENCHMARKS["split-mnist"].build(n_experiences=5, seed=seed, **rows)

    def part(experience: Any) -> tuple[Tensor, Tensor]:
        items = [experience.dataset[i] for i in range(len(experience.dataset))]
        return torch.stack([item[0] for item in items]), torch.tensor([int(item[1]) for item in items])

    train = [part(experience) for experience in benchmark.train_stream]
    x, y = (torch.cat(parts) for parts in zip(*map(part, benchmark.test_stream), strict=True))
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    found: dict[str, float] = {}
    fixed = discriminants()
    for name, memory in fixed.items():
        for number, (inputs, labels) in enumerate(train):
            memory.write(features(network, inputs), labels, origin=number)
        found[f"{name}: through the untrained network, which stays"] = right(memory.predict, features(network, x), y)
    memory_of_rows = RandomMemory(options.stored, seed=seed)
    strategy = Naive(
        model=network,
        optimizer=torch.optim.Adam(network.parameters(), 1e-3),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=16,
        train_epochs=options.epochs,
        plugins=[MemoryReplayPlugin(memory_of_rows)],
        evaluator=None,
    )
    old = discriminants()
    for number, experience in enumerate(benchmark.train_stream):
        strategy.train(experience)
        inputs, labels = train[number]
        for memory in old.values():
            memory.write(features(network, inputs), labels, origin=number)
    network.eval()
    with torch.no_grad():
        found["network, with replay"] = right(network, x, y)
    stored = memory_of_rows.sample(len(memory_of_rows))
    z, now, again = features(network, x), discriminants(), discriminants()
    for name in KINDS:
        found[f"{name}: of features as they were when rows came"] = right(old[name].predict, z, y)
        now[name].write(features(network, stored.x), stored.y)
        found[f"{name}: anew from the stored rows"] = right(now[name].predict, z, y)
        for inputs, labels in train:
            again[name].write(features(network, inputs), labels)
        found[f"{name}: anew from all rows, which nobody has"] = right(again[name].predict, z, y)
    return found


def main(options: Options) -> None:
    """Measure what is missing, then write the section."""
    folder = options.runs(options.out)
    seeds = range(options.least(options.seeds, 1))
    results = [once(folder / f"{seed}.json", partial(measure, options, seed)) for seed in seeds]
    lines = [[name, interval([found[name] for found in results])] for name in sorted(results[0])]
    words = (
        f"Split MNIST from pixels, 1,600 rows an experience, {options.epochs} epochs, Adam 0.001, batches of 16 and as "
        f"many replayed of {options.stored} float32 rows; MLP 784-256-64-10, discriminants on its 64 features; "
        f"{len(results)} seeds, mean ± 95 % interval.\n\n"
    )
    options.write("A backbone that trains", words + table(["answer at the end", "% correct"], lines), COMMAND)


if __name__ == "__main__":
    launch(main, Options, __doc__)
