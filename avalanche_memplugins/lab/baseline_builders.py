"""Avalanche's own strategies for a run, and the bytes that they hold.

A buffer of Avalanche's holds indices into the data set, so the rows that they keep alive are counted.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from avalanche import training
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.models.generator import MlpVAE, VAE_loss
from avalanche.training import storage_policy
from avalanche.training.plugins import GenerativeReplayPlugin, ReplayPlugin
from avalanche.training.supervised import VAETraining
from torch import nn

from .built import Built, Setting, tensor_bytes

_BUFFERS = {
    "replay-reservoir": storage_policy.ReservoirSamplingBuffer,
    "replay-class-balanced": storage_policy.ClassBalancedBuffer,
}


def naive(setting: Setting) -> Built:
    """Fine-tuning."""
    return Built(training.Naive(**setting.common), lambda: 0)


def cumulative(setting: Setting) -> Built:
    """All data so far, which is then its memory."""
    strategy = training.Cumulative(**setting.common)
    return Built(strategy, lambda: 0 if strategy.dataset is None else len(strategy.dataset) * setting.row_bytes)


class WholeStream(training.JointTraining):  # type: ignore[misc]
    """Joint training within a loop over experiences: all of the stream at the first of them, nothing after."""

    def __init__(self, *, stream: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stream = stream

    def train(self, experiences: Any, eval_streams: Any = None, **kwargs: Any) -> Any:
        """Train, if that has not been done."""
        if self.clock.train_exp_counter:
            return {}
        return super().train(self.stream, eval_streams=[], **kwargs)


def joint(setting: Setting) -> Built:
    """The whole stream at once."""
    strategy = WholeStream(stream=setting.benchmark.train_stream, **setting.common)
    rows = sum(len(experience.dataset) for experience in setting.benchmark.train_stream)
    return Built(strategy, lambda: rows * setting.row_bytes)


def replay(setting: Setting) -> Built:
    """Avalanche's replay from one of its three buffers."""
    rows = setting.rows()
    if setting.spec.strategy == "replay":
        strategy = training.Replay(**setting.common, mem_size=rows)
        plugin = next(plugin for plugin in strategy.plugins if isinstance(plugin, ReplayPlugin))
        return _rows(strategy, plugin.storage_policy, setting.row_bytes)
    buffer = _BUFFERS[setting.spec.strategy](rows)
    common = setting.common
    plugins = [*common["plugins"], ReplayPlugin(rows, storage_policy=buffer)]
    return _rows(training.Naive(**{**common, "plugins": plugins}), buffer, setting.row_bytes)


class Online(training.Naive):  # type: ignore[misc]
    """Trains on an experience as a stream of experiences of one batch, without a word of where it ends."""

    def train(self, experiences: Any, eval_streams: Any = None, **kwargs: Any) -> Any:
        """Train on every batch once."""
        pieces = split_online_stream([experiences], experience_size=self.train_mb_size, drop_last=True)
        return super().train(pieces, eval_streams=[], **kwargs)


def replay_online(setting: Setting) -> Built:
    """Avalanche's replay on an online stream."""
    if setting.spec.epochs != 1 or setting.spec.iterations is not None:
        raise ValueError("epochs: replay-online sees every batch once, wants epochs=1 and no iterations")
    rows = setting.rows()
    buffer = storage_policy.ClassBalancedBuffer(rows)
    plugin = ReplayPlugin(rows, batch_size_mem=setting.spec.all_options["batch_size_mem"], storage_policy=buffer)
    return _rows(
        Online(**{**setting.common, "plugins": [*setting.common["plugins"], plugin]}), buffer, setting.row_bytes
    )


def generative_replay(setting: Setting) -> Built:
    """Avalanche's generative replay; its own generator is for images of 28 x 28, so it is made here as it makes it."""
    common, size = setting.common, setting.spec.all_options["replay_size"]
    generator = MlpVAE(setting.input_shape, nhid=2, device="cpu")
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


def ewc(setting: Setting) -> Built:
    """Elastic weight consolidation."""
    strategy = training.EWC(**setting.common, **setting.spec.all_options)
    return _holding(strategy, "saved_params", "importances")


def si(setting: Setting) -> Built:
    """Synaptic intelligence."""
    if not torch.cuda.is_available():
        warnings.warn("si: Avalanche's SI does nothing on a CPU, its importances are all 0", stacklevel=2)
    strategy = training.SynapticIntelligence(**setting.common, **setting.spec.all_options)
    return _holding(strategy, "ewc_data", "syn_data")


def lwf(setting: Setting) -> Built:
    """Learning without forgetting."""
    strategy = training.LwF(**setting.common, **setting.spec.all_options)
    plugin = next(plugin for plugin in strategy.plugins if hasattr(plugin, "lwf"))
    return Built(strategy, lambda: tensor_bytes(plugin.lwf.prev_model))


def mas(setting: Setting) -> Built:
    """Memory aware synapses."""
    return _holding(training.MAS(**setting.common, **setting.spec.all_options), "params", "importance")


def gem(setting: Setting) -> Built:
    """Gradient episodic memory."""
    each = _rows_an_experience(setting)
    strategy = training.GEM(**setting.common, patterns_per_exp=each, **setting.spec.all_options)
    return _holding(strategy, "memory_x", "memory_y", "memory_tid")


