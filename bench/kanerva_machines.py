"""Bounds, reconstruction, reading and writing of the trained auto-encoders.

    python bench/kanerva_machines.py --data DIR

Bounds: Omniglot's evaluation alphabets, reduced to 28 x 28, episodes of 32 drawn whatever their class; the memory's own
cost counted. Reading: cued recall of written MNIST digits, judged by a classifier trained on MNIST's training images,
beside an empty memory and the auto-encoder without one. Nothing here is used to choose anything.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import DataOptions, launch
from _images import omniglot
from _record import interval, table
from torch import Tensor, nn
from torchvision.datasets import CIFAR10, MNIST, FashionMNIST

from avalanche_memplugins import pretrained
from avalanche_memplugins.functional import kanerva_address, kanerva_posterior
from avalanche_memplugins.gallery import occlude
from avalanche_memplugins.networks import VAE

COMMAND = "python bench/kanerva_machines.py --data DIR"
READS = (1, 2, 3, 5, 6)


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """Where the data and the auto-encoders are."""

    shipped: Path = Path(pretrained.__file__).parent
    more: Path = Path("results/codecs")
    parts: tuple[str, ...] = ("bounds", "errors", "reads", "speed")


def files(options: Options) -> list[Path]:
    """All auto-encoders there are, the shipped ones first."""
    return sorted(options.shipped.glob("*.safetensors")) + sorted(options.more.glob("*.safetensors"))


def pixels(kind: Any, data: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Images ``(N, C, H, W)`` in [0, 1] and labels."""
    found = kind(str(data), train=train)
    if kind is CIFAR10:
        return torch.from_numpy(found.data).permute(0, 3, 1, 2) / 255.0, torch.tensor(found.targets)
    return found.data[:, None] / 255.0, found.targets


@torch.no_grad()
def bounds(options: Options) -> str:
    """Negative bounds in nats an image, the same images in the same episodes for all."""
    x, _ = omniglot(options.data, background=False)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x = x[order][: len(x) // 32 * 32][: options.least(12_800, 256)]
    rows: list[list[object]] = []
    for path in files(options):
        held = pretrained.load(path)
        network: Any = held.autoencoder
        if network.size != 28:
            continue
        training = held.manifest["training"]
        for target, images in (("grey", x), ("binary", (x > 0.5).float())):
            g = torch.Generator().manual_seed(0)
            if isinstance(network, VAE):
                parts = [network.bound(b, generator=g) for b in images.split(256)]
                rec, kl = (torch.cat([getattr(p, n) for p in parts]).mean().item() for n in ("reconstruction", "kl"))
                memory, conditional = 0.0, rec + kl
            else:
                parts = [network.bound(b.unflatten(0, (8, 32)), generator=g) for b in images.split(256)]
                names = ("reconstruction", "kl_item", "kl_memory")
                rec, kl, memory = (torch.cat([getattr(p, n) for p in parts]).mean().item() for n in names)
                conditional = rec + kl
            rows.append(
                [path.stem, target, training["steps"], *(f"{v:.1f}" for v in (rec, kl, conditional, memory)),
                 f"{conditional + memory:.1f}"]
            )  # fmt: skip
    return table(
        ["auto-encoder", "target", "steps", "reconstruction", "KL of codes", "conditional", "KL(M)/T", "total"], rows
    )


@torch.no_grad()
def errors(options: Options) -> str:
    """Squared error of an image through encoder and decoder, summed over its pixels."""
    grey = {"Omniglot evaluation": omniglot(options.data, background=False)[0]}
    grey |= {n: pixels(k, options.data, train=False)[0] for n, k in (("MNIST", MNIST), ("Fashion-MNIST", FashionMNIST))}
    colour = {"CIFAR-10": pixels(CIFAR10, options.data, train=False)[0]}
    rows: list[list[object]] = []
    for path in files(options):
        network: Any = pretrained.load(path).autoencoder
        for name, x in (grey if network.size == 28 else colour).items():
            x = x[: options.least(2000, 100)]
            error = (network.decode(network.encode(x)) - x).square().flatten(1).sum(1).mean().item()
            mean = (x.mean(0) - x).square().flatten(1).sum(1).mean().item()
            size = path.stat().st_size
            rows.append([path.stem, network.code_size, f"{size:,}", name, f"{error:.1f}", f"{mean:.1f}"])
    return table(["auto-encoder", "code", "bytes of the file", "images", "squared error", "of the mean image"], rows)


@torch.enable_grad()
def judge(options: Options) -> nn.Module:
    """A classifier of digits, trained on MNIST's training images."""
    torch.manual_seed(0)
    x, y, _, _ = options.images()
    net = nn.Sequential(
        nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 10)
    )
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(2):
        for rows in torch.randperm(len(x)).split(128):
            loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


