"""The memory of a run, empty, by rows or by bytes; and codecs by name. Imports nothing heavy by itself."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from avalanche_memplugins.lab import doors

if TYPE_CHECKING:
    from avalanche_memplugins.codecs import Codec, EntropyCoded, ImageFile, LatentCodec
    from avalanche_memplugins.codecs.variable_codec import VariableCodec
    from avalanche_memplugins.lab.spec import RunSpec

# Which of the pretrained networks is for which images.
AUTOENCODERS = {(1, 28, 28): "omniglot28-vae"}
ENERGIES = {(1, 28, 28): "rehearsal-28"}
THUMBNAIL = 7  # side of the cues that energy memories keep
SMALL = 14  # side to which images of 4 and 2 bits are reduced
FEATURES = 100  # numbers of a scattering vector, where no budget says how many


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
        name="CodedMemory",
        summary="rows that take as many bytes as each needs: entropy-coded images, image files; sized by bytes",
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
        summary="one Gaussian a class over rows or codes, in one pass; answers by itself, and is the control for all "
        "that follow",
    ),
    MemoryInfo(
        name="RandomProjectionMemory",
        summary="least squares over random features (RanPAC), from sums over the stream; it answers only",
    ),
    MemoryInfo(
        name="MixedMemory",
        summary="rows to replay and Gaussians that answer, within one budget; for features that learn or do not fit",
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


def _coded(bits: int, *, reduce: bool = True) -> doors.CodecFactory:
    def make(shape: tuple[int, ...], **normalisation: Any) -> EntropyCoded:
        from avalanche_memplugins.codecs import EntropyCoded

        inner: Any = _few_bits(bits, reduce=reduce)(shape, **normalisation)
        return EntropyCoded(inner)

    return make


def _image_file(format: Any, quality: int | None = None) -> doors.CodecFactory:
    def make(shape: tuple[int, ...], **normalisation: Any) -> ImageFile:
        from avalanche_memplugins.codecs import ImageFile

        return ImageFile(format, quality=quality, **normalisation)

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
    "4bit-coded": CodecInfo("4bit, entropy-coded: the same rows in a third of the bytes; needs a budget", _coded(4)),
    "2bit-coded": CodecInfo("2bit, likewise", _coded(2)),
    "1bit-coded": CodecInfo("1bit, likewise in a sixth", _coded(1, reduce=False)),
    "webp": CodecInfo("WebP files of quality 50; needs a budget", _image_file("webp", 50)),
    "png": CodecInfo("PNG files, exact for images that were bytes; needs a budget", _image_file("png")),
    "latent": CodecInfo("int8 codes of a pretrained auto-encoder; 28 x 28 grey images only", _latent),
}


# For the option `memory`: a memory of rows that the recipe picks, beside those of the user's own.
OWN_ROWS: Mapping[str, None] = {"rows": None}


def codec_of(name: str, spec: RunSpec) -> Any:
    """The codec that an option names, for the rows of a run: a name, a ``Codec`` or a ``VariableCodec``.

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


def rows_of(spec: RunSpec, *, searched: bool = False, logits: bool = False, share: float = 1.0) -> Any:
    """A memory of rows.

    :param spec: the run; its options are ``memory``, ``codec``, ``policy``, ``read`` and ``seed``'s own.
    :param searched: whether it must find the rows nearest to a query.
    :param logits: whether it keeps the model's outputs, too.
    :param share: of the budget that it may take.
    :raises ValueError: if the budget is too small for it, or the benchmark's rows do not suit it.
    """
    from avalanche_memplugins.memories import EpisodicMemory, RandomMemory

    info, options = spec.info, spec.all_options
    codec, budget = codec_of(options["codec"], spec), _part(spec, share)
    own = options.get("memory", "rows")
    if own != "rows":
        capacity = spec.memory_size if budget is None else None
        facts = {"shape": info.input_shape, "classes": info.n_classes, "experiences": spec.n_experiences}
        return doors.make("memory", own, OWN_ROWS, capacity, budget=budget, codec=codec, seed=spec.seed, **facts)
    # A byte a label where it can hold the classes; most streams have the one task label 0, which takes none.
    labels: Any = "uint8" if info.n_classes <= 256 else "int16"
    tasks = info.scenario == "task-incremental"
    if getattr(codec, "variable", False):
        return _coded_rows(spec, codec, budget, logits=logits, labels=labels, store_tasks=tasks)
    kind = EpisodicMemory if searched else RandomMemory
    settings: dict[str, Any] = {
        "write_policy": options["policy"],
        "read_policy": options.get("read", "uniform"),
        "codec": codec,
        "seed": spec.seed,
        "store_logits": logits,
    }
    if budget is None:
        return kind(spec.memory_size, **settings)
    settings |= {"classes": info.n_classes, "experiences": spec.n_experiences, "labels": labels, "store_tasks": tasks}
    return kind.from_budget(budget, shape=info.input_shape, **settings)


