"""How the cost of a memory grows: with its capacity, with where it lies, with the number of experiences; beside peers.

Each memory is filled in a process of its own, whose peak resident set is part of the result; then batches of 32 rows
are appended and sampled. Peers are TorchRL's ``TensorDictReplayBuffer``, cpprb's ``ReplayBuffer``, Mammoth's ``Buffer``
and, for neighbours, faiss' flat index. None is a dependency. Those that can be imported take part, also from a folder
of their own, where they do not move torch; of Mammoth a checkout will do. The others are "not installed".

    pip install --no-deps --target /tmp/peers torchrl tensordict cloudpickle orjson pyvers importlib_metadata zipp \\
        cpprb faiss-cpu kornia
    OMP_NUM_THREADS=1 python bench/scale.py --data DIR --peers /tmp/peers --mammoth /tmp/mammoth
"""

from __future__ import annotations

import multiprocessing
import operator
import resource
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import torch
from _common import DataOptions, launch
from _record import table
from avalanche.benchmarks import SplitMNIST
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin

from avalanche_memplugins import LeanStepPlugin, MemoryReplayPlugin, RandomMemory, TensorLoaderPlugin, _folders
from avalanche_memplugins.codecs import Uint8
from avalanche_memplugins.functional.neighbours import KeyTable

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


def cpprb(capacity: int, folder: Path) -> tuple[Write, Sample, Callable[[], int]]:
    from cpprb import ReplayBuffer

    buffer = ReplayBuffer(capacity, {"x": {"shape": SHAPE}, "y": {"dtype": np.int64}, "t": {"dtype": np.int64}})

    def write(x: torch.Tensor, y: torch.Tensor, t: torch.Tensor) -> None:
        buffer.add(x=x.numpy(), y=y.numpy(), t=t.numpy())

    def sample() -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(rows) for name, rows in buffer.sample(BATCH).items()}

    return write, sample, lambda: capacity * (SAMPLE_BYTES["float32"] + 16)


def mammoth(capacity: int, folder: Path) -> tuple[Write, Sample, Callable[[], int]]:
    buffer = import_module("utils.buffer").Buffer(capacity)

    def write(x: torch.Tensor, y: torch.Tensor, t: torch.Tensor) -> None:
        buffer.add_data(examples=x, labels=y, task_labels=t)

    return write, lambda: buffer.get_data(BATCH), lambda: capacity * (SAMPLE_BYTES["float32"] + 16)


SYSTEMS: dict[str, tuple[str, Callable[[int, Path], tuple[Write, Sample, Callable[[], int]]]]] = {
    "ring": ("float32", lambda c, f: ours(c, f, write_policy="ring")),
    "reservoir": ("float32", lambda c, f: ours(c, f)),
    "ring, uint8": ("uint8", lambda c, f: ours(c, f, write_policy="ring", codec="uint8")),
    "ring, memory-mapped": ("float32", lambda c, f: ours(c, f, write_policy="ring", storage=f / "rows")),
    "TorchRL": ("float32", torchrl),
    "TorchRL, memory-mapped": ("float32", lambda c, f: torchrl(c, f, mapped=True)),
    "cpprb": ("float32", cpprb),
    "Mammoth": ("float32", mammoth),
}
PEERS = {"TorchRL": "torchrl", "cpprb": "cpprb", "Mammoth": "utils.buffer", "faiss": "faiss"}


def is_there(system: str) -> bool:
    """Whether a system is ours, or a peer that can be imported."""
    module = PEERS.get(system.split(",")[0])
    if module is None:
        return True
    try:
        return find_spec(module) is not None and bool(import_module(module))
    except ImportError:
        return False


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


def _blocks(call: Callable[[], Any], repetitions: int, calls: int = CALLS, before: int = 20) -> list[float]:
    """Microseconds of CPU a call."""
    for _ in range(min(before, calls)):
        call()
    found = []
    for _ in range(repetitions):
        start = time.process_time()
        for _ in range(calls):
            call()
        found.append((time.process_time() - start) / calls * 1e6)
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


