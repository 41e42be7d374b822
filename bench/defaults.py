"""What replay does by default, chosen on held-out rows of five streams, and beside Avalanche's ReplayPlugin.

    python bench/defaults.py --data DIR        some 20 minutes of one core

``DIR`` holds MNIST, Fashion-MNIST and the features that ``bench/cifar_features.py`` makes. Five experiences of 1,600
rows, drawn by the seed, one epoch in batches of 16; digits as a table: all rows, ten epochs. An MLP 256-256, Adam
0.001, 200 rows held, as many replayed as are new. Settings are chosen on a fifth of each training set, on which nothing
is trained, seeds 0 to 2. The last table is of the test rows, five seeds: what is done by default, minus ReplayPlugin.
Runs are kept, so the command can be stopped and given again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _common import DataOptions, data_sets, launch, once, percent_right
from _record import interval, table
from avalanche.benchmarks import benchmark_from_datasets, split_online_stream
from avalanche.training import Naive
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.storage_policy import ReservoirSamplingBuffer
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.datasets import MNIST, FashionMNIST

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.benchmarks.in_memory import FEATURES
from avalanche_memplugins.memories import DynamicKanervaMemory, GaussianMemory

BATCH, ROWS, HELD = 16, 1_600, 200
AT_END: dict[str, Any] = {"write_at": "experience"}
NOW: dict[str, Any] = {"write_at": "iteration"}


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """What to do."""

    out: Path = Path("results/defaults")
    """Folder of the runs."""
    report: bool = False
    """Only write the tables, of the runs that are there."""


class Rows(NamedTuple):
    """``x`` ``(N, ...)`` and ``y`` ``(N,)``: to train on, and to test on."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


# ---------------------------------------------------------------- streams


@cache
def images(kind: type[MNIST], options: Options) -> Rows:
    """Pixels as they are."""
    return Rows(*options.images(kind))


@cache
def features(options: Options) -> Rows | None:
    """What ``bench/cifar_features.py`` makes of CIFAR-10, 128 numbers an image; None if it is not there."""
    file = options.data / FEATURES
    if not file.exists():
        print(f"left out: there is no {file}, see bench/cifar_features.py", flush=True)
        return None
    kept = load_file(file)
    x, test_x = (12 * (kept[name].float().flatten(1) / 255 - 0.5) for name in ("train_x", "test_x"))
    return Rows(x, kept["train_y"].long(), test_x, kept["test_y"].long())


