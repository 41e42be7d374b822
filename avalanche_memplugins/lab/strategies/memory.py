"""The memory of a run, empty, by rows or by bytes; and codecs by name. Imports nothing heavy by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from avalanche_memplugins.lab import doors

if TYPE_CHECKING:
    from avalanche_memplugins.codecs import Codec, LatentCodec
    from avalanche_memplugins.lab.spec import RunSpec

# Which of the pretrained networks is for which images.
AUTOENCODERS = {(1, 28, 28): "omniglot28-vae"}
ENERGIES = {(1, 28, 28): "rehearsal-28"}
THUMBNAIL = 7  # side of the cues that energy memories keep
SMALL = 14  # side to which images of 4 and 2 bits are reduced


@dataclass(frozen=True, kw_only=True)
class MemoryInfo:
    """A memory of the library.

    :param name: of the class, importable from ``module``.
    :param module: where it is.
    :param summary: one line for a reader.

    >>> MEMORIES[0].name
    'RandomMemory'
    """

    name: str
    summary: str
    module: str = "avalanche_memplugins.memories"


MEMORIES: Sequence[MemoryInfo] = (
    MemoryInfo(
        name="RandomMemory",
        summary="rows of the stream; write: ring, reservoir, class_balanced, task_balanced; "
        "read: uniform, cycle, class_balanced, task_balanced; codec: see codecs",
    ),
    MemoryInfo(
        name="EpisodicMemory",
        summary="a RandomMemory that also finds the rows nearest to a query, exactly; for MbPA",
    ),
    MemoryInfo(
        name="DifferentiableNeuralDictionary",
        summary="NEC's keys and values by class, read by kernel, updated in place",
    ),
    MemoryInfo(
        name="GaussianMemory",
        summary="one Gaussian a class over rows or codes, in one pass; the control for all that follow",
    ),
    MemoryInfo(
        name="DynamicKanervaMemory",
        summary="rows that every code is a mixture of, written by Bayes' rule; a posterior a class, or one for all",
    ),
    MemoryInfo(
        name="KanervaMemory",
        summary="the same, addressed by the network of a trained Kanerva machine",
    ),
    MemoryInfo(
        name="VAEMemory",
        summary="a VAE that learns each experience beside its own replay",
    ),
    MemoryInfo(
        name="EnergyMemory",
        summary="patterns as minima of a meta-learned energy whose weights are written; completes, knows what is new",
    ),
    MemoryInfo(
        name="LatentMemory",
        summary="rows as codes of an auto-encoder that is trained on the stream",
    ),
)


class CodecInfo(NamedTuple):
    """A codec of the lab.

    :param summary: one line for a reader.
    :param make: from the shape of a row and the ``mean`` and ``std`` that were taken out of it.
    :param bits: of a number at the least; None: not known before it is built.

    >>> CODECS["raw"].make((1, 8, 8), mean=0.0, std=1.0)
    'raw'
    """

    summary: str
    make: doors.CodecFactory
    bits: int | None = None


def _named(name: str) -> doors.CodecFactory:
    def make(shape: tuple[int, ...], **normalisation: Any) -> str:
        return name

    return make


def _uint8(shape: tuple[int, ...], **normalisation: Any) -> Codec:
    from avalanche_memplugins.codecs import Uint8

    return Uint8(**normalisation)


def _few_bits(bits: int, *, reduce: bool = True) -> doors.CodecFactory:
    def make(shape: tuple[int, ...], **normalisation: Any) -> Codec:
        from avalanche_memplugins.codecs import Bits, Downsampled

        codec = Bits(bits, **normalisation)
        return Downsampled(SMALL, codec) if reduce and min(shape[1:]) > SMALL else codec

    return make


def _latent(shape: tuple[int, ...], **normalisation: Any) -> LatentCodec:
    from avalanche_memplugins.codecs import LatentCodec

    if shape not in AUTOENCODERS:
        raise ValueError(
            f"expected images of {', '.join(map(str, AUTOENCODERS))}, for which there is a pretrained auto-encoder"
        )
    return LatentCodec.from_pretrained(AUTOENCODERS[shape], **normalisation)


CODECS: Mapping[str, CodecInfo] = {
    "raw": CodecInfo("float32, as the model gets the row", _named("raw"), 32),
    "float16": CodecInfo("half the bytes of raw", _named("float16"), 16),
    "uint8": CodecInfo("a byte a pixel, exact for images that were bytes", _uint8, 8),
    "int8": CodecInfo("a byte a number, with a scale a row", _named("int8"), 8),
    "4bit": CodecInfo("16 grey levels a pixel; images above 14 x 14 are reduced to that", _few_bits(4), 4),
    "2bit": CodecInfo("4 grey levels a pixel; images above 14 x 14 are reduced to that", _few_bits(2), 2),
    "1bit": CodecInfo("black and white pixels", _few_bits(1, reduce=False), 1),
    "latent": CodecInfo("int8 codes of a pretrained auto-encoder; 28 x 28 grey images only", _latent),
}


# For the option `memory`: a memory of rows that the recipe picks, beside those of the user's own.
OWN_ROWS: Mapping[str, None] = {"rows": None}


def codec_of(name: str, spec: RunSpec) -> str | Codec:
    """The codec that an option names, for the rows of a run.

    :param name: in :data:`CODECS`, of an entry point, or a ``"module:function"``.
    :param spec: the run.
    :raises ValueError: if there is none, or it does not suit the run's rows.
    """
    info = spec.info
    if name not in CODECS:
        own: Codec = doors.make("codec", name, CODECS, info.input_shape, **spec.normalisation)
        return own
    try:
        return CODECS[name].make(info.input_shape, **spec.normalisation)
    except ValueError as problem:
        of = f"those of {info.name} are {info.input_shape}"
        raise ValueError(f"strategy: {spec.strategy} {problem}; {of}") from problem


def rows_of(spec: RunSpec, *, searched: bool = False, logits: bool = False) -> Any:
    """A memory of rows.

    :param spec: the run; its options are ``memory``, ``codec``, ``policy``, ``read`` and ``seed``'s own.
    :param searched: whether it must find the rows nearest to a query.
    :param logits: whether it keeps the model's outputs, too.
    :raises ValueError: if the budget is too small for it, or the benchmark's rows do not suit it.
    """
    from avalanche_memplugins.memories import EpisodicMemory, RandomMemory

    info, options = spec.info, spec.all_options
    codec = codec_of(options["codec"], spec)
    own = options.get("memory", "rows")
    if own != "rows":
        capacity = spec.memory_size if spec.budget is None else None
        facts = {"shape": info.input_shape, "classes": info.n_classes, "experiences": spec.n_experiences}
        return doors.make("memory", own, OWN_ROWS, capacity, budget=spec.budget, codec=codec, seed=spec.seed, **facts)
    kind = EpisodicMemory if searched else RandomMemory
    settings: dict[str, Any] = {
        "write_policy": options["policy"],
        "read_policy": options.get("read", "uniform"),
        "codec": codec,
        "seed": spec.seed,
        "store_logits": logits,
    }
    if spec.budget is None:
        return kind(spec.memory_size, **settings)
    settings |= {"classes": info.n_classes, "experiences": spec.n_experiences}
    # A byte a label where it can hold the classes; most streams have the one task label 0, which takes none.
    settings["labels"] = "uint8" if info.n_classes <= 256 else "int16"
    settings["store_tasks"] = info.scenario == "task-incremental"
    return kind.from_budget(spec.budget, shape=info.input_shape, **settings)


def searched_rows(spec: RunSpec) -> Any:
    """A memory of rows that finds the nearest to a query."""
    return rows_of(spec, searched=True)


def rows_with_logits(spec: RunSpec) -> Any:
    """A memory of rows that keeps the model's outputs."""
    return rows_of(spec, logits=True)


