"""The state of the plugins of a strategy, and of what a strategy holds beside them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from avalanche.training.templates.base_sgd import PeriodicEval
from torch import nn

from avalanche_memplugins.checkpointing._objects import ObjectDecoder, ObjectEncoder, TrialDecoder, has_state
from avalanche_memplugins.checkpointing._tree import Node
from avalanche_memplugins.checkpointing.errors import CheckpointError, UnsavableError

_REPLAY_HINT = " MemoryReplayPlugin with a RandomMemory can be saved."
# What Avalanche's own template holds: settings, what is saved apart, and leftovers of the last batch.
_TEMPLATE_ATTRIBUTES = frozenset(
    {
        *("model", "optimizer", "optimized_param_id", "plugins", "evaluator", "clock"),
        *("device", "train_epochs", "train_mb_size", "eval_mb_size", "eval_every", "retain_graph"),
        *("experience", "is_training", "current_eval_stream", "adapted_dataset", "dataloader"),
        *("mbatch", "mb_output", "loss", "_eval_streams", "_distributed_check", "_stop_training"),
        "__orig_class__",
        # What plugins may have put around methods of the strategy, for as long as an experience is trained.
        *("forward", "criterion", "_train_exp", "training_epoch", "eval_epoch"),
    }
)
_EVALUATOR = ("all_metric_results", "last_metric_results")


def references(strategy: Any) -> set[int]:
    """Ids of the objects that are saved by themselves, so plugins that point at them need not save them."""
    known: list[object] = [strategy, strategy.optimizer, *strategy.plugins]
    known += [*strategy.model.modules(), *strategy.model.parameters()]
    for plugin in strategy.plugins:
        if has_state(plugin):
            known += [value for value in vars(plugin).values() if isinstance(value, nn.Module)]
    return {id(value) for value in known}


def capture_plugins(strategy: Any, encoder: ObjectEncoder, *, strict: bool) -> tuple[list[Node], list[str]]:
    """A node for each plugin, None instead of those that cannot be saved, and why they cannot."""
    nodes, left_out = [], []
    for place, plugin in enumerate(strategy.plugins):
        try:
            with encoder.all_or_nothing():
                node = _capture(plugin, encoder, f"plugins/{place}")
        except UnsavableError as error:
            node = None
            left_out.append(_complaint(plugin, place, error))
        nodes.append({"class": _name(plugin), "value": node})
    if left_out and strict:
        raise CheckpointError("\n".join(left_out))
    return nodes, left_out


def match_plugins(strategy: Any, nodes: list[Node], *, strict: bool) -> list[tuple[Any, Node]]:
    """Each plugin of the strategy that the checkpoint has a state for, with that state."""
    here = [_name(plugin) for plugin in strategy.plugins]
    saved = [node["class"] for node in nodes]
    if strict and here != saved:
        raise CheckpointError(
            f"strategy.plugins: expected {saved}, as in the checkpoint, got {here};"
            " pass strict=False to load the state of those that are in both"
        )
    rest = list(nodes)
    out = []
    for plugin in strategy.plugins:
        node = next((node for node in rest if node["class"] == _name(plugin)), None)
        if node is not None:
            rest.remove(node)
            if node["value"] is not None:
                out.append((plugin, node["value"]))
    return out


def restore_plugin(plugin: Any, node: Node, decoder: ObjectDecoder) -> None:
    """Set the state of one plugin."""
    if "results" in node:
        _restore_evaluator(plugin, node, decoder)
    elif "state_dict" in node:
        plugin.load_state_dict(decoder.plain.decode(node["state_dict"]))
    else:
        decoder.restore_attributes(plugin, node["attributes"])


def try_plugin(plugin: Any, node: Node, trial: TrialDecoder) -> None:
    """Raise what :func:`restore_plugin` would for a plugin without a ``load_state_dict``; the plugin stays as it is."""
    if "results" not in node:
        trial.restore_attributes(plugin, node["attributes"])
        return
    for kind in _EVALUATOR:
        for value in node["results"][kind].values():
            trial.plain.decode(value)
    for metric, saved in zip(plugin.metrics, node["metrics"], strict=False):
        if _name(metric) == saved["class"]:
            trial.restore_attributes(metric, saved["value"])


def capture_rest(strategy: Any, encoder: ObjectEncoder, *, strict: bool) -> tuple[Node, list[str]]:
    """What a strategy class adds to Avalanche's template, the criterion, and why other things cannot be saved."""
    out, left_out = {}, []
    for name, value in vars(strategy).items():
        if name not in _TEMPLATE_ATTRIBUTES:
            try:
                with encoder.all_or_nothing():
                    out[name] = encoder.encode(value, f"strategy/{name}")
            except UnsavableError as error:
                left_out.append(
                    f"strategy: its attribute {error.path.removeprefix('strategy/')!r} is of type"
                    f" {type(error.value).__name__}, which cannot be saved without pickle."
                    " Pass strict=False to leave it out: it then starts afresh on loading."
                )
    if left_out and strict:
        raise CheckpointError("\n".join(left_out))
    return out, left_out


