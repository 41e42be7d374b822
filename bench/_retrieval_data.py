"""Images, VAEs and results that the parts of probabilistic_retrieval.py share."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import DataOptions
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.datasets import MNIST

from avalanche_memplugins.networks import MLPVAE, FrozenEncoder, train_vae

RESULTS = Path("results/retrieval")
# data, C, epochs, epochs after which it is kept
VAES = (("mnist", 2, 30, (5, 30)), ("omniglot", 32, 20, (20,)), ("mnist", 32, 15, (15,)))
VAE_SEEDS, SEEDS = (0, 1, 2), (0, 1, 2, 3, 4)

# name -> n, alpha's spread, whether the code's own noise is added
ARMS: dict[str, tuple[int, float, bool]] = {
    "n = 10, alpha 0.5 (published)": (10, 0.5, True),
    "n = 1, alpha 0.5": (1, 0.5, True),
    "n = 10, alpha = 1": (10, 0.0, True),
    "n = 1, alpha = 1": (1, 0.0, True),
    "mean only": (1, 0.0, False),
}


def mnist(options: DataOptions, *, train: bool) -> tuple[Tensor, Tensor]:
    """Images ``(N, 1, 28, 28)`` uint8 and classes; few if it is quick."""
    found, every = MNIST(str(options.data), train=train), 30 if options.quick else 1
    return found.data[::every, None], found.targets[::every]


def omniglot(options: DataOptions) -> Tensor:
    """The background set, white on black, reduced to 28x28."""
    files = sorted((options.data / "omniglot-py" / "images_background").glob("*/*/*.png"))[
        :: 30 if options.quick else 1
    ]
    rows = [255 - np.array(Image.open(f).convert("L").resize((28, 28), Image.Resampling.BOX)) for f in files]
    return torch.from_numpy(np.stack(rows))[:, None]


def vae_file(kind: str, size: int, seed: int, epochs: int) -> Path:
    """Where a VAE is kept."""
    return RESULTS / f"vae-{kind}-{size}-{seed}-{epochs}.safetensors"


def load_vae(kind: str, size: int, seed: int, epochs: int) -> MLPVAE:
    """A VAE that :func:`vaes` trained."""
    vae = MLPVAE(size)
    vae.load_state_dict(load_file(vae_file(kind, size, seed, epochs)))
    return vae.eval()


def vaes(options: DataOptions, seeds: Sequence[int]) -> None:
    """Train all VAEs; images of the training sets only, no labels."""
    for seed in VAE_SEEDS:
        for kind, size, epochs, marks in VAES:
            if vae_file(kind, size, seed, epochs).exists():
                continue
            x = mnist(options, train=True)[0] if kind == "mnist" else omniglot(options)
            torch.manual_seed(seed)
            vae = MLPVAE(size)
            began = time.process_time()
            files = {epoch: vae_file(kind, size, seed, epoch) for epoch in marks}
            bounds = train_vae(vae, x, epochs=epochs, seed=seed, after_epoch=partial(keep_vae, vae, files))
            keep_json(f"vae-{kind}-{size}-{seed}", {"bounds": bounds, "seconds": time.process_time() - began})


def keep_vae(vae: MLPVAE, files: dict[int, Path], epoch: int, bound: float) -> None:
    """Keep a VAE after the epochs that have a file."""
    if epoch in files:
        print(f"{files[epoch].stem}: {bound:.2f} nats", flush=True)
        save_file(vae.state_dict(), files[epoch])


@torch.no_grad()
def posterior(vae: MLPVAE, x: Tensor) -> Tensor:
    """Codes ``(N, 2C)``, mean and log-variance."""
    encoder = FrozenEncoder(vae, code="posterior")
    return torch.cat([encoder(rows.float() / 255) for rows in x.split(2_000)])


def keep_json(name: str, value: Any) -> None:
    """Keep a result under its name, whole or not at all."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    draft = RESULTS / f"{name}.part"
    draft.write_text(json.dumps(value))
    draft.rename(RESULTS / f"{name}.json")


def kept(name: str) -> Any:
    """What :func:`keep_json` kept, or None."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def percent(answers: Tensor, y: Tensor) -> float:
    """Of the answers that are right."""
    return 100 * float((answers == y).float().mean())
