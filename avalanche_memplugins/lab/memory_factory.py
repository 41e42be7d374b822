"""The memory of a run, empty, by rows or by bytes."""

from __future__ import annotations

from typing import Any

import torch

from avalanche_memplugins.benchmarks.registry import BENCHMARKS, BenchmarkInfo
from avalanche_memplugins.codecs import Bits, Codec, Downsampled, LatentCodec, Uint8
from avalanche_memplugins.memories import (
    DynamicKanervaMemory,
    EnergyMemory,
    EpisodicMemory,
    GaussianMemory,
    RandomMemory,
    VAEMemory,
)
from avalanche_memplugins.networks import ConditionalVAE
from avalanche_memplugins.pretrained import load_energy

from .spec import RunSpec

# Which of the pretrained auto-encoders is for which images.
AUTOENCODERS = {(1, 28, 28): "omniglot28-vae"}
ENERGIES = {(1, 28, 28): "rehearsal-28"}
SEARCHED = ("mbpa", "er-mbpa", "er-mbpa-4bit", "er-mbpa-latent", "knn-4bit", "knn-latent")
THUMBNAIL = 7  # side of the cues that energy memories keep
SMALL = 14  # side to which 4-bit images are reduced


def make_memory(spec: RunSpec, *, steps: int = 2_000) -> Any:
    """The memory of one of our strategies.

    :param spec: the run.
    :param steps: that a generator takes to learn an experience, if the run's options say nothing.
    :raises ValueError: if the budget is too small for it, or the benchmark's images do not suit it.
    """
    info = BENCHMARKS[spec.benchmark]
    if spec.strategy in ("gaussian", "kanerva", "kanerva-shared"):
        return _over_codes(spec, info)
    if spec.strategy == "energy":
        return _energy(spec, info)
    if spec.strategy == "vae":
        return _vae(spec, info, steps)
    kind = EpisodicMemory if spec.strategy in SEARCHED else RandomMemory
    settings: dict[str, Any] = {
        "write_policy": "ring" if spec.strategy == "rma" else spec.all_options.get("policy", "reservoir"),
        "codec": _codec(spec, info),
        "seed": spec.seed,
    }
    if spec.strategy == "dark-replay":
        settings["store_logits"] = True
    if spec.budget is None:
        return kind(spec.memory_size, **settings)
    settings |= {"classes": info.n_classes, "experiences": spec.n_experiences}
    # A byte a label where it can hold the classes; most streams have the one task label 0, which takes none.
    settings["labels"] = "uint8" if info.n_classes <= 256 else "int16"
    settings["store_tasks"] = info.scenario == "task-incremental"
    return kind.from_budget(spec.budget, shape=info.input_shape, **settings)


def normalisation(spec: RunSpec, info: BenchmarkInfo) -> dict[str, Any]:
    """``mean`` and ``std`` that a codec has to undo."""
    if not info.local and dict(spec.benchmark_options).get("normalise") is False:
        return {"mean": 0.0, "std": 1.0}
    return {"mean": info.mean, "std": info.std}


def _codec(spec: RunSpec, info: BenchmarkInfo) -> str | Codec:
    of = normalisation(spec, info)
    if spec.strategy in ("er-uint8", "dark-replay"):
        return Uint8(**of)
    if spec.strategy in ("er-4bit", "er-mbpa-4bit", "knn-4bit"):
        small = min(info.input_shape[1:]) <= SMALL
        return Bits(4, **of) if small else Downsampled(SMALL, Bits(4, **of))
    if spec.strategy == "er-1bit":
        return Bits(1, **of)
    if spec.strategy in ("er-latent", "er-mbpa-latent", "knn-latent"):
        if info.input_shape not in AUTOENCODERS:
            raise ValueError(
                f"strategy: {spec.strategy} wants images of {', '.join(map(str, AUTOENCODERS))}, for which there is a "
                f"pretrained auto-encoder; those of {info.name} are {info.input_shape}"
            )
        return _latent_codec(spec, info)
    return "raw"


def _latent_codec(spec: RunSpec, info: BenchmarkInfo) -> LatentCodec:
    return LatentCodec.from_pretrained(AUTOENCODERS[info.input_shape], **normalisation(spec, info))


def _over_codes(spec: RunSpec, info: BenchmarkInfo) -> GaussianMemory | DynamicKanervaMemory:
    codec = _latent_codec(spec, info) if info.input_shape in AUTOENCODERS else None
    settings: dict[str, Any] = {"codec": codec, "seed": spec.seed}
    sizes: dict[str, Any] = {"classes": info.n_classes, "shape": info.input_shape}
    if spec.strategy == "gaussian":
        return (
            GaussianMemory(**settings)
            if spec.budget is None
            else GaussianMemory.from_budget(spec.budget, **sizes, **settings)
        )
    settings["share"] = "all" if spec.strategy == "kanerva-shared" else "class"
    if spec.budget is None:
        return DynamicKanervaMemory(**settings)
    return DynamicKanervaMemory.from_budget(spec.budget, **sizes, **settings)


def _energy(spec: RunSpec, info: BenchmarkInfo) -> EnergyMemory:
    if info.input_shape not in ENERGIES:
        raise ValueError(
            f"strategy: energy wants images of {', '.join(map(str, ENERGIES))}, for which there is a pretrained energy "
            f"network; those of {info.name} are {info.input_shape}"
        )
    found, of = load_energy(ENERGIES[info.input_shape]), normalisation(spec, info)
    settings: dict[str, Any] = {
        "cue": Downsampled(THUMBNAIL, Bits(4, **of)),
        "precision": "int8",
        "seed": spec.seed,
        **of,
    }
    # A slot for each experience: what is written serves all of its images.
    if spec.budget is None:
        size = max(1, spec.memory_size // spec.n_experiences)
        return EnergyMemory(found.network, slots=spec.n_experiences, slot_size=size, **settings)
    sizes: dict[str, Any] = {"shape": info.input_shape, "classes": info.n_classes}
    single, double = (EnergyMemory(found.network, slots=1, slot_size=n, **settings) for n in (1, 2))
    first, second = (memory.slot_bytes(info.input_shape) for memory in (single, double))
    room = (spec.budget - EnergyMemory.CLASS_BYTES * info.n_classes) // spec.n_experiences
    size = max(1, 1 + (room - first) // (second - first))
    return EnergyMemory.from_budget(spec.budget, found.network, slot_size=size, **sizes, **settings)


def _vae(spec: RunSpec, info: BenchmarkInfo, steps: int) -> VAEMemory:
    options = spec.all_options
    settings: dict[str, Any] = {
        "steps": options["steps"] or steps,
        "prior": options["prior"],
        "batch_size": spec.batch_size,
        "seed": spec.seed,
        **normalisation(spec, info),
    }
    if spec.budget is not None:
        # The Gaussians of its codes, quadratic in their width, may take a quarter.
        widths = (width for width in (100, 64, 32, 16, 8) if _gaussians(width, info.n_classes) <= spec.budget // 4)
        return VAEMemory.from_budget(
            spec.budget, shape=info.input_shape, classes=info.n_classes, code_size=next(widths, 4), **settings
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        network = ConditionalVAE(info.input_shape)
    return VAEMemory(network, **settings)


def _gaussians(width: int, classes: int) -> int:
    return 4 * classes * (width + width * (width + 1) // 2)
