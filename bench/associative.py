"""Comparators of the energy memory: Hopfield networks, modern Hopfield, quantised storage, a memory network.

    OMP_NUM_THREADS=1 python bench/associative.py --data DIR

Strings: 128 random bits of which 64 are corrupted. Images: Omniglot's evaluation alphabets with one block erased, and
MNIST and Fashion-MNIST for what was never trained on; the memory networks train on the background alphabets first
(their weights stay in results/associative/ for the next run).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from _common import DataOptions, launch
from _images import omniglot
from _record import table
from torch import Tensor
from torch.nn.functional import interpolate

from avalanche_memplugins.codecs import Bits, Codec, Downsampled, Uint8
from avalanche_memplugins.functional.episodes import corrupt_strings, erase_block, image_episodes, string_episodes
from avalanche_memplugins.memories.comparators import (
    HopfieldMemory,
    ModernHopfieldMemory,
    SlotMemory,
    SparseDistributedMemory,
)
from avalanche_memplugins.networks.memory_network import MemoryNetwork, train_memory_network

COMMAND = "OMP_NUM_THREADS=1 python bench/associative.py --data DIR"
WEIGHTS = Path("results/associative")
COUNTS = (16, 32, 48, 64, 96)
BITS, FLOATS = 128, 8256
BLOCKS = {16: 8, 28: 14}
PATTERNS = 16
Episodes = tuple[Tensor, Tensor, Tensor]
"""Patterns, cues, and which entries of the cues are known, ``(E, N, n)`` each."""


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """What to measure."""

    parts: tuple[Literal["strings", "images"], ...] = ("strings", "images")
    sizes: tuple[int, ...] = (16, 28)
    strings: int = 4800
    """Strings in all, N an episode."""
    image_episodes: int = 100
    steps: int = 5_000
    """To train each memory network, 8 episodes a step: 3 CPU minutes for 28 x 28; its control takes half as many."""


# --- strings


@dataclass(frozen=True)
class Convention:
    """What the cue is, and what a read may change."""

    erased: bool
    clamped: bool

    def __str__(self) -> str:
        return f"{'erased' if self.erased else 'random'}, {'known bits clamped' if self.clamped else 'free'}"


PINNED = Convention(erased=True, clamped=True)
CONVENTIONS = (PINNED, Convention(erased=False, clamped=True), Convention(erased=True, clamped=False))
PUBLISHED: dict[str, tuple[float, ...]] = {
    "Hebb": (0.4, 5.0, 9.8, 13.0, 16.5),
    "Storkey": (0.0, 0.9, 6.3, 11.3, 17.1),
    "pseudo-inverse": (0.0, 0.0, 0.3, 4.3, 22.5),
    "memory network": (0.0, 0.0, 0.0, 0.0, 10.5),
    "EBMM": (0.0, 0.0, 0.1, 0.5, 4.2),
}


def hopfield(rule: Any, **kwargs: Any) -> Callable[[], HopfieldMemory]:
    """Makes an empty Hopfield network of 8,256 floats."""
    return lambda: HopfieldMemory(BITS, rule=rule, **{"seed": 0, **kwargs})


def modern(**kwargs: Any) -> Callable[[], ModernHopfieldMemory]:
    """Makes an empty modern Hopfield network; products of bits made +-1/2, so beta 4 is the usual 1."""
    return lambda: ModernHopfieldMemory.from_budget(
        4 * FLOATS, size=BITS, beta=4.0, similarity="dot", centre=0.5, **kwargs
    )


def sparse(**kwargs: Any) -> Callable[[], SparseDistributedMemory]:
    """Makes an empty sparse distributed memory of as many locations as fit; each pattern reaches a fiftieth of them."""
    return lambda: SparseDistributedMemory.from_budget(4 * FLOATS, size=BITS, seed=0, **kwargs)


@torch.no_grad()
def wrong_bits(make: Callable[[], Any], convention: Convention, count: int, episodes: int) -> tuple[float, float]:
    """Mean of wrong bits a string, and half of its 95 % interval over episodes; the same strings for every memory."""
    generator = torch.Generator().manual_seed(count)
    x = string_episodes(episodes, count, BITS, generator=generator)
    cue, known = corrupt_strings(x, 64, 0.5 if convention.erased else None, generator=generator)
    memory = make()
    memory.write(x)
    wrong = (memory.read(cue, known if convention.clamped else None) - x).abs().sum(-1).mean(-1)
    return float(wrong.mean()), 1.96 * float(wrong.std()) / episodes**0.5


def strings(options: Options) -> str:
    """Wrong bits of 128: the pinned convention, and what other conventions change."""
    rules = {"Hebb": "hebb", "Storkey": "storkey", "Storkey, whole fields": "storkey-whole"}
    rules["pseudo-inverse"] = "pseudo-inverse"
    runs: list[tuple[str, Callable[[], Any], Convention, str]] = []
    for convention in CONVENTIONS:
        runs += [(name, hopfield(rule), convention, "asynchronous") for name, rule in rules.items()]
    free = CONVENTIONS[2]
    kept = hopfield("pseudo-inverse", keep_diagonal=True)
    runs.append(("pseudo-inverse, diagonal kept", kept, free, "asynchronous"))
    for name, rule in rules.items():
        runs.append((name, hopfield(rule, update="synchronous"), free, "synchronous"))
    # The erased bits are in the middle, so a stored string's own cue is 16 from it, a wrong one's 48 and more.
    runs += [
        ("modern Hopfield, 64 strings held in float32", modern(threshold=24.0, steps=3), free, "3 steps"),
        ("modern Hopfield, all held, packed", modern(codec=Bits(1), steps=3), free, "3 steps"),
        ("sparse distributed, 2-bit counters", sparse(steps=1), free, "1 read"),
        ("sparse distributed, 2-bit counters", sparse(steps=10), PINNED, "10 reads"),
        ("sparse distributed, 8-bit counters", sparse(steps=10, counter_bits=8), PINNED, "10 reads"),
    ]
    rows: list[list[object]] = []
    for name, make, convention, update in runs:
        means = [wrong_bits(make, convention, count, options.strings // count) for count in COUNTS]
        size = "8,256" if name.startswith((*rules, "sparse")) else "8,192" if "64" in name else "4 N"
        rows.append([name, str(convention), update, size, *(f"{m:.2f} ± {h:.2f}" for m, h in means)])
        print(rows[-1], flush=True)
    rows += [[f"published: {name}", "", "", "8,256", *values] for name, values in PUBLISHED.items()]
    return table(["memory", "cue", "updates", "floats", *(f"N = {count}" for count in COUNTS)], rows)


# --- images


def image_sets(data: Path, size: int, *, episodes: int = 100, patterns: int = PATTERNS) -> dict[str, Episodes]:
    """Episodes of images that nothing was trained on, by the name of their data; the same ones on every call."""
    from torchvision.datasets import MNIST, FashionMNIST

    pools = {"Omniglot": omniglot(data, background=False, size=size)[0]}
    for name, kind in (("MNIST", MNIST), ("Fashion", FashionMNIST)):
        whole = kind(str(data), train=False).data[:, None] / 255.0
        pools[name] = interpolate(whole, size=(size, size), mode="area")
    sets = {}
    for name, pool in pools.items():
        generator = torch.Generator().manual_seed(0)
        x = image_episodes(pool, episodes, patterns, generator=generator)
        sets[name] = (x, *erase_block(x, size, BLOCKS[size], generator=generator))
    return sets


@torch.no_grad()
def image_cells(read: Callable[[Episodes], Tensor], sets: dict[str, Episodes]) -> list[str]:
    """Two cells for each set: squared error an image, summed over pixels, of the read and of it with the known pixels
    put back; each with its share of the cue's error."""
    cells = []
    for x, cue, known in sets.values():
        out = read((x, cue, known))
        before = _error(cue, x)
        for shown in (out, torch.where(known, cue, out)):
            error = _error(shown, x)
            cells.append(f"{error:.2f} ({100 * error / before:.0f} %)")
    return cells