def beside_peers(repetitions: int, folder: Path) -> str:
    """A batch of 32 images written and sampled in turns by all, ratios of the same turn."""
    capacity = 10_000
    x = (torch.rand(FILL, *SHAPE, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    y, t = torch.arange(FILL) % 10, torch.zeros(FILL, dtype=torch.int64)
    names = ["cpprb", "TorchRL", "Mammoth", "ring", "reservoir", "ring, uint8"]
    made = {name: SYSTEMS[name][1](capacity, folder) for name in names if is_there(name)}
    spent: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in made}
    for write, *_ in made.values():
        for _ in range(capacity // FILL):
            write(x, y, t)
    small = (x[:BATCH], y[:BATCH], t[:BATCH])
    for _ in range(repetitions):
        for name, (write, sample, _) in made.items():
            spent[name][0].extend(_blocks(lambda write=write: write(*small), 1))  # type: ignore[misc]
            spent[name][1].extend(_blocks(sample, 1))
    rows: list[list[object]] = []
    for name in names:
        row: list[object] = [name]
        for which in (0, 1):
            if name not in made:
                row += ["not installed", "-"]
                continue
            mine = spent[name][which]
            base = spent["cpprb"][which] if "cpprb" in made else mine
            ratio = statistics.median(map(operator.truediv, mine, base))
            row += [_middle(mine), f"{ratio:.2f}"]
        rows.append(row)
    return table(["memory of 10,000 images", "write 32, µs", "over cpprb", "sample 32, µs", "over cpprb"], rows)


def large_images(repetitions: int) -> str:
    """Milliseconds to write and to sample 32 images of 3 x 224 x 224 in one byte a value."""
    pixels = torch.randint(256, (BATCH, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    plain = pixels / 255
    normal = (plain - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    rows: list[list[object]] = []
    for name, x, codec in (
        ("float32 in [0, 1]", plain, Uint8()),
        ("float32, normalised", normal, Uint8(mean=mean, std=std)),
        ("uint8", pixels, Uint8()),
    ):
        memory, y = RandomMemory(64, write_policy="ring", codec=codec), torch.arange(BATCH)
        write = _blocks(lambda: memory.write(x, y), repetitions, 3)  # noqa: B023
        sample = _blocks(lambda: memory.sample(BATCH), repetitions, 3)  # noqa: B023
        rows.append([name, *(f"{statistics.median(each) / 1e3:.1f}" for each in (write, sample))])
    return table(["images as given", "write 32, ms", "sample 32, ms"], rows)


STEPS = {
    "save_file": "tensors written",
    "_digest": "checksum, from the file",
    "sync": "until it is on the disk",
    "load_file": "file mapped",
}


def files(sizes: list[int], folder: Path) -> str:
    """Seconds, wall and CPU, to write, save and load so many rows of 28 x 28 in uint8, and what they go to."""
    x = (torch.rand(FILL, *SHAPE, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    y = torch.arange(FILL) % 10
    rows: list[list[object]] = []

    def timed(work: Callable[[], object]) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return time.perf_counter() - wall, time.process_time() - cpu

    for size in sizes:
        memory, other = (RandomMemory(size, write_policy="ring", codec="uint8") for _ in range(2))
        steps: dict[str, list[tuple[float, float]]] = {name: [] for name in STEPS}
        whole = {name: getattr(_folders, name) for name in STEPS}

        def watched(name: str, whole: dict[str, Any] = whole, steps: Any = steps) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                found: list[Any] = []
                steps[name].append(timed(lambda: found.append(whole[name](*args, **kwargs))))
                return found[0]

            return call

        def fill(memory: RandomMemory = memory, size: int = size) -> None:
            for _ in range(size // FILL):
                memory.write(x, y)

        rows.append([f"{size:,} rows written, {FILL:,} at a time", *_seconds(timed(fill)), "-"])
        for name in STEPS:
            setattr(_folders, name, watched(name))
        try:
            for what, work in (
                ("saved", lambda memory=memory: memory.save(folder / "saved")),
                ("loaded", lambda other=other: other.load(folder / "saved")),
            ):
                spent = timed(work)  # type: ignore[arg-type]
                parts = [
                    f"{said} {sum(wall for wall, _ in steps[name]):.2f} / {sum(cpu for _, cpu in steps[name]):.2f}"
                    for name, said in STEPS.items()
                    if steps[name]
                ]
                rows.append([f"{size:,} rows {what}", *_seconds(spent), "; ".join(parts)])
                for each in steps.values():
                    each.clear()
        finally:
            for name, step in whole.items():
                setattr(_folders, name, step)
        shutil.rmtree(folder / "saved")
    return table(["uint8, 28 x 28", "wall, s", "CPU, s", "of which, wall / CPU"], rows)


def _seconds(spent: tuple[float, float]) -> list[str]:
    return [f"{each:.2f}" for each in spent]


def neighbours(sizes: list[tuple[int, int]], repetitions: int) -> str:
    """Milliseconds of the ten nearest keys of a batch of queries, ours and faiss' exact index in turns."""
    rows: list[list[object]] = []
    generator = torch.Generator().manual_seed(0)
    for count, width in sizes:
        keys = torch.randn(count, width, generator=generator)
        queries = keys[torch.randint(count, (64,), generator=generator)]
        queries = queries + 0.3 * torch.randn(64, width, generator=generator)
        ours = KeyTable(keys)
        peer = None
        if is_there("faiss"):
            faiss = import_module("faiss")
            faiss.omp_set_num_threads(1)
            peer = faiss.IndexFlatL2(width)
            peer.add(keys.numpy())
        for batch in (1, 4, 64):
            mine, theirs = [], []
            for turn in range(repetitions):
                some = queries.roll(-turn * batch, 0)[:batch]
                mine.append(_blocks(lambda: ours.search(some, 10), 1, 1, 1)[0])  # noqa: B023
                if peer is not None:
                    theirs.append(_blocks(lambda: peer.search(some.numpy(), 10), 1, 1, 1)[0])  # noqa: B023
            ratio = f"{statistics.median(map(operator.truediv, mine, theirs)):.2f}" if theirs else "-"
            other = f"{statistics.median(theirs) / 1e3:.1f}" if theirs else "not installed"
            rows.append([f"{count:,} x {width}", batch, f"{statistics.median(mine) / 1e3:.1f}", other, ratio])
    return table(["keys", "queries", "ours, ms", "faiss, ms", "ours over faiss"], rows)


Part = Literal["peers", "files", "neighbours", "capacity"]


@dataclass(frozen=True, kw_only=True)
class Settings(DataOptions):
    """Where, and how often."""

    parts: tuple[Part, ...] = ("peers", "files", "neighbours", "capacity")
    """What to measure; each is a section of the results."""
    peers: Path | None = None
    """Folder with packages of peers."""
    mammoth: Path | None = None
    """Checkout of Mammoth."""
    scratch: Path = Path(tempfile.gettempdir())
    """Folder for files: 4 GB."""
    repetitions: int = 7


def main(options: Settings) -> None:
    """Measure and record."""
    warnings.showwarning = lambda *args, **kwargs: None
    for place in (options.peers, options.mammoth):
        if place is not None:
            sys.path.append(str(place))
    for part in options.parts:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            section, text = MEASURES[part](options, Path(folder))
        options.write(section, text, f"OMP_NUM_THREADS=1 python bench/scale.py --parts {part} --peers FOLDER")


def part_peers(options: Settings, folder: Path) -> tuple[str, str]:
    """A batch of 32 images."""
    text = [
        f"CPU time of one thread, medians of {options.repetitions} interleaved turns; ratios within a turn. Labels and "
        "task labels are written and read, too. Ours look at every value of a batch (finite, labels in range) and "
        "draw each row at most once; cpprb looks at nothing and draws with replacement.",
        beside_peers(options.least(options.repetitions, 1), folder),
        "Images of 3 x 224 x 224, stored in one byte a value:",
        large_images(options.least(options.repetitions, 1)),
    ]
    return "Scale: a batch beside peers", "\n\n".join(text)


def part_files(options: Settings, folder: Path) -> tuple[str, str]:
    """Many rows in files."""
    text = files([10_000] if options.quick else [100_000, 1_000_000], folder)
    return "Scale: rows in files", text + (
        "\n\nWall time beyond CPU time is time waited: for the disk, or for a core while others work. The checksum is "
        "taken from the file as it was written, so that a save that went wrong on its way is found at the next load."
    )


def part_neighbours(options: Settings, folder: Path) -> tuple[str, str]:
    """Nearest keys."""
    sizes = [(10_000, 784)] if options.quick else [(100_000, 784), (1_000_000, 64), (1_000_000, 784)]
    text = (
        f"Ten nearest keys by CPU time of one thread, medians of {options.repetitions} interleaved turns; normal keys, "
        "queries near one of them. Both are exact; ours are ordered as in float64.\n\n"
    )
    return "Scale: nearest neighbours", text + neighbours(sizes, options.least(options.repetitions, 1))


def part_capacity(options: Settings, folder: Path) -> tuple[str, str]:
    """Cost against capacity and number of experiences."""
    # Mammoth writes row by row: a million takes an hour.
    systems = [name for name in SYSTEMS if is_there(name) and name != "Mammoth"]
    sizes = [1_000, 10_000] if options.quick else [1_000, 10_000, 100_000, 1_000_000]
    marks = [2, 10, 60, 300] if options.quick else [2, 10, 60, 300, 1_000]
    found = capacities(sizes, systems, options.repetitions, str(folder))
    streams = experiences(str(options.data), options.least(5, 1), marks, str(folder))
    parts = [
        f"CPU time of one thread, medians of {options.repetitions} blocks of {CALLS} calls; images of 28 x 28, "
        "every memory full. Bytes count all that a memory keeps of the stream, labels and task labels included.",
        plot(found, streams, options.plots),
        capacity_table(found),
        "### Online: milliseconds an experience of 10 samples takes, linear model, 10,000 rows held",
        experience_table(streams, marks),
    ]
    return "Scale", "\n\n".join(parts)


MEASURES: dict[Part, Callable[[Settings, Path], tuple[str, str]]] = {
    "peers": part_peers,
    "files": part_files,
    "neighbours": part_neighbours,
    "capacity": part_capacity,
}


if __name__ == "__main__":
    launch(main, Settings, __doc__)
