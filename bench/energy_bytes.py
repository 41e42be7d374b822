"""What the written weights of an energy memory are worth: error of what is rehearsed against bytes a pattern.

    OMP_NUM_THREADS=1 python bench/energy_bytes.py --data DIR

MNIST test images in slots, read from thumbnails of 7 x 7 at 4 bits, the weights stored in several ways; beside them
images, thumbnails and codes stored as they are. Networks as in bench/energy_rehearsal.py, trained on Omniglot only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _common import DataOptions, launch
from _record import table
from torch import Tensor
from torchvision.datasets import MNIST

from avalanche_memplugins.codecs import Bits, Downsampled, LatentCodec
from avalanche_memplugins.energy_training.options import EnergyTraining
from avalanche_memplugins.energy_training.tasks import tasks
from avalanche_memplugins.functional import from_scaled_int8, scaled_int8
from avalanche_memplugins.functional.energy import Weights
from avalanche_memplugins.memories import EnergyMemory
from avalanche_memplugins.networks.energy import EnergyNetwork
from avalanche_memplugins.pretrained import load_energy

COMMAND = "OMP_NUM_THREADS=1 python bench/energy_bytes.py --data DIR"
CUE = 25  # bytes of a thumbnail of 7 x 7 at 4 bits
SLOT = 16  # bytes of a slot's task label and origin


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """What to measure."""

    networks: Path = Path("results/energy")
    images: int = 2_048
    """Images in all."""
    episodes: int = 600
    """Episodes of Omniglot whose differences span the shared directions."""


def flat(weights: Weights) -> Tensor:
    """All numbers of each episode's weights, ``(E, P)``."""
    return torch.cat([weight.flatten(1) for weight in weights], 1)


def unflat(numbers: Tensor, like: Weights) -> Weights:
    """The inverse of :func:`flat`."""
    parts = numbers.split([weight[0].numel() for weight in like], 1)
    return tuple(part.view(-1, *weight.shape[1:]) for part, weight in zip(parts, like, strict=True))


def rounded(numbers: Tensor) -> Tensor:
    """In int8, a scale an episode."""
    return from_scaled_int8(*scaled_int8(numbers))


