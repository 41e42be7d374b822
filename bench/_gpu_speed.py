"""What a training step, a write and a read cost on a GPU."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from _gpu_run import Run
from avalanche.benchmarks import nc_benchmark
from avalanche.core import SupervisedPlugin
from avalanche.models import SlimResNet18
from avalanche.training import Naive
from avalanche.training.plugins import ReplayPlugin
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from avalanche_memplugins import (
    DynamicKanervaMemory,
    EnergyMemory,
    GaussianMemory,
    LeanStepPlugin,
    MemoryReplayPlugin,
    RandomMemory,
    TensorLoaderPlugin,
)
from avalanche_memplugins.benchmarks import SplitDigits
from avalanche_memplugins.codecs import Bits
from avalanche_memplugins.functional.neighbours import KeyTable
from avalanche_memplugins.networks.energy import GatedEnergy
from avalanche_memplugins.strategies import MbPA

CAPACITY = 1_000
WARM = 5
FLOOR, GRAPH = "hand-written loop", "hand-written loop, CUDA graph"


class Autocast(nn.Module):
    """A model that runs in bfloat16 where that is safe, for every loop alike."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        # A cast kept from outside a CUDA graph would be that of old weights.
        with torch.autocast(x.device.type, dtype=torch.bfloat16, cache_enabled=False):
            output: Tensor = self.inner(x)
        return output.float()


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 10),
    )


MODELS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "MLP 256": ((1, 28, 28), lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))),
    "conv": ((1, 28, 28), convolutional),
    "SlimResNet18": ((3, 32, 32), lambda: SlimResNet18(10)),
}
ARMS: dict[str, Callable[[], list[Any]]] = {
    "Naive": list,
    "ReplayPlugin": lambda: [ReplayPlugin(CAPACITY)],
    "ours": lambda: [MemoryReplayPlugin(RandomMemory(CAPACITY, seed=0), seed=0)],
    "ours, TensorLoader + LeanStep": lambda: [
        MemoryReplayPlugin(RandomMemory(CAPACITY, seed=0), seed=0),
        TensorLoaderPlugin(seed=0),
        LeanStepPlugin(),
    ],
}


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    model: str
    batch: int
    bf16: bool

    def __str__(self) -> str:
        return f"{self.model}, batch {self.batch}, {'bf16' if self.bf16 else 'fp32'}"

    def network(self, device: torch.device) -> nn.Module:
        torch.manual_seed(0)
        model = MODELS[self.model][1]()
        return (Autocast(model) if self.bf16 else model).to(device)

    def data(self, iterations: int) -> tuple[Tensor, Tensor]:
        """Two experiences of five classes each, half of the rows each."""
        rows = 2 * iterations * self.batch
        rows += -rows % 10
        generator = torch.Generator().manual_seed(0)
        return torch.randn(rows, *MODELS[self.model][0], generator=generator), torch.arange(rows) % 10


class Window(SupervisedPlugin):  # type: ignore[misc]
    """Calls ``begin`` when the first iterations are over, and ``end`` at the end of the epoch with the number since."""

    def __init__(self, begin: Callable[[], Any], end: Callable[[int], Any]) -> None:
        super().__init__()
        self.begin, self.end, self.warm = begin, end, WARM

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_iterations == self.warm:
            self.begin()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_iterations > self.warm:
            self.end(strategy.clock.train_exp_iterations - self.warm)


class Clock:
    """Wall time and the device's own between two moments."""

    def __init__(self, bench: Run) -> None:
        self.bench = bench
        self.on_gpu = bench.device.type == "cuda"
        self.wall: list[float] = []
        self.device: list[float] = []

    def begin(self) -> None:
        self.bench.sync()
        if self.on_gpu:
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self.events[0].record()
        self.start = time.perf_counter()

    def end(self, iterations: int) -> None:
        if self.on_gpu:
            self.events[1].record()
        self.bench.sync()
        self.wall.append((time.perf_counter() - self.start) / iterations * 1e6)
        if self.on_gpu:
            self.device.append(self.events[0].elapsed_time(self.events[1]) / iterations * 1e3)


class Trained:
    """An Avalanche strategy that trains on the second experience again and again."""

    def __init__(self, setting: Setting, plugins: list[Any], bench: Run, iterations: int, model: Any = None) -> None:
        x, y = setting.data(iterations)
        data = TensorDataset(x, y)
        data.targets = y.tolist()  # type: ignore[attr-defined]
        benchmark = nc_benchmark(data, data, 2, False, shuffle=False)
        self.clock = Clock(bench)
        self.window = Window(self.clock.begin, self.clock.end)
        model = setting.network(bench.device) if model is None else model
        self.strategy = Naive(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=setting.batch,
            plugins=[*plugins, self.window],
            device=bench.device,
            evaluator=None,
        )
        first, self.experience = list(benchmark.train_stream)
        self.strategy.train(first)
        self.clock.wall.clear()
        self.clock.device.clear()

    def turn(self) -> None:
        self.strategy.train(self.experience)


