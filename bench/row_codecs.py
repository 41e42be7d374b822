"""What a remembered row costs under each codec, and what more rows at equal bytes buy.

    python bench/row_codecs.py --data DIR        ten minutes on a core

Bytes are measured in a real memory that a
class-incremental stream was written to, labels apart; times are processor time a row, in batches of 32. Accuracy: one
nearest neighbour, and a multi-layer perceptron with replay, after five experiences of 1,600 rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from _common import DataOptions, launch
from torch import Tensor, nn
from torchvision.datasets import CIFAR10, MNIST, FashionMNIST

from avalanche_memplugins import RandomMemory
from avalanche_memplugins.codecs import Bits, Downsampled, EntropyCoded, ImageFile, LatentCodec, Uint8
from avalanche_memplugins.memories import CodedMemory

GREY: dict[str, Callable[[], Any]] = {
    "Uint8": Uint8,
    "Bits(1)": lambda: Bits(1),
    "Downsampled(14, Bits(4))": lambda: Downsampled(14, Bits(4)),
    "Downsampled(14, Bits(2))": lambda: Downsampled(14, Bits(2)),
    "EntropyCoded(Bits(1))": lambda: EntropyCoded(Bits(1)),
    "EntropyCoded(Downsampled(14, Bits(4)))": lambda: EntropyCoded(Downsampled(14, Bits(4))),
    "EntropyCoded(Downsampled(14, Bits(2)))": lambda: EntropyCoded(Downsampled(14, Bits(2))),
    "ImageFile('webp')": lambda: ImageFile("webp"),
    "ImageFile('jpeg', quality=50)": lambda: ImageFile("jpeg", quality=50),
    "latent omniglot28-vae, int8": lambda: LatentCodec.from_pretrained("omniglot28-vae"),
    "latent omniglot28-vae, 4bit": lambda: LatentCodec.from_pretrained("omniglot28-vae", precision="4bit"),
    "latent omniglot28-vae, 2bit": lambda: LatentCodec.from_pretrained("omniglot28-vae", precision="2bit"),
}
COLOUR: dict[str, Callable[[], Any]] = {
    "Uint8": Uint8,
    "ImageFile('png')": lambda: ImageFile("png"),
    "ImageFile('webp')": lambda: ImageFile("webp"),
    "ImageFile('jpeg', quality=75)": lambda: ImageFile("jpeg", quality=75),
    "ImageFile('jpeg', quality=50)": lambda: ImageFile("jpeg", quality=50),
    "ImageFile('webp', quality=75)": lambda: ImageFile("webp", quality=75),
    "ImageFile('webp', quality=50)": lambda: ImageFile("webp", quality=50),
}
REPLAYED = tuple(name for name in GREY if "Bits" in name)


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """What to measure."""

    budgets: tuple[int, ...] = (5_000, 20_000, 50_000)
    seeds: tuple[int, ...] = (0, 1, 2)
    replay: bool = True
    streams: tuple[str, ...] = field(default=("MNIST", "FashionMNIST"))


def stream(kind: Any, root: Path, seed: int) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """Five experiences of 1,600 rows of two classes, and 2,500 test rows."""
    train, test = kind(str(root), train=True), kind(str(root), train=False)
    generator = torch.Generator().manual_seed(seed)
    experiences = []
    for first in range(0, 10, 2):
        rows = torch.nonzero((train.targets == first) | (train.targets == first + 1)).flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)[:1600]]
        experiences.append((train.data[rows].float()[:, None] / 255, train.targets[rows]))
    rows = torch.randperm(len(test.data), generator=generator)[:2500]
    return experiences, (test.data[rows].float()[:, None] / 255, test.targets[rows])


def memory_of(codec: Any, budget: int, shape: tuple[int, ...], seed: int) -> Any:
    """A reservoir within the budget that keeps a class of one byte beside each row."""
    if getattr(codec, "variable", False):
        return CodedMemory(budget, codec=codec, seed=seed)
    options = {"labels": "uint8", "store_tasks": False, "seed": seed}
    return RandomMemory.from_budget(budget, shape=shape, codec=codec, **options)


def bytes_of_a_row(memory: Any) -> float:
    """Bytes of a row's code and of finding it, without its label."""
    if isinstance(memory, CodedMemory):
        return memory.store.nbytes / len(memory) - 1
    return memory.nbytes / memory.capacity - 1


def microseconds(call: Callable[[], Any], rows: int, repeats: int = 30) -> float:
    """Least processor time a row."""
    call()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found) / rows * 1e6


def times(codec: Any, x: Tensor) -> tuple[float, float]:
    """Microseconds a row to encode and to decode."""
    shape, dtype = x.shape[1:], x.dtype
    if getattr(codec, "variable", False):
        buffer, lengths = codec.encode_rows(x)
        starts = lengths.cumsum(0) - lengths
        back = lambda: codec.decode_rows(buffer, starts, lengths, shape, dtype)  # noqa: E731
        return microseconds(lambda: codec.encode_rows(x), len(x)), microseconds(back, len(x))
    code = codec.encode(x)
    return microseconds(lambda: codec.encode(x), len(x)), microseconds(lambda: codec.decode(code, shape, dtype), len(x))


