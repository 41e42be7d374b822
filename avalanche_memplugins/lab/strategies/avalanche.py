"""Avalanche's own strategies, with the bytes that they hold, and those that are left out.

Imports nothing heavy by itself.

A buffer of Avalanche's holds indices into the data set, so the rows that they keep alive are counted.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avalanche_memplugins.lab.strategies.recipe import LABEL_BYTES, Built, Recipe, Setup, tensor_bytes

if TYPE_CHECKING:
    from avalanche_memplugins.lab.spec import RunSpec

_CLB = "continual-learning-baselines"
_OWN = "Avalanche's default"


def _too_small(spec: RunSpec, *, rows: int = 1, besides: int = LABEL_BYTES) -> str | None:
    """Why so many rows do not fit; ``besides``: bytes of a row beside its float32 numbers."""
    if spec.budget is None:
        enough = spec.memory_size >= rows
        return None if enough else f"memory_size: expected at least {rows} rows, got {spec.memory_size}"
    least = rows * (4 * math.prod(spec.info.input_shape) + besides)
    return None if spec.budget >= least else f"budget: expected at least {least} bytes, got {spec.budget}"


def _made(setup: Setup, kind: str, **settings: Any) -> Any:
    """One of Avalanche's strategies, with the run's options."""
    from avalanche import training

    return getattr(training, kind)(**setup.common, **{**setup.spec.all_options, **settings})


def _plain(kind: str) -> Callable[[Setup], Built]:
    """One of Avalanche's strategies without a memory."""
    return lambda setup: Built(_made(setup, kind), lambda: 0)


def _holding(kind: str, *names: str) -> Callable[[Setup], Built]:
    """One of Avalanche's strategies, one of whose plugins keeps tensors under these names."""
    return lambda setup: _held(_made(setup, kind), names)


def _held(strategy: Any, names: tuple[str, ...]) -> Built:
    plugin = _plugin_with(strategy, *names)
    return Built(strategy, lambda: tensor_bytes(*_values(plugin, names)))


def _values(plugin: Any, names: tuple[str, ...]) -> list[Any]:
    return [getattr(plugin, name, None) for name in names]


def _rows(strategy: Any, buffer: Any, row_bytes: int) -> Built:
    return Built(strategy, lambda: len(buffer.buffer) * row_bytes)


def _plugin_with(strategy: Any, *names: str) -> Any:
    return next(plugin for plugin in strategy.plugins if all(hasattr(plugin, name) for name in names))


def _cumulative(setup: Setup) -> Built:
    # All data so far, which is then its memory.
    strategy = _made(setup, "Cumulative")
    return Built(strategy, lambda: 0 if strategy.dataset is None else len(strategy.dataset) * setup.row_bytes)


def _joint(setup: Setup) -> Built:
    from avalanche_memplugins.lab.strategies.loops import WholeStream

    strategy = WholeStream(stream=setup.benchmark.train_stream, **setup.common)
    rows = sum(len(experience.dataset) for experience in setup.benchmark.train_stream)
    return Built(strategy, lambda: rows * setup.row_bytes)


def _replay(setup: Setup) -> Built:
    from avalanche import training
    from avalanche.training import storage_policy
    from avalanche.training.plugins import ReplayPlugin

    rows, name = setup.rows(), setup.spec.all_options["buffer"]
    if name == "ExperienceBalancedBuffer":
        strategy = training.Replay(**setup.common, mem_size=rows)
        return _rows(strategy, _plugin_with(strategy, "storage_policy").storage_policy, setup.row_bytes)
    buffer = getattr(storage_policy, name)(rows)
    strategy = training.Naive(**setup.extended(ReplayPlugin(rows, storage_policy=buffer)))
    return _rows(strategy, buffer, setup.row_bytes)


def _online_unsuitable(spec: RunSpec) -> str | None:
    if spec.epochs != 1 or spec.iterations is not None:
        return "epochs: sees every batch once, expected epochs 1 and no iterations"
    return _too_small(spec)