class Floor:
    """What one would write by hand: tensors and a ring of old rows on the device."""

    def __init__(self, setting: Setting, bench: Run, iterations: int, *, graph: bool = False) -> None:
        device = bench.device
        x, y = (part.to(device) for part in setting.data(iterations))
        half = len(x) // 2
        self.x, self.y, self.batch = x[half:], y[half:], setting.batch
        self.ring_x, self.ring_y = x[:CAPACITY].clone(), y[:CAPACITY].clone()
        self.model = setting.network(device).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.new = torch.arange(setting.batch, device=device)
        self.old = self.new % len(self.ring_x)
        self.place = self.old.clone()
        self.clock, self.bench = Clock(bench), bench
        self.graph = self._captured() if graph else None

    def _captured(self) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph

    def _step(self) -> None:
        new_x, new_y = self.x.index_select(0, self.new), self.y.index_select(0, self.new)
        old_x, old_y = self.ring_x.index_select(0, self.old), self.ring_y.index_select(0, self.old)
        self.optimizer.zero_grad()
        output = self.model(torch.cat((new_x, old_x)))
        nn.functional.cross_entropy(output, torch.cat((new_y, old_y))).backward()
        self.optimizer.step()
        self.ring_x.index_copy_(0, self.place, new_x)
        self.ring_y.index_copy_(0, self.place, new_y)

    def turn(self) -> None:
        device, held = self.x.device, len(self.ring_x)
        batches = [b for b in torch.randperm(len(self.x), device=device).split(self.batch) if len(b) == self.batch]
        slots = torch.arange(self.batch, device=device)
        warm = min(WARM, len(batches) - 1)
        for number, index in enumerate(batches):
            if number == warm:
                self.clock.begin()
            self.new.copy_(index)
            self.old.copy_(torch.randint(held, (self.batch,), device=device))
            self.place.copy_((slots + number * self.batch) % held)
            if self.graph is None:
                self._step()
            else:
                self.graph.replay()
        self.clock.end(len(batches) - warm)


def _settings(small: bool) -> list[Setting]:
    if small:
        return [Setting("MLP 256", 8, True), Setting("conv", 4, False)]
    return [Setting(m, batch, bf16) for bf16 in (False, True) for batch in (32, 256) for m in MODELS]


def steps(bench: Run) -> None:
    """Microseconds a step, all arms of a setting in turn."""
    on_gpu = bench.device.type == "cuda"
    iterations, rounds = (7, 1) if bench.small else (45, 5)
    makers: dict[str, Callable[[Setting], Any]] = {FLOOR: lambda s: Floor(s, bench, iterations)}
    if on_gpu:
        makers[GRAPH] = lambda s: Floor(s, bench, iterations, graph=True)
    makers |= {arm: lambda s, make=make: Trained(s, make(), bench, iterations) for arm, make in ARMS.items()}
    for setting in bench.each(_settings(bench.small)):
        made: dict[str, Any] = {}
        for arm, make in makers.items():
            with bench.attempt(f"{setting}, {arm}"):
                made[arm] = make(setting)
                made[arm].turn()
                made[arm].clock.wall.clear()
                made[arm].clock.device.clear()
        for _ in range(rounds):
            for arm, runner in list(made.items()):
                with bench.attempt(f"{setting}, {arm}"):
                    runner.turn()
        floor = made[FLOOR].clock.wall if FLOOR in made else []
        for arm, runner in made.items():
            wall, device = runner.clock.wall, runner.clock.device
            if not wall:
                continue
            ratios = [a / b for a, b in zip(wall, floor, strict=False)]
            bench.row(
                "microseconds a step",
                setting=str(setting),
                arm=arm,
                wall=f"{statistics.median(wall):.0f}",
                events=f"{statistics.median(device):.0f}" if device else "-",
                over_floor=f"{statistics.median(ratios):.2f}" if ratios else "-",
            )
        made.clear()


# ------------------------------------------------------------------------------------------------ rows


def grey(n: int, device: torch.device) -> Tensor:
    """Grey images whose pixels every codec can store."""
    return torch.randint(256, (n, 1, 28, 28), device=device, dtype=torch.uint8).float().div_(255)


STORED: dict[str, Callable[[], dict[str, Any]]] = {
    "raw": dict,
    "float16": lambda: {"codec": "float16"},
    "int8": lambda: {"codec": "int8"},
    "uint8": lambda: {"codec": "uint8"},
    "4bit": lambda: {"codec": Bits(4)},
    "1bit": lambda: {"codec": Bits(1)},
    "raw, host": lambda: {"storage": "host"},
    "uint8, host": lambda: {"codec": "uint8", "storage": "host"},
}