@torch.no_grad()
def reads(options: Options) -> str:
    """Cued recall of written digits and squared error, read by read; ten draws of the written digits."""
    x, y = pixels(MNIST, options.data, train=False)
    net = judge(options)
    rows: list[list[object]] = []
    for path in files(options):
        network: Any = pretrained.load(path).autoencoder
        if network.size != 28 or isinstance(network, VAE):
            continue
        for count in (32, 128):
            for corruption in ("block 14", "salt and pepper .2"):
                found: dict[str, list[list[float]]] = {}
                for draw in range(options.least(10, 1)):
                    g = torch.Generator().manual_seed(draw)
                    chosen = torch.randperm(len(x), generator=g)[:count]
                    clean, labels = x[chosen], y[chosen]
                    if corruption == "block 14":
                        cue = occlude(clean, 14, g)
                    else:
                        noise = torch.rand(clean.shape, generator=g)
                        cue = torch.where(noise < 0.2, (noise < 0.1).float(), clean)
                    mean, _ = network.written(clean[None])
                    outs = [torch.sigmoid(r[0]) for r in network.read(mean, cue[None], steps=max(READS))]
                    empty = torch.sigmoid(network.read(network.prior()[0][None], cue[None], steps=1)[0][0])
                    shown = {"cue": cue, "no memory": network.decode(network.encode(cue)), "empty memory": empty}
                    shown |= {f"read {k}": outs[k - 1] for k in READS}
                    for name, image in shown.items():
                        right = 100 * (net(image).argmax(1) == labels).float().mean().item()
                        error = (image - clean).square().flatten(1).sum(1).mean().item()
                        found.setdefault(name, []).append([right, error])
                for name, values in found.items():
                    right, error = zip(*values, strict=True)
                    rows.append([path.stem, count, corruption, name, interval(right), interval(error)])
                print(rows[-1], flush=True)
    return table(["machine", "written", "cue", "image", "recognised, %", "squared error"], rows)


@torch.no_grad()
def speed() -> str:
    """Time to write 16 memories x 32 items of 64 numbers into 32 rows."""
    g = torch.Generator().manual_seed(0)
    mean, cov = torch.randn(16, 32, 64, generator=g), torch.eye(32).expand(16, 32, 32)
    code = torch.randn(16, 32, 64, generator=g)
    address = kanerva_address(mean, code)
    rows: list[list[object]] = []
    for name, sequential in (("batch", False), ("sequential", True)):
        times = []
        for _ in range(200 if not sequential else 40):
            started = time.perf_counter()
            kanerva_posterior(mean, cov, address, code, noise_var=1.0, sequential=sequential)
            times.append(1000 * (time.perf_counter() - started))
        rows.append([name, f"{np.median(times):.2f}", f"{np.quantile(times, 0.1):.2f}"])
    return table(["write of 16 x 32 items", "median, ms", "fastest tenth, ms"], rows)


def main(options: Options) -> None:
    """Measure and record."""
    sections = {
        "bounds": ("Bounds on Omniglot", bounds),
        "errors": ("Reconstruction by the auto-encoders", errors),
        "reads": ("Reading from Kanerva machines", reads),
    }
    for name, (title, make) in sections.items():
        if name in options.parts:
            text = make(options)
            options.write(title, REMARKS[name] + "\n\n" + text, COMMAND)
    if "speed" in options.parts:
        text = speed()
        options.write("Writing to a Kanerva memory", text, COMMAND)


REMARKS = {
    "bounds": "Nats an image, 12,800 images of the evaluation alphabets, one sample each; episodes of 32 whatever "
    "their class. `conditional` is what the papers report; only `total` compares with a VAE's bound. Reduced to "
    "28 x 28 by ourselves, so not comparable with published numbers. Steps are of 256 images, the reader's of 128. "
    "What is not in `avalanche_memplugins/pretrained`, whose cards say how, was made by `python bench/train_codec.py "
    "--kind vae` (`bound-vae`), `--kind km --code-size 32 --autoencoder 0` (`bound-km`) and `--kind vae --beta 0.2 "
    "--width 24 --steps 3000 --seed S` (`omniglot28-vae-S`).",
    "errors": "First 2,000 test images of each set, mean codes, no quantisation.",
    "reads": "MNIST test digits written to a machine that has seen Omniglot only; mean ± 95 % interval over ten draws "
    "of the digits. `no memory`: encoder and decoder alone; `empty memory`: the trained prior, nothing written.",
}

if __name__ == "__main__":
    launch(main, Options, __doc__)
