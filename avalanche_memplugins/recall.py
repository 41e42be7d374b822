"""Associative memories side by side, on random strings and on images: ``memplugins recall``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from avalanche_memplugins import pretrained
from avalanche_memplugins.codecs import Bits, Codec
from avalanche_memplugins.functional.episodes import corrupt_strings, erase_block, image_episodes, string_episodes
from avalanche_memplugins.functional.kanerva import kanerva_address, kanerva_dynamic_write
from avalanche_memplugins.gallery import BLOCK, ENERGY, READER, grid_figure, load_images, write_pictures
from avalanche_memplugins.lab.table import interval
from avalanche_memplugins.memories.comparators import (
    ControllerMemory,
    HopfieldMemory,
    ModernHopfieldMemory,
    RandomProjectionSlots,
    RestrictedBoltzmannMemory,
    SlotMemory,
    SparseDistributedMemory,
)
from avalanche_memplugins.networks import DNC, MANN, DynamicKanervaMachine, MemoryNetwork
from avalanche_memplugins.networks.energy import EnergyNetwork

BITS, ERASED, FLOATS = 128, 64, 8_256
COUNTS = (16, 32, 48, 64, 96)
REACHED = {16: 32, 32: 24, 48: 20, 64: 16, 96: 12}
"""Locations of a sparse distributed memory that a string reaches, by the number of strings; found on strings of their
own."""
SIDE, IMAGES = 28, 16
_DPI = 120


class Associative(Protocol):
    """What is compared: written whole episodes ``(E, N, n)``, read from cues."""

    @property
    def nbytes(self) -> int:
        """Bytes of all episodes."""

    def write(self, patterns: Tensor) -> None:
        """Write episodes of patterns."""

    def read(self, cue: Tensor, known: Tensor | None = None, *, steps: int | None = None) -> Tensor:
        """Complete cues."""


@dataclass(frozen=True)
class System:
    """A memory that takes part.

    >>> system = System("Hebb", lambda patterns, seed: HopfieldMemory(128, rule="hebb", seed=seed), clamped=True)
    >>> system.make(16, 0).floats
    8256
    """

    name: str
    make: Callable[[int, int], Associative]
    """Given the patterns of an episode and a seed, an empty memory."""
    clamped: bool = False
    """Known entries are told and kept during the read."""


class EnergyEpisodes:
    """An energy network as a memory of whole episodes.

    >>> memory = EnergyEpisodes(pretrained.load_energy("strings-128").network)
    >>> memory.write(torch.ones(1, 2, 128))
    >>> memory.nbytes // 4
    8256
    """

    def __init__(self, network: EnergyNetwork) -> None:
        self.network, self.weights = network, network.initial

    @property
    def nbytes(self) -> int:
        """Bytes of the written weights."""
        return sum(weight.nbytes for weight in self.weights)

    @torch.no_grad()
    def write(self, patterns: Tensor) -> None:
        """Write episodes, from the initial weights."""
        self.weights = self.network.write(patterns)

    @torch.no_grad()
    def read(self, cue: Tensor, known: Tensor | None = None, *, steps: int | None = None) -> Tensor:
        """The last step of a read."""
        return self.network.read(cue, self.weights, steps=steps, known=known)[-1]


class KanervaEpisodes:
    """A trained dynamic Kanerva machine as a memory of episodes of images ``(E, N, pixels)``.

    :param machine: with encoder and decoder.
    :param empty: read from the prior: what encoder and decoder make of the cue by themselves.
    """

    def __init__(self, machine: DynamicKanervaMachine, *, empty: bool = False) -> None:
        self.machine, self.empty = machine, empty
        self.mean = self.row_cov = torch.zeros(0)

    @property
    def nbytes(self) -> int:
        """Bytes of mean and row covariance; none if it is left empty."""
        return 0 if self.empty else self.mean.nbytes + self.row_cov.nbytes

    @torch.no_grad()
    def write(self, patterns: Tensor) -> None:
        """Write episodes into the prior, one image after the other."""
        self.mean, self.row_cov = self.machine.written(self._images(patterns), sequential=True)
        if self.empty:
            self.mean = self.machine.prior()[0].expand_as(self.mean)

    @torch.no_grad()
    def read(self, cue: Tensor, known: Tensor | None = None, *, steps: int | None = None) -> Tensor:
        """What iterative reading gives."""
        read = self.machine.read(self.mean, self._images(cue), steps=1 if steps is None else steps)[-1]
        out = read.sigmoid().flatten(2)
        return out if known is None else torch.where(known, cue, out)

    def _images(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], 1, self.machine.size, self.machine.size)


class LinearKanerva:
    """The dynamic Kanerva machine's memory on the strings themselves, without a trained encoder: 53 rows of 128.

    :param rows: K; a memory of K n + K (K + 1) / 2 numbers.
    :param seed: of the random prior mean, without which nothing could be addressed.
    :param steps: of a read; the cue's known bits are put back after each.
    """

    def __init__(self, size: int, *, rows: int = 53, seed: int = 0, steps: int = 20) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.prior = torch.randn(rows, size, generator=generator) / size**0.5
        self.rows, self.size, self.steps = rows, size, steps
        self.mean = self.row_cov = torch.zeros(0)
        self.addresses = torch.zeros(0)

    @property
    def nbytes(self) -> int:
        """Bytes of the mean and of a triangle of the row covariance."""
        return 4 * len(self.mean) * (self.rows * self.size + self.rows * (self.rows + 1) // 2)

    def write(self, patterns: Tensor) -> None:
        """Write on: each pattern at its address under what the earlier ones left."""
        if not self.mean.numel():
            self.mean = self.prior.repeat(len(patterns), 1, 1)
            self.row_cov = torch.eye(self.rows).repeat(len(patterns), 1, 1)
        self.mean, self.row_cov, self.addresses = kanerva_dynamic_write(
            self.mean, self.row_cov, 2 * patterns - 1, noise_var=0.1, ridge=0.1
        )

    def read(self, cue: Tensor, known: Tensor | None = None, *, steps: int | None = None) -> Tensor:
        """Least squares address, and what lies there; again from what was read."""
        start = 2 * cue - 1
        told = start != 0 if known is None else known
        state = start
        for _ in range(self.steps if steps is None else steps):
            found = kanerva_address(self.mean, state, ridge=0.1) @ self.mean
            state = torch.where(told, start, found)
        return ((state + 1) / 2).clamp(0, 1)


def string_systems(controllers: dict[str, MANN | DNC] | None = None) -> list[System]:
    """All that is compared on strings of 128 bits, in 8,256 numbers an episode or what their names say.

    :param controllers: MANN and DNC networks by name, as trained; None: as they are before training, when they read by
        their orthogonal projection.

    >>> len(string_systems())
    18
    """
    energy = pretrained.load_energy("strings-128").network
    systems = [System(name, _hopfield(rule), clamped=True) for name, rule in _RULES.items()]
    kept = _hopfield("pseudo-inverse", keep_diagonal=True)
    systems += [
        System("pseudo-inverse, diagonal kept", kept),
        System("modern Hopfield, 64 strings held", _modern()),
        System("sparse distributed, 2 bits, 1 read", _sparse(1)),
        System("sparse distributed, 2 bits, 10 reads", _sparse(10), clamped=True),
        System("Boltzmann, CD-1", _boltzmann(rounds=0)),
        System("Boltzmann, conditional CD-6", _boltzmann(rounds=6)),
        System("Boltzmann, conditional CD-6, clamped", _boltzmann(rounds=6), clamped=True),
        System("Kanerva, linear, 53 rows, clamped", lambda _, seed: LinearKanerva(BITS, seed=seed)),
    ]
    for name, network in (controllers or untrained_controllers()).items():
        systems.append(System(name, _controlled(network)))
    systems += [
        System("EBMM", lambda _, seed: EnergyEpisodes(energy)),
        System("EBMM, clamped", lambda _, seed: EnergyEpisodes(energy), clamped=True),
        System("control: random projections, least squares", _projections),
        System("control: all strings at 1 bit, nearest", _modern(codec=Bits(1))),
    ]
    return systems


def controllers(seed: int = 0) -> dict[str, MANN | DNC]:
    """MANN and DNC networks of 8,256 numbers an episode at most, links, usage and LSTM counted; not trained.

    >>> {name: network.floats for name, network in controllers().items()}
    {'MANN, 64 slots of 126': 8256, 'MANN, 96 slots of 83': 8224, 'DNC, 52 slots of 102': 8228}
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {
            "MANN, 64 slots of 126": MANN(BITS, slots=64, width=126),
            "MANN, 96 slots of 83": MANN(BITS, slots=96, width=83),
            "DNC, 52 slots of 102": DNC(BITS, slots=52, width=102),
        }


