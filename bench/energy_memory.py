"""Energy-based memory: how well it reads, read step by read step, beside its controls; and how long it takes.

    OMP_NUM_THREADS=1 python bench/energy_memory.py --data DIR

Strings under the conventions of bench/associative.py, images as there (the same episodes, so its tables stand beside
these). Networks are those that come with the library; the controls that cannot write are read from ``--controls``,
where ``memplugins train-energy`` put them (commands in the cards).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import matplotlib
import torch
from _common import DataOptions, launch
from _record import table
from associative import COUNTS, Episodes, image_cells, image_header, image_sets
from torch import Tensor

from avalanche_memplugins.functional import from_scaled_int8, scaled_int8
from avalanche_memplugins.functional.energy import Weights
from avalanche_memplugins.functional.episodes import corrupt_strings, string_episodes
from avalanche_memplugins.memories import EnergyMemory
from avalanche_memplugins.networks.energy import EnergyNetwork
from avalanche_memplugins.pretrained import load_energy

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COMMAND = "OMP_NUM_THREADS=1 python bench/energy_memory.py --data DIR"
CHUNK = 20  # episodes at once
SPREAD = 30  # read steps that are plotted


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """What to measure."""

    parts: tuple[Literal["strings", "images", "routes", "times"], ...] = ("strings", "images", "routes", "times")
    controls: Path = Path("results/energy")
    """Folder of the networks that cannot write: omniglot-16-none.safetensors, omniglot-28-none.safetensors."""
    strings: int = 4800
    """Strings in all, N an episode, as in bench/associative.py."""
    image_episodes: int = 100


def quantised(weights: Weights, network: EnergyNetwork, kind: str) -> Weights:
    """Written weights after their differences from the initial ones were stored in fewer bits."""
    out = []
    for weight, initial in zip(weights, network.initial, strict=True):
        delta = weight - initial
        if kind == "float16":
            delta = delta.half().float()
        elif kind == "int8":
            delta = from_scaled_int8(*scaled_int8(delta))
        out.append(initial + delta)
    return tuple(out)


@dataclass(frozen=True)
class Way:
    """How a network is written and read."""

    name: str
    write_steps: int | None = None
    read_steps: int | None = None
    store: str = "float32"
    clamped: bool = False
    write: bool = True


@torch.no_grad()
def reads(network: EnergyNetwork, way: Way, episodes: Episodes) -> list[Tensor]:
    """Every read step of all episodes."""
    parts = []
    for x, cue, known in zip(*(column.split(CHUNK) for column in episodes), strict=True):
        weights = quantised(network.write(x, steps=way.write_steps), network, way.store) if way.write else None
        steps = network.read(cue, weights, steps=way.read_steps, known=known if way.clamped else None)
        parts.append(steps)
    return [torch.cat(step) for step in zip(*parts, strict=True)]


# --- strings


def strings(options: Options) -> str:
    """Wrong bits for each number of patterns."""
    network = load_energy("strings-128").network
    trained = len(network.read_momenta)
    ways = [
        Way(f"{trained} reads"),
        Way("1 read", read_steps=1),
        Way("2 reads", read_steps=2),
        Way(f"{2 * trained} reads", read_steps=2 * trained),
        Way("half of the writing steps", write_steps=len(network.write_rates) // 2),
        Way("twice the writing steps", write_steps=2 * len(network.write_rates)),
        Way("4 more writing steps and one more read", write_steps=len(network.write_rates) + 4, read_steps=trained + 1),
        Way("differences in float16", store="float16"),
        Way("differences in int8", store="int8"),
        Way("known bits clamped", clamped=True),
        Way(f"known bits clamped, {2 * trained} reads", clamped=True, read_steps=2 * trained),
        Way("nothing written", write=False),
    ]
    rows: list[list[object]] = []
    for way in ways:
        cells = []
        for count in COUNTS:
            episodes = options.strings // count
            generator = torch.Generator().manual_seed(count)
            x = string_episodes(episodes, count, generator=generator)
            cue, known = corrupt_strings(x, 64, 0.5, generator=generator)
            last = reads(network, way, (x, cue, known))[-1]
            wrong = ((last > 0.5) != (x > 0.5)).sum(-1).float().mean(-1)
            cells.append(f"{float(wrong.mean()):.2f} ± {1.96 * float(wrong.std()) / episodes**0.5:.2f}")
        rows.append([way.name, *cells])
        print(rows[-1], flush=True)
    rows.append(["published (2 million steps, 5 hops of 1,024)", 0.0, 0.0, 0.1, 0.5, 4.2])
    return table(["8,256 floats", *(f"N = {count}" for count in COUNTS)], rows)


# --- images


def images(options: Options, size: int) -> str:
    """Squared error of reads, and of the controls."""
    sets = image_sets(options.data, size, episodes=options.image_episodes)
    network = load_energy(f"omniglot-{size}").network
    patterns = next(iter(sets.values()))[0].shape[1]
    floats = network.writable_floats
    trained = len(network.read_momenta)
    rows: list[list[object]] = []

    def add(name: str, of: EnergyNetwork, way: Way) -> None:
        used = of.writable_floats if way.write and len(of.write_rates) else 0
        cells = image_cells(lambda episodes: reads(of, way, episodes)[-1], sets)
        rows.append([name, f"{used:,}", f"{used / patterns:.0f}", *cells])
        print(rows[-1], flush=True)

    add(f"energy memory, {trained} reads", network, Way(""))
    add("1 read", network, Way("", read_steps=1))
    add(f"{2 * trained} reads", network, Way("", read_steps=2 * trained))
    add("differences in float16", network, Way("", store="float16"))
    add("differences in int8", network, Way("", store="int8"))
    add("known pixels clamped in every step", network, Way("", clamped=True))
    add("nothing written", network, Way("", write=False))
    control = options.controls / f"omniglot-{size}-none.safetensors"
    alone = None
    if control.exists():
        alone = load_energy(control).network
        add("network that cannot write, trained so", alone, Way(""))
    draw_steps(size, network, alone, sets["Omniglot"], options.plots)
    draw_reads(size, network, alone, sets, options.plots)
    head = ["memory", "floats", "a pattern", *image_header(sets)]
    caption = (
        f"![Error per read step, {size} x {size}](plots/energy-reads-{size}.png)\n\n"
        f"![What is read, {size} x {size}](plots/energy-gallery-{size}.png)"
    )
    return f"{table(head, rows)}\n\nA slot: {floats:,} floats for {patterns} images.\n\n{caption}"


def draw_steps(
    size: int, network: EnergyNetwork, alone: EnergyNetwork | None, episodes: Episodes, folder: Path
) -> None:
    """Error of every read step, up to more than was learned."""
    figure, axes = plt.subplots(figsize=(6, 3.6), dpi=120)
    x, cue, _ = episodes
    before = float((cue - x).square().sum(-1).mean())
    lines = [
        ("written", network, Way("", read_steps=SPREAD)),
        ("nothing written (leaves the picture)", network, Way("", read_steps=SPREAD, write=False)),
    ]
    if alone is not None:
        lines.append(("cannot write, trained so", alone, Way("", read_steps=SPREAD)))
    for name, of, way in lines:
        errors = [float((step - x).square().sum(-1).mean()) / before * 100 for step in reads(of, way, episodes)]
        axes.plot(range(len(errors)), errors, marker=".", label=name)
    learned = len(network.read_momenta)
    axes.axvline(learned, color="0.6", lw=1, ls=":")
    axes.annotate(f"{learned} steps learned", (learned, 121), textcoords="offset points", xytext=(4, 0), color="0.4")
    axes.set(xlabel="read step", ylabel="squared error, % of the cue's", xlim=(0, SPREAD), ylim=(0, 130))
    axes.set_title(f"Omniglot evaluation, {size} x {size}, 16 images written, a block erased", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(folder / f"energy-reads-{size}.png")
    plt.close(figure)


def draw_reads(
    size: int, network: EnergyNetwork, alone: EnergyNetwork | None, sets: dict[str, Episodes], folder: Path
) -> None:
    """Images of the first episodes as they were, as cues, and as they are read."""
    columns, show = [], 6
    for name in ("Omniglot", "MNIST"):
        first: Episodes = tuple(column[:1] for column in sets[name])  # type: ignore[assignment]
        steps = reads(network, Way(""), first)
        rows = [first[0], first[1], steps[1], steps[-1], reads(network, Way("", write=False), first)[-1]]
        if alone is not None:
            rows.append(reads(alone, Way(""), first)[-1])
        columns.append(torch.stack([row[0, :show].view(show, size, size) for row in rows]))
    titles = ["written", "cue", "read, 1 step", f"read, {len(network.read_momenta)} steps", "nothing written"]
    titles += ["cannot write,\ntrained so"] if alone is not None else []
    figure, axes = plt.subplots(len(titles), 2 * show, figsize=(2 * show * 0.62 + 1.2, len(titles) * 0.66), dpi=120)
    for i, title in enumerate(titles):
        for j in range(2 * show):
            axes[i, j].imshow(columns[j // show][i, j % show], cmap="gray", vmin=0, vmax=1)
            axes[i, j].axis("off")
        axes[i, 0].text(-0.15, 0.5, title, transform=axes[i, 0].transAxes, ha="right", va="center", fontsize=8)
    figure.subplots_adjust(left=0.13, right=0.995, top=0.995, bottom=0.005, wspace=0.06, hspace=0.06)
    figure.savefig(folder / f"energy-gallery-{size}.png")
    plt.close(figure)


# --- routes


@torch.no_grad()
def routes(options: Options, slots: int = 8, repeats: int = 4) -> str:
    """How often each way of finding the slot finds the right one, and the error of the read there."""
    rows: list[list[object]] = []
    for name, (x, cue, known) in image_sets(options.data, 28, episodes=slots * repeats).items():
        found: dict[str, list[float]] = {}
        for first in range(0, slots * repeats, slots):
            memory = EnergyMemory.from_pretrained("omniglot-28", slots=slots, seed=0)
            of, start, told = (column[first : first + slots].flatten(0, 1) for column in (x, cue, known))
            memory.write(of, torch.zeros(len(of), dtype=torch.int64))
            right = torch.arange(len(of)) // x.shape[1]
            ways = {
                "told": right,
                "match": memory.matching(start),
                "match, known pixels told": memory.matching(start, known=told),
                "energy": memory.lowest(start),
                "energy, known pixels clamped": memory.lowest(start, known=told),
            }
            for way, chosen in ways.items():
                clamped = told if way.startswith(("match, known", "energy, known")) else None
                out = memory.read(start, slots=chosen, known=clamped)
                found.setdefault(way, []).append(float((chosen == right).float().mean()))
                found.setdefault(f"{way} error", []).append(float((out - of).square().sum(-1).mean()))
        for way in ways:
            share, error = (sum(found[key]) / repeats for key in (way, f"{way} error"))
            rows.append([name, way, f"{100 * share:.0f} %", f"{error:.1f}"])
            print(rows[-1], flush=True)
    return table(["images", "slot found by", "right", "squared error of the read"], rows)


# --- times


def seconds(run: Callable[[], object], repeats: int = 20) -> float:
    """Median CPU time of a call."""
    times = []
    for _ in range(repeats):
        begun = time.process_time()
        run()
        times.append(time.process_time() - begun)
    return sorted(times)[len(times) // 2]


def times(options: Options) -> str:
    """Time to write an episode, to read it, and of a step of training."""
    rows: list[list[object]] = []
    for name in ("strings-128", "omniglot-16", "omniglot-28"):
        found = load_energy(name)
        network, patterns = found.network, min(found.patterns, 64)
        x = torch.rand(1, patterns, network.size, generator=torch.Generator().manual_seed(0)).round()
        with torch.no_grad():
            weights = network.write(x)
            write = seconds(lambda network=network, x=x: network.write(x))
            read = seconds(lambda network=network, x=x, weights=weights: network.read(x, weights))

        def meta(checkpoint: bool, network: EnergyNetwork = network, x: Tensor = x) -> None:
            weights = network.write(x, checkpoint=checkpoint)
            loss = (network.read(x, weights, checkpoint=checkpoint)[-1] - x).square().sum()
            torch.autograd.grad(loss, list(network.initial))

        for part in network.parameters():
            part.requires_grad_(True)
        training, checked = seconds(lambda: meta(False), 5), seconds(lambda: meta(True), 5)
        floats = f"{network.writable_floats:,}"
        rows.append([name, patterns, floats, *(f"{1e3 * t:.1f} ms" for t in (write, read, training, checked))])
        print(rows[-1], flush=True)
    head = [
        "network",
        "patterns",
        "floats",
        "write",
        "read all",
        "write, read, differentiate",
        "the same, checkpointed",
    ]
    return table(head, rows)


def main(options: Options) -> None:
    """Measure and record."""
    if options.quick:
        options = replace(options, strings=64, image_episodes=2)
    if "strings" in options.parts:
        options.write("Energy memory: strings", f"{STRINGS}\n\n{strings(options)}", COMMAND)
    if "images" in options.parts:
        texts = [f"### {size} x {size}\n\n{images(options, size)}" for size in (16, 28)]
        options.write("Energy memory: images", "\n\n".join([IMAGES, *texts]), COMMAND)
    if "routes" in options.parts:
        options.write("Energy memory: which slot", f"{ROUTES}\n\n{routes(options)}", COMMAND)
    if "times" in options.parts:
        options.write("Energy memory: times", f"{TIMES}\n\n{times(options)}", COMMAND)


STRINGS = """Wrong bits of 128 a string, mean ± 95 % interval over episodes; 4,800 random strings for each N, the same
as for the Hopfield networks in "Associative memories: strings". The cue: 64 bits, chosen anew for each string, at 0.5,
so that 32 would be wrong by guessing; free unless it says clamped; a bit is wrong if it ends on the other side of
0.5."""
IMAGES = """Squared error of a read, summed over the pixels of an image, and its share of the cue's; the same 100
episodes of 16 images, a block of half the side erased, as in "Associative memories: images", where the comparators are.
`clamped` columns: the known pixels put back behind the last read. Networks trained on Omniglot's background alphabets;
MNIST and Fashion-MNIST without retraining. "Cannot write" is a network of the same kind, trained without memory."""
ROUTES = """`omniglot-28`, 8 slots of 16 images of 28 x 28, a block erased; 4 times 128 test images. By chance one slot
in eight would be right."""
TIMES = """CPU time on one core: one episode, median of 20 calls (5 for those with gradients: write, read all, gradient
of the error with respect to the initial weights). No GPU was at hand."""

if __name__ == "__main__":
    launch(main, Options, __doc__)