@cache
def digits(options: Options) -> Rows:
    """Scikit-learn's digits as a table of 64 numbers, a fifth of them to test on."""
    data = load_digits()
    x, y = torch.from_numpy(data.data).float() / 16, torch.from_numpy(data.target).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    test, train = order[: len(y) // 5], order[len(y) // 5 :]
    return Rows(x[train], y[train], x[test], y[test])


STREAMS: dict[str, Callable[[Options], Rows | None]] = {
    "Split MNIST": partial(images, MNIST),
    "Split Fashion-MNIST": partial(images, FashionMNIST),
    "Permuted MNIST": partial(images, MNIST),
    "Split CIFAR-10, features": features,
    "Split digits, a table": digits,
}


def held_out(rows: Rows) -> Rows:
    """The training rows, a fifth of them to test on: the same for every seed."""
    order = torch.randperm(len(rows.y), generator=torch.Generator().manual_seed(1))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    return Rows(rows.x[train], rows.y[train], rows.x[test], rows.y[test])


def experiences(stream: str, rows: Rows, seed: int) -> list[Rows]:
    """Five of them: two classes each, or all of them in another order of pixels."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    classes = torch.randperm(10, generator=generator).view(5, 2)
    for own in classes:
        everything = stream.startswith("Permuted")
        index, test = (
            torch.arange(len(y)) if everything else torch.isin(y, own).nonzero().flatten()
            for y in (rows.y, rows.test_y)
        )
        index = index[torch.randperm(len(index), generator=generator)[:ROWS]]
        test = test[:2_000]
        x, test_x = rows.x[index].flatten(1), rows.test_x[test].flatten(1)
        if everything:
            pixels = torch.randperm(x.shape[1], generator=generator)
            x, test_x = x[:, pixels], test_x[:, pixels]
        found.append(Rows(x, rows.y[index], test_x, rows.test_y[test]))
    return found


# ---------------------------------------------------------------- settings


def replay(seed: int, *, memory: Mapping[str, Any] = {}, **plugin: Any) -> list[Any]:
    """Ours, with explicit settings."""
    return [MemoryReplayPlugin(RandomMemory(HELD, seed=seed, **memory), seed=seed, **plugin)]


def rows(read: str = "uniform", write: str = "reservoir", **plugin: Any) -> Callable[[int], list[Any]]:
    """A memory of rows with these policies."""
    return partial(replay, memory={"read_policy": read, "write_policy": write}, **plugin)


def generating(kind: Any, **plugin: Any) -> Callable[[int], list[Any]]:
    """A memory that generates rows."""
    return lambda seed: [MemoryReplayPlugin(kind(seed=seed), seed=seed, **plugin)]


AVALANCHE = "ReplayPlugin (Avalanche)"
CHOSEN = "**the default**"
ALIKE = "the default, all rows alike"
NONE = "no memory"
# Chosen among these, on held-out rows.
TRIED: dict[str, Callable[[int], list[Any]]] = {
    AVALANCHE: lambda seed: [ReplayPlugin(HELD)],
    "each iteration, uniform": rows(**NOW),
    "each iteration, cycle": rows("cycle", **NOW),
    "at the end, uniform": rows(**AT_END),
    "at the end, cycle": rows("cycle", **AT_END),
    "at the end, cycle, class-balanced": rows("cycle", "class_balanced", **AT_END),
    "at the end, cycle, task-balanced": rows("cycle", "task_balanced", **AT_END),
    "at the end, cycle, 1/t": rows("cycle", replay_weight="growing", **AT_END),
    "at the end, cycle, class-balanced, 1/t": rows("cycle", "class_balanced", replay_weight="growing", **AT_END),
    "at the end, cycle, twice the rows": rows("cycle", replay_size=2 * BATCH, **AT_END),
}
# Memories that generate rows instead of keeping them.
GENERATING: dict[str, Callable[[int], list[Any]]] = {
    "Gaussian, each iteration": generating(GaussianMemory, **NOW),
    "Gaussian, at the end": generating(GaussianMemory, **AT_END),
    "Kanerva, each iteration": generating(DynamicKanervaMemory, **NOW),
    "Kanerva, at the end": generating(DynamicKanervaMemory, **AT_END),
}
# The same stream in pieces of one batch, without boundaries.
ONLINE: dict[str, Callable[[int], list[Any]]] = {
    NONE: lambda seed: [],
    "ReplayPlugin, reservoir (Avalanche)": lambda seed: [
        ReplayPlugin(HELD, storage_policy=ReservoirSamplingBuffer(HELD))
    ],
    "each iteration, uniform": rows(**NOW),
    "each iteration, cycle": rows("cycle", **NOW),
    "each piece, cycle": rows("cycle", **AT_END),
}
LAST: dict[str, Callable[[int], list[Any]]] = {
    NONE: lambda seed: [],
    AVALANCHE: TRIED[AVALANCHE],
    ALIKE: lambda seed: [MemoryReplayPlugin(RandomMemory(HELD, seed=seed), replay_weight=None, seed=seed)],
    CHOSEN: lambda seed: [MemoryReplayPlugin(RandomMemory(HELD, seed=seed), seed=seed)],
}


# ---------------------------------------------------------------- a run


def accuracy(
    stream: str, found: Rows, plugins: Callable[[int], list[Any]], seed: int, *, online: bool = False
) -> float:
    """Mean over the experiences after the last one, %."""
    parts = experiences(stream, found, seed)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(parts[0].x.shape[1], 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    tabular = "table" in stream
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), 1e-3),
        train_mb_size=BATCH,
        train_epochs=10 if tabular and not online else 1,
        plugins=plugins(seed),
        evaluator=None,
    )
    sets = [data_sets(part.x, part.y, [torch.arange(len(part.y))])[0] for part in parts]
    training: Any = benchmark_from_datasets(train=sets).train_stream
    if online:
        training = split_online_stream(training, BATCH, seed=seed)
    for experience in training:
        strategy.train(experience)
    return sum(percent_right(model, part.test_x, part.test_y) for part in parts) / len(parts)


Found = dict[tuple[str, str], dict[int, float]]


def runs(options: Options, what: str, settings: Mapping[str, Any], seeds: int, **kwargs: Any) -> Found:
    """Accuracies by setting and stream, and by seed; what is done already is taken from the folder."""
    folder, found = options.runs(options.out) / what, {}
    for stream, load in STREAMS.items():
        source = None if options.report else load(options)
        if source is None and not options.report:
            continue
        if source is not None and what != "test":
            source = held_out(source)
        for name, plugins in settings.items():
            made = found[name, stream] = dict[int, float]()
            for seed in range(options.least(seeds, 1)):
                file = folder / f"{stream}--{name}--{seed}.json".replace("/", "-").replace(" ", "-")
                if source is None and not file.exists():
                    continue
                run = partial(accuracy, stream, source, plugins, seed, **kwargs)
                made[seed] = once(file, lambda run=run: {"accuracy": run()})["accuracy"]
    return found


def shown(found: Found, seeds: int, *differences: tuple[str, str]) -> str:
    """A line a setting, a column a stream; and what one setting has over another, by seed."""
    names, streams = (list(dict.fromkeys(pair[i] for pair in found)) for i in (0, 1))

    def cell(values: dict[int, float], digits: int = 1) -> str:
        text = interval(list(values.values()), digits)
        return text if len(values) in (0, seeds) else f"{text} ({len(values)})"

    lines = [[name, *(cell(found[name, stream]) for stream in streams)] for name in names]
    for one, other in differences:
        pairs = [(found[one, stream], found[other, stream]) for stream in streams]
        over = [{seed: a[seed] - b[seed] for seed in a if seed in b} for a, b in pairs]
        lines.append([f"{one} minus {other}", *(cell(each, 2) for each in over)])
    return table(["", *streams], lines)


def main(options: Options) -> None:
    """Choose on held-out rows, then test."""
    parts = [
        "Accuracy after the last experience, %, ± half a 95 % t-interval over seeds; in brackets how many seeds, where "
        "not all were run.",
        "\n### Validation: with boundaries\n",
        shown(runs(options, "validation", {**TRIED, **GENERATING}, 3), 3),
        "\n### Validation: without boundaries, pieces of one batch\n",
        shown(runs(options, "validation, online", ONLINE, 3, online=True), 3),
        "\n### Test, five seeds\n",
        shown(runs(options, "test", LAST, 5), 5, (CHOSEN, AVALANCHE), (CHOSEN, ALIKE)),
    ]
    options.write("Defaults of replay", "\n".join(parts), "python bench/defaults.py")


if __name__ == "__main__":
    launch(main, Options, __doc__)
