"""What rehearsal costs: ours, Avalanche's and a hand-written loop, interleaved, on one thread.

Every arm trains the same model on the same experience with the same batch size; those that rehearse hold the same
number of samples and replay as many rows as the batch has. Arms take turns, so that a busy machine slows all of them;
what is reported is the median, over repetitions, of the ratio between two arms of one repetition, with quartiles.

``--accuracy`` measures whole streams instead, and what was learned beside the time it took: a fast row that learns less
does not count.

    OMP_NUM_THREADS=1 python bench/speed.py --data DIR        twelve minutes
    OMP_NUM_THREADS=1 python bench/speed.py --data DIR --accuracy
"""

from __future__ import annotations

import contextlib
import gc
import io
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from _common import DataOptions, launch
from _record import table
from avalanche.benchmarks import PermutedMNIST, SplitCIFAR10, SplitFMNIST, SplitMNIST, benchmark_from_datasets
from avalanche.benchmarks.classic.cmnist import PixelsPermutation
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.benchmarks.scenarios.task_aware import with_task_labels
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import SimpleMLP, SlimResNet18
from avalanche.training import GenerativeReplay, Naive
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from avalanche.training.storage_policy import ClassBalancedBuffer, ReservoirSamplingBuffer
from torchvision import transforms

from avalanche_memplugins import (
    LeanStepPlugin,
    MemoryReplayPlugin,
    RandomMemory,
    RandomMemoryPlugin,
    TensorLoaderPlugin,
)
from avalanche_memplugins.plugins._materialise.known import flatten
from avalanche_memplugins.plugins._materialise.resolve import resolve
from avalanche_memplugins.strategies import ExperienceReplay

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BATCH = 32
CAPACITY = 1_000
CIFAR = transforms.Compose(
    [transforms.ToTensor(), transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))]
)
BENCHMARKS: dict[str, Callable[[str], Any]] = {
    "SplitMNIST": lambda root: SplitMNIST(5, seed=0, dataset_root=root),
    "PermutedMNIST": lambda root: PermutedMNIST(5, seed=0, dataset_root=root),
    "SplitFMNIST (PIL)": lambda root: SplitFMNIST(5, seed=0, dataset_root=root),
    "SplitCIFAR10 (PIL)": lambda root: SplitCIFAR10(
        5, seed=0, dataset_root=root, train_transform=CIFAR, eval_transform=CIFAR
    ),
}
MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "linear": lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)),
    "SimpleMLP 256": lambda: SimpleMLP(hidden_size=256),
    "SlimResNet18": lambda: SlimResNet18(10),
}
FLOOR = "hand-written floor"


def _replay(policy: type | None) -> Callable[[int], list[Any]]:
    return lambda m: [ReplayPlugin(CAPACITY, storage_policy=policy and policy(CAPACITY))]


def _memory(policy: str, *more: type, fast: Any = False) -> Callable[[int], list[Any]]:
    def make(write_every: int) -> list[Any]:
        every = write_every if policy == "ring" else 1
        replay = RandomMemoryPlugin(CAPACITY, write_policy=policy, write_every=every, fast=fast)
        return [replay, *(plugin() for plugin in more)]

    return make


READY = f"ExperienceReplay(mem_size={CAPACITY})"
ARMS: dict[str, Callable[[int], list[Any]]] = {
    "Naive": lambda m: [],
    "Naive + tensor loader + lean": lambda m: [TensorLoaderPlugin(), LeanStepPlugin()],
    "ReplayPlugin (default)": _replay(None),
    "ReplayPlugin (reservoir)": _replay(ReservoirSamplingBuffer),
    "ReplayPlugin (class-balanced)": _replay(ClassBalancedBuffer),
    "ReplayPlugin (reservoir) + tensor loader": lambda m: [*_replay(ReservoirSamplingBuffer)(m), TensorLoaderPlugin()],
    READY: lambda m: [],  # brings its own
    "MemoryReplayPlugin(RandomMemory(2000))": lambda m: [MemoryReplayPlugin(RandomMemory(2_000))],
    "RMA": _memory("ring", fast="auto"),
    "RMA, fast=False": _memory("ring"),
    "RMA + lean": _memory("ring", LeanStepPlugin),
    "RMA + tensor loader": _memory("ring", TensorLoaderPlugin),
    "RMA + tensor loader + lean": _memory("ring", TensorLoaderPlugin, LeanStepPlugin),
    "ER, reservoir + tensor loader + lean": _memory("reservoir", TensorLoaderPlugin, LeanStepPlugin),
    "ER, reservoir of the past, read in passes + tensor loader + lean": lambda m: [
        RandomMemoryPlugin(
            CAPACITY, write_policy="reservoir", read_policy="cycle", write_at="experience", write_every=1
        ),
        TensorLoaderPlugin(),
        LeanStepPlugin(),
    ],
}
GENERATIVE = "GenerativeReplay"
OFFLINE = [FLOOR, *(arm for arm in ARMS if "of the past" not in arm)]
SHORT = [
    FLOOR,
    "Naive",
    "ReplayPlugin (reservoir)",
    READY,
    "MemoryReplayPlugin(RandomMemory(2000))",
    "RMA",
    "RMA, fast=False",
    "RMA + tensor loader",
    "RMA + tensor loader + lean",
]
ONLINE = [
    "Naive",
    "ReplayPlugin (default)",
    "ReplayPlugin (reservoir)",
    "ReplayPlugin (class-balanced)",
    "RMA",
    "RMA, fast=False",
    "RMA + tensor loader",
    "RMA + tensor loader + lean",
]


