"""Memories that answer on small tables that no setting was chosen on: river's ImageSegments, aeon's JapaneseVowels.

    pip install --no-deps river aeon
    python bench/tables.py

The data come inside these wheels; a table whose wheel is missing is left out, and said. ImageSegments: 18 numbers of a
patch of an outdoor image, 7 classes, 330 rows each, a third for the test, drawn by the seed. JapaneseVowels: 12 numbers
at 7 to 29 moments of a spoken vowel, stretched to 25 moments, 9 speakers, 270 rows to train on and 370 to test on.
Class-incremental: three experiences of two or three classes. With rotations: four experiences of all classes, each
with its numbers turned by an orthonormal matrix of its own (none in the first), tested in all guises; with scalings:
each number multiplied by one from 1/3 to 3. Nobody tells which guise a row is in.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import Options as CommonOptions
from _common import launch, once
from _record import interval, table
from torch import Tensor

from avalanche_memplugins.codecs import Int8
from avalanche_memplugins.memories import EpisodicMemory, GaussianMemory

Rows = tuple[Tensor, Tensor]
BUDGET = 4_000
STREAMS = ("classes", "rotations", "scalings")
COMMAND = "python bench/tables.py"


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """What to do."""

    out: Path = Path("results/tables")
    seeds: int = 5


def folder(package: str) -> Path:
    """Of an installed package.

    :raises ModuleNotFoundError: if there is none.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"no package {package}")
    return Path(found.origin).parent


def image_segments(seed: int) -> tuple[Rows, Rows]:
    """Training and test rows."""
    with zipfile.ZipFile(folder("river") / "datasets" / "segment.csv.zip") as file:
        lines = list(csv.DictReader(io.StringIO(file.read(file.namelist()[0]).decode())))
    names = sorted({line["category"] for line in lines})
    y = torch.tensor([names.index(line.pop("category")) for line in lines])
    x = torch.tensor([[float(value) for value in line.values()] for line in lines])
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    return (x[order[770:]], y[order[770:]]), (x[order[:770]], y[order[:770]])


def japanese_vowels(seed: int) -> tuple[Rows, Rows]:
    """Likewise; the rows of both parts are given, the seed draws the order of classes alone."""

    def read(part: str) -> Rows:
        file = folder("aeon") / "datasets" / "data" / "JapaneseVowels" / f"JapaneseVowels_{part}.ts"
        text = file.read_text().split("@data", 1)[1].split()
        x, y = [], []
        for line in text:
            *channels, label = line.split(":")
            values = np.array([channel.split(",") for channel in channels], float)
            old, new = np.linspace(0, 1, values.shape[1]), np.linspace(0, 1, 25)
            x.append(np.stack([np.interp(new, old, channel) for channel in values]).ravel())
            y.append(int(label) - 1)
        return torch.from_numpy(np.stack(x)).float(), torch.tensor(y)

    return read("TRAIN"), read("TEST")


TABLES: dict[str, Callable[[int], tuple[Rows, Rows]]] = {
    "ImageSegments": image_segments,
    "JapaneseVowels": japanese_vowels,
}


def guises(stream: str, width: int, seed: int) -> list[Tensor]:
    """The matrix of each experience of a stream whose numbers change."""
    g = torch.Generator().manual_seed(1_000 + seed)
    found = [torch.eye(width)]
    for _ in range(3):
        turned = torch.linalg.qr(torch.randn(width, width, generator=g))[0]
        stretched = (3 ** (2 * torch.rand(width, generator=g) - 1)).diag()
        found.append(turned if stream == "rotations" else stretched)
    return found


def experiences(stream: str, train: Rows, test: Rows, seed: int) -> tuple[list[Rows], Rows]:
    """Training rows by experience, and all test rows. Numbers are scaled by the first experience's."""
    (x, y), (queries, answers) = train, test
    g = torch.Generator().manual_seed(seed)
    if stream == "classes":
        order = torch.randperm(int(y.max()) + 1, generator=g)
        parts = [torch.isin(y, some).nonzero().flatten() for some in order.tensor_split(3)]
    else:
        parts = list(torch.randperm(len(y), generator=g).tensor_split(4))
    mean, std = x[parts[0]].mean(0), x[parts[0]].std(0)
    std = std.clamp_min(1e-3 * float(std.max()))

    def scaled(rows: Tensor) -> Tensor:
        z = (rows - mean) / std
        return z.sign() * z.abs().log1p()  # most numbers have long tails

    if stream == "classes":
        return [(scaled(x[part]), y[part]) for part in parts], (scaled(queries), answers)
    turns = guises(stream, x.shape[1], seed)
    found = [(scaled(x[part]) @ turn, y[part]) for part, turn in zip(parts, turns, strict=True)]
    return found, (torch.cat([scaled(queries) @ turn for turn in turns]), answers.repeat(len(turns)))


def fitted(memory: Any, parts: list[Rows]) -> Any:
    """A memory that has seen the stream once."""
    for number, (x, y) in enumerate(parts):
        for rows in torch.arange(len(y)).split(32):
            more = {"origin": number} if isinstance(memory, GaussianMemory) else {}
            memory.write(x[rows], y[rows], **more)
    if isinstance(memory, GaussianMemory):
        memory.settle()
    return memory


