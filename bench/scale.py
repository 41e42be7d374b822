"""How the cost of a memory grows: with its capacity, with where it lies, with the number of experiences.

Each memory is filled in a process of its own, whose peak resident set is part of the result; then batches of 32 rows
are appended and sampled. TorchRL's ``TensorDictReplayBuffer`` is the peer. It is not a dependency, so put it into a
folder of its own, without dependencies that would move torch:

    pip install --no-deps --target /tmp/torchrl torchrl==0.14.1 tensordict==0.14.3 \\
        cloudpickle orjson pyvers importlib_metadata zipp
    OMP_NUM_THREADS=1 python bench/scale.py --data DIR --torchrl /tmp/torchrl
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from _common import DataOptions, launch
from _record import table
from avalanche.benchmarks import SplitMNIST
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin

from avalanche_memplugins import LeanStepPlugin, MemoryReplayPlugin, RandomMemory, TensorLoaderPlugin

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SHAPE = (1, 28, 28)
BATCH = 32
FILL = 1_000
CALLS = 100
SAMPLE_BYTES = {"float32": 784 * 4, "uint8": 784}

Write = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Any]
Sample = Callable[[], Any]


def ours(capacity: int, folder: Path, **kwargs: Any) -> tuple[Write, Sample, Callable[[], int]]:
    memory = RandomMemory(capacity, **kwargs)
    return memory.write, lambda: memory.sample(BATCH), lambda: memory.nbytes


def torchrl(capacity: int, folder: Path, *, mapped: bool = False) -> tuple[Write, Sample, Callable[[], int]]:
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage, LazyTensorStorage, TensorDictReplayBuffer

    storage = LazyMemmapStorage(capacity, scratch_dir=str(folder)) if mapped else LazyTensorStorage(capacity)
    buffer = TensorDictReplayBuffer(storage=storage, batch_size=BATCH)

    def write(x: torch.Tensor, y: torch.Tensor, t: torch.Tensor) -> None:
        buffer.extend(TensorDict({"x": x, "y": y, "t": t}, batch_size=[len(x)]))

    return write, buffer.sample, lambda: capacity * (SAMPLE_BYTES["float32"] + 16)


SYSTEMS: dict[str, tuple[str, Callable[[int, Path], tuple[Write, Sample, Callable[[], int]]]]] = {
    "ring": ("float32", lambda c, f: ours(c, f, write_policy="ring")),
    "reservoir": ("float32", lambda c, f: ours(c, f)),
    "ring, uint8": ("uint8", lambda c, f: ours(c, f, write_policy="ring", codec="uint8")),
    "ring, memory-mapped": ("float32", lambda c, f: ours(c, f, write_policy="ring", storage=f / "rows")),
    "TorchRL": ("float32", torchrl),
    "TorchRL, memory-mapped": ("float32", lambda c, f: torchrl(c, f, mapped=True)),
}


def measure(name: str, capacity: int, repetitions: int, folder: str, answer: Any) -> None:
    """Fill one memory, time it, and send back microseconds a call, bytes held and growth of the resident set."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    place = Path(tempfile.mkdtemp(dir=folder))
    x = torch.rand(FILL, *SHAPE, generator=torch.Generator().manual_seed(0))
    # uint8 holds what it can give back: pixel values.
    x = (x * 255).round() / 255
    y, t = torch.arange(FILL) % 10, torch.zeros(FILL, dtype=torch.int64)
    before = _resident()
    write, sample, nbytes = SYSTEMS[name][1](capacity, place)
    for _ in range(capacity // FILL):
        write(x, y, t)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    small = (x[:BATCH], y[:BATCH], t[:BATCH])
    append = _blocks(lambda: write(*small), repetitions)
    draw = _blocks(sample, repetitions)
    answer.put((append, draw, nbytes(), max(0, peak - before)))
    shutil.rmtree(place)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _blocks(call: Callable[[], Any], repetitions: int) -> list[float]:
    for _ in range(20):
        call()
    found = []
    for _ in range(repetitions):
        start = time.process_time()
        for _ in range(CALLS):
            call()
        found.append((time.process_time() - start) / CALLS * 1e6)
    return found


def capacities(sizes: list[int], systems: list[str], repetitions: int, folder: str) -> dict[str, dict[int, Any]]:
    found: dict[str, dict[int, Any]] = {name: {} for name in systems}
    context = multiprocessing.get_context("fork")
    for size in sizes:
        for name in systems:
            answer = context.SimpleQueue()
            process = context.Process(target=measure, args=(name, size, repetitions, folder, answer))
            process.start()
            process.join()
            if process.exitcode != 0:
                raise RuntimeError(f"{name} at {size:,} ended with {process.exitcode}")
            found[name][size] = answer.get()
            append, draw, *_ = found[name][size]
            print(f"{name:24s} {size:>9,}: append {_middle(append)} µs, sample {_middle(draw)} µs", flush=True)
    return found


def _middle(values: list[float]) -> str:
    return f"{statistics.median(values):.0f}"


def capacity_table(found: dict[str, dict[int, Any]]) -> str:
    rows = []
    for name, at in found.items():
        base = at[min(at)]
        for size, (append, draw, held, growth) in at.items():
            kind = SYSTEMS[name][0]
            rows.append(
                [
                    name,
                    f"{size:,}",
                    _middle(append),
                    _middle(draw),
                    f"{statistics.median(append) / statistics.median(base[0]):.2f}",
                    f"{statistics.median(draw) / statistics.median(base[1]):.2f}",
                    f"{held / (size * SAMPLE_BYTES[kind]):.3f}",
                    f"{growth / 2**20:,.0f}",
                ]
            )
    header = ["memory", "capacity", "append 32, µs", "sample 32, µs", "append over smallest", "sample over smallest"]
    return table([*header, "bytes / (capacity x image)", "peak RSS, MiB more"], rows)


ARMS: dict[str, Callable[[str], list[Any]]] = {
    "RMA": lambda folder: [MemoryReplayPlugin(RandomMemory(10_000, write_policy="ring"))],
    "RMA + tensor loader + lean": lambda folder: [
        MemoryReplayPlugin(RandomMemory(10_000, write_policy="ring")),
        TensorLoaderPlugin(),
        LeanStepPlugin(),
    ],
    "RMA memory-mapped + tensor loader + lean": lambda folder: [
        MemoryReplayPlugin(
            RandomMemory(10_000, write_policy="ring", storage=Path(tempfile.mkdtemp(dir=folder)) / "rows")
        ),
        TensorLoaderPlugin(),
        LeanStepPlugin(),
    ],
    "ReplayPlugin (default)": lambda folder: [ReplayPlugin(1_000)],
}


def experiences(root: str, repetitions: int, marks: list[int], folder: str) -> dict[str, dict[int, list[float]]]:
    """Milliseconds that an experience of ten samples takes, around each mark; linear model."""
    stream = list(split_online_stream(SplitMNIST(5, seed=0, dataset_root=root).train_stream, 10, seed=0))
    found: dict[str, dict[int, list[float]]] = {arm: {mark: [] for mark in marks} for arm in ARMS}
    for repetition in range(repetitions):
        for arm, plugins in ARMS.items():
            torch.manual_seed(repetition)
            model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
            strategy = Naive(
                model=model,
                optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
                train_mb_size=10,
                plugins=plugins(folder),
                evaluator=EvaluationPlugin(loggers=None),
            )
            spent = []
            # Avalanche's buffer would take the whole time on its own.
            last = 310 if arm.startswith("ReplayPlugin") else marks[-1] + 25
            if arm.startswith("ReplayPlugin") and repetition > 2:
                continue
            for experience in stream[:last]:
                start = time.process_time()
                strategy.train(experience, eval_streams=[])
                spent.append((time.process_time() - start) * 1e3)
            for mark in marks:
                around = spent[max(1, mark - 25) : mark + 25]
                if mark < last:
                    found[arm][mark].append(statistics.median(around))
    return found


def experience_table(found: dict[str, dict[int, list[float]]], marks: list[int]) -> str:
    rows = []
    for arm, at in found.items():
        row: list[object] = [arm]
        row += [f"{statistics.median(at[mark]):.2f}" if at[mark] else "-" for mark in marks]
        for later in (300, 1000):
            pairs = [a / b for a, b in zip(at.get(later, []), at[60], strict=False)]
            row.append(f"{statistics.median(pairs):.2f}" if pairs else "-")
        rows.append(row)
    return table(["arm", *(f"ms at {mark:,}" for mark in marks), "300 over 60", "1,000 over 60"], rows)


def plot(found: dict[str, dict[int, Any]], streams: dict[str, dict[int, list[float]]], folder: Path) -> str:
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    for place, (axis, title) in enumerate(zip(axes, ("append 32 rows", "sample 32 rows"), strict=False)):
        for name, at in found.items():
            style = "--" if name.startswith("TorchRL") else "-"
            axis.plot(list(at), [statistics.median(v[place]) for v in at.values()], style, marker="o", label=name)
        axis.set(xscale="log", ylim=(0, None), xlabel="capacity", ylabel="µs", title=title)
        axis.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.17), frameon=False)
    for arm, at in streams.items():
        marks = [mark for mark, values in at.items() if values]
        axes[2].plot(marks, [statistics.median(at[mark]) for mark in marks], marker="o", label=arm)
    axes[2].set(xscale="log", yscale="log", xlabel="experiences of 10 samples so far", ylabel="ms", title="online")
    axes[2].legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), frameon=False)
    figure.savefig(folder / "scale.png", dpi=120)
    plt.close(figure)
    return "![cost against capacity and number of experiences](plots/scale.png)"


