"""CIFAR-10 behind a frozen network, at the full width of its features: discriminants per byte, nothing trained.

    python bench/cifar_features.py --data DIR --out results/cifar10-lite0.safetensors
    python bench/cifar_discriminants.py

A memory keeps a projection of the square roots of 1,280 numbers. The projection is a part of the memory that takes no
bytes of the stream: drawn from a seed; or the directions that matter most to the network's own last layer, the right
singular vectors of its 1,000 ImageNet classes, which come with the network. Avalanche's ``StreamingLDA`` has
``slda_model=nn.Flatten()`` behind the same projections, of as many numbers as its float32 matrix allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _common import Options as CommonOptions
from _common import launch, once
from _record import interval, table
from avalanche.training import StreamingLDA
from safetensors.torch import load_file
from torch import Tensor, nn

from avalanche_memplugins.memories import GaussianMemory
from avalanche_memplugins.networks.random_projection import orthonormal

BUDGETS = (5_000, 20_000, 50_000, 200_000)
WRITE = 250  # rows at a time
LDA: dict[str, Any] = {"tied": True, "rank": 0}
# By budget: bits, leading numbers and ridge, chosen on a fifth of the training rows.
CHOSEN: dict[int, tuple[int, int | None, float]] = {
    5_000: (6, None, 1e-3),
    20_000: (6, None, 3e-3),
    50_000: (6, None, 3e-3),
    200_000: (6, None, 3e-3),
}
COMMAND = "python bench/cifar_discriminants.py"


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """What to do."""

    features: Path = Path("results/cifar10-lite0.safetensors")
    out: Path = Path("results/cifar-discriminants")
    seeds: int = 3
    choose: bool = False
    """Print what bits, leading numbers and ridges reach on a fifth of the training rows, and nothing else."""


def basis(kind: str, head: Tensor, width: int, seed: int) -> Tensor:
    """Columns ``(1280, width)``."""
    if kind == "seed":
        return orthonormal(head.shape[1], width, seed).float()
    rows = head.float() - head.float().mean(0)
    return torch.linalg.svd(rows, full_matrices=False)[2][:width].T


def widest(budget: int, made: dict[str, Any]) -> int:
    """Numbers of a code with which such a memory of ten classes fits."""
    sized = GaussianMemory(**made)
    return max(width for width in range(2, 1_001) if sized.settled_nbytes(10, width) <= budget)


def fitted(memory: GaussianMemory, z: Tensor, y: Tensor, order: Tensor) -> GaussianMemory:
    """A memory that has seen five experiences of two classes once."""
    for number, classes in enumerate(order.split(2)):
        for rows in torch.isin(y, classes).nonzero().flatten().split(WRITE):
            memory.write(z[rows], y[rows], origin=number)
    memory.settle()
    return memory


def right(memory: GaussianMemory, z: Tensor, y: Tensor) -> float:
    """Per cent."""
    hits = [memory.predict(z[rows], classes=10).argmax(1) == y[rows] for rows in torch.arange(len(y)).split(1_000)]
    return 100 * float(torch.cat(hits).float().mean())


def streaming_lda(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], order: Tensor) -> tuple[float, int]:
    """Per cent and bytes of Avalanche's own."""
    width = train[0].shape[1]
    theirs = StreamingLDA(nn.Flatten(), nn.CrossEntropyLoss(), width, 10, train_epochs=1)
    for classes in order.split(2):
        for row in torch.isin(train[1], classes).nonzero().flatten():
            theirs.fit(train[0][row], train[1][row : row + 1])
    hits = theirs.predict(test[0]).argmax(1) == test[1]
    return 100 * float(hits.float().mean()), sum(value.nbytes for value in (theirs.muK, theirs.cK, theirs.Sigma))