def _replay_online(setup: Setup) -> Built:
    from avalanche.training import storage_policy
    from avalanche.training.plugins import ReplayPlugin

    from avalanche_memplugins.lab.strategies.loops import Online

    if setup.spec.epochs != 1 or setup.spec.iterations is not None:
        raise ValueError("epochs: replay-online sees every batch once, expected epochs=1 and no iterations")
    rows = setup.rows()
    buffer = storage_policy.ClassBalancedBuffer(rows)
    plugin = ReplayPlugin(rows, batch_size_mem=setup.spec.all_options["batch_size_mem"], storage_policy=buffer)
    return _rows(Online(**setup.extended(plugin)), buffer, setup.row_bytes)


def _generative_replay(setup: Setup) -> Built:
    import torch
    from avalanche import training
    from avalanche.models.generator import MlpVAE, VAE_loss
    from avalanche.training.plugins import GenerativeReplayPlugin
    from avalanche.training.supervised import VAETraining

    common, size = setup.common, setup.spec.all_options["replay_size"]
    # Its own generator is for images of 28 x 28, so it is made here as it makes it.
    generator = MlpVAE(setup.input_shape, nhid=2, device="cpu")
    inner = GenerativeReplayPlugin(replay_size=size)
    trainer = VAETraining(
        model=generator,
        optimizer=torch.optim.Adam(generator.parameters(), lr=0.01, weight_decay=0.0001),
        criterion=VAE_loss,
        train_mb_size=common["train_mb_size"],
        train_epochs=common["train_epochs"],
        plugins=[*common["plugins"], inner],
        evaluator=None,
    )
    strategy = training.GenerativeReplay(**common, generator_strategy=trainer, replay_size=size)
    outer = next(plugin for plugin in strategy.plugins if isinstance(plugin, GenerativeReplayPlugin))
    held = ("old_model", "old_generator")
    return Built(strategy, lambda: tensor_bytes(generator, *_values(outer, held), *_values(inner, held)))


def _si(setup: Setup) -> Built:
    import torch

    if not torch.cuda.is_available():
        warnings.warn("si: Avalanche's SI does nothing on a CPU, its importances are all 0", stacklevel=2)
    return _held(_made(setup, "SynapticIntelligence"), ("ewc_data", "syn_data"))


def _lwf(setup: Setup) -> Built:
    strategy = _made(setup, "LwF")
    plugin = _plugin_with(strategy, "lwf")
    return Built(strategy, lambda: tensor_bytes(plugin.lwf.prev_model))