@dataclass(frozen=True, kw_only=True)
class Settings(DataOptions):
    """Where, and how often."""

    torchrl: Path | None = None
    """Folder with torchrl and tensordict."""
    scratch: Path = Path(tempfile.gettempdir())
    """Folder for memory-mapped files: 4 GB."""
    repetitions: int = 7


def main(options: Settings) -> None:
    """Measure and record."""
    warnings.showwarning = lambda *args, **kwargs: None
    systems = [name for name in SYSTEMS if options.torchrl or not name.startswith("TorchRL")]
    if options.torchrl:
        sys.path.append(str(options.torchrl))
    sizes = [1_000, 10_000] if options.quick else [1_000, 10_000, 100_000, 1_000_000]
    marks = [2, 10, 60, 300] if options.quick else [2, 10, 60, 300, 1_000]

    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        found = capacities(sizes, systems, options.repetitions, folder)
        streams = experiences(str(options.data), options.least(5, 1), marks, folder)
    parts = [
        f"CPU time of one thread, medians of {options.repetitions} blocks of {CALLS} calls; images of 28 x 28, "
        "every memory full. Bytes count all that a memory keeps of the stream, labels and task labels included.",
        plot(found, streams, options.plots),
        capacity_table(found),
        "### Online: milliseconds an experience of 10 samples takes, linear model, 10,000 rows held",
        experience_table(streams, marks),
    ]
    options.write("Scale", "\n\n".join(parts), "OMP_NUM_THREADS=1 python bench/scale.py --torchrl FOLDER")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