def agem(setting: Setting) -> Built:
    """Averaged gradient episodic memory."""
    each = _rows_an_experience(setting)
    strategy = training.AGEM(**setting.common, patterns_per_exp=each, **setting.spec.all_options)
    plugin = next(plugin for plugin in strategy.plugins if hasattr(plugin, "buffers"))
    return Built(strategy, lambda: sum(map(len, plugin.buffers)) * setting.row_bytes)


def gdumb(setting: Setting) -> Built:
    """A balanced sample, and training anew."""
    strategy = training.GDumb(**setting.common, mem_size=setting.rows())
    plugin = next(plugin for plugin in strategy.plugins if hasattr(plugin, "init_model"))
    built = _rows(strategy, plugin.storage_policy, setting.row_bytes)
    return Built(strategy, built.memory_bytes, lambda: tensor_bytes(plugin.init_model))


def gss(setting: Setting) -> Built:
    """Gradient-based sample selection."""
    # A row is an image, a label of eight bytes and a score of four.
    rows = setting.rows(setting.row_bytes - 16 + 12)
    if rows < setting.spec.batch_size:
        raise ValueError(f"memory: gss compares batches of {setting.spec.batch_size} rows, wants as many, got {rows}")
    options = setting.spec.all_options
    strategy = training.GSS_greedy(**setting.common, mem_size=rows, input_size=list(setting.input_shape), **options)
    return _holding(strategy, "ext_mem_list_x", "ext_mem_list_y", "buffer_score")


def mir(setting: Setting) -> Built:
    """Maximally interfered retrieval."""
    rows = setting.rows()
    options = setting.spec.all_options
    # It replays only where it holds more than that of classes that were not in the last batch.
    options["batch_size_mem"] = max(1, min(options["batch_size_mem"], _held(setting, rows, latest=False) - 1))
    strategy = training.MIR(**setting.common, mem_size=rows, **options)
    plugin = next(plugin for plugin in strategy.plugins if hasattr(plugin, "subsample"))
    return _rows(strategy, plugin.storage_policy, setting.row_bytes)


def der(setting: Setting) -> Built:
    """Dark experience replay; a row has its logits besides."""
    each = setting.row_bytes + 4 * setting.n_classes
    rows = setting.rows(each)
    options = setting.spec.all_options
    options["batch_size_mem"] = min(options["batch_size_mem"] or setting.spec.batch_size, _held(setting, rows))
    strategy = training.DER(**setting.common, mem_size=rows, **options)
    return _rows(strategy, strategy.storage_policy, each)


def er_ace(setting: Setting) -> Built:
    """ER with the asymmetric cross-entropy."""
    rows = setting.rows()
    options = setting.spec.all_options
    options["batch_size_mem"] = min(options["batch_size_mem"], _held(setting, rows))
    strategy = training.ER_ACE(**setting.common, mem_size=rows, **options)
    return _rows(strategy, strategy.storage_policy, setting.row_bytes)


def icarl(setting: Setting) -> Built:
    """iCaRL; it parts the model in features and classifier, and has a loss of its own."""
    model = setting.common["model"]
    if not hasattr(model, "features") or not hasattr(setting.benchmark, "n_classes_per_exp"):
        raise ValueError("strategy: icarl wants the model 'mlp' and a class-incremental benchmark whole")
    # It rounds the rows of a class up, so with k classes it may hold k - 1 more than it was given.
    rows = setting.rows() - (setting.n_classes - 1) * (setting.spec.budget is not None)
    if rows < setting.n_classes:
        raise ValueError(
            f"budget: icarl keeps a row a class at least, which {setting.n_classes} classes do not find here"
        )
    strategy = training.ICaRL(
        feature_extractor=nn.Sequential(nn.Flatten(), model.features),
        classifier=model.classifier,
        memory_size=rows,
        buffer_transform=None,
        fixed_memory=True,
        **{name: value for name, value in setting.common.items() if name not in ("model", "criterion")},
    )
    plugin = next(plugin for plugin in strategy.plugins if hasattr(plugin, "x_memory"))
    return Built(strategy, lambda: sum(map(len, plugin.x_memory)) * setting.row_bytes)


def _rows_an_experience(setting: Setting) -> int:
    return max(1, setting.rows() // setting.spec.n_experiences)


def _held(setting: Setting, rows: int, *, latest: bool = True) -> int:
    """Rows that a buffer balanced by class holds at the least; Avalanche replays nothing if a batch asks for more.

    :param latest: count the classes of the latest experience, too.
    """
    each = max(1, setting.n_classes // setting.spec.n_experiences)
    seen = range(each if latest else 2 * each, setting.n_classes + 1, each)
    held = [(classes if latest else classes - each) * (rows // classes) for classes in seen]
    return max(1, min(held, default=1))


def _rows(strategy: Any, buffer: Any, row_bytes: int) -> Built:
    return Built(strategy, lambda: len(buffer.buffer) * row_bytes)


def _holding(strategy: Any, *names: str) -> Built:
    """A strategy one of whose plugins has tensors under these names."""
    plugin = next(plugin for plugin in strategy.plugins if all(hasattr(plugin, name) for name in names))
    return Built(strategy, lambda: tensor_bytes(*_values(plugin, names)))


def _values(plugin: Any, names: tuple[str, ...]) -> list[Any]:
    return [getattr(plugin, name, None) for name in names]
