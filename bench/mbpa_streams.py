"""MbPA where it is not at home: class-incremental streams, a rare class, and what it costs.

    python bench/mbpa_streams.py --data DIR [--part split rare speed]        two minutes each

Split MNIST and Split Fashion-MNIST: five experiences of two classes, one head, one epoch of 4,000 training images an
experience; every row of the table holds the same rows in the same bytes. Rare class: nine classes of 1,000 images,
then the tenth arrives among them with few images, seen once; the question is how soon it is recognised.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from _common import DataOptions, data_sets, launch, mlp
from _record import interval, table
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from torch import Tensor
from torchvision.datasets import MNIST, FashionMNIST

from avalanche_memplugins import MemoryReplayPlugin
from avalanche_memplugins.functional import KeyTable
from avalanche_memplugins.memories import DifferentiableNeuralDictionary, EpisodicMemory
from avalanche_memplugins.plugins import LocalAdaptationPlugin

COMMAND = "python bench/mbpa_streams.py --data DIR"
WAYS = ("plain", "1-NN", "DND", "MbPA", "ER", "ER + MbPA")


class Watch(SupervisedPlugin):
    """Keeps the predictions that metrics see."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def after_eval_iteration(self, strategy: Naive, **kwargs: object) -> None:
        self.seen.append(strategy.mb_output.argmax(1))


def answers(
    stream: Sequence[tuple[Tensor, Tensor]], x: Tensor, capacity: int, seed: int, lr: float
) -> tuple[dict[str, Tensor], int]:
    """Predictions for ``x`` of every way to use one memory of uint8 rows, trained by Avalanche; its bytes."""
    predictions: dict[str, Tensor] = {}
    nbytes = 0
    data = [torch.cat([p[0] for p in stream]), torch.cat([p[1] for p in stream])]
    ends = np.cumsum([len(p[0]) for p in stream])
    parts = [torch.arange(int(e) - len(p[0]), int(e)) for e, p in zip(ends, stream, strict=True)]
    for replay in (False, True):
        memory = EpisodicMemory(capacity, codec="uint8", write_policy="class_balanced", seed=seed)
        adaptation = LocalAdaptationPlugin(memory, lr=lr, writes=not replay)
        plugins = [*([MemoryReplayPlugin(memory, write_at="iteration", seed=seed)] if replay else []), adaptation]
        torch.manual_seed(seed)
        net = mlp()
        strategy = Naive(
            model=net, optimizer=torch.optim.SGD(net.parameters(), 0.1), train_mb_size=32, eval_mb_size=500,
            evaluator=None, plugins=plugins,
        )  # fmt: skip
        benchmark = benchmark_from_datasets(
            train=data_sets(*data, parts), test=data_sets(x, torch.zeros(len(x)).long(), [torch.arange(len(x))])
        )
        for experience in benchmark.train_stream:
            strategy.train(experience, num_workers=0)
        name = "ER" if replay else "plain"
        with torch.no_grad():
            predictions[name] = net.eval()(x).argmax(1)
        watch = Watch()
        strategy.plugins.append(watch)
        strategy.eval(benchmark.test_stream, num_workers=0)
        predictions["ER + MbPA" if replay else "MbPA"] = torch.cat(watch.seen)
        if not replay:
            held, nbytes = memory.rows(torch.arange(len(memory))), memory.nbytes
            predictions["1-NN"] = held.y[KeyTable(held.x).search(x, 1).indices[:, 0]]
            dictionary = DifferentiableNeuralDictionary(10, capacity, 784, neighbours=5)
            dictionary.write(held.x.flatten(1), held.y, torch.ones(len(held.y)))
            predictions["DND"] = dictionary.classify(x.flatten(1)).argmax(1)
    return predictions, nbytes


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """What to measure."""

    part: tuple[Literal["split", "rare", "speed"], ...] = ("split", "rare", "speed")
    seeds: int = 3
    one: tuple[int, int, int] | None = None
    """Measure one line of the costs, in this process: layers, neighbours and budget."""