def _part(spec: RunSpec, share: float) -> int | None:
    # A whole budget stays as it is: floats have no room for the largest.
    return spec.budget if spec.budget is None or share == 1 else int(share * spec.budget)


def _coded_rows(spec: RunSpec, codec: VariableCodec, budget: int | None, *, logits: bool, **settings: Any) -> Any:
    """Rows that differ in length."""
    import torch

    from avalanche_memplugins.memories import CodedMemory

    options, name = spec.all_options, spec.all_options["codec"]
    if budget is None:
        raise ValueError(f"codec: rows of {name} differ in length, expected a budget in bytes to size the memory")
    if logits or options.get("read", "uniform") not in ("uniform", "auto"):
        raise ValueError(f"codec: rows of {name} are read uniformly and without outputs, expected another codec")
    codec.check(torch.zeros(1, *spec.info.input_shape))  # grey: tells vectors from images
    return CodedMemory.from_budget(budget, codec=codec, write_policy=options["policy"], seed=spec.seed, **settings)


def searched_rows(spec: RunSpec) -> Any:
    """A memory of rows that finds the nearest to a query."""
    return rows_of(spec, searched=True)


def adapted_rows(spec: RunSpec) -> Any:
    """The same, whose rows local adaptation can read."""
    if getattr(codec_of(spec.all_options["codec"], spec), "variable", False):
        raise ValueError(f"codec: {spec.strategy} expected rows of one length, got {spec.all_options['codec']}")
    return searched_rows(spec)


def rows_with_logits(spec: RunSpec) -> Any:
    """A memory of rows that keeps the model's outputs."""
    return rows_of(spec, logits=True)


def discriminant(spec: RunSpec, *, share: float = 1.0, **kind: Any) -> Any:
    """A memory of Gaussians that answers.

    :param spec: the run; its options are ``embedding``, ``numbers``, and the memory's own, None where the lab chooses:
        ``by="experience"`` on streams of one task in other guises; within a budget the most bits, or Gaussians a class,
        that fit and help.
    :param share: of the budget that it may take.
    :param kind: arguments that make it the discriminant that it is.
    :raises ValueError: if the budget is too small for it, or the benchmark's rows do not suit it.
    """
    from avalanche_memplugins.memories import GaussianMemory

    options, info, budget = spec.all_options, spec.info, _part(spec, share)
    names = ("rank", "components", "precision", "deviations", "by", "shrinkage", "ridge")
    by = "experience" if info.scenario == "domain-incremental" else "class"
    told = {name: options[name] for name in names if options.get(name) is not None}
    given = {"by": by, "seed": spec.seed, **kind, **told}
    sizes: dict[str, Any] = {"classes": info.n_classes, "experiences": spec.n_experiences}
    embedding = options["embedding"]
    if embedding == "auto":
        embedding = "codes" if info.input_shape in AUTOENCODERS else "raw"
    if "tied" in given:
        tries: list[dict[str, Any]] = [{"precision": 8}, {"precision": 6}]
    else:
        tries = [{"precision": 6, "rank": None}, {"precision": 4, "rank": None}, {"precision": 6}]
        if embedding == "codes":
            mixtures = (8, 4, 2, 1) if given["by"] == "class" else (1,)
            tries = [{"precision": 4, "rank": None, "components": each} for each in mixtures] + tries[2:]

    sized = GaussianMemory(**{**tries[0], **given})  # checks the options, too

    def that_fit(width: int) -> int:
        if budget is None:
            return min(width, FEATURES)
        return bisect_right(range(1, width + 1), budget, key=lambda n: sized.settled_nbytes(width=n, **sizes))

    made, shape = _features(spec, embedding, that_fit)
    if budget is None:
        return GaussianMemory(**{"rank": None, **made, **given})
    for more in tries[:-1]:
        with suppress(ValueError):
            return GaussianMemory.from_budget(budget, shape=shape, **sizes, **made, **{**more, **given})
    return GaussianMemory.from_budget(budget, shape=shape, **sizes, **made, **{**tries[-1], **given})


