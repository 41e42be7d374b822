"""Codes against pixels at equal bytes: class-incremental Split MNIST, Split Fashion-MNIST, Split CIFAR-10 in features.

    python bench/latent_replay.py --stream mnist --data DIR        half an hour for five seeds

Five experiences of two classes, one head, MLP with two layers of 400, Adam 1e-3, batches of 128 + 128 replayed, three
epochs an experience (about 280 iterations), loss 1/t current + (1 - 1/t) replay; memories are written after each
experience. Runs are kept in ``results/latent_replay`` and not made again. ``--validate`` trains on nine tenths of the
training images and tests on the other tenth: choices were made there, with seeds 100 and 101.

Seeds 0 and 3 use the auto-encoder that ships. The other two, S = 1 (seeds 1, 4) and 2, are trained with
``python bench/train_codec.py --kind vae --beta 0.2 --width 24 --steps 3000 --seed S --data DIR
--out results/codecs/omniglot28-vae-S.safetensors``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from _common import DataOptions, data_sets, launch, mlp, once, pairs_of_classes, percent_right, rows_of
from _record import interval, table
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.training import Naive
from safetensors.torch import load_file
from torch import Tensor
from torchvision.datasets import MNIST, FashionMNIST

from avalanche_memplugins import LeanStepPlugin, MemoryReplayPlugin, RandomMemory, TensorLoaderPlugin, pretrained
from avalanche_memplugins.codecs import Bits, Downsampled, Int8, LatentCodec, Uint8
from avalanche_memplugins.memories import DynamicKanervaMemory, GaussianMemory

BYTES = (39_200, 55_000, 157_000)


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """What to run."""

    stream: Literal["mnist", "fashion", "cifar10"] = "mnist"
    seeds: int = 5
    only: str = ""
    """Run the ways whose name holds this; the table is written from all runs there are."""
    validate: bool = False
    codecs: Path = Path(pretrained.__file__).parent
    """Folder of the auto-encoders; files NAME.safetensors and further seeds as NAME-1.safetensors, NAME-2..."""
    more_codecs: Path = Path("results/codecs")
    features: Path = Path("results/cifar10-lite0.safetensors")
    out: Path = Path("results/latent_replay")


@dataclass(frozen=True)
class Way:
    """A row of the table.

    :param space: ``"pixels"``: the classifier sees images; ``"codes"``: the codes of a frozen encoder.
    :param make: the memory, from the codec and the seed; None: no replay.
    """

    name: str
    space: Literal["pixels", "codes"]
    make: Callable[[Any, int], Any] | None
    joint: bool = False


def reservoir(nbytes: int, codec: Callable[[Any], Any], shape: tuple[int, ...]) -> Callable[[Any, int], Any]:
    """A reservoir of labels of one byte in so many bytes."""
    return lambda latent, seed: RandomMemory.from_budget(
        nbytes, shape=shape, codec=codec(latent), labels="uint8", store_tasks=False, seed=seed
    )


def ways(stream: str, code: int) -> list[Way]:
    """All rows of a stream's table."""
    image, codes = (1, 28, 28), (code,)
    found = [Way("naive", "pixels", None), Way("joint", "pixels", None, joint=True)] if stream != "cifar10" else []
    if stream != "cifar10":
        for nbytes in BYTES if stream == "mnist" else (39_200, 157_000):
            kb = f"{nbytes / 1000:.0f} kB"
            found.append(Way(f"ER raw uint8, {kb}", "pixels", reservoir(nbytes, lambda _: Uint8(lossy=True), image)))
            small = Downsampled(14, Bits(4))
            found.append(Way(f"ER 14x14 4-bit, {kb}", "pixels", reservoir(nbytes, lambda _, c=small: c, image)))  # type: ignore[misc]
            if nbytes in (39_200, 157_000):
                found.append(Way(f"ER int8 codes, {kb}", "pixels", reservoir(nbytes, lambda c: c, image)))
        found += generative("pixels", code)
    found += [Way("naive, codes", "codes", None), Way("joint, codes", "codes", None, joint=True)]
    for nbytes in BYTES:
        if stream == "cifar10" or nbytes in (39_200, 157_000):
            found.append(
                Way(
                    f"ER int8 codes, {nbytes / 1000:.0f} kB, codes", "codes", reservoir(nbytes, lambda _: Int8(), codes)
                )
            )
            found.append(
                Way(
                    f"ER float32 codes, {nbytes / 1000:.0f} kB, codes",
                    "codes",
                    reservoir(nbytes, lambda _: "raw", codes),
                )
            )
    return found + generative("codes", code)