def nearest_neighbour(memory: Any, test: tuple[Tensor, Tensor]) -> float:
    """Accuracy of the class of the nearest row held; of codes where the codec has them."""
    held = memory.rows(memory.slots())
    codec, x = memory.codec, test[0]
    rows = held.x
    if isinstance(codec, LatentCodec):
        rows, x = codec.to_latent(rows.clamp(0, 1)), codec.to_latent(x)
    else:
        inner = codec.inner if isinstance(codec, EntropyCoded) else codec
        if isinstance(inner, Bits | Downsampled):  # compared as stored
            x = inner.decode(inner.encode(x), x.shape[1:], x.dtype)
    near = torch.cdist(x.flatten(1), rows.flatten(1)).argmin(1)
    return 100 * float((held.y[near] == test[1]).float().mean())


def replay(memory: Any, experiences: list[tuple[Tensor, Tensor]], test: tuple[Tensor, Tensor], seed: int) -> float:
    """Accuracy of a perceptron trained with 16 new rows and 16 replayed ones a step."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for x, y in experiences:
        for rows in torch.split(torch.randperm(len(x)), 16):
            inputs, labels = x[rows], y[rows]
            if len(memory):
                recall = memory.sample(16)
                inputs, labels = torch.cat([inputs, recall.x]), torch.cat([labels, recall.y])
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            torch.autograd.backward(loss)
            optimizer.step()
        memory.write(x, y)
    with torch.no_grad():
        return 100 * float((model(test[0]).argmax(1) == test[1]).float().mean())


def grey(options: Options, name: str) -> list[str]:
    """Lines of the table of one grey stream."""
    kind = {"MNIST": MNIST, "FashionMNIST": FashionMNIST}[name]
    sizes = " | ".join(f"{budget // 1000} kB: rows, 1-NN, ER" for budget in options.budgets)
    lines = [f"| {name} | bytes a row | encode / decode us | {sizes} |", "|---" * (3 + len(options.budgets)) + "|"]
    for codec_name, make in GREY.items():
        cells, codec = [], make()
        for budget in options.budgets:
            rows, neighbours, replayed, row_bytes = [], [], [], []
            for seed in options.seeds:
                experiences, test = stream(kind, options.data, seed)
                memory = memory_of(make(), budget, (1, 28, 28), seed)
                for x, y in experiences:
                    memory.write(x, y)
                rows.append(len(memory))
                row_bytes.append(bytes_of_a_row(memory))
                neighbours.append(nearest_neighbour(memory, test))
                codec = memory.codec
                if options.replay and codec_name in REPLAYED:
                    fresh = memory_of(make(), budget, (1, 28, 28), seed)
                    replayed.append(replay(fresh, experiences, test, seed))
            er = f", {mean(replayed):.1f}" if replayed else ""
            cells.append(f"{mean(rows):.0f}, {mean(neighbours):.1f}{er}")
        encode, decode = times(codec, stream(kind, options.data, 0)[1][0][:32])
        lines.append(f"| `{codec_name}` | {mean(row_bytes):.1f} | {encode:.0f} / {decode:.0f} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def colour(options: Options) -> list[str]:
    """Lines of the table of CIFAR-10."""
    data = CIFAR10(str(options.data), train=True)
    x = torch.from_numpy(data.data[:1000]).permute(0, 3, 1, 2).float() / 255
    y = torch.tensor(data.targets[:1000])
    lines = ["| CIFAR-10 | bytes a row | fixed bytes | encode / decode us | rows in 200 kB |", "|---|---|---|---|---|"]
    for name, make in COLOUR.items():
        memory = memory_of(make(), 200_000, (3, 32, 32), 0)
        for rows in torch.split(torch.arange(len(x)), 100):
            memory.write(x[rows], y[rows])
        encode, decode = times(memory.codec, x[:32])
        lines.append(
            f"| `{name}` | {bytes_of_a_row(memory):.1f} | {memory.nbytes_fixed} | {encode:.0f} / {decode:.0f} | "
            f"{len(memory)} |"
        )
        print(lines[-1], flush=True)
    return lines


def main(options: Options) -> None:
    """Measure and record."""
    if options.quick:
        options = replace(options, budgets=(5_000,), seeds=(0,), streams=("MNIST",))
    lines = [*colour(options), ""]
    for name in options.streams:
        lines += [*grey(options, name), ""]
    options.write("Codecs of rows", f"{REMARK}\n\n" + "\n".join(lines), "python bench/row_codecs.py --data DIR")


REMARK = """Bytes of a row with its length and place, without its label of one byte; microseconds of processor time a
row, in batches of 32; rows held, accuracy of one nearest neighbour and of a perceptron with replay (ER), %, means over
seeds, after five experiences of 1,600 rows of two classes."""


if __name__ == "__main__":
    launch(main, Options, __doc__)
