"""Saves where a training run stands, so that it can go on later as if it had never stopped."""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._folders import (
    CorruptedFolderError,
    check_replaceable,
    load_folder,
    save_folder,
    set_aside,
)
from avalanche_memplugins.checkpointing._model import capture_model, check_model, grow_model, restore_model
from avalanche_memplugins.checkpointing._objects import ObjectDecoder, ObjectEncoder
from avalanche_memplugins.checkpointing._optimizer import (
    capture_optimizer,
    check_optimizer,
    restore_optimizer,
)
from avalanche_memplugins.checkpointing._plugins import (
    capture_plugins,
    capture_rest,
    match_plugins,
    references,
    restore_plugin,
)
from avalanche_memplugins.checkpointing._random import capture_random, restore_random
from avalanche_memplugins.checkpointing._tree import Node
from avalanche_memplugins.checkpointing.errors import CheckpointError, UnsavableError

KIND = "avalanche run state"
FORMAT = 1
_STRATEGY = ("model", "optimizer", "plugins", "clock", "is_training")


def save_run_state(strategy: Any, folder: str | Path, *, strict: bool = True) -> None:
    """Save the state of a training run between two experiences, as safetensors and JSON, without pickle.

    Saved are the model with the heads it has grown, the optimiser, the clock, every plugin, the recorded
    metrics, the criterion, and the global random states of Python, NumPy and PyTorch. Data sets, loggers
    and settings are not: the script that builds the strategy brings them back. A plugin is saved through
    its ``state_dict()`` if it has one, else by its attributes; learning rate schedulers, modules and random
    generators among them included. Writing is atomic: if it is interrupted, the earlier checkpoint remains.

    :param strategy: an Avalanche strategy, outside its ``train()`` and ``eval()``.
    :param folder: where to; a checkpoint that is there is replaced.
    :param strict: whether a plugin that cannot be saved is an error; otherwise it is left out with a warning.
    :raises CheckpointError: if something cannot be saved, or ``folder`` holds something else.
    """
    check.flag("strict", strict)
    check.having("strategy", strategy, _STRATEGY, "a strategy of Avalanche")
    check.path("folder", folder)
    _check_idle(strategy)
    folder = Path(folder)
    try:
        check_replaceable(folder, kind=KIND)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    encoder = ObjectEncoder(strategy.device, references=references(strategy))
    try:
        state = {
            "model": capture_model(strategy.model, encoder.plain, "model"),
            "optimizer": capture_optimizer(strategy, encoder.plain, "optimizer"),
            "random": encoder.plain.encode(capture_random(), "random"),
        }
    except UnsavableError as error:
        raise CheckpointError(f"strategy: {error}") from error
    state["plugins"], left_out = capture_plugins(strategy, encoder, strict=strict)
    state["strategy"], left_out_too = capture_rest(strategy, encoder, strict=strict)
    left_out += left_out_too
    for complaint in left_out:
        warnings.warn(f"left out of the checkpoint: {complaint}", stacklevel=2)
    manifest = {
        "kind": KIND,
        "format": FORMAT,
        "trained_experiences": strategy.clock.train_exp_counter,
        "strategy": type(strategy).__qualname__,
        "written_with": _versions(),
        "left_out": left_out,
        "state": state,
    }
    save_folder(folder, encoder.tensors, {**manifest, "manifest_sha256": _digest(manifest)})