def gaussian(spec: RunSpec) -> Any:
    """A Gaussian a class over codes, where there is an auto-encoder, or over the rows themselves."""
    from avalanche_memplugins.memories import GaussianMemory

    return _over_codes(spec, GaussianMemory)


def kanerva(spec: RunSpec) -> Any:
    """A dynamic Kanerva memory over the same."""
    from avalanche_memplugins.memories import DynamicKanervaMemory

    return _over_codes(spec, DynamicKanervaMemory, share=spec.all_options["share"])


def _over_codes(spec: RunSpec, kind: Any, **settings: Any) -> Any:
    shape = spec.info.input_shape
    codec = _latent(shape, **spec.normalisation) if shape in AUTOENCODERS else None
    settings |= {"codec": codec, "seed": spec.seed}
    if spec.budget is None:
        return kind(**settings)
    return kind.from_budget(spec.budget, classes=spec.info.n_classes, shape=shape, **settings)


def energy(spec: RunSpec) -> Any:
    """An energy memory of a pretrained network, a slot for each experience."""
    from avalanche_memplugins.codecs import Bits, Downsampled
    from avalanche_memplugins.memories import EnergyMemory
    from avalanche_memplugins.pretrained import load_energy

    info, of = spec.info, spec.normalisation
    if info.input_shape not in ENERGIES:
        raise ValueError(
            f"strategy: energy expected images of {', '.join(map(str, ENERGIES))}, for which there is a pretrained "
            f"energy network; those of {info.name} are {info.input_shape}"
        )
    found = load_energy(ENERGIES[info.input_shape])
    cue = Downsampled(THUMBNAIL, Bits(4, **of))
    settings: dict[str, Any] = {"cue": cue, "precision": "int8", "seed": spec.seed, **of}
    # What is written into a slot serves all images of its experience.
    if spec.budget is None:
        size = max(1, spec.memory_size // spec.n_experiences)
        return EnergyMemory(found.network, slots=spec.n_experiences, slot_size=size, **settings)
    sizes: dict[str, Any] = {"shape": info.input_shape, "classes": info.n_classes}
    single, double = (EnergyMemory(found.network, slots=1, slot_size=n, **settings) for n in (1, 2))
    first, second = (memory.slot_bytes(info.input_shape) for memory in (single, double))
    room = (spec.budget - EnergyMemory.CLASS_BYTES * info.n_classes) // spec.n_experiences
    size = max(1, 1 + (room - first) // (second - first))
    return EnergyMemory.from_budget(spec.budget, found.network, slot_size=size, **sizes, **settings)


def vae(spec: RunSpec, *, steps: int = 2_000) -> Any:
    """A VAE that learns each experience.

    :param spec: the run.
    :param steps: that it takes to learn one, if the run's options say nothing.
    """
    import torch

    from avalanche_memplugins.memories import VAEMemory
    from avalanche_memplugins.networks import ConditionalVAE

    info, options = spec.info, spec.all_options
    settings: dict[str, Any] = {
        "steps": options["steps"] or steps,
        "prior": options["prior"],
        "batch_size": spec.batch_size,
        "seed": spec.seed,
        **spec.normalisation,
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


def make_memory(spec: RunSpec) -> Any:
    """The memory of a run of one of our strategies, empty.

    :param spec: the run.
    :raises ValueError: if the strategy has no memory of ours, the budget is too small, or the rows do not suit it.

    >>> from avalanche_memplugins.lab import RunSpec
    >>> fields = {"benchmark": "split-digits", "seed": 0, "n_experiences": 5, "epochs": 1}
    >>> make_memory(RunSpec(strategy="er", options={"codec": "2bit"}, budget="1KB", **fields)).capacity
    58
    """
    make: Callable[[RunSpec], Any] | None = spec.recipe.memory
    if make is None:
        raise ValueError(f"strategy: {spec.strategy} has no memory of ours")
    return make(spec)
