"""Associative memories side by side: strings, memory size against error, continual writing, iterative denoising.

    OMP_NUM_THREADS=1 python bench/recall.py --data DIR --part strings

Parts: ``strings`` (needs no data), ``efficiency``, ``continual`` (needs no data), ``denoise``. What is compared on
strings is also ``memplugins recall``'s. Trained networks stay in results/recall/ for the next run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import matplotlib
import torch
from _common import DataOptions, launch
from _images import omniglot
from _record import interval, table
from torch import Tensor

from avalanche_memplugins import pretrained
from avalanche_memplugins.codecs import Bits, Codec, Downsampled
from avalanche_memplugins.functional.episodes import corrupt_strings, erase_block, image_episodes, string_episodes
from avalanche_memplugins.functional.kanerva import kanerva_unwrite
from avalanche_memplugins.gallery import ENERGY, READER, grid_figure
from avalanche_memplugins.lab.table import interval as mean_and_half
from avalanche_memplugins.memories.comparators import (
    ControllerMemory,
    HopfieldMemory,
    ModernHopfieldMemory,
    RandomProjectionSlots,
    RestrictedBoltzmannMemory,
    SlotMemory,
    SparseDistributedMemory,
)
from avalanche_memplugins.networks import DNC, MANN, DynamicKanervaMachine, MemoryNetwork, train_on_episodes
from avalanche_memplugins.recall import (
    BITS,
    COUNTS,
    ERASED,
    FLOATS,
    Associative,
    EnergyEpisodes,
    KanervaEpisodes,
    LinearKanerva,
    System,
    controllers,
    string_figure,
    string_systems,
    wrong_bits,
)

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COMMAND = "OMP_NUM_THREADS=1 python bench/recall.py --data DIR --part "
WEIGHTS = Path("results/recall")
SEEDS = (0, 1, 2)
Make = Callable[[int], Associative]
"""An empty memory of a seed."""


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """What to measure."""

    part: tuple[Literal["strings", "efficiency", "continual", "denoise"], ...] = (
        "strings",
        "efficiency",
        "continual",
        "denoise",
    )
    strings: int = 240
    """Strings for each number of patterns and seed."""
    episodes: int = 4
    """Episodes of images for each seed."""
    train_steps: int = 60
    """To train MANN and DNC on strings."""
    network_steps: int = 0
    """To train the memory networks of the efficiency plot; 0: as they start, at the principal components."""


# --- strings

PUBLISHED = {
    "Hebb": (0.4, 5.0, 9.8, 13.0, 16.5),
    "Storkey": (0.0, 0.9, 6.3, 11.3, 17.1),
    "pseudo-inverse": (0.0, 0.0, 0.3, 4.3, 22.5),
    "differentiable plasticity": (3.0, 13.2, 20.8, 26.3, 34.9),
    "MANN": (0.1, 0.2, 1.8, 4.25, 9.6),
    "LSTM": (30, 58, 63, 64, 64),
    "memory networks": (0.0, 0.0, 0.0, 0.0, 10.5),
    "EBMM": (0.0, 0.0, 0.1, 0.5, 4.2),
}


def trained_controllers(options: Options, seed: int) -> dict[str, MANN | DNC]:
    """MANN and DNC, trained on strings of their own; from their files if they are there."""
    folder = options.runs(WEIGHTS)
    found = controllers(seed)
    for name, network in found.items():
        path = folder / f"{name.split(',')[0].lower()}-{network.slots}-{options.train_steps}-{seed}.pt"
        if path.exists():
            network.load_state_dict(torch.load(path))
            continue
        generator = torch.Generator().manual_seed(10_000 + seed)

        def episodes(patterns: int, generator: torch.Generator = generator) -> tuple[Tensor, Tensor]:
            x = string_episodes(32, patterns, BITS, generator=generator)
            return x, corrupt_strings(x, ERASED, generator=generator)[0]

        begun = time.process_time()
        # The first stages are passed at once where the projection alone reads.
        errors = train_on_episodes(
            network, episodes, steps=options.train_steps, patterns=(2, 4, 8, 16), advance_below=7.0
        )
        print(f"{path.stem}: {errors[0]:.2f} -> {errors[-1]:.2f}, {time.process_time() - begun:.0f} s", flush=True)
        torch.save(network.state_dict(), path)
    return found


def strings(options: Options) -> str:
    """Wrong bits of 128, all systems."""
    counts = COUNTS
    seeds = SEEDS[:1] if options.quick else SEEDS
    untrained = [one for one in string_systems() if one.name.endswith("untrained")]
    by_seed = {seed: string_systems(trained_controllers(options, seed)) for seed in seeds}
    names = [one.name for one in by_seed[seeds[0]]]
    cells: dict[str, list[tuple[float, float]]] = {}
    rows: list[list[object]] = []

    def add(name: str, system: Callable[[int], System]) -> None:
        begun, floats = time.process_time(), 0.0
        cells[name] = []
        for count in counts:
            found = [wrong_bits(system(seed), count, strings=options.strings, seed=seed) for seed in seeds]
            cells[name].append(mean_and_half([wrong for wrong, _ in found]))
            floats = max(floats, *(size for _, size in found))
        spent = time.process_time() - begun
        rows.append([name, f"{floats:,.0f}", *(f"{m:.2f} ± {h:.2f}" for m, h in cells[name])])
        print(rows[-1], f"{spent:.0f} s", flush=True)

    for place, name in enumerate(names):
        if name.startswith(("MANN", "DNC")):
            bare = next(one for one in untrained if one.name.startswith(name))
            add(bare.name, lambda _, bare=bare: bare)
        add(name, lambda seed, place=place: by_seed[seed][place])
    shown = {name: found for name, found in cells.items() if not name.endswith("untrained")}
    string_figure(shown).savefig(options.plots / "recall-strings.png", dpi=120)
    rows += [[f"published: {name}", "8,256", *values] for name, values in PUBLISHED.items()]
    text = table(["memory", "floats", *(f"N = {count}" for count in counts)], rows)
    return f"{text}\n\n{boltzmann_steps(options)}\n\n![Wrong bits](plots/recall-strings.png)"


def boltzmann_steps(options: Options) -> str:
    """What the Boltzmann machine's write costs."""
    cells = []
    for steps in (10, 30, 100, 600):

        def make(_: int, seed: int, steps: int = steps) -> Associative:
            return RestrictedBoltzmannMemory.from_budget(4 * FLOATS, size=BITS, write_steps=steps, seed=seed)

        found = [
            wrong_bits(System("", make), 64, strings=128, seed=seed)[0] for seed in SEEDS[: 1 if options.quick else 3]
        ]
        cells.append(interval(found, 2))
    head = ["Boltzmann, conditional CD-6, N = 64", "10 steps", "30", "100", "600"]
    return table(head, [["wrong bits, free", *cells]])


