"""Rehearsal from energy-based memory at equal bytes: class-incremental Split MNIST.

    OMP_NUM_THREADS=1 python bench/energy_rehearsal.py --data DIR        seconds of each run are printed

Five experiences of two classes, one head, MLP with two layers of 400, SGD 0.1, one epoch in batches of 32 and 32
replayed, loss 1/t current + (1 - 1/t) replay; memories are written after each experience. Runs are kept in
``results/energy_rehearsal`` and not made again. Energy networks, trained on Omniglot's background alphabets, come from
``--networks``; the commands are in bench/RESULTS.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _common import DataOptions, data_sets, launch, mlp, once, pairs_of_classes, percent_right, rows_of
from _record import interval, table
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.training import Naive
from torch import Size, Tensor

from avalanche_memplugins import LeanStepPlugin, MemoryReplayPlugin, RandomMemory, TensorLoaderPlugin
from avalanche_memplugins.codecs import Bits, Codec, Downsampled, LatentCodec, Uint8
from avalanche_memplugins.memories import EnergyMemory
from avalanche_memplugins.memories._energy_eviction import slot_by_slot
from avalanche_memplugins.networks.energy import EnergyNetwork
from avalanche_memplugins.plugins import EnergyReplayPlugin
from avalanche_memplugins.pretrained import load_energy

COMMAND = "OMP_NUM_THREADS=1 python bench/energy_rehearsal.py --data DIR"
BYTES = (20_000, 50_000, 100_000)
SHAPE = (1, 28, 28)
SLOT = 8 + 16 + 64  # bytes of an int8 slot beside its weights and patterns: scales, labels, its part of the classes
PATTERN = 25 + 1  # bytes of a pattern beside the weights: thumbnail and class


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """What to run."""

    seeds: int = 3
    only: str = ""
    """Run the ways whose name holds this; the table is written from all runs there are."""
    bytes: tuple[int, ...] = BYTES
    """Budgets to run, likewise."""
    networks: Path = Path("results/energy")
    out: Path = Path("results/energy_rehearsal")


class Completed:
    """A control: thumbnails, read by an energy network into which nothing is written."""

    nbytes_fixed = 0

    def __init__(self, thumbnail: Downsampled, network: EnergyNetwork) -> None:
        self.thumbnail, self.network = thumbnail, network.requires_grad_(False)

    def check(self, x: Tensor) -> None:
        self.thumbnail.check(x)

    def encode(self, x: Tensor) -> Tensor:
        return self.thumbnail.encode(x)

    def decode(self, code: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        cue = self.thumbnail.decode(code, shape, dtype)
        return self.network.read(cue.flatten(1).unsqueeze(0))[-1].view_as(cue)

    def spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        return self.thumbnail.spec(shape, dtype)


def reservoir(codec: Codec) -> Callable[[int, int], Any]:
    """A reservoir in so many bytes, labels of one byte."""
    return lambda nbytes, seed: RandomMemory.from_budget(
        nbytes, shape=SHAPE, codec=codec, labels="uint8", store_tasks=False, seed=seed
    )


def energy(network: EnergyNetwork, **options: Any) -> Callable[[int, int], Any]:
    """An energy memory in so many bytes; with no size of slots given, of a slot for each of five experiences."""

    def make(nbytes: int, seed: int) -> EnergyMemory:
        size = options.get("slot_size") or (nbytes // 5 - network.writable_floats - SLOT) // PATTERN
        sized = {**options, "slot_size": size}
        return EnergyMemory.from_budget(nbytes, network, shape=SHAPE, classes=10, seed=seed, **sized)

    return make


def ways(folder: Path) -> dict[str, Callable[[int, int], Any]]:
    """All rows of the table; those whose network is not there are left out."""
    found: dict[str, Callable[[int, int], Any]] = {
        "ER raw uint8": reservoir(Uint8(lossy=True)),
        "ER 1 bit": reservoir(Bits(1)),
        "ER 14x14, 4 bits": reservoir(Downsampled(14, Bits(4))),
        "thumbnails 7x7, 4 bits": reservoir(Downsampled(7, Bits(4))),
    }
    small = Downsampled(7, Bits(4))
    alone = folder / "rehearsal-28-none.safetensors"
    if alone.exists():
        reader = load_energy(alone).network
        found["thumbnails and a network that cannot write"] = reservoir(Completed(small, reader))
    network, size = load_energy("rehearsal-28").network, load_energy("rehearsal-28").patterns
    ours: dict[str, Any] = {"cue": small, "precision": "int8"}
    found["energy, int8, one slot an experience"] = energy(network, **ours)
    found["energy, int8, 32 a slot"] = energy(network, **ours, slot_size=size)
    found["energy, int8, 32 a slot, slots by class"] = energy(network, **ours, slot_size=size, by_class=True)
    found["energy, float16, 32 a slot"] = energy(network, **{**ours, "precision": "float16"}, slot_size=size)
    path = folder / "thumbnail-28.safetensors"
    if path.exists():
        network, size = load_energy(path).network, load_energy(path).patterns
        found["energy, int8, trained on episodes of any characters"] = energy(
            network, cue=small, slot_size=size, precision="int8"
        )
    codes = folder / "codes-32.safetensors"
    if codes.exists():
        network, patterns = load_energy(codes).network, load_energy(codes).patterns
        codec = LatentCodec.from_pretrained("omniglot28-vae")
        found["energy over codes, int8"] = energy(
            network, precision="int8", cue=Bits(1), slot_size=patterns, codec=codec
        )
        found["ER codes of 32 numbers, int8"] = reservoir(codec)
    return found


@torch.no_grad()
def pixel_error(memory: Any, x: Tensor, y: Tensor) -> float:
    """Squared error of what is rehearsed, summed over pixels: of 256 rows written at once and read back."""
    fresh = EnergyMemory(
        memory.network, slots=64, slot_size=memory.slot_size, cue=memory.cue, precision=memory.precision,
        by_class=memory.by_class, codec=memory.codec, write_steps=memory.write_steps, seed=0,
    ) if isinstance(memory, EnergyMemory) else None  # fmt: skip
    if fresh is None:
        codec = memory.codec
        return float((codec.decode(codec.encode(x), x.shape[1:], x.dtype) - x).square().flatten(1).sum(1).mean())
    # As in a stream: images of one class together, or of two.
    order = (y if memory.by_class else y // 2).argsort(stable=True)
    fresh.write(x[order], y[order])
    slots, places = fresh.labels.ne(255).nonzero().unbind(1)
    out, _ = fresh._reads.read(slots, fresh._stored_cues(slots, places), fresh._generator)
    rows = torch.cat([part for _, part in sorted(_written(fresh, y[order]).items())])
    return float((fresh._rows(out) - x[order][rows]).square().flatten(1).sum(1).mean())


def _written(memory: EnergyMemory, y: Tensor) -> dict[int, Tensor]:
    """Rows of each slot, in the order of the slots."""
    groups = slot_by_slot(y, 0, 0, memory.slot_size, by_class=memory.by_class)
    return {i: rows for i, (rows, _, _) in enumerate(groups)}


def run(make: Callable[[int, int], Any] | None, nbytes: int, data: tuple[Tensor, ...], seed: int) -> dict[str, Any]:
    """Train one way on one order of the classes."""
    x, y, test_x, test_y = data
    torch.manual_seed(seed)
    model = mlp()
    plugins: list[Any] = [TensorLoaderPlugin(seed=seed), LeanStepPlugin()]
    memory = None
    if make is not None:
        memory = make(nbytes, seed)
        if isinstance(memory, EnergyMemory):
            plugins.append(EnergyReplayPlugin(memory, replay_weight="growing", seed=0))
        else:
            plugins.append(MemoryReplayPlugin(memory, write_at="experience", replay_weight="growing", seed=0))
    strategy = Naive(
        model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), train_mb_size=32, eval_mb_size=500,
        evaluator=None, plugins=plugins,
    )  # fmt: skip
    train = data_sets(x, y, rows_of(y, pairs_of_classes(seed)))
    started = time.process_time()
    for experience in benchmark_from_datasets(train=train).train_stream:
        strategy.train(experience, num_workers=0)
    spent = time.process_time() - started
    return {
        "accuracy": percent_right(model, test_x, test_y),
        "nbytes": 0 if memory is None else memory.nbytes,
        "rows": 0 if memory is None else len(memory),
        "error": 0.0 if memory is None else pixel_error(memory, test_x[:256], test_y[:256]),
        "seconds": spent,
    }


def main(options: Options) -> None:
    """Make the runs that are missing, then the table."""
    data, folder, seeds = options.images(), options.runs(options.out), options.least(options.seeds, 1)
    budgets = options.bytes[:1] if options.quick else options.bytes

    def tried(make: Callable[[int, int], Any], nbytes: int, seed: int) -> dict[str, Any]:
        try:
            return run(make, nbytes, data, seed)
        except ValueError as problem:  # not one slot an experience fits
            return {"none": str(problem)}

    rows: list[list[object]] = []
    for name, make in ways(options.networks).items():
        cells: list[object] = []
        error = 0.0
        for nbytes in BYTES:
            runs = []
            for seed in range(seeds):
                path = folder / f"{name.replace(' ', '_').replace(',', '')}-{nbytes}-{seed}.json"
                if options.only in name and nbytes in budgets:
                    once(path, partial(tried, make, nbytes, seed))
                if path.exists():
                    runs.append(json.loads(path.read_text()))
            done, runs = bool(runs), [r for r in runs if "none" not in r]
            if not runs:
                cells.append("none fits" if done else "-")
                continue
            error = runs[0]["error"]
            cells.append(f"{interval([r['accuracy'] for r in runs])} ({runs[0]['rows']:,})")
        if any(cell != "-" for cell in cells):
            rows.append([name, f"{error:.1f}", *cells])
    text = table(["way", "error of a row", *(f"{nbytes // 1000} kB" for nbytes in BYTES)], rows)
    options.write("Energy memory: rehearsal on Split MNIST", f"{REMARK}\n\n{text}", COMMAND)


REMARK = """Accuracy on the test set, mean ± 95 % interval over three seeds (two for 32 a slot without classes, and over
codes), and in brackets the rows held at the end; every memory within the same bytes of stream (rows or slots, cues,
labels). `error of a row`: squared error of what is rehearsed against what was written, summed over pixels, on 256 test
images, two digits at a time. Energy networks: trained on Omniglot's background alphabets, cues 7 x 7 at 4 bits; their
weights, like a codec's, are not counted. `-`: not run."""

if __name__ == "__main__":
    launch(main, Options, __doc__)