def load_run_state(
    strategy: Any,
    folder: str | Path,
    *,
    experiences: Iterable[Any] | None = None,
    missing_ok: bool = False,
    strict: bool = True,
) -> int:
    """Put a saved run state into a freshly built strategy, and tell where to go on.

    On a CPU, training on the remaining experiences then gives bitwise the weights of a run that never stopped.
    Nothing in the checkpoint is run or imported. Everything is checked before the strategy is touched:
    after an error it is as it was.

    :param strategy: built by the same code as the saved one: same model, optimiser and plugins.
    :param folder: where :func:`save_run_state` wrote to.
    :param experiences: the stream that the saved run was trained on. Only needed for models that grow by
        modules of your own: Avalanche's classifiers and multi-head models grow by what was saved.
    :param missing_ok: if there is no checkpoint yet, leave the strategy as it is and return 0.
    :param strict: whether other plugins than at saving, or plugins left out then, are an error.
    :return: the number of experiences that the saved run was trained on.
    :raises CheckpointError: if the checkpoint is missing, damaged, not a run state, or does not fit.
    """
    check.flags(missing_ok=missing_ok, strict=strict)
    check.having("strategy", strategy, _STRATEGY, "a strategy of Avalanche")
    check.path("folder", folder)
    if experiences is not None and not isinstance(experiences, Iterable):
        raise TypeError(f"experiences: expected the stream that was trained on, or None, got {check.show(experiences)}")
    _check_idle(strategy)
    if missing_ok and not _exists(Path(folder)):
        return 0
    tensors, manifest = _read(folder)
    if manifest["left_out"] and strict:
        raise CheckpointError(
            "folder: the checkpoint is without the state of some plugins; pass strict=False to load the rest:\n"
            + "\n".join(manifest["left_out"])
        )
    state, trained = manifest["state"], int(manifest["trained_experiences"])
    decoder = ObjectDecoder(tensors, strategy.device, strategy.model)
    random_before = capture_random()
    stream = None if experiences is None else list(experiences)
    try:
        check_model(strategy.model, state["model"], decoder.plain, stream, trained)
        check_optimizer(strategy, state["optimizer"], decoder.plain)
        plugins = match_plugins(strategy, state["plugins"], strict=strict)
        _restore_parts(strategy, plugins, state["strategy"], decoder)
    except BaseException:
        restore_random(random_before)
        raise
    # From here on nothing is left to go wrong.
    strategy.model.to(strategy.device)
    grow_model(strategy.model, state["model"], decoder.plain, stream, trained)
    restore_model(strategy.model, state["model"], decoder.plain)
    restore_optimizer(strategy, state["optimizer"], decoder.plain)
    restore_random(decoder.plain.decode(state["random"]))
    return trained


def _restore_parts(strategy: Any, plugins: list[tuple[Any, Node]], rest: Node, decoder: ObjectDecoder) -> None:
    # What plugins make of a state is their own business and may fail, so the way back is kept open.
    encoder = ObjectEncoder(strategy.device, copies=True, references=references(strategy))
    before, _ = capture_plugins(strategy, encoder, strict=False)
    rest_before, _ = capture_rest(strategy, encoder, strict=False)
    known = [(holder, set(vars(holder))) for holder in (strategy, *strategy.plugins)]
    try:
        for plugin, node in plugins:
            restore_plugin(plugin, node, decoder)
        decoder.restore_attributes(strategy, rest)
    except BaseException as error:
        back = ObjectDecoder(encoder.tensors, strategy.device, strategy.model)
        for plugin, node in zip(strategy.plugins, before, strict=True):
            if node["value"] is not None:
                restore_plugin(plugin, node["value"], back)
        back.restore_attributes(strategy, rest_before)
        for holder, names in known:
            for name in set(vars(holder)) - names:
                del vars(holder)[name]
        if isinstance(error, CheckpointError) or not isinstance(error, Exception):
            raise
        raise CheckpointError(f"folder: the checkpoint does not fit the strategy's plugins: {error}") from error


def _read(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        tensors, manifest = load_folder(folder, kind=KIND)
    except CorruptedFolderError as error:
        raise CheckpointError(str(error)) from error
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"folder: wants a run state of format {FORMAT}, got {manifest.get('format')!r} in {folder}"
        )
    content = {key: value for key, value in manifest.items() if not key.endswith("sha256")}
    if manifest.get("manifest_sha256") != _digest(content):
        raise CheckpointError(f"folder: the manifest in {folder} is damaged: its checksum differs")
    _check_tensors(manifest["state"], tensors)
    return tensors, manifest


def _check_tensors(node: Node, tensors: dict[str, Tensor]) -> None:
    if isinstance(node, dict) and "$" in node and "at" in node and node["at"] not in tensors:
        raise CheckpointError(f"folder: lacks the tensor {node['at']!r} that the manifest names")
    if isinstance(node, list | dict):
        for item in node if isinstance(node, list) else node.values():
            _check_tensors(item, tensors)


def _check_idle(strategy: Any) -> None:
    if strategy.experience is not None:
        raise CheckpointError("strategy: wants to be between two calls of train() or eval(), got one inside a call")


def _exists(folder: Path) -> bool:
    # A crash while one checkpoint replaces another can leave the earlier one under its second name.
    return folder.exists() or set_aside(folder).exists()


def _digest(content: Node) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _versions() -> dict[str, str]:
    out = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("avalanche-lib", "avalanche-memplugins"):
        try:
            out[package] = version(package)
        except PackageNotFoundError:  # run from a checkout
            continue
    return out