def split(options: Options) -> None:
    """Five experiences of two classes."""
    rows: list[list[object]] = []
    seeds = range(options.least(options.seeds, 1))
    for kind in (MNIST, FashionMNIST):
        x, y, test_x, test_y = options.images(kind)
        for capacity in (200, 1000):
            scores: dict[str, list[float]] = {way: [] for way in WAYS}
            for seed in seeds:
                g = torch.Generator().manual_seed(seed)
                stream = []
                for pair in torch.randperm(10, generator=g).view(5, 2):
                    mine = torch.isin(y[:50_000], pair).nonzero().flatten()
                    mine = mine[torch.randperm(len(mine), generator=g)[:4_000]]
                    stream.append((x[mine], y[mine]))
                rows_ = torch.randperm(len(test_y), generator=g)[:4_000]
                found, nbytes = answers(stream, test_x[rows_], capacity, seed, lr=0.3)
                for way in WAYS:
                    scores[way].append(100 * (found[way] == test_y[rows_]).float().mean().item())
            rows.append(
                [f"{kind.__name__}, {capacity} rows, {nbytes / 1000:.0f} kB", *(interval(scores[w]) for w in WAYS)]
            )
            print(rows[-1], flush=True)
    options.write(
        "MbPA on class-incremental streams",
        f"Five experiences of two classes in an order drawn anew for each of {len(seeds)} seeds, 4,000 training "
        "images each, one epoch, MLP 784-400-400-10, SGD 0.1; 4,000 test images; mean ± 95 % interval. One "
        "class-balanced memory of uint8 rows for all (DND: the same rows as float32 keys, which takes more "
        "bytes). MbPA: head, K 20, 10 steps, rate 0.3, as on permuted MNIST.\n\n" + table(["% correct", *WAYS], rows),
        COMMAND + " --part split",
    )


def rare(options: Options) -> None:
    """Nine classes, then few images of a tenth among more of them."""
    x, y, test_x, test_y = options.images()
    seeds, common_rows = range(options.least(options.seeds, 1)), options.least(9_000, 600)
    rows: list[list[object]] = []
    for few in (5, 20, 100):
        scores: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for seed in seeds:
            g = torch.Generator().manual_seed(seed)
            new = int(torch.randint(10, (1,), generator=g))
            order = torch.randperm(min(50_000, len(y)), generator=g)
            common = order[y[order] != new]
            late = torch.cat([common[common_rows : common_rows + 1_000], order[y[order] == new][:few]])
            late = late[torch.randperm(len(late), generator=g)]
            stream = [(x[common[:common_rows]], y[common[:common_rows]]), (x[late], y[late])]
            mine = torch.randperm(len(test_y), generator=g)[:4_000]
            found, _ = answers(stream, test_x[mine], 1_000, seed, lr=0.3)
            is_new = test_y[mine] == new
            for way in WAYS:
                right = (found[way] == test_y[mine]).float()
                scores[way].append((100 * right[is_new].mean().item(), 100 * right[~is_new].mean().item()))
        for i, what in enumerate(("the new class", "the nine others")):
            rows.append([f"{few} images: {what}", *(interval([s[i] for s in scores[w]]) for w in WAYS)])
            print(rows[-1], flush=True)
    options.write(
        "MbPA and a rare new class",
        "MNIST: 9,000 images of nine classes, then 1,000 more of them with few of a tenth, one epoch each; memory of "
        f"1,000 rows, class-balanced; {len(seeds)} seeds with a new class drawn for each, mean ± 95 % interval over "
        "them (wide: some digits are harder).\n\n" + table(["% correct on", *WAYS], rows),
        COMMAND + " --part rare",
    )