def untrained_controllers() -> dict[str, MANN | DNC]:
    """:func:`controllers` under names that say so.

    >>> list(untrained_controllers())[0]
    'MANN, 64 slots of 126, untrained'
    """
    return {f"{name}, untrained": network for name, network in controllers().items()}


_RULES = {"Hebb": "hebb", "Storkey": "storkey", "pseudo-inverse": "pseudo-inverse"}


def _hopfield(rule: Any, **options: Any) -> Callable[[int, int], Associative]:
    return lambda _, seed: HopfieldMemory(BITS, rule=rule, seed=seed, **options)


def _modern(codec: Codec | None = None) -> Callable[[int, int], Associative]:
    # Products of bits made +-1/2, so beta 4 is the usual 1. A string that is not held comes back as it is.
    threshold = None if codec else 24.0
    return lambda _, seed: ModernHopfieldMemory.from_budget(
        4 * FLOATS, size=BITS, beta=4.0, similarity="dot", centre=0.5, steps=3, codec=codec, threshold=threshold
    )


def _sparse(steps: int) -> Callable[[int, int], Associative]:
    return lambda patterns, seed: SparseDistributedMemory.from_budget(
        4 * FLOATS, size=BITS, nearest=REACHED[min(REACHED, key=lambda n: abs(n - patterns))], steps=steps, seed=seed
    )