def generative(space: Literal["pixels", "codes"], code: int) -> list[Way]:
    """The memories that model codes, by class and shared."""
    end = "" if space == "pixels" else ", codes"

    def budget(kind: Any, nbytes: int, **kwargs: Any) -> Callable[[Any, int], Any]:
        def make(latent: Any, seed: int) -> Any:
            given = {"codec": latent} if space == "pixels" else {"shape": (code,)}
            return kind.from_budget(nbytes, classes=10, seed=seed, **given, **kwargs)

        return make

    # The full covariance of 32 numbers fits into the smaller budget: a larger one buys nothing.
    gaussians = (36_000,) if code <= 32 else (36_000, 55_000)
    return [
        *(Way(f"Gaussian by class, {n // 1000} kB{end}", space, budget(GaussianMemory, n)) for n in gaussians),
        Way(f"Kanerva by class, 36 kB{end}", space, budget(DynamicKanervaMemory, 36_000)),
        Way(f"Kanerva by class, 55 kB{end}", space, budget(DynamicKanervaMemory, 55_000)),
        Way(
            f"Kanerva by class, 55 kB, prior addresses{end}",
            space,
            budget(DynamicKanervaMemory, 55_000, address="prior"),
        ),
        Way(f"Kanerva shared, 36 kB{end}", space, budget(DynamicKanervaMemory, 36_000, share="all")),
    ]