STRINGS = """Wrong bits of 128 a string, mean ± 95 % t-interval over three seeds (of strings, cues, memories and of the
training of MANN and DNC); {strings} strings for each N and seed. 64 bits, chosen anew for each string, are erased to
0.5. "clamped", Hopfield and the sparse distributed memory with 10 reads: the other 64 are kept during the read; all
others read freely. A bit that is still erased counts half. `floats`: bytes of one episode / 4, usage, links, read
weights and LSTM state included; addresses and projections drawn from a seed and networks are not. MANN and DNC: {steps}
steps of 32 episodes, beside their rows before any training. EBMM: `strings-128`, 74 CPU minutes."""


# --- efficiency

SIDE, BLOCK, PATTERNS = 32, 16, 64
CURVES = {
    "published: EBMM, convolutional": (
        (2308, 3462, 4616, 9232, 11540, 13848, 16156), (19.1, 12.0, 9.2, 4.1, 3.2, 2.3, 1.9)
    ),
    "published: EBMM, fully connected": (
        (3084, 4112, 5140, 8224, 10794, 13878, 16448), (17.1, 12.8, 11.6, 7.7, 4.7, 3.5, 2.4)
    ),
    "published: memory network": (
        (3072, 4096, 8192, 10240, 12288, 14336, 16384), (19.1, 12.6, 4.6, 3.3, 2.5, 2.0, 1.9)
    ),
    "published: MANN": (
        (1152, 1664, 2176, 3264, 4352, 8704, 13312, 17408), (41.3, 25.8, 20.6, 10.9, 7.3, 7.3, 10.3, 12.4)
    ),
}  # fmt: skip


