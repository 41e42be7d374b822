"""Memories that answer by themselves, per byte: discriminants over fixed and frozen features, without any training.

    python bench/discriminants.py --data DIR [--choose]

``DIR`` holds MNIST and Fashion-MNIST as torchvision has them. The streams are those of the standard runs: five
experiences of two classes, 1,600 training rows and 500 test rows of each. Settings were chosen by ``--choose`` on a
fifth of the training rows of seeds 0 to 2; tests are on other seeds. What was measured for a stream and a seed is kept
in ``--out``, and not measured again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from _common import DataOptions, launch, once
from _record import interval, table
from torch import Tensor

from avalanche_memplugins.benchmarks import BENCHMARKS
from avalanche_memplugins.codecs import Bits, Downsampled, LatentCodec
from avalanche_memplugins.memories import EpisodicMemory, GaussianMemory
from avalanche_memplugins.networks import Scattering

PIXELS = {"split-mnist": (0.1307, 0.3081), "split-fmnist": (0.2860, 0.3530)}
LDA: dict[str, Any] = {"tied": True, "rank": 0}
QDA: dict[str, Any] = {"rank": None}
COMMAND = "python bench/discriminants.py --data DIR"
WRITE = 64  # rows at a time
WIDEST = 450  # directions of drawings that any line needs
# By budget and stream: features and their width, the memory, its shrinkage and ridge. Chosen by --choose.
CHOSEN: dict[str, dict[str, tuple[str, int, dict[str, Any], float, float]]] = {
    "drawings, 5 kB": {
        "split-mnist": ("drawings 3", 62, {**LDA, "leading": 19, "precision": 6}, 0.3, 3e-3),
        "split-fmnist": ("drawings 2", 70, {**LDA, "leading": 16, "precision": 6}, 0.5, 3e-3),
    },
    "drawings, 20 kB": {
        "split-mnist": ("drawings 3", 170, {**LDA, "leading": 30, "precision": 6}, 0.5, 1e-3),
        "split-fmnist": ("drawings 2", 150, {**LDA, "leading": 40, "precision": 6}, 0.5, 1e-3),
    },
    "drawings, 50 kB": {
        "split-mnist": ("drawings 3", 220, {**LDA, "leading": 80, "precision": 6}, 0.3, 3e-3),
        "split-fmnist": ("drawings 2", 250, {**LDA, "leading": 64, "precision": 6}, 0.7, 3e-3),
    },
    "drawings, 200 kB": {
        "split-mnist": ("drawings 3", 450, {**LDA, "leading": 160, "precision": 6}, 0.5, 3e-3),
        "split-fmnist": ("drawings 2", 450, {**LDA, "leading": 160, "precision": 6}, 0.7, 3e-3),
    },
    "scattering, 5 kB": {
        "split-mnist": ("scattering", 88, {**LDA, "precision": 6}, 1.0, 1e-2),
        "split-fmnist": ("scattering", 88, {**LDA, "precision": 6}, 1.0, 3e-3),
    },
    "scattering, 20 kB": {
        "split-mnist": ("scattering", 180, {**LDA, "precision": 8}, 1.0, 1e-3),
        "split-fmnist": ("scattering", 180, {**LDA, "precision": 8}, 1.0, 1e-3),
    },
    "scattering, 50 kB": {
        "split-mnist": ("scattering", 108, {**QDA, "precision": 6}, 0.5, 3e-3),
        "split-fmnist": ("scattering", 108, {**QDA, "precision": 6}, 0.7, 3e-3),
    },
    "scattering, 200 kB": {
        "split-mnist": ("scattering", 218, {**QDA, "precision": 6}, 0.5, 3e-3),
        "split-fmnist": ("scattering", 610, {**LDA, "precision": 8}, 1.0, 1e-2),
    },
    "codes, 5 kB": {
        "split-mnist": ("codes", 32, {**QDA, "precision": 4}, 0.1, 3e-3),
        "split-fmnist": ("codes", 32, {**QDA, "precision": 4}, 0.5, 3e-3),
    },
    "codes, 20 kB": {
        "split-mnist": ("codes", 32, {**QDA, "precision": 4, "components": 4}, 0.1, 3e-3),
        "split-fmnist": ("codes", 32, {**QDA, "precision": 4, "components": 4}, 0.5, 3e-3),
    },
    "codes, 50 kB": {
        "split-mnist": ("codes", 32, {**QDA, "precision": 4, "components": 8}, 0.3, 3e-3),
        "split-fmnist": ("codes", 32, {**QDA, "precision": 4, "components": 8}, 0.5, 3e-3),
    },
}
GRID: list[tuple[str, int, dict[str, Any]]] = [
    *(("codes", 32, {**QDA, "precision": bits}) for bits in (4, 6, 8)),
    *(("codes", 32, {**QDA, "precision": 4, "components": parts}) for parts in (2, 4, 8)),
    *(("scattering", d, {**LDA, "precision": 6}) for d in (60, 88, 200, 300, 600)),
    *(("scattering", d, {**LDA, "precision": 4}) for d in (88, 100, 240)),
    *(("scattering", d, {**LDA, "precision": 8}) for d in (180, 298, 610)),
    *(("scattering", d, {**QDA, "precision": 4}) for d in (32, 40, 60, 78, 120, 130)),
    *(("scattering", d, {**QDA, "precision": 6}) for d in (62, 108, 120, 218)),
    *(
        (f"drawings {scales}", d, {**LDA, "leading": k, "precision": 6})
        for scales in (2, 3)
        for d, k in ((62, 19), (70, 16), (150, 40), (170, 30), (220, 80), (250, 64), (450, 160))
    ),
    *(("scattering", d, {"tied": True, "rank": k, "precision": 4}) for d, k in ((60, 2), (150, 4), (200, 8), (300, 8))),
]
SHRINKAGES, RIDGES = (0.1, 0.3, 0.5, 0.7, 0.9), (1e-3, 3e-3, 1e-2, 3e-2)


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """What to do."""

    out: Path = Path("results/discriminants")
    seeds: tuple[int, ...] = (3, 4, 5, 6, 7)
    streams: tuple[str, ...] = tuple(PIXELS)
    all_rows: bool = False
    """All rows of the data sets, in a section of their own; with --drawings."""
    drawings: bool = False
    """Only the lines over directions of drawings, in a section of their own."""
    choose: bool = False
    """Print what each setting reaches on a fifth of the training rows of seeds 0 to 2, and nothing else."""


@dataclass(frozen=True)
class Part:
    """Rows of one experience: images, whole scattering vectors, codes, classes."""

    x: Tensor
    scattering: dict[int, Tensor]
    """By scales, 2 and 3."""
    codes: Tensor
    y: Tensor

    def only(self, index: Tensor) -> Part:
        """Some of the rows."""
        scattering = {scales: rows[index] for scales, rows in self.scattering.items()}
        return Part(self.x[index], scattering, self.codes[index], self.y[index])


def load(stream: str, seed: int, *, whole: bool = False, quick: bool = False) -> tuple[list[Part], list[Part], int]:
    """Training and test rows by experience, and the bytes of the network that makes codes."""
    rows = {"train_rows": 100, "test_rows": 20} if quick else {"train_rows": 1_600, "test_rows": 500}
    if whole and not quick:
        rows = {}
    benchmark = BENCHMARKS[stream].build(n_experiences=5, seed=seed, **rows)
    mean, std = PIXELS[stream]
    wavelets = {scales: Scattering((1, 28, 28), scales=scales, mean=mean, std=std) for scales in (2, 3)}
    codec = LatentCodec.from_pretrained("omniglot28-vae", mean=mean, std=std)

    def parts(experiences: Any) -> list[Part]:
        found = []
        for experience in experiences:
            rows = [experience.dataset[i] for i in range(len(experience.dataset))]
            x, y = torch.stack([row[0] for row in rows]), torch.tensor([int(row[1]) for row in rows])
            vectors = {scales: network(x) for scales, network in wavelets.items()}
            found.append(Part(x, vectors, codec.to_latent(x), y))
        return found

    return parts(benchmark.train_stream), parts(benchmark.test_stream), codec.nbytes_fixed


def features(kind: str, width: int, part: Part) -> Tensor:
    """What the memory holds: as ``Scattering(..., numbers=width)`` and the codec make it."""
    if kind == "codes":
        return part.codes
    if kind == "scattering":
        return part.scattering[3] @ projection(width)
    scales = int(kind.split()[1])
    return part.scattering[scales] @ projection(width, scales, "drawings")


@cache
def projection(width: int, scales: int = 3, basis: Literal["random", "drawings"] = "random") -> Tensor:
    """As ``Scattering(..., numbers=width)`` makes it."""
    if basis == "drawings" and width < WIDEST:  # the first of the same directions
        return projection(WIDEST, scales, basis)[:, :width]
    return Scattering((1, 28, 28), width, scales=scales, seed=0, basis=basis).projection


def fitted(kind: str, width: int, options: dict[str, Any], train: list[Part]) -> GaussianMemory:
    """A memory that has seen the stream once, in small batches."""
    memory = GaussianMemory(seed=0, **options)
    for number, part in enumerate(train):
        z = features(kind, width, part)
        for rows in torch.arange(len(z)).split(WRITE):
            memory.write(z[rows], part.y[rows], origin=number)
    memory.settle()
    return memory


def right(memory: Any, kind: str, width: int, test: list[Part]) -> float:
    """Per cent of the test rows."""
    hits = [memory.predict(features(kind, width, part), classes=10).argmax(1) == part.y for part in test]
    return 100 * float(torch.cat(hits).float().mean())


def choose(options: Options) -> None:
    """What each setting of the grid reaches on rows that were held back from training."""
    for stream in options.streams:
        halves = []
        for seed in range(3):
            train, _, _ = load(stream, seed)
            orders = [torch.randperm(len(p.y), generator=torch.Generator().manual_seed(0)) for p in train]
            fifths = [len(order) // 5 for order in orders]
            held = [p.only(order[:n]) for p, order, n in zip(train, orders, fifths, strict=True)]
            rest = [p.only(order[n:]) for p, order, n in zip(train, orders, fifths, strict=True)]
            halves.append((rest, held))
        for kind, width, made in GRID:
            bare = made.get("tied") and made["rank"] == 0
            reads = [(1.0, r) for r in RIDGES] if bare else [(a, 3e-3) for a in SHRINKAGES]
            if "leading" in made:
                reads = [(a, r) for a in SHRINKAGES for r in RIDGES]
            scores = dict.fromkeys(reads, 0.0)
            for rest, held in halves:
                memory = fitted(kind, width, made, rest)
                for read in reads:
                    memory.shrinkage, memory.ridge = read
                    scores[read] += right(memory, kind, width, held) / 3
            best = max(scores, key=lambda read: scores[read])
            print(stream, kind, width, made, f"{memory.nbytes:,} B", best, f"{scores[best]:.2f}", flush=True)


def settings(stream: str) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """Name, features, width and memory of each line of the table."""
    for name, by_stream in CHOSEN.items():
        kind, width, made, shrinkage, ridge = by_stream[stream]
        yield name, kind, width, {**made, "shrinkage": shrinkage, "ridge": ridge}
    for name, made in (
        ("nearest mean", {"tied": "unit", "rank": 0}),
        ("LDA", LDA),
        ("QDA", {**QDA, "shrinkage": 0.0}),
    ):
        yield f"control: {name}, codes, float32", "codes", 32, made
        yield f"control: {name}, scattering 88, float32", "scattering", 88, made


def described(width: int, made: dict[str, Any]) -> str:
    """A memory in a few words."""
    if "precision" not in made:
        return str(width)
    kind = "LDA" if made.get("tied") else "QDA"
    if "leading" in made:
        return f"{width}, leading {made['leading']}, {made['precision']} bits"
    parts = f", {made['components']} a class" if "components" in made else ""
    return f"{kind} {width}, {made['precision']} bits{parts}"


def measure(
    stream: str, seed: int, *, drawings: bool = False, whole: bool = False, quick: bool = False
) -> dict[str, Any]:
    """Per cent right and bytes of every line."""
    train, test, fixed = load(stream, seed, whole=whole, quick=quick)
    found: dict[str, Any] = {}
    for name, kind, width, made in settings(stream):
        if drawings and not kind.startswith("drawings"):
            continue
        began = time.process_time()
        memory = fitted(kind, width, made, train)
        found[name] = {
            "right": right(memory, kind, width, test),
            "memory": described(width, made),
            "bytes": memory.nbytes,
            "fixed": fixed if kind == "codes" else 0,
            "seconds": time.process_time() - began,
        }
    if drawings:
        return found
    mean, std = PIXELS[stream]
    for budget in (5_000, 20_000, 50_000, 200_000):
        codec = Downsampled(14, Bits(4, mean=mean, std=std))
        rows = EpisodicMemory.from_budget(
            budget, shape=(1, 28, 28), codec=codec, write_policy="class_balanced", labels="uint8", store_tasks=False,
            classes=10, seed=0,
        )  # fmt: skip
        began = time.process_time()
        for part in train:
            for batch in torch.arange(len(part.y)).split(WRITE):
                rows.write(part.x[batch], part.y[batch])
        queries = [codec.decode(codec.encode(p.x), p.x.shape[1:], p.x.dtype) for p in test]
        hits = [rows.predict(x, classes=10).argmax(1) == p.y for x, p in zip(queries, test, strict=True)]
        score = 100 * float(torch.cat(hits).float().mean())
        found[f"control: 1-NN, 4-bit 14 x 14 rows, {budget // 1000} kB"] = {
            "right": score,
            "memory": f"{len(rows)} rows",
            "bytes": rows.nbytes,
            "fixed": 0,
            "seconds": time.process_time() - began,
        }
    return found


def report(results: dict[str, list[dict[str, Any]]], seeds: int, rows: str) -> str:
    """The table and what it says."""
    rows = []
    for name in results["split-mnist"][0]:
        cells = [[found[name] for found in results[stream]] for stream in PIXELS]
        most = max(cell["bytes"] for line in cells for cell in line)
        fixed, seconds = cells[0][0]["fixed"], sum(c["seconds"] for line in cells for c in line) / (2 * seeds)
        scores = [interval([cell["right"] for cell in line]) for line in cells]
        memory = " / ".join(dict.fromkeys(line[0]["memory"] for line in cells))
        rows.append([name, memory, f"{most:,}", f"{fixed:,}", f"{1e6 * seconds / 10_500:.0f}", *scores])
    text = (
        f"Split MNIST and Split Fashion-MNIST, five experiences of two classes, one head, {rows}; "
        f"{seeds} seeds (3 and up), mean ± 95 % interval. One pass in batches of {WRITE}; "
        "nothing is trained. Bytes: all that the stream leaves, table of classes and counts included, after the last "
        "experience; in an experience the classes it writes to are float32. Fixed: learned numbers that are needed "
        "besides; scattering has none: wavelets and projection are made from their arguments and a seed, which draws "
        "the 2,000 pictures, too, whose principal directions are those of `drawings` (2 scales for clothes, 3 for "
        "digits). Leading: numbers that have a covariance of each class. Microseconds "
        "a row: write and answer, without making features (scattering 0.5 ms an image, codes 0.1). Widths, bits, "
        "shrinkage and ridge: by `--choose` on a fifth of the training rows of seeds 0 to 2 (those over drawings of "
        "clothes: on two fifths of seed 0); the QDA control has no shrinkage.\n\n"
    )
    return text + table(
        ["% correct", "memory", "bytes", "fixed", "µs a row", "Split MNIST", "Split Fashion-MNIST"], rows
    )


def main(options: Options) -> None:
    """Measure what is missing, then write the section."""
    if options.choose:
        choose(options)
        return
    folder, seeds = options.runs(options.out), options.seeds[:1] if options.quick else options.seeds
    results: dict[str, list[dict[str, Any]]] = {stream: [] for stream in PIXELS}
    for stream in options.streams:
        for seed in seeds:
            kind = "drawings-" * options.drawings + "all-" * options.all_rows
            file = folder / f"{kind}{stream}-{seed}.json"
            more = {"drawings": options.drawings, "whole": options.all_rows, "quick": options.quick}
            results[stream].append(once(file, partial(measure, stream, seed, **more)))
    if all(results.values()):
        section, command, rows = "Discriminants", COMMAND, "1,600 training rows and 500 test rows an experience"
        if options.drawings:
            section, command = f"{section} over drawings", f"{command} --drawings"
        if options.all_rows:
            section, command, rows = f"{section}, all rows", f"{command} --all-rows", "all training and test rows"
        options.write(f"{section}, per byte", report(results, len(seeds), rows), command)


if __name__ == "__main__":
    launch(main, Options, __doc__)