def rows(bench: Run) -> None:
    """Writing and sampling 32 and 256 rows of 28 x 28, by rows held."""
    sizes = [100] if bench.small else [1_000, 100_000, 1_000_000, 10_000]
    cases = [(size, name) for size in sizes for name in (list(STORED)[::3] if bench.small else STORED)]
    for size, name in bench.each(cases, lambda case: f"{case[1]} at {case[0]}"):
        with bench.attempt(f"{name} at {size}"):
            memory = RandomMemory(size, write_policy="ring", seed=0, validate="first", **STORED[name]())
            memory.to(bench.device)
            x, y = grey(min(size, 10_000), bench.device), torch.zeros(10_000, dtype=torch.int64, device=bench.device)
            for _ in range(-(-size // len(x))):
                memory.write(x, y[: len(x)])
            for batch in (32,) if bench.small else (32, 256):
                new, labels = x[:batch], y[:batch]
                write, write_host = bench.time(partial(memory.write, new, labels), 0.1)
                read, read_host = bench.time(partial(memory.sample, batch), 0.1)
                size_of = new.nbytes / 1e3
                bench.row(
                    "rows",
                    held=f"{size:,}",
                    stored=name,
                    batch=batch,
                    write_us=f"{write:.0f}",
                    of_it_host=f"{write_host:.0f}",
                    write_GB_s=f"{size_of / write:.2f}",
                    sample_us=f"{read:.0f}",
                    of_it_host_=f"{read_host:.0f}",
                    sample_GB_s=f"{size_of / read:.2f}",
                )
            if "host" in name:
                _prefetch(bench, memory, name, size)


def _prefetch(bench: Run, memory: RandomMemory, name: str, size: int) -> None:
    """A sample beside work of the device's, fetched when it is wanted and ahead of it."""
    weights = torch.randn(64 if bench.small else 4096, 64 if bench.small else 4096, device=bench.device)

    def step(ahead: bool) -> None:
        recall = memory.sample(256)
        if ahead:
            memory.prefetch(256)
        torch.mm(weights, weights).add_(recall.x.sum())

    times = {ahead: bench.time(partial(step, ahead), 0.2)[0] for ahead in (False, True)}
    work = bench.time(lambda: torch.mm(weights, weights), 0.1)[0]
    bench.row(
        "prefetch",
        held=f"{size:,}",
        stored=name,
        work_us=f"{work:.0f}",
        with_sample_us=f"{times[False]:.0f}",
        with_prefetched_us=f"{times[True]:.0f}",
    )


# ------------------------------------------------------------------------------------------------ other memories


def search(bench: Run) -> None:
    """Nearest neighbours, MbPA, energy, Kanerva and Gaussian memories."""
    device = bench.device
    for keys in bench.each([500] if bench.small else [100_000, 1_000_000]):
        with bench.attempt(f"{keys} keys"):
            table = KeyTable(torch.randn(keys, 512, device=device))
            for queries in bench.each([4] if bench.small else [1, 32, 256]):
                asked = torch.randn(queries, 512, device=device)
                exact = torch.cdist(asked[:1].double(), table.keys[:100_000].double()).argmin()
                found = table.search(asked, 10)
                near = int(found.indices[0, 0])
                right = near == int(exact) or keys > 100_000
                took, _ = bench.time(partial(table.search, asked, 10), 0.5)
                bench.row("nearest", keys=f"{keys:,}", queries=queries, us=f"{took:,.0f}", right=right)
    with bench.attempt("MbPA"):
        benchmark = SplitDigits(5, seed=0)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        strategy = MbPA(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            train_mb_size=32,
            eval_mb_size=512,
            mem_size=1_000,
            seed=0,
            device=device,
            evaluator=None,
        )
        for experience in benchmark.train_stream:
            strategy.train(experience)
        count = sum(len(experience.dataset) for experience in benchmark.test_stream)
        took, _ = bench.time(lambda: strategy.eval(benchmark.test_stream), 0.5)
        bench.row("MbPA", rows=count, us_a_row=f"{took / count:.0f}")
    vectors = {rows: torch.randn(rows, 64, device=device) for rows in (32, 256)}
    labels = {rows: torch.arange(rows, device=device) % 10 for rows in vectors}
    memories: dict[str, Callable[[], Any]] = {
        "Kanerva, 32 rows a class": lambda: DynamicKanervaMemory(rows=32, seed=0),
        "Gaussian, rank 8": lambda: GaussianMemory(rank=8, seed=0),
        "Gaussian, full": lambda: GaussianMemory(rank=None, seed=0),
    }
    for name, make in memories.items():
        with bench.attempt(name):
            memory = make().to(device)
            for batch in (32,) if bench.small else (32, 256):
                write, _ = bench.time(partial(memory.write, vectors[batch], labels[batch]), 0.3)
                read, _ = bench.time(partial(memory.sample, batch), 0.3)
                bench.row("models of rows", memory=name, batch=batch, write_us=f"{write:,.0f}", read_us=f"{read:,.0f}")
    with bench.attempt("energy"):
        torch.manual_seed(0)
        network = GatedEnergy((1, 8, 8), writable=2, width=8 if bench.small else 64)
        energy = EnergyMemory(network, slots=64, slot_size=16, seed=0).to(device)
        images = torch.rand(256, 1, 8, 8, device=device)
        write, _ = bench.time(partial(energy.write, images[:16], labels[32][:16]), 0.3)
        for batch in (32,) if bench.small else (32, 256):
            read, _ = bench.time(partial(energy.sample, batch), 0.3)
            bench.row(
                "models of rows", memory="energy", batch=batch, write_us=f"{write:,.0f} (16)", read_us=f"{read:,.0f}"
            )


# ------------------------------------------------------------------------------------------------ kernels


def kernels(bench: Run) -> None:
    """Kernels and copies a step, memory at its peak, and the step with a compiled model."""
    on_gpu = bench.device.type == "cuda"
    setting = Setting("MLP 256", 8 if bench.small else 32, False)
    iterations = 9 if bench.small else 25
    for arm, make in bench.each([(FLOOR, None), *ARMS.items()], lambda case: case[0]):
        with bench.attempt(f"kernels, {arm}"):
            runner = Floor(setting, bench, iterations) if make is None else Trained(setting, make(), bench, iterations)
            runner.turn()
            bench.row("kernels a step", arm=arm, **_profiled(runner, on_gpu))
    for model in bench.each(["MLP 256"] if bench.small else list(MODELS)):
        for arm, make in bench.each([(FLOOR, None), *ARMS.items()] if on_gpu else [], lambda case: case[0]):
            with bench.attempt(f"memory, {model}, {arm}"):
                big = Setting(model, 256, False)
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()
                runner = Floor(big, bench, 8) if make is None else Trained(big, make(), bench, 8)
                runner.turn()
                peak = (torch.cuda.max_memory_allocated() - held) / 2**20
                bench.row("peak memory", model=model, arm=arm, MiB=f"{peak:.0f}")
    for model in bench.each(["MLP 256"] if bench.small else list(MODELS)):
        with bench.attempt(f"compiled, {model}"):
            one = Setting(model, setting.batch, False)
            plain = Trained(one, ARMS["ours, TensorLoader + LeanStep"](), bench, iterations)
            compiled = torch.compile(one.network(bench.device), backend="eager" if bench.small else "inductor")
            other = Trained(one, ARMS["ours, TensorLoader + LeanStep"](), bench, iterations, model=compiled)
            for _ in range(3):
                plain.turn()
                other.turn()
            times = [statistics.median(runner.clock.wall) for runner in (plain, other)]
            bench.row("torch.compile", model=model, plain_us=f"{times[0]:.0f}", compiled_us=f"{times[1]:.0f}")


@contextlib.contextmanager
def _profile(on_gpu: bool) -> Iterator[Any]:
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu:
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        yield profile


def _profiled(runner: Any, on_gpu: bool) -> dict[str, str]:
    """Of a step, told by the profiler over the steps of one turn after the first few."""
    found: dict[str, str] = {}
    stack = contextlib.ExitStack()
    opened: list[Any] = []

    def begin() -> None:
        runner_bench.sync()
        opened.append(stack.enter_context(_profile(on_gpu)))

    def end(iterations: int) -> None:
        runner_bench.sync()
        stack.close()
        events = opened[0].events()
        on_device = [
            event
            for event in events
            if event.device_type == torch.profiler.DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
        ]
        copies = {way: sum(way in event.name for event in on_device) for way in ("HtoD", "DtoH")}
        started = [event for event in on_device if not event.name.startswith(("Memcpy", "Memset"))]
        busy = sum(event.time_range.elapsed_us() for event in on_device)
        waits = sum(event.name in ("cudaStreamSynchronize", "cudaEventSynchronize") for event in events)
        operations = sum(event.name.startswith("aten::") for event in events)
        found.update(
            kernels=f"{len(started) / iterations:.1f}",
            uploads=f"{copies['HtoD'] / iterations:.1f}",
            downloads=f"{copies['DtoH'] / iterations:.1f}",
            synchronisations=f"{waits / iterations:.1f}",
            device_busy_us=f"{busy / iterations:.0f}",
            operations=f"{operations / iterations:.0f}",
        )

    runner_bench: Run = runner.clock.bench
    target = runner.window if isinstance(runner, Trained) else runner.clock
    before = target.begin, target.end
    target.begin, target.end = begin, end
    try:
        runner.turn()
    finally:
        target.begin, target.end = before
        stack.close()
    return found
