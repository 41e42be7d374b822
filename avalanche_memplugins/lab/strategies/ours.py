"""Our strategies: what is remembered, and the plugins around it. Imports nothing heavy by itself."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from avalanche_memplugins._defaults import REPLAY_WEIGHT
from avalanche_memplugins.lab.strategies import memory
from avalanche_memplugins.lab.strategies.recipe import Built, Recipe, Setup

if TYPE_CHECKING:
    from avalanche_memplugins.lab.spec import RunSpec

_VAN_DE_VEN = "van de Ven & Tolias 2019, arXiv 1904.07734"
_LATENT = "codes of a pretrained auto-encoder for 28 x 28 grey images, the rows themselves for others"


def with_memory(setup: Setup, held: Any, *plugins: Any, kind: Any = None, **options: Any) -> Built:
    """A strategy whose plugins share a memory.

    :param setup: of the run.
    :param held: the memory, counted in bytes.
    :param plugins: around it.
    :param kind: Avalanche strategy; None: ``Naive``.
    :param options: other arguments of it than the common ones.
    """
    from avalanche.training import Naive

    strategy = (kind or Naive)(**{**setup.extended(*plugins), **options})
    # So that galleries and reports find it.
    strategy.memory = held
    fixed = [part for part in (held, *plugins) if hasattr(part, "nbytes_fixed")]
    return Built(strategy, lambda: int(held.nbytes), lambda: sum(int(part.nbytes_fixed) for part in fixed))


def replaying(setup: Setup, held: Any, **kwargs: Any) -> Built:
    """``MemoryReplayPlugin`` with a memory; ``kwargs`` are the plugin's own."""
    from avalanche_memplugins import MemoryReplayPlugin

    return with_memory(setup, held, MemoryReplayPlugin(held, seed=setup.spec.seed, **kwargs))


def _memory(setup: Setup) -> Any:
    return memory.make_memory(setup.spec)


def _replay(setup: Setup) -> Built:
    options, held = setup.spec.all_options, _memory(setup)
    # A memory that learns, which may be the user's own, knows one time only.
    write_at = "auto" if hasattr(held, "consolidate") else options["write_at"]
    settings = {"replay_size": options["replay_size"], "replay_weight": options.get("replay_weight")}
    return replaying(setup, held, write_at=write_at, **settings)


def _rma(setup: Setup) -> Built:
    """Like its author's, the ring is as long as the stream's writes, so the stream's length must be known."""
    spec, options, held = setup.spec, setup.spec.all_options, _memory(setup)
    every = options["write_every"] or write_every(sum(setup.batches), held.capacity, spec.batch_size)
    return replaying(setup, held, write_every=every, write_epochs=options["write_epochs"], write_at="iteration")