def _capture(plugin: Any, encoder: ObjectEncoder, path: str) -> Node:
    if isinstance(plugin, PeriodicEval):
        return None  # settings, and a flag that each experience sets anew
    if isinstance(plugin, EvaluationPlugin):
        return _capture_evaluator(plugin, encoder, path)
    if has_state(plugin):
        return {"state_dict": encoder.plain.encode(plugin.state_dict(), path)}
    return {"attributes": encoder.attributes(plugin, path)}


def _capture_evaluator(plugin: EvaluationPlugin, encoder: ObjectEncoder, path: str) -> Node:
    # Metrics change no weight, so what of them has no plain value, figures and process handles, is left out.
    results = {kind: dict(_representable(getattr(plugin, kind), encoder, f"{path}/{kind}")) for kind in _EVALUATOR}
    metrics = [
        {
            "class": _name(metric),
            "value": encoder.attributes(metric, f"{path}/metrics/{i}", lenient=True),
        }
        for i, metric in enumerate(plugin.metrics)
    ]
    return {"results": results, "metrics": metrics}


def _representable(values: dict[str, Any], encoder: ObjectEncoder, path: str) -> Iterator[tuple[str, Node]]:
    for name, value in values.items():
        try:
            with encoder.all_or_nothing():
                node = encoder.plain.encode(value, f"{path}/{name}")
        except UnsavableError:
            continue
        yield name, node


def _restore_evaluator(plugin: EvaluationPlugin, node: Node, decoder: ObjectDecoder) -> None:
    for kind in _EVALUATOR:
        results = getattr(plugin, kind)
        values = {name: decoder.plain.decode(value) for name, value in node["results"][kind].items()}
        results.clear()
        results.update(values)
    if [_name(metric) for metric in plugin.metrics] != [saved["class"] for saved in node["metrics"]]:
        warnings.warn("the evaluator has other metrics than the checkpoint: they start afresh", stacklevel=4)
        return
    for metric, saved in zip(plugin.metrics, node["metrics"], strict=True):
        decoder.restore_attributes(metric, saved["value"])


def _complaint(plugin: Any, place: int, error: UnsavableError) -> str:
    where = error.path.removeprefix(f"plugins/{place}/")
    return (
        f"strategy.plugins[{place}]: {_name(plugin)} holds {where!r} of type {type(error.value).__name__},"
        " which cannot be saved without pickle. Give the plugin state_dict() and load_state_dict(), or pass"
        " strict=False to leave its state out: it then starts afresh on loading."
        + (_REPLAY_HINT if isinstance(plugin, ReplayPlugin) else "")
    )


def _name(value: object) -> str:
    return type(value).__qualname__
