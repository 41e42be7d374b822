"""Train an auto-encoder that codecs use: a VAE, a Kanerva machine or a dynamic Kanerva machine.

``python bench/train_codec.py --kind vae --images omniglot --data DIR --out results/codecs/omniglot28-vae.safetensors``.
Five to ten minutes on one core. Trained on Omniglot's background set (28 x 28 grey) or on photographs and dead leaves
(32 x 32 colour); a tenth of Omniglot's characters is kept for validation. The file can be given to
``LatentCodec.from_pretrained``.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from _common import DataOptions, launch
from _images import natural, omniglot, varied
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from avalanche_memplugins import pretrained
from avalanche_memplugins.networks import VAE, DynamicKanervaMachine, KanervaMachine

KINDS = {"vae": VAE, "dkm": DynamicKanervaMachine, "km": KanervaMachine}
WARM_UP = 100


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """What to train, on what, for how long."""

    kind: Literal["vae", "dkm", "km"] = "vae"
    out: Path = Path("results/codecs/codec.safetensors")
    images: Literal["omniglot", "natural"] = "omniglot"
    steps: int = 2500
    lr: float = 2e-3
    code_size: int = 32
    rows: int = 32
    width: int = 16
    noise_std: float = 1.0
    episodes: int = 8
    items: int = 32
    seed: int = 0
    augment: bool = True
    """Turn, stretch and thicken half of the strokes."""
    beta: float = 1.0
    """Weight of the code's divergence, VAE only; 1 is the bound, less gives sharper images."""
    autoencoder: float = 1.0
    """Weight of the auto-encoder's term beside the bound, Kanerva only."""
    memory_cost: float = 1.0
    """Weight of the memory's divergence in the objective, Kanerva only; 1 is the bound."""
    init: Path | None = None
    """Weights to start from, a file that this script wrote with the same sizes."""
    reads: int = 0
    """Unrolled reads of corrupted queries in the objective, Kanerva only."""


def build(options: Options) -> Any:
    """The network, its weights from the seed."""
    torch.manual_seed(options.seed)
    colour = options.images == "natural"
    kwargs: dict[str, Any] = {"code_size": options.code_size, "width": options.width}
    if colour:
        kwargs.update(channels=3, size=32, bias=0.0)
    if options.kind != "vae":
        kwargs.update(rows=options.rows, noise_std=options.noise_std)
    return KINDS[options.kind](**kwargs)


def training_images(options: Options, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images to train on and images to validate on."""
    if options.images == "natural":
        pool = natural(30_000, generator)
        order = torch.randperm(len(pool), generator=generator)
        return pool[order[2048:]], pool[order[:2048]]
    images, characters = omniglot(options.data, background=True)
    held_out = torch.randperm(964, generator=torch.Generator().manual_seed(0))[:96]
    validation = torch.isin(characters, held_out)
    return images[~validation], images[validation]


def corrupt(x: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images with up to 30 % of their pixels black or white, half with a block of them blackened."""
    flat = x.flatten(0, 1)
    n, _, height, width = flat.shape
    share = 0.3 * torch.rand(n, 1, 1, 1, generator=generator)
    flips = torch.rand(n, 1, height, width, generator=generator)
    noisy = torch.where(flips < share, (torch.rand(flips.shape, generator=generator) < 0.5).float(), flat)
    side = torch.randint(8, 17, (n, 1, 1), generator=generator)
    top, left = (torch.rand(n, 1, 1, generator=generator) * (height - side + 1) for _ in range(2))
    rows, columns = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    inside = (
        (rows >= top.floor())
        & (rows < top.floor() + side)
        & (columns >= left.floor())
        & (columns < left.floor() + side)
    )
    blocked = torch.where(inside.unsqueeze(1), torch.zeros(()), flat)
    return torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.5, noisy, blocked).view_as(x)


def objective(network: Any, x: Tensor, options: Options, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
    """Loss an image in nats, and its parts."""
    if options.kind == "vae":
        vae = network.bound(x)
        return (vae.reconstruction + options.beta * vae.kl).mean(), {
            "rec": vae.reconstruction.mean().item(),
            "kl": vae.kl.mean().item(),
        }
    bound = network.bound(x)
    loss = bound.conditional.mean() + options.memory_cost * bound.kl_memory.mean()
    loss = loss + options.autoencoder * bound.autoencoder.mean()
    parts = {
        "rec": bound.reconstruction.mean().item(),
        "kl": bound.kl_item.mean().item(),
        "klM": bound.kl_memory.mean().item(),
        "ae": bound.autoencoder.mean().item(),
    }
    if options.reads:
        mean = network.written(x)[0]
        reads = network.read(mean, corrupt(x, generator), steps=options.reads)
        errors = [binary_cross_entropy_with_logits(r, x, reduction="none").flatten(2).sum(-1).mean() for r in reads]
        loss = loss + sum(errors) / len(errors)
        parts["read1"], parts["readN"] = errors[0].item(), errors[-1].item()
    return loss, parts


@torch.no_grad()
def validate(network: Any, x: Tensor, options: Options) -> float:
    """Bound an image in nats (the total, the memory's cost counted) on held-out images."""
    torch_state = torch.get_rng_state()
    torch.manual_seed(0)
    per = 1 if options.kind == "vae" else options.items
    x = x[: len(x) // per * per][:1920]
    batch = x if options.kind == "vae" else x.unflatten(0, (-1, per))
    total = float(network.bound(batch).total.mean())
    torch.set_rng_state(torch_state)
    return total


def main(options: Options) -> None:
    """Train and write weights, options and the log."""
    if options.quick:
        options = replace(options, steps=2)
    network = build(options)
    if options.init is not None:
        network.load_state_dict(pretrained.load(options.init).autoencoder.state_dict())
    generator = torch.Generator().manual_seed(options.seed)
    train, validation = training_images(options, generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=options.lr)
    batch, started, log, step = options.episodes * options.items, time.process_time(), [], 0
    while step < options.steps:
        order = torch.randperm(len(train), generator=generator)
        epoch = train[order]
        if options.augment and options.images == "omniglot":
            epoch = varied(epoch, generator)
        for start in range(0, len(epoch) - batch + 1, batch):
            progress = min(1.0, step / options.steps)
            rate = min(1.0, (step + 1) / WARM_UP) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * progress)))
            optimizer.param_groups[0]["lr"] = options.lr * rate
            x = epoch[start : start + batch]
            if options.kind != "vae":
                x = x.unflatten(0, (options.episodes, options.items))
            loss, parts = objective(network, x, options, generator)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 100.0)
            optimizer.step()
            step += 1
            if step % 200 == 0 or step == options.steps:
                network.eval()
                line = {"step": step, "cpu_s": round(time.process_time() - started, 1), **parts}
                line["validation"] = validate(network, validation, options)
                network.train()
                log.append(line)
                print({key: round(value, 2) for key, value in line.items()}, flush=True)
            if step >= options.steps:
                break
    with torch.no_grad():
        codes = torch.cat([network.encode(part) for part in train.split(512)])
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()}
    settings["init"] = None if options.init is None else options.init.stem
    for private in ("data", "out", "quick", "record"):
        del settings[private]
    if options.quick:
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    manifest = {"training": settings, "log": log}
    pretrained.save(options.out, network, code_mean=codes.mean(0), code_std=codes.std(0), manifest=manifest)


if __name__ == "__main__":
    launch(main, Options, __doc__)