def memory_network(options: Options, pool: Tensor, code_size: int) -> MemoryNetwork:
    """A linear memory network at the principal components of the pool; trained on, if so many steps are asked for."""
    torch.manual_seed(0)
    network = MemoryNetwork(SIDE**2, code_size, hidden=256, linear=True)
    network.start_at(pool)
    if not options.network_steps:
        return network
    path = options.runs(WEIGHTS) / f"memory-network-{code_size}-{options.network_steps}.pt"
    if path.exists():
        network.load_state_dict(torch.load(path))
        return network
    generator = torch.Generator().manual_seed(1)

    def episodes(patterns: int) -> tuple[Tensor, Tensor, Tensor]:
        x = pool[torch.randint(len(pool), (2, patterns), generator=generator)]
        return x, *erase_block(x, SIDE, BLOCK, generator=generator)

    train_on_episodes(network, episodes, steps=options.network_steps, patterns=(PATTERNS,), lr=1e-3)
    torch.save(network.state_dict(), path)
    return network


def efficiency_systems(options: Options, pool: Tensor) -> dict[str, list[tuple[str, Make]]]:
    """By curve, memories of growing size."""
    size, shape = SIDE**2, (1, SIDE, SIDE)

    def stored(codec: Codec) -> Make:
        return lambda _: ModernHopfieldMemory(size, beta=50.0, codec=codec, shape=shape)

    def slots(code_size: int) -> Make:
        network = memory_network(options, pool, code_size)
        return lambda _: SlotMemory(network)

    def quantised_slots(code_size: int, bits: int) -> Make:
        network = memory_network(replace(options, network_steps=0), pool, code_size)
        scale = network.write(pool[None, :2_000]).abs().amax(1)[0].detach()
        return lambda _: QuantisedSlots(network, bits, scale)

    small = {f"{bits} bit{'s' * (bits > 1)}": Downsampled(16, Bits(bits)) for bits in (1, 2, 4)}
    whole = {"1 bit": Bits(1), "4 bits": Bits(4)}
    name = "memory network" if options.network_steps else "principal components (memory network's start)"
    found: dict[str, list[tuple[str, Make]]] = {
        "stored at 16 x 16": [(label, stored(codec)) for label, codec in small.items()],
        "stored at 32 x 32": [(label, stored(codec)) for label, codec in whole.items()],
        "principal components at 4 bits": [(f"{n} a slot", quantised_slots(n, 4)) for n in (64, 128, 256)],
        name: [(f"{n} a slot", slots(n)) for n in (32, 48, 64, 128, 192, 256)],
        "random projections": [
            (f"{n} a slot", lambda seed, n=n: RandomProjectionSlots(size, width=n, ridge=0.1, seed=seed))
            for n in (64, 128, 256)
        ],
        "Kanerva memory on principal components": [
            (f"{n} rows", lambda seed, n=n: kanerva_slots(options, pool, n)) for n in (16, 32, 48)
        ],
        "sparse distributed, 2 bits": [
            (
                f"{n:,} floats",
                lambda seed, n=n: SparseDistributedMemory.from_budget(4 * n, size=size, nearest=3, seed=seed),
            )
            for n in (4_096, 16_384)
        ],
    }
    trained = sorted(options.runs(WEIGHTS).glob("energy-*.safetensors"))
    if trained:
        found["EBMM"] = [
            (path.stem, lambda _, p=path: EnergyEpisodes(pretrained.load_energy(p).network)) for path in trained
        ]
    return found


