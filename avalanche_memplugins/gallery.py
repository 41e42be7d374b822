"""Pictures of memories: what was written, what each memory replays, what reads restore."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.console import Console
from torch import Tensor

from avalanche_memplugins import pretrained
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins.benchmarks.roots import data_root as find_root
from avalanche_memplugins.codecs import Bits, Downsampled, LatentCodec, Uint8
from avalanche_memplugins.lab.store import check_writable, write_whole
from avalanche_memplugins.memories import DynamicKanervaMemory, EnergyMemory, GaussianMemory, RandomMemory, VAEMemory
from avalanche_memplugins.networks import ConditionalVAE, DynamicKanervaMachine

CODEC, READER = "omniglot28-vae", "omniglot28-dkm-reader"
ENERGY, REHEARSAL = "omniglot-28", "rehearsal-28"
BLOCK = 14
STEPS = (1, 2, 3, 5)
_DPI = 110


def draw_gallery(
    out: Path, *, images: str, budget: str | int, seed: int, data_root: Path | None = None, console: Console
) -> list[Path]:
    """Draw what each memory replays and what reads make of it.

    :param out: folder for the pictures.
    :param images: what to write into the memories: ``"digits"``, ``"mnist"`` or ``"fashion"``.
    :param budget: most bytes of each memory, such as ``"50KB"``.
    :param seed: of the draws, 0 to 2**31 - 1.
    :param data_root: folder of the data sets, as torchvision lays them out; None: ``MEMPLUGINS_DATA``.
    :param console: where to print the pictures' paths.
    :returns: the paths.
    :raises ValueError: for a budget that is too small for a memory, or a missing data set.
    """
    budget = parse_bytes(budget)
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed: expected an integer from 0 to {2**31 - 1}, got {seed}")
    x, y = load_images(images, seed=seed, data_root=data_root)

    def draw() -> dict[str, Figure]:
        return {"replay": replay_figure(x, y, budget=budget, seed=seed), **reading_figures(x, seed)}

    return write_pictures(out, draw, console)


def write_pictures(out: Path, draw: Callable[[], Mapping[str, Figure]], console: Console) -> list[Path]:
    """Draw figures and write them as ``out/NAME.png``; a folder made for nothing goes again.

    :param out: their folder.
    :param draw: gives them by name.
    :param console: where to print the paths.
    :returns: the paths.
    :raises ValueError: what ``draw`` raises, or if nothing can be written there, which is tried before.
    """
    check_writable(out)
    try:
        figures = draw()
    except ValueError:
        with suppress(OSError):
            out.rmdir()
        raise
    paths = []
    for name, figure in figures.items():
        path, content = out / f"{name}.png", io.BytesIO()
        figure.savefig(content, format="png")
        write_whole(path, content.getvalue())
        paths.append(path)
        console.print(f"{path}", soft_wrap=True)
    return paths


def load_images(name: str, *, seed: int, data_root: Path | None = None) -> tuple[Tensor, Tensor]:
    """Images ``(N, 1, 28, 28)`` in [0, 1] in random order, and their classes ``(N,)``.

    :param name: ``"digits"``, ``"mnist"`` or ``"fashion"``.
    :param seed: of the order.
    :param data_root: as for :func:`draw_gallery`.
    :raises ValueError: if the data set is not there and cannot be downloaded.
    """
    if name == "digits":
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
        x = torch.from_numpy(bunch.images).float()[:, None] / 16
        # As MNIST has them: 20 pixels within a margin of 4.
        x = torch.nn.functional.interpolate(x, size=(20, 20), mode="bicubic", align_corners=False).clamp(0, 1)
        x, y = torch.nn.functional.pad(x, (4, 4, 4, 4)), torch.from_numpy(bunch.target).long()
    else:
        from torchvision.datasets import MNIST, FashionMNIST

        kind = MNIST if name == "mnist" else FashionMNIST
        root = find_root(data_root) or Path.home() / ".avalanche" / "data"
        try:
            data = kind(str(root), train=True, download=True)
        except (OSError, RuntimeError) as problem:
            raise ValueError(f"data: {name} is not in {root}, and cannot be got: {problem}") from problem
        x, y = data.data[:10_000, None] / 255.0, data.targets[:10_000]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[order], y[order]


def replay_figure(x: Tensor, y: Tensor, *, budget: int, seed: int) -> Figure:
    """What each memory replays: a line for each memory, two samples of each class.

    :param x: images ``(N, 1, 28, 28)``.
    :param y: their classes ``(N,)``.
    :param budget: most bytes of each memory.
    :param seed: of the draws.
    """
    latent = LatentCodec.from_pretrained(CODEC)
    shape = (1, 28, 28)

    def rows(codec: Any) -> RandomMemory:
        return RandomMemory.from_budget(
            budget, shape=shape, codec=codec, labels="uint8", store_tasks=False, read_policy="class_balanced", seed=seed
        )

    kanerva = DynamicKanervaMemory.from_budget
    memories: dict[str, Any] = {
        "uint8 pixels": rows(Uint8(lossy=True)),
        "14 x 14, 4 bits": rows(Downsampled(14, Bits(4))),
        "int8 codes": rows(latent),
        "Gaussian by class": GaussianMemory.from_budget(budget, classes=10, codec=latent, seed=seed),
        "Kanerva by class": kanerva(budget, classes=10, codec=latent, seed=seed),
        "Kanerva, prior addresses": kanerva(budget, classes=10, codec=latent, address="prior", seed=seed),
        "Kanerva shared": kanerva(budget, classes=10, codec=latent, share="all", seed=seed),
        "energy, 7 x 7 cues": _energy(budget, seed),
    }
    grid, names = [_two_of_each(x, y)], ["the stream"]
    for name, memory in memories.items():
        if hasattr(memory, "consolidate"):
            memory.consolidate([(x, y, 0)], origin=0)
        else:
            memory.write(x, y)
        found = memory.sample(min(400, len(memory)))
        grid.append(_two_of_each(found.x, found.y))
        names.append(f"{name}\n{_held(memory)} in {memory.nbytes / 1000:.0f} kB")
    torch_state = torch.get_rng_state()
    torch.manual_seed(seed)
    vae = VAEMemory(ConditionalVAE(shape, code_size=32, classes=10), steps=200, seed=seed)
    torch.set_rng_state(torch_state)
    vae.consolidate([(x, y, 0)], origin=0)
    found = vae.sample(400)
    grid.append(_two_of_each(found.x, found.y))
    names.append(f"VAE, 200 steps of training\n{vae.nbytes / 1000:,.0f} kB")
    title = "What each memory replays (two of each class, drawn at random)"
    return grid_figure(torch.stack(grid), names, title)


def _energy(budget: int, seed: int) -> EnergyMemory:
    found = pretrained.load_energy(REHEARSAL)
    return EnergyMemory.from_budget(
        budget, found.network, shape=(1, 28, 28), classes=10, slot_size=found.patterns, precision="int8", seed=seed,
        cue=Downsampled(7, Bits(4)),
    )  # fmt: skip


def reading_figures(x: Tensor, seed: int) -> dict[str, Figure]:
    """Reads of occluded images, interpolations and weights, of 32 images written to a trained Kanerva machine.

    :param x: images ``(N, 1, 28, 28)``, N >= 32.
    :param seed: of the draws.
    """
    machine = cast(DynamicKanervaMachine, pretrained.load(READER).autoencoder)
    memory = DynamicKanervaMemory.from_machine(machine, seed=seed)
    written = x[:32]
    memory.write(written, torch.zeros(32, dtype=torch.int64))  # an episode without labels: all of one class
    cue = occlude(written, BLOCK, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        empty = torch.sigmoid(machine.read(machine.prior()[0][None], cue[None])[0][0])
    shown = slice(0, 12)
    energy = EnergyMemory.from_pretrained(ENERGY, slots=2, seed=seed)
    energy.write(written, torch.zeros(32, dtype=torch.int64))
    rows = [written, cue, *(memory.read(cue, steps=steps) for steps in STEPS), empty, energy.read(cue)]
    names = ["written", f"cue, {BLOCK} x {BLOCK} black", *(f"Kanerva, read {steps}" for steps in STEPS)]
    names += ["empty Kanerva, read 1", "energy, 2 slots of 16"]
    reads = grid_figure(torch.stack([r[shown] for r in rows]), names, "Reading 12 of 32 written images")
    weights = memory.weights(written)
    share = torch.linspace(0, 1, 9).view(1, -1, 1)
    pairs = [(0, 1), (2, 3), (4, 5), (6, 7)]
    lines = torch.cat([(1 - share) * weights[a].view(1, 1, -1) + share * weights[b].view(1, 1, -1) for a, b in pairs])
    between = memory.generate(lines.flatten(0, 1)).view(len(pairs), -1, 1, 28, 28)
    path = grid_figure(
        between, [f"line {i + 1}" for i in range(len(pairs))], "Along straight lines between two addresses"
    )
    return {"reads": reads, "interpolation": path, "weights": _weights_figure(weights)}


def occlude(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Images with a black square at a random place."""
    out = x.clone()
    corners = torch.randint(0, x.shape[-1] - side + 1, (len(x), 2), generator=generator).tolist()
    for image, (top, left) in zip(out, corners, strict=True):
        image[:, top : top + side, left : left + side] = 0
    return out