def _features(spec: RunSpec, embedding: str, that_fit: Callable[[int], int]) -> tuple[dict[str, Any], tuple[int, ...]]:
    """What makes vectors of rows, as an argument of a memory, and their shape.

    :param that_fit: how many of so many numbers a memory has room for.
    """
    shape, numbers = spec.info.input_shape, spec.all_options["numbers"]
    if embedding not in ("raw", "codes", "scattering", "projection"):
        raise ValueError(f"embedding: expected auto, raw, codes, scattering or projection, got {embedding!r}")
    if embedding == "projection":
        from avalanche_memplugins.networks import RandomProjection

        count = max(1, that_fit(math.prod(shape)) if numbers is None else numbers)
        return {"embedding": RandomProjection(shape, count)}, (count,)
    if embedding != "scattering":
        if numbers is not None:
            raise ValueError(f"numbers: expected none with embedding={embedding}, got {numbers}")
        return ({"codec": codec_of("latent", spec)} if embedding == "codes" else {}), shape
    from avalanche_memplugins.networks import Scattering

    if len(shape) != 3 or min(shape[1:]) < 2:
        raise ValueError(f"embedding: expected images for scattering; rows of {spec.info.name} are {shape}")
    count = that_fit(Scattering(shape).width) if numbers is None else numbers
    return {"embedding": Scattering(shape, max(1, count), **spec.normalisation)}, (max(1, count),)


def rows_and_gaussians(spec: RunSpec) -> tuple[Any, Any]:
    """Rows to replay, and Gaussians that answer, within one budget."""
    share = spec.all_options["share"]
    if not 0 < share < 1:
        raise ValueError(f"share: expected a number between 0 and 1, got {share}")
    return rows_of(spec, share=1 - share), discriminant(spec, share=share)


def mixed(spec: RunSpec) -> Any:
    """Rows to replay and Gaussians that answer, as one memory."""
    from avalanche_memplugins.memories import MixedMemory

    options, info = spec.all_options, spec.info
    if not 0 < options["share"] < 1:
        raise ValueError(f"share: expected a number between 0 and 1, got {options['share']}")
    if options["weight"] is not None and not options["weight"] > 0:
        raise ValueError(f"weight: expected a number > 0, or none to fit it, got {options['weight']}")
    by: Any = options["by"] or ("experience" if info.scenario == "domain-incremental" else "class")
    name = options["codec"]
    if name == "auto":
        name = "int8" if min(info.input_shape[1:]) == 1 else "1bit-coded" if spec.budget else "1bit"
    told = {key: options[key] for key in ("shrinkage", "ridge")}
    if options["rank"] is not None:
        told["rank"] = options["rank"]
    kept = {"write_policy": options["policy"]}
    codec, precision = codec_of(name, spec), options["precision"]
    if spec.budget is None:
        raise ValueError("budget: mixed has two parts that share one, expected bytes, got none")
    if options["embedding"] == "projection":
        embedding = None
    elif options["embedding"] == "scattering":
        embedding = _features(spec, "scattering", lambda most: min(most, FEATURES))[0]["embedding"]
    else:
        raise ValueError(f"embedding: expected projection or scattering, got {options['embedding']!r}")
    return MixedMemory.from_budget(
        spec.budget,
        classes=info.n_classes,
        shape=info.input_shape,
        codec=codec,
        share=options["share"],
        experiences=spec.n_experiences,
        by=by,
        embedding=embedding,
        precision=precision,
        gaussians=told,
        rows=kept,
        seed=spec.seed,
    )


def projected(spec: RunSpec) -> Any:
    """Sums over random features, and least squares on them."""
    from avalanche_memplugins.memories import RandomProjectionMemory

    options, info = spec.all_options, spec.info
    embedding = options["embedding"]
    if embedding == "auto":
        embedding = "codes" if info.input_shape in AUTOENCODERS else "raw"
    made, shape = _features(spec, embedding, lambda most: most)
    ridge = "auto" if options["ridge"] is None else options["ridge"]
    settings: dict[str, Any] = {**made, "ridge": ridge, "held_back": options["held_back"], "seed": spec.seed}
    if spec.budget is None or options["width"] is not None:
        return RandomProjectionMemory(width=options["width"] or 1_000, **settings)
    if ridge == "auto" and "held_back" not in dict(spec.options):
        # Rows held back take a tenth of the bytes at most.
        each = 4 * (math.prod(shape) + 1) if "codec" not in made else 4 * (int(made["codec"].code_size) + 1)
        settings["held_back"] = max(20, min(options["held_back"], spec.budget // (10 * each)))
    return RandomProjectionMemory.from_budget(spec.budget, classes=info.n_classes, shape=shape, **settings)


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
        network = ConditionalVAE(info.input_shape, classes=info.n_classes if options["by_class"] else None)
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