class QuantisedSlots(SlotMemory):
    """Slots in a few bits a number, between minus and plus the largest of the training images."""

    def __init__(self, network: MemoryNetwork, bits: int, scale: Tensor) -> None:
        super().__init__(network)
        self.levels, self.bits, self.scale = 2**bits - 1, bits, scale

    @property
    def nbytes(self) -> int:
        """Bytes if packed."""
        return self.held.numel() * self.bits // 8

    def write(self, patterns: Tensor) -> None:
        """Write, and round what is held."""
        super().write(patterns)
        share = (self.held / self.scale / 2 + 0.5).clamp(0, 1)
        self.held = ((share * self.levels).round() / self.levels - 0.5) * 2 * self.scale


class KanervaSlots:
    """A dynamic Kanerva memory of K rows over the principal components of images."""

    def __init__(self, network: MemoryNetwork, rows: int) -> None:
        self.network, self.rows = network, rows
        self.memory = LinearKanerva(network.code_size, rows=rows)
        self.mean = torch.zeros(0)

    @property
    def nbytes(self) -> int:
        """Of mean and row covariance."""
        return self.memory.nbytes

    @torch.no_grad()
    def write(self, patterns: Tensor) -> None:
        """Write codes, as numbers from -1 to 1 about."""
        self.memory.write(self.network.write(patterns) / 8 + 0.5)

    @torch.no_grad()
    def read(self, cue: Tensor, known: Tensor | None = None, *, steps: int | None = None) -> Tensor:
        """Code of the cue, least squares address, decode, put back the known pixels; ten times."""
        state = cue
        for _ in range(10 if steps is None else steps):
            code = self.memory.read(self.network.write(state) / 8 + 0.5, torch.zeros(1, dtype=torch.bool), steps=1)
            out = (self.network.mean + (code - 0.5) * 8 @ self.network.back).clamp(0, 1)
            state = out if known is None else torch.where(known, cue, out)
        return out


def kanerva_slots(options: Options, pool: Tensor, rows: int) -> KanervaSlots:
    """Over 256 principal components."""
    return KanervaSlots(memory_network(replace(options, network_steps=0), pool, 256), rows)


@torch.no_grad()
def efficiency(options: Options) -> str:
    """Error against memory size."""
    sets = {
        part: (omniglot(options.data, background=part == "background", size=SIDE)[0].flatten(1) > 0.5).float()
        for part in ("background", "evaluation")
    }
    pool, images = sets["background"], sets["evaluation"]
    if options.quick:
        pool = pool[:1_000]
    with torch.enable_grad():
        systems = efficiency_systems(options, pool)
    seeds = SEEDS[:1] if options.quick else SEEDS
    data = {}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x = image_episodes(images.view(-1, 1, SIDE, SIDE), options.episodes, PATTERNS, generator=generator)
        data[seed] = (x, *erase_block(x, SIDE, BLOCK, generator=generator))
    x, cue, _ = data[seeds[0]]
    rows: list[list[object]] = [["cue", "", 0, f"{float((cue != x).sum(-1).float().mean()):.1f}"]]
    curves: dict[str, list[tuple[float, float, float]]] = {}
    shown = [x[0, :12], cue[0, :12]]
    names = ["written", "cue"]
    for curve, members in systems.items():
        for label, make in members:
            wrong: list[float] = []
            for seed in seeds:
                x, cue, known = data[seed]
                memory = make(seed)
                memory.write(x)
                read = memory.read(cue, known)
                out = torch.where(known, cue, read)
                wrong.append(float(((out > 0.5) != (x > 0.5)).sum(-1).float().mean()))
                floats = memory.nbytes / 4 / len(x)
                if seed == seeds[0] and (label, make) == members[-1]:
                    shown.append(out[0, :12].clamp(0, 1))
                    names.append(f"{curve.split(' (')[0].replace('Kanerva memory', 'Kanerva')}\n{floats:,.0f} floats")
            curves.setdefault(curve, []).append((floats, *mean_and_half(wrong)))
            rows.append([curve, label, f"{floats:,.0f}", interval(wrong, 2)])
            print(rows[-1], flush=True)
    draw_efficiency(curves, options)
    grid = torch.stack(shown).view(len(shown), -1, 1, SIDE, SIDE)
    title = f"{PATTERNS} images written, one {BLOCK} x {BLOCK} block erased: the largest memory of each kind"
    grid_figure(grid, names, title).savefig(options.plots / "recall-efficiency-grid.png", dpi=120)
    text = table(["memory", "", "floats", "wrong pixels, of 1,024"], rows)
    return f"{text}\n\n![Error against size](plots/recall-efficiency.png)\n\n![Reads](plots/recall-efficiency-grid.png)"