def _boltzmann(rounds: int) -> Callable[[int, int], Associative]:
    return lambda _, seed: RestrictedBoltzmannMemory.from_budget(4 * FLOATS, size=BITS, rounds=rounds, seed=seed)


def _controlled(network: MANN | DNC) -> Callable[[int, int], Associative]:
    return lambda _, seed: ControllerMemory(network)


def _projections(patterns: int, seed: int) -> Associative:
    return RandomProjectionSlots(BITS, width=min(BITS, FLOATS // patterns), seed=seed)


@torch.no_grad()
def wrong_bits(system: System, patterns: int, *, strings: int, seed: int) -> tuple[float, float]:
    """Mean of the wrong bits of a string, 64 of 128 erased, and the memory's size in numbers of 4 bytes an episode.

    :param system: what is measured.
    :param patterns: N, strings an episode.
    :param strings: about how many in all.
    :param seed: of strings, cues and memory; the same strings for every system.

    >>> system = System("Hebb", lambda patterns, seed: HopfieldMemory(128, rule="hebb", seed=seed), clamped=True)
    >>> wrong_bits(system, 16, strings=32, seed=0)[1]
    8256.0
    """
    episodes = max(1, strings // patterns)
    generator = torch.Generator().manual_seed(1_000 * seed + patterns)
    x = string_episodes(episodes, patterns, BITS, generator=generator)
    cue, known = corrupt_strings(x, ERASED, 0.5, generator=generator)
    memory = system.make(patterns, seed)
    memory.write(x)
    read = memory.read(cue, known if system.clamped else None)
    # A bit that is still erased counts half.
    wrong = ((read > 0.5) != (x > 0.5)).float().where(read != 0.5, torch.tensor(0.5))
    return float(wrong.sum(-1).mean()), memory.nbytes / 4 / episodes


def image_systems(pool: Tensor) -> list[System]:
    """All that is compared on episodes of 16 images of 28 x 28, from weights that come with the library.

    :param pool: images ``(M, 784)`` of which none is written, for principal components.
    """
    energy = pretrained.load_energy(ENERGY).network
    machine = cast(DynamicKanervaMachine, pretrained.load(READER).autoencoder)
    size, shape = SIDE**2, (1, SIDE, SIDE)

    def quantised(bits: Literal[1, 4]) -> System:
        def make(patterns: int, seed: int) -> Associative:
            return ModernHopfieldMemory(size, beta=50.0, codec=Bits(bits), shape=shape, clamp=True)

        return System(f"control: stored at {bits} bit{'s' * (bits > 1)}, nearest", make, clamped=True)

    with torch.random.fork_rng(devices=[]):  # its layers add nothing before they are trained
        components = MemoryNetwork(size, 64, hidden=1, linear=True)
    components.start_at(pool)
    return [
        quantised(1),
        quantised(4),
        System("principal components, 64 a slot", lambda _, seed: SlotMemory(components), clamped=True),
        System("random projections, 64 a slot", lambda _, seed: _wide(size, 64, seed), clamped=True),
        System("Kanerva machine, nothing written", lambda _, seed: KanervaEpisodes(machine, empty=True), clamped=True),
        System("Kanerva machine", lambda _, seed: KanervaEpisodes(machine), clamped=True),
        System("EBMM", lambda _, seed: EnergyEpisodes(energy), clamped=True),
        System(
            "modern Hopfield, all in float32",
            lambda _, seed: ModernHopfieldMemory(size, beta=50.0, clamp=True),
            clamped=True,
        ),
    ]


def _wide(size: int, width: int, seed: int) -> Associative:
    # Images are no random bits: what is unknown is mostly near black, which the ridge pulls to only if it is strong.
    return RandomProjectionSlots(size, width=width, ridge=0.1, seed=seed)


@torch.no_grad()
def image_reads(
    systems: Sequence[System], x: Tensor, cue: Tensor, known: Tensor, *, seed: int
) -> dict[str, tuple[Tensor, float]]:
    """By name, what each system reads of episodes ``(E, N, n)``, and its size in numbers of 4 bytes an episode.

    :param systems: from :func:`image_systems`.
    :param x: what is written.
    :param cue: what is read from, erased pixels 0.
    :param known: bool like ``cue``.
    :param seed: of the memories.
    """
    found = {}
    for system in systems:
        memory = system.make(x.shape[1], seed)
        memory.write(x)
        read = memory.read(cue, known if system.clamped else None)
        found[system.name] = (read.clamp(0, 1), memory.nbytes / 4 / len(x))
    return found


def draw_recall(
    out: Path, *, images: str, strings: int, seeds: int, data_root: Path | None = None, console: Console
) -> list[Path]:
    """Compare the memories, print two tables, draw a picture of each.

    :param out: folder for the pictures.
    :param images: what is written in the second part: ``"digits"``, ``"mnist"`` or ``"fashion"``.
    :param strings: random strings for each number of patterns and seed, >= 1.
    :param seeds: repetitions, >= 1.
    :param data_root: folder of the data sets, as torchvision lays them out; None: ``MEMPLUGINS_DATA``.
    :param console: where to print.
    :returns: the pictures' paths.
    :raises ValueError: for numbers out of range, or a missing data set.
    """
    for name, value in (("strings", strings), ("seeds", seeds)):
        if value < 1:
            raise ValueError(f"{name}: expected an integer >= 1, got {value}")
    pictures, _ = load_images(images, seed=0, data_root=data_root)

    def draw() -> dict[str, Figure]:
        return {
            "strings": _compare_strings(strings, seeds, console),
            "images": _compare_images(pictures, images, seeds, console),
        }

    return write_pictures(out, draw, console)


def _compare_strings(strings: int, seeds: int, console: Console) -> Figure:
    rows: dict[str, list[tuple[float, float]]] = {}
    table = Table(title=f"Wrong bits of {BITS} a string, {ERASED} of them erased", title_justify="left")
    table.add_column("memory")
    table.add_column("floats", justify="right")
    for count in COUNTS:
        table.add_column(f"N = {count}", justify="right")
    for system in string_systems():
        cells, floats = [], 0.0
        for count in COUNTS:
            found = [wrong_bits(system, count, strings=strings, seed=seed) for seed in range(seeds)]
            cells.append(interval([wrong for wrong, _ in found]))
            floats = max(size for _, size in found)
        rows[system.name] = cells
        table.add_row(system.name, f"{floats:,.0f}", *(f"{mean:.2f}" for mean, _ in cells))
    console.print(table)
    return string_figure(rows)


def string_figure(rows: dict[str, list[tuple[float, float]]]) -> Figure:
    """Wrong bits against the number of patterns, a line for each memory.

    :param rows: by name, mean and half of the interval for each of :data:`COUNTS`.

    >>> cells = [(0.3, 0.1), (4.0, 0.1), (9.0, 0.1), (12.0, 0.1), (16.0, 0.1)]
    >>> string_figure({"Hebb": cells}).get_axes()[0].get_ylabel()
    'wrong bits of 128'
    """
    figure = Figure(figsize=(9.5, 5.2), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
    for number, (name, cells) in enumerate(rows.items()):
        control = name.startswith("control")
        axes.errorbar(
            COUNTS,
            [mean for mean, _ in cells],
            [half for _, half in cells],
            label=name,
            color="0.55" if control else colours[number % len(colours)],
            ls=":" if control else ("-", "--", "-.")[number // len(colours) % 3],
            marker="osD^v"[number // len(colours) % 5],
            ms=4,
            lw=1.3,
            capsize=2,
        )
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_ylim(0, 64)
    axes.set_yticks([0, 0.1, 1, 10, 32], ["0", "0.1", "1", "10", "32"])
    axes.axhline(32, color="0.8", lw=0.8, zorder=0)
    axes.text(COUNTS[0], 34, "guessing", fontsize=8, color="0.4")
    axes.set_xticks(COUNTS)
    axes.set_xlabel("random strings written")
    axes.set_ylabel(f"wrong bits of {BITS}")
    axes.set_title("Strings read from half of their bits: lower is better", loc="left", fontsize=11, fontweight="bold")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _compare_images(pictures: Tensor, name: str, seeds: int, console: Console) -> Figure:
    flat = pictures.flatten(1)
    pool, written = flat[: len(flat) // 2], pictures[len(flat) // 2 :]
    systems = image_systems(pool)
    errors: dict[str, list[float]] = {system.name: [] for system in systems}
    floats: dict[str, float] = {}
    shown: list[Tensor] = []
    names: list[str] = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        x = image_episodes(written, 4, IMAGES, generator=generator)
        cue, known = erase_block(x, SIDE, BLOCK, generator=generator)
        reads = image_reads(systems, x, cue, known, seed=seed)
        before = float((cue - x).square().sum())
        for system, (read, size) in reads.items():
            errors[system].append(100 * float((read - x).square().sum()) / before)
            floats[system] = size
        if not seed:
            shown = [x[0, :12], cue[0, :12], *(read[0, :12] for read, _ in reads.values())]
            names = ["written", f"cue, {BLOCK} x {BLOCK} black"]
            names += [f"{one.removeprefix('control: ')}\n{size:,.0f} floats" for one, (_, size) in reads.items()]
    table = Table(title=f"{name}: {IMAGES} images of {SIDE} x {SIDE}, a block erased", title_justify="left")
    for head in ("memory", "floats", "error, % of the cue's"):
        table.add_column(head, justify="left" if head == "memory" else "right")
    for system, values in errors.items():
        mean, half = interval(values)
        table.add_row(system, f"{floats[system]:,.0f}", f"{mean:.1f} ± {half:.1f}" if seeds > 1 else f"{mean:.1f}")
    console.print(table)
    grid = torch.stack(shown).view(len(shown), -1, 1, SIDE, SIDE)
    return grid_figure(grid, names, "Look at the erased block: who fills it as it was written?")