def kinds(by: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and arguments of the memories to choose from."""
    bare: dict[str, Any] = {"by": by}
    tied: dict[str, Any] = {**bare, "tied": True, "rank": 0}
    yield "nearest mean", {**bare, "tied": "unit", "rank": 0, "precision": 8}
    for bits in (8, 6, 4):
        yield f"LDA, {bits} bits", {**tied, "precision": bits}
        for parts in (2, 4, 8, 12):
            yield (
                f"LDA, {parts} a class, {bits} bits",
                {**tied, "precision": bits, "components": parts},
            )
        for k in (4, 8, 12, 16):
            yield f"LDA, leading {k}, {bits} bits", {**tied, "precision": bits, "leading": k}
        yield f"QDA, {bits} bits", {**bare, "rank": None, "precision": bits}
        for parts in (2, 3, 4):
            yield f"QDA, {parts} a class, {bits} bits", {**bare, "rank": None, "precision": bits, "components": parts}
        for rank in (0, 1, 2, 4):
            yield f"rank {rank}, {bits} bits", {**bare, "rank": rank, "precision": bits}
            yield f"rank {rank}, 4 a class, {bits} bits", {**bare, "rank": rank, "precision": bits, "components": 4}
    for parts in (4, 8, 12, 16, 24):
        yield f"{parts} means a class", {**bare, "tied": "unit", "rank": 0, "precision": 8, "components": parts}


def right(memory: Any, test: Rows, classes: int) -> float:
    """Per cent."""
    return 100 * float((memory.predict(test[0], classes=classes).argmax(1) == test[1]).float().mean())


def measure(name: str, stream: str, seed: int) -> dict[str, Any]:
    """Per cent right of what is chosen on a fifth of the training rows, and of the controls."""
    train, test = TABLES[name](seed)
    parts, test = experiences(stream, train, test, seed)
    classes, width = int(train[1].max()) + 1, train[0].shape[1]
    held = [torch.arange(len(y)) % 5 == 4 for _, y in parts]
    rest = [(x[~h], y[~h]) for (x, y), h in zip(parts, held, strict=True)]
    back = (
        torch.cat([x[h] for (x, _), h in zip(parts, held, strict=True)]),
        torch.cat([y[h] for (_, y), h in zip(parts, held, strict=True)]),
    )
    found: dict[str, Any] = {}
    best: tuple[float, str, dict[str, Any]] = (-1.0, "", {})
    for by in ("class",) if stream == "classes" else ("class", "experience"):
        for kind, made in kinds(by):
            if GaussianMemory(**made).settled_nbytes(classes, width, len(parts)) > BUDGET:
                continue
            memory = fitted(GaussianMemory(seed=0, **made), rest)
            plain = kind in ("nearest mean", "LDA, 8 bits", "LDA, 6 bits", "QDA, 6 bits")
            for shrinkage in (0.1, 0.3, 0.5, 0.7, 0.9) if not made.get("tied") or "leading" in made else (0.5,):
                for ridge in (1e-3, 1e-2, 1e-1):
                    memory.shrinkage, memory.ridge = shrinkage, ridge
                    score = right(memory, back, classes)
                    if score > best[0]:
                        best = score, f"{kind}, by {by}", {**made, "shrinkage": shrinkage, "ridge": ridge}
            if plain:
                control = fitted(GaussianMemory(seed=0, **made), parts)
                found[f"{kind}, by {by}"] = {"right": right(control, test, classes), "bytes": control.nbytes}
    memory = fitted(GaussianMemory(seed=0, **best[2]), parts)
    found["chosen"] = {"right": right(memory, test, classes), "bytes": memory.nbytes, "memory": best[1]}
    rows = EpisodicMemory.from_budget(
        BUDGET, shape=(width,), codec=Int8(), write_policy="class_balanced", labels="uint8", store_tasks=False,
        classes=classes, seed=0,
    )  # fmt: skip
    fitted(rows, parts)
    found["1-NN, int8 rows"] = {"right": right(rows, test, classes), "bytes": rows.nbytes}
    return found


def report(results: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """The tables."""
    lines: list[list[object]] = []
    for (name, stream), found in results.items():
        for kind in found[0]:
            cells = [one[kind] for one in found if kind in one]
            memories = ", ".join(sorted({cell["memory"] for cell in cells if "memory" in cell}))
            most = max(cell["bytes"] for cell in cells)
            shown = kind + (f" ({memories})" if memories else "")
            lines.append([f"{name}, {stream}", shown, f"{most:,}", interval([cell["right"] for cell in cells])])
    words = (
        f"At most {BUDGET:,} bytes, {len(next(iter(results.values())))} seeds, mean ± 95 % interval. Chosen: the "
        "memory of Gaussians that answers best on every fifth training row when it is fitted to the others, from all "
        "kinds, bits, shrinkage and ridges that fit; then fitted to all. Numbers are scaled by mean and deviation of "
        "the first experience (8 bytes a number, not counted), and their logarithm taken by sign.\n\n"
    )
    return words + table(["stream", "memory", "bytes", "% correct"], lines)


def main(options: Options) -> None:
    """Measure what is missing, then write the section."""
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    kept = options.runs(options.out)
    for name, load in TABLES.items():
        try:
            load(0)
        except (ModuleNotFoundError, FileNotFoundError) as problem:
            print(f"left out: {name}: {problem}", flush=True)
            continue
        for stream in STREAMS[:1] if options.quick else STREAMS:
            for seed in range(options.least(options.seeds, 1)):
                file = kept / f"{name}-{stream}-{seed}.json"
                results.setdefault((name, stream), []).append(once(file, partial(measure, name, stream, seed)))
    if results:
        options.write("Small tables", report(results), COMMAND)


if __name__ == "__main__":
    launch(main, Options, __doc__)