def draw_efficiency(curves: dict[str, list[tuple[float, float, float]]], options: Options) -> None:
    """Wrong pixels against floats, the published curves in grey."""
    figure, axes = plt.subplots(figsize=(9.5, 5.4), dpi=120, layout="constrained")
    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
    for (name, points), colour in zip(curves.items(), colours, strict=False):
        floats, mean, half = zip(*sorted(points), strict=True)
        axes.errorbar(floats, mean, half, label=name, color=colour, marker="o", ms=4, lw=1.5, capsize=2)
    for (name, (floats, errors)), style in zip(CURVES.items(), ("-", "--", ":", "-."), strict=True):
        axes.plot(floats, errors, label=name, color="0.5", ls=style, lw=1.2, marker="x", ms=4)
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=0.5)
    axes.set_ylim(0, 100)
    axes.set_xticks([256, 512, 1_024, 2_048, 4_096, 8_192, 16_384], ["256", "512", "1 k", "2 k", "4 k", "8 k", "16 k"])
    axes.minorticks_off()
    axes.set_yticks([0, 0.5, 1, 2, 5, 10, 20, 40], ["0", "0.5", "1", "2", "5", "10", "20", "40"])
    axes.set_xlabel("memory of an episode of 64 images, numbers of 4 bytes")
    axes.set_ylabel("wrong pixels an image, known ones put back")
    axes.set_title("Omniglot 32 x 32: lower left is better", loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(options.plots / "recall-efficiency.png")
    plt.close(figure)


EFFICIENCY = """Omniglot's evaluation alphabets, 32 x 32 by area, ink above 0.5; {episodes} episodes of 64 images a
seed, three seeds, mean ± 95 % t-interval; one block of 16 x 16 of each image erased to 0, which leaves {cue} pixels
wrong; known pixels are put back. Components come from the background alphabets. `floats`: bytes of an episode / 4.
Published curves: digitized from EBMM's figure (error below 0.1), known pixels not put back. No EBMM of this size was
trained here; networks in `results/recall/energy-*.safetensors`, of `memplugins train-energy --data omniglot --size 32
--patterns 64`, are drawn in if they are there."""


# --- continual writing

BATCH, LAST = 128, 1_024


def continual_systems(seed: int) -> dict[str, tuple[Associative, bool]]:
    """Memories that go on being written, and whether their known bits are kept at reads."""
    budget = 4 * FLOATS
    networks = controllers(seed)
    return {
        "Hebb": (HopfieldMemory(BITS, rule="hebb", seed=seed), True),
        "pseudo-inverse": (HopfieldMemory(BITS, rule="pseudo-inverse", seed=seed), True),
        "sparse distributed, 2 bits": (
            SparseDistributedMemory.from_budget(budget, size=BITS, nearest=12, steps=10, seed=seed), True
        ),
        "sparse distributed, 8 bits": (
            SparseDistributedMemory.from_budget(budget, size=BITS, counter_bits=8, nearest=3, steps=10, seed=seed), True
        ),
        "Boltzmann": (RestrictedBoltzmannMemory.from_budget(budget, size=BITS, seed=seed), True),
        "MANN, 96 slots": (ControllerMemory(networks["MANN, 96 slots of 83"]), False),
        "DNC, 52 slots": (ControllerMemory(networks["DNC, 52 slots of 102"]), False),
        "Kanerva, linear, 53 rows, clamped": (LinearKanerva(BITS, seed=seed), False),
        "control: random projections of 8": (RandomProjectionSlots(BITS, width=8, seed=seed), False),
        "control: stored at 1 bit": (
            ModernHopfieldMemory.from_budget(
                budget, size=BITS, beta=4.0, similarity="dot", centre=0.5, codec=Bits(1)
            ), False
        ),
    }  # fmt: skip


@torch.no_grad()
def continual(options: Options) -> str:
    """Recall of the oldest and the newest strings while writing goes on, and what forgetting leaves."""
    seeds = SEEDS[:1] if options.quick else SEEDS
    last = 2 * BATCH if options.quick else LAST
    written = list(range(BATCH, last + 1, BATCH))
    found: dict[str, dict[tuple[str, int], list[float]]] = {}
    floats: dict[str, float] = {}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x = string_episodes(1, last, BITS, generator=generator)
        cue, known = corrupt_strings(x, ERASED, generator=generator)
        for name, (memory, clamped) in continual_systems(seed).items():
            for done in written:
                new = slice(done - BATCH, done)
                memory.write(x[:, new])
                for which, rows in (("oldest", slice(0, BATCH)), ("newest", slice(done - 32, done))):
                    read = memory.read(cue[:, rows], known[:, rows] if clamped else None)
                    wrong = float(((read > 0.5) != (x[:, rows] > 0.5)).sum(-1).float().mean())
                    found.setdefault(name, {}).setdefault((which, done), []).append(wrong)
            floats[name] = max(floats.get(name, 0.0), memory.nbytes / 4)
            print(name, {done: found[name]["newest", done][-1] for done in written[::3]}, flush=True)
    rows: list[list[object]] = []
    for name, values in found.items():
        row: list[object] = [name, f"{floats[name]:,.0f}"]
        for done in (written[0], written[len(written) // 2 - 1], written[-1]):
            row += [interval(values["oldest", done]), interval(values["newest", done])]
        rows.append(row)
    draw_continual(found, written, options)
    middle = written[len(written) // 2 - 1]
    head = ["memory", "floats at the end"]
    head += [f"{which} of {done:,}" for done in (written[0], middle, written[-1]) for which in ("first 128", "last 32")]
    return (
        f"{table(head, rows)}\n\n![Continual recall](plots/recall-continual.png)\n\n"
        f"### Forgetting on request\n\n{forgetting(seeds)}"
    )


def draw_continual(found: dict[str, dict[tuple[str, int], list[float]]], written: list[int], options: Options) -> None:
    """Two panels: the oldest strings and the newest."""
    figure, panels = plt.subplots(1, 2, figsize=(11.5, 4.4), dpi=120, sharey=True, layout="constrained")
    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B"]
    for axes, (which, title) in zip(
        panels, (("oldest", "the first 128 written"), ("newest", "the last 32 written")), strict=True
    ):
        for number, (name, values) in enumerate(found.items()):
            cells = [mean_and_half(values[which, done]) for done in written]
            control = name.startswith("control")
            axes.errorbar(
                written,
                [mean for mean, _ in cells],
                [half for _, half in cells],
                label=name if which == "oldest" else None,
                color="0.5" if control else colours[number],
                marker="s^"[number % 2] if control else "o",
                ms=4,
                lw=1.4,
                ls=":" if control else "-",
                capsize=2,
            )
        axes.axhline(32, color="0.85", lw=0.8, zorder=0)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("strings written so far")
        axes.set_xticks(written[1::2])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"wrong bits of {BITS}; guessing: 32")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(options.plots / "recall-continual.png")
    plt.close(figure)


def forgetting(seeds: tuple[int, ...]) -> str:
    """48 strings written, the first 16 taken out again, where a memory can: beside one that never saw them."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for seed in seeds:
        generator = torch.Generator().manual_seed(100 + seed)
        x = string_episodes(20, 48, BITS, generator=generator)
        cue, known = corrupt_strings(x, ERASED, generator=generator)
        gone, kept = x[:, :16], x[:, 16:]

        def note(name: str, read: Tensor, difference: float, x: Tensor = x) -> None:
            wrong = ((read > 0.5) != (x > 0.5)).sum(-1).float().mean(0)
            rows.setdefault(name, []).append((float(wrong[:16].mean()), float(wrong[16:].mean()), difference))

        hebb, never = (HopfieldMemory(BITS, rule="hebb", seed=seed) for _ in range(2))
        hebb.write(x)
        never.write(kept)
        taken = HopfieldMemory(BITS, rule="hebb", seed=seed)
        taken.write(gone)
        hebb.held = hebb.held - taken.held
        note("Hebb, less the strings' products", hebb.read(cue, known), float((hebb.held - never.held).abs().max()))
        kanerva = LinearKanerva(BITS, seed=seed)
        kanerva.write(x)
        addresses = kanerva.addresses[:, :16]
        kanerva.mean, kanerva.row_cov = kanerva_unwrite(
            kanerva.mean, kanerva.row_cov, addresses, 2 * gone - 1, noise_var=0.1
        )
        note("Kanerva, un-written at their addresses", kanerva.read(cue), float("nan"))
        stored = ModernHopfieldMemory(BITS, beta=4.0, similarity="dot", centre=0.5, threshold=24.0)
        stored.write(kept)
        note("control: stored, rows removed", stored.read(cue), 0.0)
    cells = []
    for name, values in rows.items():
        columns = list(zip(*values, strict=True))
        largest = max(columns[2])
        cells.append(
            [
                name,
                interval(list(columns[0])),
                interval(list(columns[1])),
                f"{largest:.1g}" if largest == largest else "-",
            ]
        )
    head = ["memory", "wrong bits, forgotten 16", "kept 32", "largest difference from never written"]
    return table(head, cells)


CONTINUAL = """Random strings of 128 bits written one after another, 128 at a time, into memories of 8,256 floats;
wrong bits of 128 from cues of which 64 are erased (guessing: 32), mean ± 95 % t-interval over three seeds. Hopfield,
sparse distributed memory and Boltzmann machine keep the known bits during reads. MANN and DNC are untrained: on strings
training changes next to nothing. The Boltzmann machine trains on each new 128 for 600 steps. BayesPCN, the published
reference of this task, was not built."""


# --- denoising


@torch.no_grad()
def denoise(options: Options) -> str:
    """Error after each read, by kind and strength of noise."""
    images = omniglot(options.data, background=False, size=28)[0]
    energy = pretrained.load_energy(ENERGY).network
    machine = cast(DynamicKanervaMachine, pretrained.load(READER).autoencoder)
    seeds, steps = SEEDS[:1] if options.quick else SEEDS, (1, 2, 3, 4, 6, 8, 12)
    makes: dict[str, Callable[[], Associative]] = {
        "EBMM": lambda: EnergyEpisodes(energy),
        "Kanerva machine": lambda: KanervaEpisodes(machine),
        "Kanerva machine, nothing written": lambda: KanervaEpisodes(machine, empty=True),
    }
    found: dict[tuple[str, str], list[list[float]]] = {}
    before: dict[str, list[float]] = {}
    shown: list[Tensor] = []
    names: list[str] = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x = image_episodes(images, options.episodes, 16, generator=generator)
        cues = {
            "clean": x,
            "block of 14": erase_block(x, 28, 14, generator=generator)[0],
            "salt and pepper, 10 %": salt_and_pepper(x, 0.1, generator),
            "salt and pepper, 20 %": salt_and_pepper(x, 0.2, generator),
            "salt and pepper, 30 %": salt_and_pepper(x, 0.3, generator),
        }
        for noise, cue in cues.items():
            before.setdefault(noise, []).append(error(cue, x))
            for name, make in makes.items():
                memory = make()
                memory.write(x)
                reads = [memory.read(cue, steps=count) for count in steps]
                found.setdefault((noise, name), []).append([error(read, x) for read in reads])
                if not seed and noise in ("block of 14", "salt and pepper, 20 %") and "nothing" not in name:
                    if name == "EBMM":
                        shown += [x[0, :12], cue[0, :12]]
                        names += ["written", f"cue: {noise}"]
                    shown += [reads[0][0, :12], reads[3][0, :12], reads[-1][0, :12]]
                    names += [f"{name}, read {count}" for count in (1, 4, 12)]
    rows: list[list[object]] = []
    for (noise, name), values in found.items():
        rows.append(
            [noise, name, interval(before[noise]), *(interval(list(column)) for column in zip(*values, strict=True))]
        )
        print(rows[-1], flush=True)
    figure, panels = plt.subplots(1, 5, figsize=(14, 3.4), dpi=120, sharey=True, layout="constrained")
    for axes, noise in zip(panels, before, strict=True):
        for name, colour in zip(makes, ("#0072B2", "#D55E00", "0.6"), strict=True):
            cells = [mean_and_half(list(column)) for column in zip(*found[noise, name], strict=True)]
            axes.errorbar(
                steps, [mean for mean, _ in cells], [half for _, half in cells], color=colour, marker="o", ms=3,
                capsize=2, label=name if noise == "clean" else None,
            )  # fmt: skip
        axes.axhline(
            mean_and_half(before[noise])[0], color="k", ls=":", lw=1, label="cue" if noise == "clean" else None
        )
        axes.set_title(noise, fontsize=9, loc="left")
        axes.set_xlabel("reads")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("squared error an image")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(options.plots / "recall-denoise.png")
    plt.close(figure)
    grid = torch.stack(shown).view(len(shown), -1, 1, 28, 28).clamp(0, 1)
    title = "Reading again and again: does the image stay what was written?"
    grid_figure(grid, names, title).savefig(options.plots / "recall-denoise-grid.png", dpi=120)
    text = table(["noise", "memory", "cue", *(f"read {count}" for count in steps)], rows)
    return f"{text}\n\n![Error by read](plots/recall-denoise.png)\n\n![Reads](plots/recall-denoise-grid.png)"


def salt_and_pepper(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Images of which a share of the pixels is black or white at random."""
    noise = torch.rand(x.shape, generator=generator)
    return torch.where(noise < share, (noise < share / 2).to(x), x)


def error(read: Tensor, x: Tensor) -> float:
    """Squared error an image."""
    return float((read - x).square().sum(-1).mean())


DENOISE = """Omniglot's evaluation alphabets, 28 x 28, {episodes} episodes of 16 images a seed, three seeds, mean ± 95 %
t-interval: squared error an image after so many reads, each from what the one before gave, nothing clamped. EBMM:
`omniglot-28`, whose 4 learned steps are within the first reads (later ones repeat its last step). Kanerva machine:
`omniglot28-dkm-reader`, written one image after the other; with nothing written it is its auto-encoder."""


def main(options: Options) -> None:
    """Measure and record."""
    if options.quick:
        options = replace(options, strings=96, episodes=1, train_steps=1)
    if "strings" in options.part:
        head = STRINGS.format(strings=options.strings, steps=options.train_steps)
        options.write("Recall: strings", f"{head}\n\n{strings(options)}", COMMAND + "strings")
    if "continual" in options.part:
        options.write("Recall: continual writing", f"{CONTINUAL}\n\n{continual(options)}", COMMAND + "continual")
    if "denoise" in options.part:
        head = DENOISE.format(episodes=options.episodes)
        options.write("Recall: denoising", f"{head}\n\n{denoise(options)}", COMMAND + "denoise")
    if "efficiency" in options.part:
        text = efficiency(options)
        cue = text.split("| cue |  | 0 | ")[1].split(" |")[0]
        head = EFFICIENCY.format(episodes=options.episodes, cue=cue)
        options.write("Recall: error against memory size", f"{head}\n\n{text}", COMMAND + "efficiency")


if __name__ == "__main__":
    launch(main, Options, __doc__)