@dataclass(frozen=True)
class Setting:
    """One table: a benchmark, a model, how many iterations an epoch has, and who takes part."""

    benchmark: str
    model: str
    epochs: int
    iterations: int
    arms: tuple[str, ...]
    before: int = CAPACITY + 24  # samples of the experience before, which fill the memory

    def __str__(self) -> str:
        return f"{self.benchmark}, {self.model}, {self.epochs} epoch{'s' * (self.epochs > 1)}"


SETTINGS = [
    Setting("SplitMNIST", "linear", 1, 100, tuple(OFFLINE)),
    Setting("SplitMNIST", "linear", 5, 50, tuple(SHORT)),
    Setting("SplitMNIST", "SimpleMLP 256", 1, 100, (*OFFLINE, GENERATIVE)),
    Setting("SplitMNIST", "SimpleMLP 256", 5, 50, tuple(SHORT)),
    Setting("PermutedMNIST", "SimpleMLP 256", 1, 60, tuple(SHORT)),
    Setting("SplitFMNIST (PIL)", "SimpleMLP 256", 1, 60, tuple(SHORT)),
    Setting("SplitCIFAR10 (PIL)", "SlimResNet18", 1, 4, tuple(SHORT), before=64),
]


def quiet() -> EvaluationPlugin:
    return EvaluationPlugin(loggers=None)


def shorten(benchmark: Any, sizes: list[int]) -> list[Any]:
    """Cut the first experiences to a number of samples each."""
    picked = []
    for experience, size in zip(benchmark.train_stream, sizes, strict=False):
        rows = torch.randperm(len(experience.dataset), generator=torch.Generator().manual_seed(1))[:size]
        picked.append(experience.dataset.subset(rows.tolist()))
    return list(with_task_labels(benchmark_from_datasets(train=picked)).train_stream)


def make(arm: str, model: str, seed: int, *, write_every: int = 1, size: int = BATCH, epochs: int = 1) -> Any:
    torch.manual_seed(seed)
    network = MODELS[model]()
    shared = {
        "model": network,
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.05),
        "train_mb_size": size,
        "eval_mb_size": 500,
        "train_epochs": epochs,
        "evaluator": quiet(),
    }
    if arm == GENERATIVE:
        return GenerativeReplay(**shared)
    if arm == READY:
        return ExperienceReplay(mem_size=CAPACITY, **shared)
    return Naive(plugins=ARMS[arm](write_every), **shared)


def floor(experiences: list[Any], model: str, seed: int, epochs: int) -> float:
    """Seconds of a plain loop over the last experience: tensors made from raw data, a ring filled by the first."""
    torch.manual_seed(seed)
    network = MODELS[model]().train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    criterion = torch.nn.CrossEntropyLoss()
    x, y = tensors(experiences[0])
    ring_x, ring_y = x[:CAPACITY].clone(), y[:CAPACITY].clone()
    place = 0
    start = time.process_time()
    x, y = tensors(experiences[1])
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(BATCH):
            new_x, new_y = x.index_select(0, index), y.index_select(0, index)
            old = torch.randint(len(ring_x), (len(index),))
            optimizer.zero_grad()
            output = network(torch.cat((new_x, ring_x.index_select(0, old))))
            loss = criterion(output, torch.cat((new_y, ring_y.index_select(0, old))))
            loss.backward()
            optimizer.step()
            if place + len(index) > len(ring_x):
                place = 0
            ring_x[place : place + len(index)] = new_x
            ring_y[place : place + len(index)] = new_y
            place += len(index)
    return time.process_time() - start