def _error(out: Tensor, x: Tensor) -> float:
    return float((out - x).square().sum(-1).mean())


def image_header(sets: dict[str, Episodes]) -> list[str]:
    """Heads of the columns of :func:`image_cells`."""
    return [head for name in sets for head in (name, f"{name}, clamped")]


def image_rows(size: int, sets: dict[str, Episodes], networks: dict[str, MemoryNetwork]) -> list[list[object]]:
    """A row a comparator: name, floats of an episode (bytes / 4), floats a pattern, then :func:`image_cells`."""
    patterns, shape = next(iter(sets.values()))[0].shape[1], (1, size, size)
    rows: list[list[object]] = []

    def add(name: str, floats: float, read: Callable[[Episodes], Tensor]) -> None:
        rows.append([name, f"{floats:,.0f}", f"{floats / patterns:.0f}", *image_cells(read, sets)])
        print(rows[-1], flush=True)

    def add_memory(name: str, make: Callable[[], Any], after: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        floats = 0.0

        def read(episodes: Episodes) -> Tensor:
            nonlocal floats
            x, cue, known = episodes
            memory = make()
            memory.write(x)
            floats = memory.nbytes / 4 / len(x)
            out: Tensor = memory.read(cue, None if isinstance(memory, SlotMemory) else known)
            return out if after is None else after(out, cue)

        cells = image_cells(read, sets)
        rows.append([name, f"{floats:,.0f}", f"{floats / patterns:.0f}", *cells])
        print(rows[-1], flush=True)

    add("cue", 0, lambda episodes: episodes[1])
    alone = networks.get("no memory")
    if alone is not None:
        add("completion without memory, trained so", 0, lambda episodes: alone(*episodes[:2]).clamp(0, 1))

    def nearest(codec: Codec | None = None, **kwargs: Any) -> Callable[[], ModernHopfieldMemory]:
        return lambda: ModernHopfieldMemory(size**2, beta=50.0, codec=codec, shape=shape, **kwargs)

    def completed(out: Tensor, cue: Tensor) -> Tensor:
        rejected = (out == cue).all(-1, keepdim=True)
        assert alone is not None
        return torch.where(rejected, alone(cue, cue).clamp(0, 1), out)

    for kept in (patterns // 4, patterns // 2, patterns):
        add_memory(f"modern Hopfield, {kept} of {patterns} kept", nearest(capacity=kept, threshold=1e-3))
        if alone is not None and kept < patterns:
            make = nearest(capacity=kept, threshold=1e-3)
            add_memory(f"modern Hopfield, {kept} of {patterns} kept, others completed without memory", make, completed)
    half = size // 2
    codecs: dict[str, Codec] = {"8 bits": Uint8(lossy=True), "4 bits": Bits(4), "2 bits": Bits(2), "1 bit": Bits(1)}
    codecs[f"{half} x {half} at 4 bits"] = Downsampled(half, Bits(4))
    for name, codec in codecs.items():
        add_memory(f"quantised storage, {name}", nearest(codec))
    for name, network in networks.items():
        if name != "no memory":
            add_memory(f"memory network, {name}", lambda network=network: SlotMemory(network))
    return rows


def memory_network(data: Path, size: int, *, steps: int, code_size: int = 128, memory: bool = True) -> MemoryNetwork:
    """A trained memory network: from its file, or trained on Omniglot's background alphabets."""
    path = WEIGHTS / f"memory-network-{size}-{code_size if memory else 'none'}.pt"
    torch.manual_seed(0)
    network = MemoryNetwork(size**2, code_size, hidden=512, memory=memory)
    if path.exists():
        network.load_state_dict(torch.load(path))
        return network.eval()
    images, characters = omniglot(data, background=True, size=size)
    held_out = torch.isin(characters, torch.randperm(964, generator=torch.Generator().manual_seed(0))[:96])
    pool, validation = images[~held_out], images[held_out]
    generator = torch.Generator().manual_seed(1)

    def draw(source: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(source), (count, PATTERNS), generator=generator)
        x = source[chosen].flatten(2)
        return x, erase_block(x, size, BLOCKS[size], generator=generator)[0]

    x_val, cue_val = draw(validation, 60, torch.Generator().manual_seed(2))
    started = time.process_time()

    def report(step: int, error: float) -> None:
        if step % 1000 == 0 or step == steps:
            with torch.no_grad():
                held = _error(network(x_val, cue_val).clamp(0, 1), x_val)
            print(f"{path.stem} step {step}/{steps} {time.process_time() - started:.0f} s "
                  f"train {error:.3f} validation {held:.3f}", flush=True)  # fmt: skip

    train_memory_network(network, lambda: draw(pool, 8, generator), steps=steps, after_step=report)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return network.eval()


def networks(data: Path, size: int, steps: int) -> dict[str, MemoryNetwork]:
    """The memory network and its control without memory."""
    return {
        "code 128": memory_network(data, size, steps=steps),
        "no memory": memory_network(data, size, steps=steps // 2, memory=False),
    }


def images(options: Options, size: int) -> str:
    """Squared error of what is read, all comparators."""
    trained = networks(options.data, size, options.steps)
    sets = image_sets(options.data, size, episodes=options.image_episodes)
    rows = image_rows(size, sets, trained)
    return table(["memory", "floats", "a pattern", *image_header(sets)], rows)


def main(options: Options) -> None:
    """Measure and record."""
    if options.quick:
        options = replace(options, sizes=(16,), strings=64, image_episodes=2, steps=4)
    if "strings" in options.parts:
        options.write("Associative memories: strings", STRINGS + "\n\n" + strings(options), COMMAND)
    if "images" in options.parts:
        texts = [f"### {size} x {size}, block {BLOCKS[size]}\n\n{images(options, size)}" for size in options.sizes]
        text = "\n\n".join([IMAGES.format(steps=options.steps), *texts])
        options.write("Associative memories: images", text, COMMAND)


STRINGS = """Wrong bits of 128 a string, mean ± 95 % interval over episodes; 4,800 random strings for each N. A bit
that is still erased counts half.

The convention that this repository compares under (first rows): 64 bits, chosen anew for each string, are erased to
0.5 (0 among ±1); the other 64 are clamped; updates one by one in a random order until a sweep changes nothing, 20
sweeps at most; the diagonal is zero; a field of 0 changes nothing. `random`: the 64 bits are fair coins instead, so
about 32 are wrong and nobody knows which, but the right 64 are still clamped. `free`: nothing is clamped. The paper
does not say which it used. Modern Hopfield: 3 steps, softmax of products of ±1 bits with beta 1; a cue that is far from
all that is held comes back as it is. Packed, a string takes 16 bytes: 8,256 floats would hold 2,064."""
IMAGES = """Squared error of a read, summed over the pixels of an image, and its share of the cue's; 100 episodes of 16
images are written, then read from cues with one block erased to 0, its place uniform inside the image. Reduced by area
from the originals (Omniglot 105 x 105). `clamped`: the known pixels put back. Modern Hopfield compares known pixels
only, beta 50; a cue farther than 0.001 from all that is held comes back as it is. `floats` of an episode are bytes / 4;
networks are not counted. The memory network (two hidden layers of 512, {steps:,} steps of 8 episodes) and its control,
trained for half as many steps without memory, saw Omniglot's background alphabets only, less a tenth."""

if __name__ == "__main__":
    launch(main, Options, __doc__)