def rows(options: Options) -> tuple[Tensor, ...]:
    """Training and test images ``(N, 1, 28, 28)`` in [0, 1], or features ``(N, C)``."""
    if options.stream == "cifar10":
        held = load_file(options.features)
        found = (held["train_x"].float(), held["train_y"], held["test_x"].float(), held["test_y"])
    else:
        found = options.images(MNIST if options.stream == "mnist" else FashionMNIST)
    if options.validate:
        order = torch.randperm(len(found[0]), generator=torch.Generator().manual_seed(0))
        kept, held_out = order[len(order) // 10 :], order[: len(order) // 10]
        return found[0][kept], found[1][kept], found[0][held_out], found[1][held_out]
    return found


def run(way: Way, data: tuple[Tensor, ...], latent: Any, seed: int) -> dict[str, Any]:
    """Train one way on one order of the classes."""
    x, y, test_x, test_y = data
    classes = pairs_of_classes(seed)
    torch.manual_seed(seed)
    model = mlp(x[0].numel())
    memory = None if way.make is None else way.make(latent, seed)
    plugins: list[Any] = [TensorLoaderPlugin(seed=seed), LeanStepPlugin()]
    if memory is not None:
        plugins.append(MemoryReplayPlugin(memory, write_at="experience", replay_weight="growing", seed=0))
    strategy = Naive(
        model=model, optimizer=torch.optim.Adam(model.parameters(), 1e-3), train_mb_size=128, eval_mb_size=500,
        train_epochs=3, evaluator=None, plugins=plugins,
    )  # fmt: skip
    train = data_sets(x, y, rows_of(y, classes.view(1, 10) if way.joint else classes))
    started = time.process_time()
    for experience in benchmark_from_datasets(train=train).train_stream:
        strategy.train(experience, num_workers=0)
    iterations = 3 * sum(-(-len(part) // 128) for part in train)
    spent = time.process_time() - started
    return {
        "accuracy": percent_right(model, test_x, test_y),
        "nbytes": 0 if memory is None else memory.nbytes,
        "nbytes_fixed": 0 if latent is None else latent.nbytes_fixed,
        "ms": 1000 * spent / iterations,
    }


def codec_of(options: Options, seed: int) -> LatentCodec | None:
    """The auto-encoder of the run: of three, by the seed."""
    if options.stream == "cifar10":
        return None
    which = 0 if options.validate else seed % 3
    name = "omniglot28-vae.safetensors" if which == 0 else f"omniglot28-vae-{which}.safetensors"
    return LatentCodec.from_pretrained((options.codecs if which == 0 else options.more_codecs) / name)


def reduced(data: tuple[Tensor, ...], code: int = 64) -> tuple[Tensor, ...]:
    """Features through a fixed random projection to ``code`` numbers of about unit size: nothing is fitted."""
    x, y, test_x, test_y = data
    projection = torch.randn(x.shape[1], code, generator=torch.Generator().manual_seed(0)) / x.shape[1] ** 0.5
    return x @ projection, y, test_x @ projection, test_y


def main(options: Options) -> None:
    """Make the runs that are missing, then the table."""
    data = rows(options)
    folder = options.runs(options.out / (options.stream + ("-validate" if options.validate else "")))
    first, seeds = 100 if options.validate else 0, options.least(options.seeds, 1)
    found: dict[str, list[dict[str, Any]]] = {}
    code = 128 if options.stream == "cifar10" else codec_of(options, 0).code_size  # type: ignore[union-attr]
    for seed in range(first, first + seeds):
        latent = codec_of(options, seed)
        encoded: tuple[Tensor, ...] | None = None
        for way in ways(options.stream, code):
            path = folder / f"{way.name.replace(' ', '_').replace(',', '')}-{seed}.json"
            if not path.exists() and options.only in way.name:
                if way.space == "codes" and encoded is None:
                    if latent is None:
                        encoded = reduced(data, code)
                    else:
                        encoded = (latent.to_latent(data[0]), data[1], latent.to_latent(data[2]), data[3])
                used = encoded if way.space == "codes" and encoded is not None else data
                once(path, partial(run, way, used, latent, seed))
            if path.exists():
                found.setdefault(way.name, []).append(json.loads(path.read_text()))
    lines = [
        [
            name,
            f"{np.mean([r['nbytes'] for r in runs]):,.0f}",
            interval([r["accuracy"] for r in runs]),
            len(runs),
            f"{np.median([r['ms'] for r in runs]):.1f}",
        ]
        for name, runs in found.items()
    ]
    text = table(["way", "bytes of the stream", "accuracy, %", "seeds", "ms an iteration"], lines)
    if options.validate:
        print(text)
    else:
        fixed = max(r["nbytes_fixed"] for runs in found.values() for r in runs)
        text = f"{REMARKS[options.stream].format(fixed=fixed)}\n\n{text}"
        command = f"python bench/latent_replay.py --stream {options.stream} --data DIR"
        options.write(f"Latent replay: {TITLES[options.stream]}", text, command)


TITLES = {"mnist": "Split MNIST", "fashion": "Split Fashion-MNIST", "cifar10": "Split CIFAR-10 in features"}
SHARED = (
    "Class-incremental, five experiences of two classes in an order drawn anew for each seed, MLP with two layers of "
    "400, Adam 1e-3, 128 + 128 rows, three epochs, loss 1/t and 1 - 1/t; test set, mean ± 95 % interval over seeds. "
)
LATENT = (
    "Bytes are those of the stream's state. Rows with codes also need the frozen auto-encoder `omniglot28-vae`, "
    "{fixed:,} bytes, trained on Omniglot's background set (seeds 0, 3: the shipped one; 1, 4 and 2: two more trained "
    "alike, `python bench/train_codec.py --kind vae --beta 0.2 --width 24 --steps 3000 --seed S`, S = 1 and 2)."
    " Rows that end in 'codes' classify codes, not pixels: their controls are the rows of the same ending, with "
    "'joint, codes' as the ceiling; encoding the stream is not in their time."
)
REMARKS = {
    "mnist": SHARED + LATENT,
    "fashion": SHARED + LATENT,
    "cifar10": SHARED
    + "All rows classify 128 numbers: a fixed random projection of EfficientNet-Lite0's 1,280 features (ImageNet, "
    "images enlarged to 112 x 112, `bench/cifar_features.py`; 18.8 MB of fixed weights).",
}

if __name__ == "__main__":
    launch(main, Options, __doc__)