def write_every(batches: int, memory_size: int, batch_size: int) -> int:
    r"""Steps from one write to the next so that the first epochs' writes just fit the ring.

    .. math:: m = \left\lceil \frac{\text{batches}}{\max(1, \lfloor C / B \rfloor)} \right\rceil

    :param batches: first-epoch batches in the whole stream, >= 1.
    :param memory_size: rows of the ring, C.
    :param batch_size: rows of a write, B.

    >>> write_every(batches=100, memory_size=320, batch_size=32)
    10
    """
    return max(1, math.ceil(batches / max(1, memory_size // batch_size)))


def _dark(setup: Setup) -> Built:
    from avalanche_memplugins.plugins import DarkReplayPlugin

    options, held = setup.spec.all_options, _memory(setup)
    settings = {name: options[name] for name in ("alpha", "beta", "write_at")}
    plugin = DarkReplayPlugin(held, replay_size=options["batch_size_mem"], seed=setup.spec.seed, **settings)
    return with_memory(setup, held, plugin)


def _mbpa(setup: Setup) -> Built:
    from avalanche_memplugins import MemoryReplayPlugin
    from avalanche_memplugins.plugins import LocalAdaptationPlugin

    options, held = setup.spec.all_options, _memory(setup)
    settings = {name: options[name] for name in ("neighbours", "steps", "lr", "beta")}
    adaptation = LocalAdaptationPlugin(held, writes=not options["replay"], max_bytes=64 << 20, **settings)
    rehearsal = [MemoryReplayPlugin(held, write_at="iteration", seed=setup.spec.seed)] if options["replay"] else []
    return with_memory(setup, held, *rehearsal, adaptation)


def _knn(setup: Setup) -> Built:
    from avalanche_memplugins import RandomMemory
    from avalanche_memplugins.lab.strategies.loops import Untrained
    from avalanche_memplugins.plugins import NearestNeighbourPlugin

    held, neighbours = _memory(setup), setup.spec.all_options["neighbours"]
    if not isinstance(held, RandomMemory):
        return _answering(setup, held, options={"k": neighbours})
    plugin = NearestNeighbourPlugin(held, neighbours=neighbours, writes=True)
    return with_memory(setup, held, plugin, kind=Untrained, train_epochs=1)


def _answering(setup: Setup, held: Any = None, **kwargs: Any) -> Built:
    """Nothing is trained: the memory answers in the network's place. ``kwargs`` are the plugin's own."""
    from avalanche_memplugins.lab.strategies.loops import Untrained
    from avalanche_memplugins.plugins import MemoryPredictionPlugin

    held = _memory(setup) if held is None else held
    plugin = MemoryPredictionPlugin(held, writes=True, **kwargs)
    return with_memory(setup, held, plugin, kind=Untrained, train_epochs=1)


def _replay_and_answer(setup: Setup) -> Built:
    from avalanche_memplugins import MemoryReplayPlugin
    from avalanche_memplugins.plugins import MemoryPredictionPlugin

    held, gaussians = _memory(setup)
    size, seed = setup.spec.all_options["replay_size"], setup.spec.seed
    replay = MemoryReplayPlugin(held, replay_size=size, write_at="iteration", seed=seed)
    answer = MemoryPredictionPlugin(gaussians, combine="product", temperature="fitted", fit_rows=held, writes=True)
    rows = with_memory(setup, held, replay, answer)
    return Built(
        rows.strategy,
        lambda: rows.memory_bytes() + int(gaussians.nbytes),
        lambda: rows.fixed_bytes() + int(gaussians.nbytes_fixed),
    )


def _mixed(setup: Setup) -> Built:
    from avalanche_memplugins import MemoryReplayPlugin
    from avalanche_memplugins.plugins import MemoryPredictionPlugin

    held, options = _memory(setup), setup.spec.all_options
    temperature: Any = "fitted" if options["weight"] is None else 1 / options["weight"]
    settings = {name: options[name] for name in ("replay_size", "replay_weight")}
    replay = MemoryReplayPlugin(held, write_at="iteration", seed=setup.spec.seed, **settings)
    answer = MemoryPredictionPlugin(held, combine="product", temperature=temperature, fit_rows=held.rows)
    return with_memory(setup, held, replay, answer)


def _vae_unsuitable(spec: RunSpec) -> str | None:
    labels = spec.all_options["labels"]
    if labels not in (None, "memory", "old_model", "soft"):
        return f"options: labels expected memory, old_model or soft, got {labels!r}"
    if spec.budget is not None and labels in ("old_model", "soft"):
        return f"options: labels={labels!r} keeps a copy of the model outside the budget, expected memory"
    return None


def _vae(setup: Setup) -> Built:
    spec = setup.spec
    steps = spec.iterations or spec.epochs * round(sum(setup.batches) / len(setup.batches))
    # Under a budget the old model's copy would be bytes outside it.
    labels = spec.all_options["labels"] or ("old_model" if spec.budget is None else "memory")
    return replaying(setup, memory.vae(spec, steps=steps), replay_weight="growing", labels=labels)


ER_RESERVOIR = Recipe(
    name="er-reservoir",
    label="ER-reservoir",
    summary="experience replay as published, from a uniform sample of the stream up to now, its length unknown; "
    "options as er",
    build=_replay,
    memory=memory.rows_of,
    sized="rows",
    options={
        "memory": "rows",
        "codec": "raw",
        "policy": "reservoir",
        "read": "uniform",
        "replay_size": None,
        "replay_weight": None,
        "write_at": "iteration",
    },
    source="Chaudhry et al. 2019, arXiv 1902.10486",
)
ER = replace(
    ER_RESERVOIR.alias(
        "er",
        "ER",
        "experience replay; options: memory (rows, or one of your own), codec, policy (what is written), read (what is "
        "drawn), write_at (experience: rows of earlier experiences; iteration: er-reservoir; auto: as the stream is), "
        "replay_size (rows a step; none: as many as of the stream), replay_weight (of their loss; growing: 1 - 1/t; "
        "auto: that where experiences bring new classes)",
        source="Chaudhry et al. 2019, arXiv 1902.10486; written at the end of experiences, as Avalanche does",
        read="auto",
        write_at="auto",
        replay_weight=REPLAY_WEIGHT,
    ),
    former={"read": "uniform", "write_at": "iteration", "replay_weight": None},
)
MBPA = Recipe(
    name="mbpa",
    label="MbPA",
    summary="no rehearsal: the head is fitted to each test row's neighbours in a reservoir",
    build=_mbpa,
    memory=memory.adapted_rows,
    sized="rows",
    options={
        "neighbours": 20,
        "steps": 10,
        "lr": 0.3,
        "beta": 0.0,
        "policy": "reservoir",
        "codec": "raw",
        "read": "uniform",
        "replay": False,
    },
    source="Sprechmann et al. 2018, arXiv 1802.10542; rates chosen in bench/mbpa_permuted_mnist.py",
)
KNN = Recipe(
    name="knn",
    label="1-NN",
    summary="no network: the class of the nearest of the rows kept; the control for all others",
    build=_knn,
    memory=memory.searched_rows,
    sized="rows",
    options={"neighbours": 1, "policy": "reservoir", "codec": "raw"},
    source="Cover & Hart 1967",
)
# None: the lab chooses, see memory.discriminant.
_FEATURES = {"embedding": "auto", "numbers": None, "precision": None, "deviations": 16, "by": None}
_COVARIANCES = {**_FEATURES, "rank": None, "components": None, "shrinkage": 0.3, "ridge": 3e-3}
_EMBEDDING = (
    "options: embedding (raw; codes of a pretrained auto-encoder, for 28 x 28 grey images; scattering or a random "
    "projection, of so many numbers; auto: codes if there are some, else raw), precision and deviations (bits), by "
    "(class or experience)"
)
QDA = Recipe(
    name="qda",
    label="QDA",
    summary="no network: one covariance a class, or several (components), answer; shrinkage, ridge; embedding and "
    "others as slda",
    build=_answering,
    memory=memory.discriminant,
    sized="bytes",
    options=_COVARIANCES,
    source="Goswami et al. 2023, arXiv 2309.14062",
)
KANERVA = Recipe(
    name="kanerva",
    label="Kanerva",
    summary=f"replay from a dynamic Kanerva memory of each class over {_LATENT}",
    build=_replay,
    memory=memory.kanerva,
    sized="bytes",
    options={"share": "class", "replay_size": None, "write_at": "iteration"},
    source="Wu et al. 2018, arXiv 1811.09556",
)

OURS = (
    Recipe(
        name="rma",
        label="RMA",
        summary="a ring that keeps one batch every m steps; m so that the ring holds the whole stream",
        build=_rma,
        memory=memory.rows_of,
        sized="rows",
        options={"write_every": None, "write_epochs": "first", "codec": "raw", "policy": "ring", "read": "uniform"},
        source="Zeta36 2018: a ring, m = 1,000",
    ),
    ER,
    ER_RESERVOIR,
    ER_RESERVOIR.alias("er-uint8", "ER 8-bit", "ER-reservoir with one byte a pixel, exact", codec="uint8"),
    ER_RESERVOIR.alias(
        "er-4bit",
        "ER 4-bit",
        "ER-reservoir with 16 grey levels a pixel, images above 14 x 14 reduced to that",
        codec="4bit",
    ),
    ER_RESERVOIR.alias(
        "er-2bit",
        "ER 2-bit",
        "ER-reservoir with 4 grey levels a pixel, likewise: twice the rows, and better at equal bytes",
        codec="2bit",
    ),
    ER_RESERVOIR.alias("er-1bit", "ER 1-bit", "ER-reservoir with black and white pixels", codec="1bit"),
    ER_RESERVOIR.alias(
        "er-latent",
        "ER latent",
        "ER-reservoir with int8 codes of a pretrained auto-encoder; 28 x 28 grey images only",
        codec="latent",
    ),
    Recipe(
        name="dark-replay",
        label="DER++ (ours)",
        summary="dark experience replay with the outputs as the stream passes; one byte a pixel, exact",
        build=_dark,
        memory=memory.rows_with_logits,
        sized="rows",
        options={
            "alpha": 0.1,
            "beta": 0.5,
            "batch_size_mem": None,
            "policy": "reservoir",
            "codec": "uint8",
            "read": "uniform",
            "write_at": "iteration",
        },
        source="Buzzega et al. 2020, arXiv 2004.07211; alpha and beta are Avalanche's, as in der-pp",
    ),
    MBPA,
    MBPA.alias("er-mbpa", "ER + MbPA", "experience replay and MbPA from one reservoir", source="as mbpa", replay=True),
    MBPA.alias(
        "er-mbpa-4bit",
        "ER + MbPA, 4-bit",
        "the same from rows as er-4bit stores them",
        source="as mbpa",
        replay=True,
        codec="4bit",
    ),
    MBPA.alias(
        "er-mbpa-2bit",
        "ER + MbPA, 2-bit",
        "the same from rows as er-2bit stores them",
        source="as mbpa",
        replay=True,
        codec="2bit",
    ),
    MBPA.alias(
        "er-mbpa-latent",
        "ER + MbPA, latent",
        "the same from rows as er-latent stores them; 28 x 28 grey images only",
        source="as mbpa",
        replay=True,
        codec="latent",
    ),
    KNN,
    KNN.alias(
        "knn-4bit",
        "1-NN, 4-bit",
        "no network: the class of the nearest row of those that er-4bit stores; the control for all others",
        source="Cover & Hart 1967",
        codec="4bit",
    ),
    KNN.alias(
        "knn-2bit",
        "1-NN, 2-bit",
        "the same of those that er-2bit stores",
        source="as knn-4bit",
        codec="2bit",
    ),
    KNN.alias(
        "knn-latent",
        "1-NN, latent",
        "the same of those that er-latent stores; 28 x 28 grey images only",
        source="as knn-4bit",
        codec="latent",
    ),
    Recipe(
        name="nearest-mean",
        label="Nearest mean",
        summary="no network: the class of the nearest mean; embedding and others as slda",
        build=_answering,
        memory=partial(memory.discriminant, tied="unit", rank=0),
        sized="bytes",
        options=_FEATURES,
    ),
    Recipe(
        name="slda",
        label="LDA",
        summary=f"no network: a mean a class and one covariance for all answer; {_EMBEDDING}, ridge",
        build=_answering,
        memory=partial(memory.discriminant, tied=True, rank=0),
        sized="bytes",
        options={**_FEATURES, "ridge": 3e-3},
        source="Hayes & Kanan 2020, arXiv 1909.01520",
    ),
    QDA,
    QDA.alias(
        "fecam",
        "FeCAM",
        "qda with one covariance a class and as much added to its diagonal as the mean variance",
        source="Goswami et al. 2023, arXiv 2309.14062: gamma 1; without its power transform",
        components=1,
        shrinkage=0.0,
        ridge=1.0,
    ),
    Recipe(
        name="er+qda",
        label="ER + QDA",
        summary="er and qda, a share of the budget for qda; the product of network and Gaussians answers",
        build=_replay_and_answer,
        memory=memory.rows_and_gaussians,
        sized="rows",
        options={
            "share": 0.5,
            **_COVARIANCES,
            **{
                name: value
                for name, value in ER_RESERVOIR.options.items()
                if name not in ("memory", "replay_weight", "write_at")
            },
        },
        source="products of experts: Hinton 1999; the halves are ours",
    ),
    Recipe(
        name="mixed",
        label="Mixed",
        summary="coded rows are replayed and Gaussians over a random projection answer beside the network, within one "
        "budget; options: share (of the Gaussians), codec (auto: black and white pixels, entropy-coded), precision "
        "(bits), rank, by, weight (of the Gaussians' answer; none: fitted to stored rows), replay_size, replay_weight",
        build=_mixed,
        memory=memory.mixed,
        sized="bytes",
        options={
            "share": 0.75,
            "codec": "auto",
            "precision": 4,
            "rank": None,
            "by": None,
            "embedding": "projection",
            "numbers": None,
            "shrinkage": 0.1,
            "ridge": 3e-3,
            "weight": 0.5,
            "policy": "reservoir",
            "replay_size": None,
            "replay_weight": "growing",
        },
        source="products of experts: Hinton 1999; the halves are ours; settings chosen in bench/mixed.py",
    ),
    Recipe(
        name="ranpac",
        label="RanPAC",
        summary="no network: least squares over random features answer; options: embedding and numbers as slda, width "
        "(none: what the budget holds), ridge (none: chosen on vectors held back), held_back",
        build=_answering,
        memory=memory.projected,
        sized="bytes",
        options={"embedding": "auto", "numbers": None, "width": None, "ridge": None, "held_back": 200},
        source="McDonnell et al. 2023, arXiv 2307.02251, without training adapters first",
    ),
    Recipe(
        name="gaussian",
        label="Gaussian",
        summary=f"replay drawn from one Gaussian a class over {_LATENT}",
        build=_replay,
        memory=memory.gaussian,
        sized="bytes",
        options={"replay_size": None, "write_at": "iteration"},
    ),
    KANERVA,
    KANERVA.alias(
        "kanerva-shared",
        "Kanerva, shared",
        "the same with one memory for all classes, the label a part of the code",
        source=KANERVA.source,
        share="all",
    ),
    Recipe(
        name="energy",
        label="Energy",
        summary="rehearsal from an energy-based memory with thumbnails as cues; 28 x 28 grey images only",
        build=_replay,
        memory=memory.energy,
        sized="bytes",
        options={"replay_size": None, "write_at": "auto"},
        source="Bartunov et al. 2020, arXiv 1910.02720; rehearsal from it is ours",
    ),
    Recipe(
        name="vae",
        label="VAE replay",
        summary="deep generative replay (VAEReplay): a VAE that rehearses itself; with a budget one that is told "
        "the class, so that no copy of the model is kept for labels",
        build=_vae,
        memory=memory.vae,
        unsuitable=_vae_unsuitable,
        sized="bytes",
        options={"steps": None, "prior": "fitted", "labels": None, "by_class": False},
        source=f"{_VAN_DE_VEN}: 2 x 400 units, codes of 100, Adam 1e-3, as many steps as the model",
    ),
)