def tensors(experience: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn an experience's raw images into normalised floats, all at once, as one would by hand."""
    (part,) = resolve(experience.dataset)
    raw, rows = part.source.data, part.rows
    if isinstance(raw.data, np.ndarray):
        x = torch.from_numpy(raw.data).index_select(0, rows).permute(0, 3, 1, 2).float()
        y = torch.tensor(raw.targets)[rows]
    else:
        x, y = raw.data.index_select(0, rows).unsqueeze(1).float(), raw.targets[rows]
    for step in part.source.chain:
        for atom in flatten(step.transforms[0]):
            if isinstance(atom, PixelsPermutation):
                x = x.flatten(1).index_select(1, atom.permutation).view_as(x)
    return x.div_(255).sub_(0.3).div_(0.3), y


def once(setting: Setting, arm: str, experiences: list[Any], seed: int) -> float:
    """Microseconds of CPU an iteration takes in one run of one arm, the experience's set-up included."""
    iterations = setting.epochs * setting.iterations
    gc.collect()
    if arm == FLOOR:
        return floor(experiences, setting.model, seed, setting.epochs) / iterations * 1e6
    # Avalanche's generative replay prints the progress of its generator.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        strategy = make(arm, setting.model, seed, epochs=1)
        strategy.train(experiences[0], eval_streams=[])
        strategy.train_epochs = setting.epochs
        gc.collect()
        start = time.process_time()
        strategy.train(experiences[1], eval_streams=[])
        return (time.process_time() - start) / iterations * 1e6


def measure(setting: Setting, root: str, repetitions: int) -> dict[str, list[float]]:
    experiences = shorten(BENCHMARKS[setting.benchmark](root), [setting.before, setting.iterations * BATCH])
    times: dict[str, list[float]] = {arm: [] for arm in setting.arms}
    for repetition in range(repetitions + 1):
        shift = repetition % len(setting.arms)
        for arm in (*setting.arms[shift:], *setting.arms[:shift]):
            if arm == GENERATIVE and repetition > 3:  # it takes as long as all others together
                continue
            seconds = once(setting, arm, experiences, repetition)
            if repetition:  # the first one warms up
                times[arm].append(seconds)
    return times


def ratio(times: dict[str, list[float]], arm: str, reference: str) -> tuple[float, float, float]:
    """Median and quartiles of the paired ratio."""
    pairs = [a / b for a, b in zip(times[arm], times[reference], strict=False)]
    if len(pairs) == 1:
        return pairs[0], pairs[0], pairs[0]
    low, middle, high = statistics.quantiles(pairs, n=4, method="inclusive")
    return middle, low, high


def show(times: dict[str, list[float]], arm: str, reference: str) -> str:
    if reference not in times or arm == reference:
        return "-"
    middle, low, high = ratio(times, arm, reference)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def offline_table(times: dict[str, list[float]]) -> str:
    header = ["arm", "µs an iteration", "over floor", "over Naive", "over ReplayPlugin (reservoir)"]
    rows = []
    for arm in times:
        row: list[object] = [arm, f"{statistics.median(times[arm]):,.0f}"]
        row += [show(times, arm, reference) for reference in (FLOOR, "Naive", "ReplayPlugin (reservoir)")]
        rows.append(row)
    return table(header, rows)


def online(root: str, repetitions: int, last: int) -> str:
    """Cost of an experience of ten samples after 60, 300 and 1000 experiences, SimpleMLP."""
    marks = [mark for mark in (60, 300, 1000) if mark <= last]
    times: dict[str, dict[int, list[float]]] = {arm: {mark: [] for mark in marks} for arm in ONLINE}
    stream = list(split_online_stream(SplitMNIST(5, seed=0, dataset_root=root).train_stream, 10, seed=0))
    for repetition in range(repetitions):
        for arm in ONLINE[repetition % len(ONLINE) :] + ONLINE[: repetition % len(ONLINE)]:
            strategy = make(arm, "SimpleMLP 256", repetition, size=10)
            spent = []
            # Avalanche's buffers slow down so much that a thousand experiences would take the whole time.
            for experience in stream[: 310 if arm.startswith("ReplayPlugin") else marks[-1] + 10]:
                start = time.process_time()
                strategy.train(experience, eval_streams=[])
                spent.append(time.process_time() - start)
            for mark in marks:
                around = spent[mark - 20 : mark + 10]
                if len(around) == 30:
                    times[arm][mark].append(statistics.median(around) * 1e3)
    return online_table(times, marks)


def online_table(times: dict[str, dict[int, list[float]]], marks: list[int]) -> str:
    rows = []
    for arm, at in times.items():
        row: list[object] = [arm]
        row += [f"{statistics.median(at[mark]):.2f}" if at[mark] else "-" for mark in marks]
        for later in marks[1:]:
            pair = {"later": at[later], "early": at[marks[0]]}
            row.append(show(pair, "later", "early") if at[later] else "-")
        for reference in ("ReplayPlugin (default)", "ReplayPlugin (reservoir)"):
            if len(marks) > 1:
                pair = {"arm": at[marks[1]], "reference": times[reference][marks[1]]}
                row.append("-" if arm == reference else show(pair, "arm", "reference"))
        rows.append(row)
    header = ["arm", *(f"ms at {mark}" for mark in marks), *(f"{mark} over {marks[0]}" for mark in marks[1:])]
    if len(marks) > 1:
        header += [f"over default at {marks[1]}", f"over reservoir at {marks[1]}"]
    return table(header, rows)


ACCURACY_ARMS = [
    "Naive + tensor loader + lean",
    "ReplayPlugin (reservoir)",
    "RMA + tensor loader + lean",
    "ER, reservoir + tensor loader + lean",
    "ER, reservoir of the past, read in passes + tensor loader + lean",
]


def accuracies(name: str, root: str, seeds: int) -> dict[str, list[tuple[float, float]]]:
    """Accuracy over all test experiences after the whole stream, in percent, and seconds of CPU that training took.

    One epoch, SimpleMLP, up to 12,000 samples an experience.
    """
    benchmark = BENCHMARKS[name](root)
    train = shorten(benchmark, [12_000] * 5)
    iterations = sum(-(-len(e.dataset) // BATCH) for e in train)
    found: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ACCURACY_ARMS}
    for seed in range(seeds):
        for arm in ACCURACY_ARMS:
            # RMA writes seldom enough for its ring to reach from the stream's end to its start.
            every = -(-iterations * BATCH // CAPACITY)
            strategy = make(arm, "SimpleMLP 256", seed, write_every=every)
            strategy.evaluator.metrics = accuracy_metrics(stream=True)
            if not any(isinstance(plugin, TensorLoaderPlugin) for plugin in strategy.plugins):
                strategy.plugins.insert(0, TensorLoaderPlugin(train=False))  # evaluation alike for all
            start = time.process_time()
            strategy.train(train, eval_streams=[])
            seconds = time.process_time() - start
            strategy.eval(benchmark.test_stream)
            (value,) = (v for k, v in strategy.evaluator.get_last_metrics().items() if k.startswith("Top1_Acc_Stream"))
            found[arm].append((100 * value, seconds))
            print(f"  {name} {arm} seed {seed}: {100 * value:.2f} % in {seconds:.1f} s", flush=True)
        spent = sum(floor([train[0], experience], "SimpleMLP 256", seed, 1) for experience in train)
        found.setdefault(FLOOR, []).append((float("nan"), spent))
    return found


def accuracy_table(found: dict[str, list[tuple[float, float]]]) -> str:
    reference = found["ReplayPlugin (reservoir)"]
    rows = []
    for arm, runs in found.items():
        values = [value for value, _ in runs]
        difference = [a - b for (a, _), (b, _) in zip(runs, reference, strict=True)]
        times = {"arm": [s for _, s in runs], "reference": [s for _, s in reference]}
        times[FLOOR] = [s for _, s in found[FLOOR]]
        spread = statistics.stdev(values) if len(values) > 1 and arm != FLOOR else 0.0
        rows.append(
            [
                arm,
                "-" if arm == FLOOR else f"{statistics.mean(values):.2f} ± {spread:.2f}",
                "-" if arm == FLOOR else f"{statistics.mean(difference):+.2f}",
                f"{statistics.median(times['arm']):.1f}",
                show(times, "arm", "reference"),
                show(times, "arm", FLOOR),
            ]
        )
    header = ["arm", "accuracy, % (mean ± sd over seeds)", "minus ReplayPlugin (reservoir), paired"]
    return table([*header, "training, s", "time over ReplayPlugin (reservoir)", "time over floor"], rows)


Ratio = tuple[float, float, float]


def plot(ratios: dict[str, dict[str, Ratio]], folder: Path) -> str:
    """Draw time over the floor, one panel a setting.

    :param ratios: by setting and arm: median, lower and upper quartile.
    :param folder: for the picture.
    """
    arms = [arm for arm in SHORT if arm != FLOOR][::-1]
    figure, axes = plt.subplots(1, len(ratios), figsize=(14, 2.8), sharey=True, layout="constrained")
    for axis, (title, values) in zip(np.atleast_1d(axes), ratios.items(), strict=True):
        middle, low, high = np.array([values[arm] for arm in arms]).T
        # Avalanche's own are grey and red.
        colours = [
            "#c44e52" if arm.startswith("ReplayPlugin") else "#8c8c8c" if arm == "Naive" else "#4c72b0" for arm in arms
        ]
        axis.barh(arms, middle, xerr=[middle - low, high - middle], color=colours, height=0.7)
        for place, value in enumerate(middle):
            axis.annotate(f" {value:.2f}", (high[place], place), va="center", fontsize=7)
        axis.set_xlim(0, 1.35 * high.max())
        axis.axvline(1, color="black", linewidth=0.8, linestyle=":")
        axis.set_title(title.replace(", ", "\n"), fontsize=8)
        axis.tick_params(labelsize=8)
    figure.supxlabel("CPU time over a hand-written loop (dotted: 1); medians with quartiles", fontsize=9)
    figure.savefig(folder / "speed.png", dpi=110)
    plt.close(figure)
    return "![time over a hand-written loop](plots/speed.png)"


@dataclass(frozen=True, kw_only=True)
class Settings(DataOptions):
    """How often."""

    repetitions: int = 7
    seeds: int = 5
    """For --accuracy."""
    accuracy: bool = False
    """Measure whole streams, and what was learned beside the time it took."""


def main(options: Settings) -> None:
    """Measure and record."""
    # Avalanche announces its own deprecated calls at every experience; printing that is nobody's cost here.
    warnings.showwarning = lambda *args, **kwargs: None
    begin = time.process_time()
    repetitions, root = options.least(options.repetitions, 1), str(options.data)
    if options.accuracy:
        record_accuracy(options)
        return
    results: dict[Setting, dict[str, list[float]]] = {}
    for setting in SETTINGS:
        results[setting] = measure(setting, root, repetitions)
        print(f"{setting}\n{offline_table(results[setting])}", flush=True)
        print(f"{time.process_time() - begin:.0f} s of CPU so far\n", flush=True)
    streams = online(root, options.least(5, 1), options.least(1000, 300))
    print(streams, flush=True)

    if options.quick:
        return
    parts = [
        f"Microseconds of CPU time (one thread) an iteration takes, {repetitions} interleaved repetitions, medians; "
        "ratios are medians of paired ratios with quartiles. Batch "
        f"{BATCH} and as many rows replayed from {CAPACITY:,} held; an experience's set-up (data loader, transforms, "
        "materialising) counts, for the floor as well: it makes its tensors from the same raw images. "
        "RMA writes every batch here, as the floor does.",
        plot({str(s): {arm: ratio(times, arm, FLOOR) for arm in SHORT} for s, times in results.items()}, options.plots),
    ]
    for setting, times in results.items():
        parts.append(f"### {setting}\n\n{offline_table(times)}")
    parts.append(f"### Online, experiences of 10, SimpleMLP 256: milliseconds an experience takes\n\n{streams}")
    parts.append(f"The whole run took {(time.process_time() - begin) / 60:.0f} minutes of CPU time.")
    options.write("Speed of rehearsal", "\n\n".join(parts), "OMP_NUM_THREADS=1 python bench/speed.py")


def record_accuracy(options: Settings) -> None:
    seeds = options.least(options.seeds, 1)
    parts = [
        f"One epoch, SimpleMLP 256, {CAPACITY:,} samples held, {seeds} seeds, whole streams of 5 experiences. RMA "
        "writes a batch every so many iterations that its ring reaches back to the first experience; ER writes every "
        "batch to a reservoir. ReplayPlugin replays past experiences only, and so does the last ER: written after each "
        "experience, read in shuffled passes as a data loader would."
    ]
    for name in ("SplitMNIST", "PermutedMNIST"):
        parts.append(f"### {name}\n\n{accuracy_table(accuracies(name, str(options.data), seeds))}")
    options.write("Accuracy beside speed", "\n\n".join(parts), "OMP_NUM_THREADS=1 python bench/speed.py --accuracy")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