def speed(options: Options) -> None:
    """Each budget in a process of its own, since the peak of a process never falls."""
    rows: list[list[object]] = []
    for adapt, k in ((1, 10), (1, 20), (2, 10), (3, 10))[: options.least(4, 1)]:
        rows.append([f"last {adapt} linear layer(s), K {k}", *_measured(options, adapt, k, 64)])
    for budget in (8, 256)[: options.least(2, 0)]:
        rows.append([f"last 1 linear layer(s), K 20, budget {budget} MiB", *_measured(options, 1, 20, budget)])
    options.write(
        "MbPA's cost a query",
        "2,000 queries through Avalanche's `eval` with 20,000 memory rows of 784 pixels on one core, MLP "
        "784-400-400-10, 10 steps, budget 64 MiB if not said otherwise. The table of keys and the features of the "
        "memory's rows are made once an evaluation, so they are counted apart. Peak memory: above what the process "
        "held before, less the tables of keys and features (126 MB; 157 MB with all layers); about 100 MB "
        "of it does not depend on the budget. The core's neighbour was busy.\n\n"
        + table(["", "CPU s / 1000 queries", "once an evaluation, s", "peak beyond tables, MB"], rows),
        COMMAND + " --part speed",
    )


def _measured(options: Options, adapt: int, k: int, budget: int) -> list[str]:
    out = subprocess.run(
        [sys.executable, __file__, "--data", str(options.data), "--one", *map(str, (adapt, k, budget))],
        capture_output=True,
        text=True,
        check=True,
    )
    print(adapt, k, budget, out.stdout.strip(), flush=True)
    return out.stdout.strip().splitlines()[-1].split(",")


def one(options: Options, adapt: int, k: int, budget: int) -> None:
    """Seconds of 1,000 queries, seconds once an evaluation, and the peak, of one setting."""
    g = torch.Generator().manual_seed(0)
    memory = EpisodicMemory(20_000, write_policy="ring", seed=0)
    x, y, test_x, _ = options.images()
    orders = [torch.randperm(784, generator=g) for _ in range(20)]
    for i, order in enumerate(orders):
        rows = slice(1_000 * i, 1_000 * (i + 1))
        memory.write(x[rows].flatten(1)[:, order].view(-1, 1, 28, 28), y[rows])
    torch.manual_seed(0)
    net = mlp()
    plugin = LocalAdaptationPlugin(memory, neighbours=k, adapt=adapt, lr=0.1, max_bytes=budget << 20)
    strategy = Naive(
        model=net, optimizer=torch.optim.SGD(net.parameters(), 0.1), eval_mb_size=500, evaluator=None, plugins=[plugin]
    )
    x = torch.cat([test_x[100 * i : 100 * (i + 1)].flatten(1)[:, order] for i, order in enumerate(orders)])
    x, y = x.view(-1, 1, 28, 28)[torch.randperm(len(x), generator=g)], torch.zeros(len(x)).long()
    stream = benchmark_from_datasets(test=data_sets(x, y, [torch.arange(500), torch.arange(2_000)])).test_stream

    seconds = []
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held now
    before = _status("VmRSS")
    for experience in stream:
        began = time.process_time()
        strategy.eval([experience], num_workers=0)
        seconds.append(time.process_time() - began)
    peak = _status("VmHWM") - before
    each = (seconds[1] - seconds[0]) / 1.5
    width = {1: 400, 2: 400, 3: 784}[adapt]
    tables = 20_000 * (784 * (4 + 2) + width * 4) / 1e6
    print(f"{each:.2f},{max(0.0, seconds[1] - 2 * each):.2f},{peak - tables:.0f}")


def _status(name: str) -> float:
    """A size from /proc/self/status (Linux), in MB."""
    (line,) = (row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6


def main(options: Options) -> None:
    """Measure and record."""
    if options.one:
        one(options, *options.one)
        return
    for part in options.part:
        {"split": split, "rare": rare, "speed": speed}[part](options)


if __name__ == "__main__":
    launch(main, Options, __doc__)