@torch.no_grad()
def directions(network: EnergyNetwork, options: Options, patterns: int) -> tuple[Tensor, Tensor]:
    """Mean and principal directions of the differences that writes of Omniglot's images leave."""
    of = EnergyTraining(
        out=Path("unused.safetensors"), data="omniglot", data_root=options.data, cue="thumbnail", thicken=0.75,
        thicken_pixels=2, classes=2, patterns=(patterns,),
    )  # fmt: skip
    task, generator = tasks(of)[0], torch.Generator().manual_seed(0)
    found = []
    for _ in range(options.episodes // 20):
        x = task.episodes(20, patterns, generator=generator)
        found.append(flat(network.write(x)) - flat(network.initial))
    deltas = torch.cat(found)
    mean = deltas.mean(0)
    return mean, torch.linalg.svd(deltas - mean, full_matrices=False).Vh


@torch.no_grad()
def main(options: Options) -> None:
    """Measure and record."""
    if options.quick:
        options = replace(options, images=512, episodes=20)
    test = MNIST(str(options.data), train=False)
    x, y = test.data[: options.images, None] / 255.0, test.targets[: options.images]
    # As the slots of an experience are: images of two classes.
    x = torch.cat([x[(y == pair) | (y == pair + 1)] for pair in range(0, 10, 2)])
    found = load_energy("rehearsal-28")
    network, patterns = found.network, found.patterns
    small, rows = Downsampled(7, Bits(4)), []

    def add(name: str, nbytes: float, out: Tensor, of: Tensor) -> None:
        error = float((out.flatten(1) - of.flatten(1)).square().sum(1).mean())
        rows.append([name, f"{nbytes:.0f}", f"{error:.1f}"])
        print(rows[-1], flush=True)

    def stored(codec: Any) -> Tensor:
        out: Tensor = codec.decode(codec.encode(x), x.shape[1:], x.dtype)
        return out

    for name, codec in {
        "14 x 14 at 4 bits": Downsampled(14, Bits(4)), "1 bit": Bits(1), "7 x 7 at 4 bits": small,
        "10 x 10 at 4 bits": Downsampled(10, Bits(4)), "12 x 12 at 4 bits": Downsampled(12, Bits(4)),
    }.items():  # fmt: skip
        add(f"image, {name}", codec.spec(x.shape[1:], x.dtype)[0].numel() + 1, stored(codec), x)
    thumbnails = stored(small).flatten(1)
    control = options.networks / "rehearsal-28-none.safetensors"
    if control.exists():
        alone = load_energy(control).network
        add("thumbnail, read by a network that cannot write", CUE + 1, alone.read(thumbnails[None])[-1][0], x)
    add("thumbnail, read with nothing written", CUE + 1, network.read(thumbnails[None])[-1][0], x)

    def energy(name: str, size: int, each: float, keep: Callable[[Tensor], Tensor], **steps: Any) -> None:
        slots = len(x) // size
        of = x[: slots * size].flatten(1).view(slots, size, -1)
        cue = thumbnails[: slots * size].view(slots, size, -1)
        initial = flat(network.initial)
        weights = unflat(initial + keep(flat(network.write(of, **steps)) - initial), network.initial)
        out = network.read(cue, weights)[-1]
        add(f"energy, {name}", (each + SLOT) / size + CUE + 1, out.flatten(0, 1), of.flatten(0, 1))

    floats = network.writable_floats
    energy("float32", patterns, 4 * floats, lambda d: d)
    energy("float16", patterns, 2 * floats, lambda d: d.half().float())
    energy("int8", patterns, floats + 8, rounded)
    energy(f"int8, larger slots of {2 * patterns}", 2 * patterns, floats + 8, rounded)
    energy(f"int8, larger slots of {4 * patterns}", 4 * patterns, floats + 8, rounded)
    energy("int8, fewer writing steps (2)", patterns, floats + 8, rounded, steps=2)
    mean, span = directions(network, options, patterns)
    for rank in (32, 128, 512):

        def shared(deltas: Tensor, rank: int = rank) -> Tensor:
            return rounded((deltas - mean) @ span[:rank].T) @ span[:rank] + mean

        energy(f"{rank} shared directions, int8", patterns, rank + 4, shared)
    path = options.networks / "thumbnail-28.safetensors"
    if path.exists():
        network = load_energy(path).network
        floats = network.writable_floats
        energy("trained on episodes of any characters, int8", patterns, floats + 8, rounded)
        add("the same with nothing written", CUE + 1, network.read(thumbnails[None])[-1][0], x)
    codes(options, x, rows, add)
    text = table(["way", "bytes a pattern", "squared error"], rows)
    options.write("Energy memory: what the weights are worth", f"{REMARK}\n\n{text}", COMMAND)


def codes(options: Options, x: Tensor, rows: list[Any], add: Callable[..., None]) -> None:
    """Codes of a frozen auto-encoder, stored as they are or written."""
    codec = LatentCodec.from_pretrained("omniglot28-vae")
    latent = codec.to_latent(x)
    add("codes of 32 numbers, int8", 33, codec.decode(codec.encode(x), x.shape[1:], x.dtype), x)
    unit = (latent / (2 * EnergyMemory.CODE_SPAN) + 0.5).clamp(0, 1)

    def image(pattern: Tensor) -> Tensor:
        out: Tensor = codec.from_latent((pattern - 0.5) * 2 * EnergyMemory.CODE_SPAN)
        return out

    for bits in (4, 2, 1):
        store = Bits(bits)
        back = store.decode(store.encode(unit), unit.shape[1:], unit.dtype)
        if bits == 1:  # the mean of either half of a normal distribution, not the ends of the interval
            back = 0.5 + (back - 0.5).sign() * 0.798 / (2 * EnergyMemory.CODE_SPAN)
        add(f"codes, {bits} bits", 32 * bits / 8 + 1, image(back), x)
    path = options.networks / "codes-32.safetensors"
    if path.exists():
        found = load_energy(path)
        network, size = found.network, found.patterns
        slots = len(unit) // size
        of = unit[: slots * size].view(slots, size, -1)
        initial = flat(network.initial)
        deltas = rounded(flat(network.write(of)) - initial)
        out = network.read((of >= 0.5).float(), unflat(initial + deltas, network.initial))[-1]
        nbytes = (network.writable_floats + 8 + SLOT) / size + 4 + 1
        add("energy over codes, signs as cues, int8", nbytes, image(out.flatten(0, 1)), x[: slots * size])


REMARK = """Squared error of an MNIST image, summed over pixels, after it was stored and read back; 2,048 test images,
two digits to a run of slots as in a class-incremental stream. Bytes a pattern: image or code, or slot over its
patterns, cue of 25 bytes, and label. `shared directions`: a slot keeps coefficients of the principal directions of the
differences that writes of Omniglot images leave; the directions belong to the network and are not counted."""

if __name__ == "__main__":
    launch(main, Options, __doc__)