def _rows_an_experience(setup: Setup) -> int:
    return max(1, setup.rows() // setup.spec.n_experiences)


def _gem(setup: Setup) -> Built:
    strategy = _made(setup, "GEM", patterns_per_exp=_rows_an_experience(setup))
    return _held(strategy, ("memory_x", "memory_y", "memory_tid"))


def _agem(setup: Setup) -> Built:
    strategy = _made(setup, "AGEM", patterns_per_exp=_rows_an_experience(setup))
    plugin = _plugin_with(strategy, "buffers")
    return Built(strategy, lambda: sum(map(len, plugin.buffers)) * setup.row_bytes)


def _gdumb(setup: Setup) -> Built:
    strategy = _made(setup, "GDumb", mem_size=setup.rows())
    plugin = _plugin_with(strategy, "init_model")
    built = _rows(strategy, plugin.storage_policy, setup.row_bytes)
    return Built(strategy, built.memory_bytes, lambda: tensor_bytes(plugin.init_model))


# Beside the numbers of an image: a label of eight bytes and a score of four.
_SCORED = 12


def _gss(setup: Setup) -> Built:
    rows = setup.rows(setup.row_bytes - LABEL_BYTES + _SCORED)
    if rows < setup.spec.batch_size:
        raise ValueError(f"memory: gss compares batches of {setup.spec.batch_size} rows, expected as many, got {rows}")
    strategy = _made(setup, "GSS_greedy", mem_size=rows, input_size=list(setup.input_shape))
    return _held(strategy, ("ext_mem_list_x", "ext_mem_list_y", "buffer_score"))


def _least_held(setup: Setup, rows: int, *, latest: bool = True) -> int:
    """Rows that a buffer balanced by class holds at the least; Avalanche replays nothing if a batch asks for more.

    :param latest: count the classes of the latest experience, too.
    """
    each = max(1, setup.n_classes // setup.spec.n_experiences)
    seen = range(each if latest else 2 * each, setup.n_classes + 1, each)
    held = [(classes if latest else classes - each) * (rows // classes) for classes in seen]
    return max(1, min(held, default=1))


def _mir(setup: Setup) -> Built:
    rows, wanted = setup.rows(), setup.spec.all_options["batch_size_mem"]
    # It replays only where it holds more than that of classes that were not in the last batch.
    least = _least_held(setup, rows, latest=False) - 1
    strategy = _made(setup, "MIR", mem_size=rows, batch_size_mem=max(1, min(wanted, least)))
    return _rows(strategy, _plugin_with(strategy, "subsample").storage_policy, setup.row_bytes)


def _der(setup: Setup) -> Built:
    each = setup.row_bytes + 4 * setup.n_classes  # its logits besides
    rows, wanted = setup.rows(each), setup.spec.all_options["batch_size_mem"] or setup.spec.batch_size
    strategy = _made(setup, "DER", mem_size=rows, batch_size_mem=min(wanted, _least_held(setup, rows)))
    return _rows(strategy, strategy.storage_policy, each)


def _er_ace(setup: Setup) -> Built:
    rows, wanted = setup.rows(), setup.spec.all_options["batch_size_mem"]
    strategy = _made(setup, "ER_ACE", mem_size=rows, batch_size_mem=min(wanted, _least_held(setup, rows)))
    return _rows(strategy, strategy.storage_policy, setup.row_bytes)


def _icarl_unsuitable(spec: RunSpec) -> str | None:
    # It rounds the rows of a class up, so a budget has to leave room for that.
    classes = spec.info.n_classes
    return _too_small(spec, rows=classes + (classes - 1) * (spec.budget is not None))


def _icarl(setup: Setup) -> Built:
    from avalanche import training
    from torch import nn

    model = setup.common["model"]
    if not hasattr(model, "features") or not hasattr(setup.benchmark, "n_classes_per_exp"):
        raise ValueError("strategy: icarl expected the model 'mlp' and a class-incremental benchmark whole")
    # It rounds the rows of a class up, so with k classes it may hold k - 1 more than it was given.
    rows = setup.rows() - (setup.n_classes - 1) * (setup.spec.budget is not None)
    if rows < setup.n_classes:
        raise ValueError(f"budget: icarl keeps a row a class at least, {setup.n_classes} classes do not find that here")
    # It parts the model in features and classifier, and has a loss of its own.
    strategy = training.ICaRL(
        feature_extractor=nn.Sequential(nn.Flatten(), model.features),
        classifier=model.classifier,
        memory_size=rows,
        buffer_transform=None,
        fixed_memory=True,
        **{name: value for name, value in setup.common.items() if name not in ("model", "criterion")},
    )
    plugin = _plugin_with(strategy, "x_memory")
    return Built(strategy, lambda: sum(map(len, plugin.x_memory)) * setup.row_bytes)


def _slda_unsuitable(spec: RunSpec) -> str | None:
    numbers, classes = math.prod(spec.info.input_shape), spec.info.n_classes
    least = 4 * (classes * numbers + classes + numbers**2)
    if spec.budget is None or spec.budget >= least:
        return None
    return f"budget: expected at least {least} bytes, got {spec.budget}"


def _slda(setup: Setup) -> Built:
    from avalanche import training
    from torch import nn

    # Its model makes vectors of rows; it passes its optimiser over, and each row's mean and covariance take one pass.
    strategy = training.StreamingLDA(
        slda_model=nn.Flatten(),
        input_size=math.prod(setup.input_shape),
        num_classes=setup.n_classes,
        **{name: value for name, value in setup.common.items() if name not in ("model", "optimizer", "train_epochs")},
        **setup.spec.all_options,
    )
    # Lambda is made of Sigma, anew after each change.
    return Built(strategy, lambda: tensor_bytes(*_values(strategy, ("muK", "cK", "Sigma"))))


def _of_rows(*, unsuitable: Callable[[RunSpec], str | None] = _too_small, **said: Any) -> Recipe:
    """A recipe whose memory is so many rows of the stream."""
    return Recipe(unsuitable=unsuitable, sized="rows", **said)


REPLAY = _of_rows(
    name="replay",
    label="Replay (Avalanche)",
    summary="Avalanche's ReplayPlugin with its default buffer, balanced by experience",
    build=_replay,
    options={"buffer": "ExperienceBalancedBuffer"},
    note="the default buffer stops taking rows on streams of many small experiences",
)
DER = _of_rows(
    name="der",
    label="DER",
    summary="dark experience replay: stored logits are matched (Avalanche)",
    build=_der,
    unsuitable=lambda spec: _too_small(spec, besides=LABEL_BYTES + 4 * spec.info.n_classes),
    options={"alpha": 0.5, "beta": 0.0, "batch_size_mem": None},
    source="Buzzega et al. 2020, arXiv 2004.07211",
)

BASELINES = (
    Recipe(
        name="naive",
        label="Naive",
        summary="fine-tuning without a memory: the floor (Avalanche)",
        build=_plain("Naive"),
    ),
    Recipe(
        name="cumulative",
        label="Cumulative",
        summary="trains on all data so far: the ceiling (Avalanche)",
        build=_cumulative,
    ),
    Recipe(
        name="joint",
        label="Joint",
        summary="trains on the whole stream at once, which no continual learner may (Avalanche's JointTraining)",
        build=_joint,
        note="all training is done before the first test, so its forgetting is 0 by construction",
    ),
    REPLAY,
    REPLAY.alias(
        "replay-reservoir",
        "Replay, reservoir",
        "Avalanche's ReplayPlugin with its ReservoirSamplingBuffer",
        buffer="ReservoirSamplingBuffer",
    ),
    REPLAY.alias(
        "replay-class-balanced",
        "Replay, balanced",
        "Avalanche's ReplayPlugin with its ClassBalancedBuffer",
        buffer="ClassBalancedBuffer",
    ),
    _of_rows(
        name="replay-online",
        label="Replay, online",
        summary="Avalanche's ReplayPlugin on a stream cut into experiences of one batch, class-balanced; one epoch",
        build=_replay_online,
        unsuitable=_online_unsuitable,
        options={"batch_size_mem": 10},
        source=f"{_CLB}, split_mnist/online_replay.py",
        note="an experience a batch: about 20 ms each, three times ours (AVALANCHE#1086)",
    ),
    Recipe(
        name="generative-replay",
        label="GR (Avalanche)",
        summary="Avalanche's GenerativeReplay as it is, with its MlpVAE",
        build=_generative_replay,
        options={"replay_size": None},
        source=f"{_OWN}: 2 latents, Adam 0.01",
        note="takes half the variance for the deviation, makes task labels floats; `vae` has neither fault",
    ),
    Recipe(
        name="ewc",
        label="EWC",
        summary="elastic weight consolidation (Avalanche)",
        build=_holding("EWC", "saved_params", "importances"),
        options={"ewc_lambda": 1.0, "mode": "separate", "decay_factor": None},
        source=f"{_CLB}, permuted_mnist/ewc.py; Kirkpatrick et al. 2017, arXiv 1612.00796",
    ),
    Recipe(
        name="si",
        label="SI",
        summary="synaptic intelligence (Avalanche)",
        build=_si,
        options={"si_lambda": 0.1, "eps": 0.1},
        source=f"{_CLB}, permuted_mnist/synaptic_intelligence.py; Zenke et al. 2017, arXiv 1703.04200",
        note="does nothing on a CPU: what it keeps as old weights is a view of the new ones, so every importance is 0",
    ),
    Recipe(
        name="lwf",
        label="LwF",
        summary="learning without forgetting (Avalanche)",
        build=_lwf,
        options={"alpha": 1.0, "temperature": 1.0},
        source=f"{_CLB}, split_mnist/lwf.py; Li & Hoiem 2016, arXiv 1606.09282 has temperature 2",
    ),
    Recipe(
        name="mas",
        label="MAS",
        summary="memory aware synapses (Avalanche)",
        build=_holding("MAS", "params", "importance"),
        options={"lambda_reg": 1.0, "alpha": 0.5},
        source=f"{_OWN}; Aljundi et al. 2018, arXiv 1711.09601 has lambda 1",
    ),
    _of_rows(
        name="gem",
        label="GEM",
        summary="gradient episodic memory (Avalanche)",
        build=_gem,
        options={"memory_strength": 0.5},
        source="Lopez-Paz & Ranzato 2017, arXiv 1706.08840: gamma 0.5",
        requires="quadprog",
        note="needs the solver quadprog: pip install 'avalanche-memplugins[gem]'",
    ),
    _of_rows(
        name="agem",
        label="A-GEM",
        summary="averaged gradient episodic memory (Avalanche)",
        build=_agem,
        options={"sample_size": 64},
        source=f"{_OWN}; Chaudhry et al. 2019, arXiv 1812.00420 has 256",
    ),
    _of_rows(
        name="gdumb",
        label="GDumb",
        summary="keeps a balanced sample and trains anew on it alone (Avalanche)",
        build=_gdumb,
        source="Prabhu et al. 2020",
    ),
    _of_rows(
        name="gss",
        label="GSS-greedy",
        summary="gradient-based sample selection (Avalanche)",
        build=_gss,
        unsuitable=lambda spec: _too_small(spec, rows=spec.batch_size, besides=_SCORED),
        options={"mem_strength": 10},
        source="Aljundi et al. 2019, arXiv 1903.08671",
    ),
    _of_rows(
        name="mir",
        label="MIR",
        summary="replays the rows that the coming step would harm most (Avalanche)",
        build=_mir,
        options={"subsample": 50, "batch_size_mem": 10},
        source="Aljundi et al. 2019, arXiv 1908.04742: 50 candidates, 10 of them",
    ),
    DER,
    DER.alias(
        "der-pp",
        "DER++",
        "DER that also learns the stored labels (Avalanche)",
        source=f"{_OWN}; Buzzega et al. 2020, arXiv 2004.07211",
        alpha=0.1,
        beta=0.5,
    ),
    _of_rows(
        name="er-ace",
        label="ER-ACE",
        summary="replay with a loss that leaves the old classes' outputs alone (Avalanche)",
        build=_er_ace,
        options={"batch_size_mem": 10},
        source="Caccia et al. 2022, arXiv 2104.05025",
    ),
    _of_rows(
        name="icarl",
        label="iCaRL",
        summary="herded exemplars, distillation, nearest class mean (Avalanche); class-incremental, model mlp",
        build=_icarl,
        unsuitable=_icarl_unsuitable,
        source="Rebuffi et al. 2017, arXiv 1611.07725",
    ),
    Recipe(
        name="avalanche-slda",
        label="SLDA (Avalanche)",
        summary="Avalanche's StreamingLDA on the rows as vectors: no network, one covariance for all",
        build=_slda,
        unsuitable=_slda_unsuitable,
        sized="bytes",
        options={"shrinkage_param": 1e-4},
        source=f"{_OWN}; Hayes & Kanan 2020, arXiv 1909.01520",
        note="takes rows one by one; a budget sizes nothing, it must only be enough; `slda` has fewer bytes",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A strategy of Avalanche 0.6 that the lab leaves out.

    :param name: of Avalanche's class.
    :param reason: why.

    >>> next(one.reason for one in ABSENT if one.name == "BiC")
    'fails on current torch: MultiStepLR no longer takes verbose='
    """

    name: str
    reason: str


_OWN_MODEL = "needs a model of its own"
_OTHER_LOOP = "meta-learning: another training loop, in which epochs and plugins mean something else"
ABSENT = tuple(
    Absent(name=name, reason=reason)
    for name, reason in (
        ("BiC", "fails on current torch: MultiStepLR no longer takes verbose="),
        ("ExpertGateStrategy", "needs an AlexNet from the internet"),
        ("AR1", "needs its MobileNet, whose weights are downloaded"),
        ("LearningToPrompt", "needs a pretrained vision transformer"),
        ("CWRStar", _OWN_MODEL),
        ("PNNStrategy", _OWN_MODEL),
        ("LFL", _OWN_MODEL),
        ("FeatureReplay", _OWN_MODEL),
        ("SCR", _OWN_MODEL),
        ("ER_AML", _OWN_MODEL),
        ("CoPE", _OWN_MODEL),
        ("MER", _OTHER_LOOP),
        ("LaMAML", _OTHER_LOOP),
        ("RWalkPlugin", "near to EWC and SI, which are there"),
        ("FromScratchTraining", "forgets all on purpose, below naive"),
    )
)