def measure(options: Options, seed: int) -> dict[str, Any]:
    """Per cent right and bytes of every line."""
    held = load_file(options.features)
    x, y, queries, answers = (held[name] for name in ("train_x", "train_y", "test_x", "test_y"))
    if options.quick:
        x, y, queries, answers = x[:2_000], y[:2_000], queries[:500], answers[:500]
    x, queries = (rows.float().clamp_min(0).sqrt() for rows in (x, queries))
    order = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
    found: dict[str, Any] = {"rows": len(y)}
    for kind in ("head", "seed"):
        turned = basis(kind, held["head"], 1_000, seed)
        z, q = x @ turned, queries @ turned
        for budget in BUDGETS[:2] if options.quick else BUDGETS:
            bits, leading, ridge = CHOSEN[budget]
            made = {**LDA, "precision": bits, "leading": leading}
            width = widest(budget, made)
            memory = fitted(GaussianMemory(ridge=ridge, shrinkage=0.7, seed=0, **made), z[:, :width], y, order)
            found[f"{kind}, {budget}"] = {
                "right": right(memory, q[:, :width], answers),
                "bytes": memory.nbytes,
                "memory": f"LDA {width}, {bits} bits" + (f", leading {leading}" if leading else ""),
            }
            theirs = int((25 + budget / 4 - 10) ** 0.5 - 5)  # 4 (d² + 10 d + 10) bytes
            score, took = streaming_lda((z[:, :theirs], y), (q[:, :theirs], answers), order)
            found[f"Avalanche, {kind}, {budget}"] = {"right": score, "bytes": took, "memory": f"StreamingLDA {theirs}"}
    return found


def choose(options: Options) -> None:
    """What settings reach on rows held back."""
    held = load_file(options.features)
    x, y = held["train_x"].float().clamp_min(0).sqrt(), held["train_y"]
    back = torch.arange(len(y)) % 5 == 4
    z = x @ basis("head", held["head"], 1_000, 0)
    for budget in BUDGETS:
        for bits in (4, 6, 8):
            for leading in (None, 16, 40, 64):
                made = {**LDA, "precision": bits, "leading": leading}
                try:
                    width = widest(budget, made)
                except ValueError:
                    continue
                memory = fitted(GaussianMemory(seed=0, **made), z[~back, :width], y[~back], torch.arange(10))
                for ridge in (1e-3, 3e-3, 1e-2, 3e-2):
                    memory.ridge, memory.shrinkage = ridge, 0.7
                    score = right(memory, z[back, :width], y[back])
                    print(budget, bits, leading, width, ridge, f"{score:.2f}", flush=True)


def report(results: list[dict[str, Any]]) -> str:
    """The table."""
    lines: list[list[object]] = []
    names = {"head": "directions of the last layer", "seed": "directions from a seed"}
    for kind, words in names.items():
        for budget in BUDGETS:
            for prefix in ("", "Avalanche, "):
                cells = [one[f"{prefix}{kind}, {budget}"] for one in results]
                most = max(cell["bytes"] for cell in cells)
                lines.append([words, cells[0]["memory"], f"{most:,}", interval([cell["right"] for cell in cells])])
    text = (
        f"{results[0]['rows']:,} of the 50,000 training rows, once, two classes an experience; all 10,000 test rows; "
        f"{len(results)} seeds of the order of classes and of the drawn directions, mean ± 95 % interval. Features: "
        "EfficientNet-Lite0 on images of 112 x 112, 1,280 numbers, 18.8 MB of fixed weights. Settings: on a fifth of "
        "the training rows.\n\n"
    )
    return text + table(["projection", "memory", "bytes", "% correct"], lines)


def main(options: Options) -> None:
    """Measure what is missing, then write the section."""
    if not options.features.exists():
        raise SystemExit(f"features: expected what bench/cifar_features.py makes, got {options.features}, not there")
    if options.choose:
        choose(options)
        return
    folder = options.runs(options.out)
    seeds = range(options.least(options.seeds, 1))
    results = [once(folder / f"{seed}.json", partial(measure, options, seed)) for seed in seeds]
    if not options.quick:
        options.write("CIFAR-10 features at full width, per byte", report(results), COMMAND)


if __name__ == "__main__":
    launch(main, Options, __doc__)