def _two_of_each(x: Tensor, y: Tensor) -> Tensor:
    """Rows ``(20, 1, 28, 28)``: two of each class, NaN where there are fewer."""
    out = torch.full((20, *x.shape[1:]), torch.nan)
    for label in range(10):
        found = x[y == label][:2].cpu()
        out[2 * label : 2 * label + len(found)] = found
    return out


def _held(memory: Any) -> str:
    holds = isinstance(memory, RandomMemory | EnergyMemory)
    return f"{len(memory):,} rows" if holds else f"model of {len(memory):,} rows"


def grid_figure(grid: Tensor, names: list[str], title: str) -> Figure:
    """Images ``(rows, columns, 1, H, W)`` with a name left of each row; those of NaN are left out, hatched."""
    rows, columns, _, height, width = grid.shape
    gap, absent = 2, grid.isnan().flatten(2).any(2)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), 0.35)
    for i in range(rows):
        for j in range(columns):
            top, left = i * (height + gap), j * (width + gap)
            if not absent[i, j]:
                canvas[top : top + height, left : left + width] = grid[i, j, 0].clamp(0, 1).numpy()
    inch, foot = 0.42, 0.3 if absent.any() else 0.1
    size = (columns * inch + 2.6, rows * inch + 0.5 + foot)
    figure = Figure(figsize=size, dpi=_DPI)
    margin, head = 2.3 / size[0], 0.4 / size[1]
    panel = figure.add_axes((margin, foot / size[1], 1 - margin - 0.1 / size[0], 1 - head - foot / size[1]))
    panel.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    for i, j in absent.nonzero().tolist():
        corner = (j * (width + gap) - 0.5, i * (height + gap) - 0.5)
        panel.add_patch(Rectangle(corner, width, height, fill=False, hatch="////", edgecolor="0.7", linewidth=0))
    if absent.any():
        figure.text(margin, 0.08 / size[1], "hatched: the memory holds no further row of that class", fontsize=8)
    panel.set_yticks([i * (height + gap) + height / 2 for i in range(rows)], names, fontsize=8)
    panel.set_xticks([])
    panel.tick_params(length=0)
    for side in panel.spines.values():
        side.set_visible(False)
    figure.suptitle(title, x=0.1 / size[0], y=1 - 0.08 / size[1], ha="left", va="top", fontsize=10, fontweight="bold")
    return figure


def _weights_figure(weights: Tensor) -> Figure:
    """Histogram of all weights, and how much each memory row is used."""
    figure = Figure(figsize=(8, 2.8), dpi=_DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist(weights.flatten().numpy(), bins=60, color="#0072B2")
    left.set_title("weights of 32 written images", loc="left", fontsize=10, fontweight="bold")
    left.set_xlabel("weight of a memory row")
    left.set_ylabel("count")
    right.bar(range(weights.shape[1]), weights.square().mean(0).sqrt().numpy(), color="#D55E00")
    right.set_title("how much each memory row is used", loc="left", fontsize=10, fontweight="bold")
    right.set_xlabel("memory row")
    right.set_ylabel("root mean square weight")
    for panel in (left, right):
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    return figure
